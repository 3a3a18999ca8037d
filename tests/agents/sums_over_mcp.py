"""An MCP server: `python sums_over_mcp.py stdio`, or `streamable-http PORT`."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

fastmcp: Any = import_module("mcp.server.fastmcp")
server = fastmcp.FastMCP("sums", port=int(sys.argv[2]) if sys.argv[2:] else 0, log_level="ERROR")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def fail(reason: str) -> str:
    """Fail for a reason."""
    raise ValueError(reason)


server.run(transport=sys.argv[1])
