"""MCP: the tools of servers that speak the Model Context Protocol, for agents."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any, cast

from moa.agents.tools import LangChainTool
from moa.errors import ConfigError, MissingDependency

Server = str | Sequence[str] | Mapping[str, Any]
"""The URL of a server; the command that starts one, which then speaks over stdin and stdout; or a
connection of langchain-mcp-adapters, such as one with headers."""


@asynccontextmanager
async def mcp_tools(**servers: Server) -> AsyncGenerator[list[LangChainTool]]:
    """Connect to MCP servers, and give their tools; at the end what it started is stopped.

    Args:
        servers: By a name of your own.

    Raises:
        MissingDependency: langchain-mcp-adapters is not installed.
        ConfigError: a server can't be started or reached, or doesn't speak the protocol.

    Examples:
        >>> async def main() -> None:
        ...     async with mcp_tools(files=["python", "files.py"]) as tools:
        ...         agent = Agent("openai:gpt-5-mini", "Answer by the files.", tools=tools)
        ...         print((await agent.run("Which are there?")).output)
        >>> asyncio.run(main())  # doctest: +SKIP
    """
    try:
        adapters: Any = import_module("langchain_mcp_adapters.client")
        load: Any = import_module("langchain_mcp_adapters.tools").load_mcp_tools
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "langchain-mcp-adapters", extra="mcp", purpose="to use tools of MCP servers"
        ) from error
    client = adapters.MultiServerMCPClient({name: _connection(to) for name, to in servers.items()})
    tools: list[LangChainTool] = []
    async with AsyncExitStack() as stack:
        for name, server in servers.items():
            try:
                session = await stack.enter_async_context(client.session(name))
                tools += await load(session, server_name=name)
            except Exception as error:
                raise ConfigError(
                    f"the MCP server {name!r} ({server!r}) can't be used: {_innermost(error)}. "
                    "Does its command run, or is it up at that address?"
                ) from error
        yield tools


def _connection(server: Server) -> dict[str, Any]:
    if isinstance(server, str):
        return {"transport": "streamable_http", "url": server}
    if isinstance(server, Mapping):
        return dict(server)
    return {"transport": "stdio", "command": server[0], "args": [*server[1:]]}


def _innermost(error: BaseException) -> BaseException:
    """Give the first error that others hold: the client's task groups put it into several."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
