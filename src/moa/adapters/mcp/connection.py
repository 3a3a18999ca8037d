"""Connection: one MCP server, in a task of its own, so that its end affects no other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from mcp.client import Client, ClientSession
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    PARSE_ERROR,
    REQUEST_TIMEOUT,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    Implementation,
    PaginatedRequestParams,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from pydantic import RootModel, ValidationError
from pydantic_core import to_json

from moa.adapters.mcp import Address, Command
from moa.adapters.mcp.http import NOT_MCP, STATUS, UNREACHABLE, HttpTransport
from moa.adapters.mcp.stdio import StdioTransport
from moa.agents.base import fault_in
from moa.agents.tools import RemoteTool, ToolFailed, name_for_models
from moa.core._async import first_error
from moa.core._json import JSON, object_of
from moa.core._terminal import escape_json
from moa.core.errors import (
    ConfigError,
    EndpointError,
    EndpointRejected,
    EndpointTimeout,
    EndpointUnauthorized,
    EndpointUnavailable,
    InvalidResponse,
    MoaError,
)
from moa.endpoints import ToolSchema

_LARGEST_LIST = 2**20
"""Maximum bytes of a server's descriptions and schemas, which are sent with each model call."""
_CLOSE_S = 6.0
_LONGEST_QUOTE = 300

_logger = logging.getLogger(__name__)


class _Raw(RootModel[JSON]):
    """A result that isn't validated."""


