"""MCP: what is served, as tools of the Model Context Protocol: at `/mcp`, and over stdio.

The SDK speaks the protocol: that of 2026-07-28, which keeps no state between requests, and the
older ones. Each request over HTTP has tasks of its own, which end with it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
from mcp.server import Server as Protocol
from mcp.server.context import ServerRequestContext
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
)
from mcp_types import Tool as ToolOfProtocol
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from moa._async import cancel
from moa._files import dumped
from moa.config.faults import nearest
from moa.errors import ConfigError, InputError, MoaError
from moa.serving.faults import fault_of
from moa.serving.http import caller_of, read_json
from moa.serving.keys import ANYONE, Caller
from moa.serving.runs import Finished
from moa.serving.served import Schema, Served
from moa.serving.server import Server
from moa.trace import Event, NodeFinished, NodeSkipped, NodeStarted, ToolFinished, ToolStarted

T = TypeVar("T")
_Context = ServerRequestContext[Any, Request]

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_NAME = 64
"""Letters of the name of a tool, as far as servers of large models take it."""
_TEXT, _INPUT, _OUTPUT = "text", "input", "output"
"""The names of arguments, and of the result, where they aren't objects by themselves."""
_LATE_S = 10.0
"""Seconds beyond the deadline of its run after which an exchange is cut off."""

for _name in ("mcp.server.streamable_http_manager", "mcp.server.streamable_http"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # of each request they tell twice
