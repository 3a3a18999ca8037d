"""MCP: tools of servers that speak the Model Context Protocol, started or reached over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from moa.agents.base import fault_in
from moa.agents.tools import RemoteTool
from moa.core._async import gather
from moa.core.errors import ConfigError, require_package

if TYPE_CHECKING:
    from moa.adapters.mcp.connection import Connection

Server = str | Sequence[str] | Mapping[str, object]
"""URL of a server; command that starts one, which speaks over stdin and stdout; or a dictionary of
`url` and `headers`, or of `command`, `args`, `env` and `cwd`."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Address(_Settings):
    """Address of a server that is reached over HTTP."""

    transport: str = Field("streamable_http", pattern="^(streamable_http|streamable-http|http)$")
    url: str = Field(pattern="^https?://.")
    headers: Mapping[str, SecretStr] = {}
    """Headers sent with each request."""


class Command(_Settings):
    """Command that starts a server."""

    transport: str = Field("stdio", pattern="^stdio$")
    command: str
    args: Sequence[str] = ()
    env: Mapping[str, SecretStr] = {}
    """Variables in addition to `PATH`, `HOME` and a few others, which include no keys."""
    cwd: str | None = None


@asynccontextmanager
async def mcp_tools(
    *, connect_timeout_s: float = 30.0, **servers: Server
) -> AsyncGenerator[list[RemoteTool]]:
    """Connect to MCP servers, and yield their tools; at the end, started servers are stopped.

    The time limit of a call is that of its `Tool`: `Tool(one, timeout_s=5)` changes it.

    Args:
        connect_timeout_s: Seconds for a server to start and to list its tools.
        servers: Servers, by names of your own.

    Raises:
        MissingDependency: the extra `mcp` is not installed.
        ConfigError: a server is described wrongly, or there is no such command.
        EndpointTimeout: a server hasn't listed its tools in time.
        EndpointUnavailable: a server can't be reached, fails, or has ended.
        EndpointRejected: a server refuses a request, or redirects it.
        EndpointUnauthorized: a server asks for a key.
        InvalidResponse: a server doesn't speak the protocol, or sends too much at once.

    Examples:
        >>> async def main() -> None:
        ...     async with mcp_tools(files=["python", "files.py"]) as tools:
        ...         agent = Agent("openai:gpt-5-mini", "Answer by the files.", tools=tools)
        ...         print((await agent.run("Which are there?")).output)
        >>> asyncio.run(main())  # doctest: +SKIP
    """
    with require_package("mcp", extra="mcp", purpose="to use tools of MCP servers"):
        from moa.adapters.mcp.connection import Connection
    if connect_timeout_s <= 0:
        raise ConfigError(f"connect_timeout_s={connect_timeout_s} must be positive")
    connections = [Connection(name, _settings(name, server)) for name, server in servers.items()]
    try:
        tool_lists = await gather(connection.open(connect_timeout_s) for connection in connections)
        yield [tool for tools in tool_lists for tool in tools]
    finally:
        await _close(connections)


async def _close(connections: Sequence[Connection]) -> None:
    """Close all connections, even if this is cancelled."""
    try:
        await asyncio.gather(*(connection.close() for connection in connections))
    finally:
        for connection in connections:
            connection.kill()


def _settings(name: str, server: Server) -> Address | Command:
    kind = Command
    if isinstance(server, str):
        kind, server = Address, {"url": server}
    elif not isinstance(server, Mapping):
        server = {"command": server[0], "args": server[1:]} if server else {}
    elif "url" in server or "command" not in server:
        kind = Address
    try:
        return kind.model_validate(dict(server))
    except ValidationError as error:
        raise ConfigError(
            f"the MCP server {name!r} is described wrongly: {fault_in(error)}. Give its URL, such "
            'as "https://example.org/mcp", the command that starts it as a list, or a dictionary '
            "of `url` and `headers`, or of `command`, `args`, `env` and `cwd`"
        ) from None  # its text may hold a secret