class Connection:
    """The connection to one server."""

    def __init__(self, name: str, settings: Address | Command) -> None:
        self.name = name
        if isinstance(settings, Command):
            self._transport = StdioTransport(name, settings)
        else:
            self._transport = HttpTransport(name, settings)
        self._session: ClientSession | None = None
        self._owner: asyncio.Future[None] | None = None
        self._is_open = False
        self._stop = asyncio.Event()

    async def open(self, limit_s: float) -> list[RemoteTool]:
        """Connect, and list the tools.

        Raises:
            MoaError: it can't be connected to, or does not list its tools in time.
        """
        self._loop = asyncio.get_running_loop()
        listed: asyncio.Future[list[RemoteTool] | MoaError] = self._loop.create_future()
        self._owner = asyncio.ensure_future(self._serve(listed))
        waited = {self._owner, listed}
        await asyncio.wait(waited, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if not listed.done():
            raise EndpointTimeout(
                f"the MCP server hasn't listed its tools in {limit_s:g} s "
                f"(connect_timeout_s){self._transport.last_output()}",
                endpoint=self.name,
            )
        if isinstance(outcome := listed.result(), MoaError):
            raise outcome
        self._is_open = True
        return outcome

    async def _serve(self, listed: asyncio.Future[list[RemoteTool] | MoaError]) -> None:
        """Stay connected until closed; the SDK's tasks belong to this one."""
        client = Client(
            self._transport.streams(),
            cache=None,
            client_info=Implementation(name="moa", version="1"),
        )
        try:
            async with client:
                self._session = client.session
                listed.set_result(await self._list(client.session))
                await self._stop.wait()
        except Exception as error:  # noqa: BLE001  whatever the SDK or a server of others raises
            failure = await self._map_error(error)
            _logger.debug("MCP server %s: %s", self.name, failure)
            if not listed.done():
                listed.set_result(failure)

    async def _list(self, session: ClientSession) -> list[RemoteTool]:
        tools: list[RemoteTool] = []
        size, cursor = 0, None
        while True:
            page = await session.list_tools(params=PaginatedRequestParams(cursor=cursor))
            for tool in page.tools:
                does = tool.description or tool.title or f"{tool.name}, of the server {self.name}"
                schema = ToolSchema(name_for_models(tool.name), does, tool.input_schema)
                size += len(schema.description) + len(to_json(schema.parameters))
                tools.append(RemoteTool(schema, partial(self.call, tool.name)))
            if size > _LARGEST_LIST:
                raise InvalidResponse(
                    f"its {len(tools)} tools take more than {_LARGEST_LIST:,} bytes of each prompt",
                    endpoint=self.name,
                )
            if (cursor := page.next_cursor) is None:
                return tools

    async def call(self, tool: str, arguments: Mapping[str, object]) -> object:
        """Run a tool, and return its text, or its structured content if it has no text.

        Raises:
            ToolFailed: the tool reports a failure.
            EndpointError: the server can't be reached, or violates the protocol.
            ConfigError: it is called from another event loop.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigError(
                f"the MCP server {self.name!r} is asked from another event loop: use "
                "`await agent.run(…)` inside the block of mcp_tools, and not run_sync"
            )
        if self._session is None or self._owner is None or self._owner.done():
            raise await self._transport.lost_error()
        params = CallToolRequestParams(name=tool, arguments=dict(arguments))
        try:
            # Not `call_tool`: it validates the result by the server's schema, in this loop.
            raw = (await self._session.send_request(CallToolRequest(params=params), _Raw)).root
            if raw.get("resultType") == "input_required":
                raise ToolFailed("it asks for more input, which moa doesn't give")
            result = CallToolResult.model_validate(raw, by_name=False)
        except ToolFailed:
            raise
        except Exception as error:
            raise await self._map_error(error) from error
        text = "\n\n".join(map(_text, result.content))
        if result.is_error:
            raise ToolFailed(text or "it says no more")
        return text if text or result.structured_content is None else result.structured_content

    async def _map_error(self, error: BaseException) -> MoaError:
        """Map an error of the SDK to one of moa."""
        error = first_error(error)
        if isinstance(error, MoaError):
            return error
        if isinstance(error, MCPError):
            if error.code == CONNECTION_CLOSED:
                return await self._transport.lost_error(_quote(error.message))
            return self._map_refusal(error)
        if isinstance(error, ValidationError | RuntimeError):
            return self._error(
                InvalidResponse, f"its answer isn't MCP's: {_quote(fault_in(error))}"
            )
        fault = _quote(f"{type(error).__name__}: {error}")
        return self._error(EndpointUnavailable, f"the connection failed: {fault}")

    def _map_refusal(self, error: MCPError) -> EndpointError:
        reason, status = _quote(error.message), object_of(error.data).get(STATUS)
        if error.code == REQUEST_TIMEOUT:
            return self._error(EndpointTimeout, reason)
        if error.code == PARSE_ERROR:
            return self._error(InvalidResponse, reason)
        if status == NOT_MCP:
            return self._error(InvalidResponse, f"{reason}. Is this the address of an MCP server?")
        if status == UNREACHABLE:
            return self._error(EndpointUnavailable, f"{reason}. Is it up at that address?")
        if not isinstance(status, int):
            return self._error(EndpointRejected, f"it says no: {reason}")
        reason = f"HTTP {status}: {reason}" if reason else f"HTTP {status}"
        if status in (401, 403):
            advice = "Give it a key, such as headers={'Authorization': 'Bearer …'}"
            return self._error(EndpointUnauthorized, f"{reason}. {advice}", status)
        if status >= 500 or status == 429:
            return self._error(EndpointUnavailable, reason, status)
        return self._error(EndpointRejected, reason, status)

    def _error(
        self, kind: type[EndpointError], message: str, status: int | None = None
    ) -> EndpointError:
        return kind(f"{message}{self._transport.last_output()}", endpoint=self.name, status=status)

    async def close(self) -> None:
        """Close the connection, and stop a server that was started for it."""
        self._stop.set()
        if self._owner is None:
            return
        if not self._is_open:  # it still waits for the server
            self._owner.cancel()
        try:
            await asyncio.wait({self._owner}, timeout=_CLOSE_S)
        finally:
            self._owner.cancel()
            self.kill()

    def kill(self) -> None:
        """Stop a started server, without waiting."""
        self._transport.kill()


def _text(part: ContentBlock) -> str:
    """Format a part of a result for the model."""
    if isinstance(part, TextContent):
        return part.text
    if isinstance(part, ResourceLink):
        return f"[{part.name}: {part.uri}]"
    if isinstance(part, EmbeddedResource):
        inside = part.resource
        if isinstance(inside, TextResourceContents):
            return inside.text
        return f"[{inside.uri}: {inside.mime_type or 'a file'}, left out]"
    return f"[{part.type}: {part.mime_type}, left out]"


def _quote(text: str) -> str:
    return escape_json(" ".join(text[: 10 * _LONGEST_QUOTE].split())[:_LONGEST_QUOTE])
