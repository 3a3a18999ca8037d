"""moa mcp: graphs and agents as tools of an MCP server, over standard input and output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from moa.cli import options, screen
from moa.errors import require_package

if TYPE_CHECKING:
    from moa.config.endpoints import Endpoints
    from moa.context import RunContext


def mcp(
    names: options.Served,
    *,
    timeout_s: options.RunTimeout = 300.0,
    asking: options.Asking,
) -> None:
    """Give graphs and agents to an MCP client as tools.

    A client such as an editor starts the command, and talks to it over standard input and output.
    Each graph is a tool: its input is the tool's arguments, its output the structured result. The
    client gets progress and errors; remarks go to standard error. The budget covers all calls until
    the client disconnects, which ends its runs. moa serve has the same tools at /mcp.

    Exit codes: 0 the client disconnected, 2 usage or configuration, 130 stopped.

    In the client's settings:

        {"mcpServers": {"moa": {"command": "moa", "args": ["mcp", "support"]}}}

    Several, one of them your own; name moa.toml, since clients start in another folder:

        moa mcp sentiment mine.py:graph --config shop/moa.toml --budget-usd 2
    """
    with require_package("mcp", extra="mcp", purpose="to speak MCP"):
        from moa.serving.mcp import pipes, serve_pipes
        from moa.serving.mcp_tools import Owner
    from moa.serving.app import server_of
    from moa.serving.server import Settings

    settings = Settings(timeout_s=timeout_s)

    async def body(endpoints: Endpoints, context: RunContext) -> int:
        async with pipes() as streams:  # first, as what is loaded may print
            server = server_of(names, endpoints, settings=settings)
            tools = ", ".join(server.served)
            screen.notes().print(f"MCP over standard input and output, with the tools {tools}")
            async with server.lifespan():
                await serve_pipes(server, Owner(context), streams)
        return options.ANSWERED

    raise typer.Exit(asking.run(body, stopped=""))
