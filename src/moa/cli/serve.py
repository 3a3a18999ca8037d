"""moa serve and mcp: graphs and agents over HTTP, and as tools of an MCP server."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import json
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options, screen
from moa.core._logs import LineFormatter
from moa.core.errors import ConfigError, require_package

if TYPE_CHECKING:
    import socket

    import uvicorn
    from starlette.applications import Starlette

    from moa.config.endpoints import Endpoints
    from moa.core.context import RunContext
    from moa.serving.server import Server, Settings

Host = Annotated[
    str,
    typer.Option("--host", help="Address to listen on; other than this machine only with --keys."),
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0: any that is free.")]
Jobs = Annotated[
    Path | None,
    typer.Option("--jobs", metavar="DIR", help="Keep the jobs of POST /jobs in this folder."),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="NAME",
        help="Accept this Host too, besides localhost and IP addresses.",
    ),
]
Cors = Annotated[
    list[str] | None,
    typer.Option(
        "--cors", metavar="ORIGIN", help="Allow pages of this origin: https://app.example.org."
    ),
]
Studio = Annotated[
    bool,
    typer.Option(
        "--studio",
        help="Show the last runs on a page, /studio/, which asks for a key: $MOA_STUDIO_KEY, "
        "else one that is made and printed.",
    ),
]


def serve(
    names: options.GraphNames,
    *,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    keys: options.Keys = None,
    jobs: Jobs = None,
    allow_host: AllowHost = None,
    cors: Cors = None,
    deadline_s: options.RunTimeout = 300.0,
    concurrency: options.DefaultConcurrency = 256,
    demo: options.Demo = False,
    studio: Studio = False,
    config: options.ConfigFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Serve graphs and agents over HTTP.

    Clients use typed JSON, OpenAI's API or System One's. GET /health answers once the server
    accepts requests, /ready once models are loaded. After SIGTERM runs have 30 seconds to finish.
    Exit codes: 143 SIGTERM, 2 usage or configuration, 130 Ctrl-C.

    With --demo only the built-in models answer, without a key, and it prints commands to try:

        moa serve support --demo

    Several, one of them your own; clients pass the name as their model:

        moa serve support sentiment examples/custom_graph.py:graph --port 8000

    For other machines, each with a key that has a budget:

        moa serve support --host 0.0.0.0 --keys keys.toml --allow-host api.example.org
    """
    if keys is None and not _is_loopback(host):
        raise ConfigError(
            f"--host {host} lets other machines ask, and so needs --keys FILE: moa keys new makes "
            "a key. Without --host it listens on 127.0.0.1 alone"
        )
    with require_package("uvicorn", extra="serve", purpose="to serve"):
        from moa.serving.server import Settings
    from moa.config.endpoints import Endpoints
    from moa.config.tables import Config

    _show_warnings()
    settings = Settings(
        hosts=tuple(name.lower() for name in allow_host or ()),
        origins=tuple(cors or ()),
        timeout_s=deadline_s,
        concurrency=concurrency,
        jobs=jobs,
        starts_decide=True,
    )
    endpoints = Endpoints(Config() if demo else options.load_config(config))
    server = _server_of(names, endpoints, keys, settings)
    _listen(server, host, port, demo=demo, studio=studio)


def _server_of(
    names: Sequence[str], endpoints: Endpoints, keys: str | None, settings: Settings
) -> Server:
    from moa.config.endpoints import NO_LLM
    from moa.local.encoders import keep_vectors
    from moa.serving.app import server_of

    keep_vectors()
    server = server_of(names, endpoints, keys=keys, settings=settings)
    if endpoints.used_slm_as_llm:
        screen.notes().print(NO_LLM)
    return server


def _listen(server: Server, host: str, port: int, *, demo: bool, studio: bool) -> None:
    """Print the address, and serve until a signal."""
    from moa.serving.app import app_of
    from moa.serving.listening import address_of, listen_on, uvicorn_for

    with listen_on(host, port) as listener:
        address = address_of(listener)
        _say(server, address, demo=demo)
        app = app_of(server, closes=True)
        if studio:
            app = _with_page(server, app, address)
        serving = uvicorn_for(
            app,
            drain_s=server.settings.drain_s,
            end=server.runs.stop_all,
            requests=server.settings.concurrency,
        )
        # What is loaded stays, so no collection has to look at it again: one takes 70 ms, in which
        # nobody is answered, and a body of 30,000 parts causes some.
        gc.collect()
        gc.freeze()
        asyncio.run(_serve(serving, server, listener))


def _with_page(server: Server, app: Starlette, address: str) -> Starlette:
    from moa.cli.studio import add_page, key_of_page

    key = key_of_page()
    message = f"its last runs: {address}/studio/, with the key {key}"
    screen.err().print(message, markup=False, highlight=False, soft_wrap=True)
    return add_page(server, app, key)


async def _serve(serving: uvicorn.Server, server: Server, listener: socket.socket) -> None:
    """Serve until a signal, or until loading the models fails."""

    async def watch() -> None:
        while not serving.should_exit and not server.is_ready:
            serving.should_exit = server.warming_error is not None
            await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        await serving.serve(sockets=[listener])
        watching.cancel()
    if server.warming_error is not None:
        raise server.warming_error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say(server: Server, address: str, *, demo: bool) -> None:
    """Print the URLs, and with --demo commands to try."""
    say = screen.details().print
    names = ", ".join(server.served)
    say(f"{names} on {address}", markup=False, highlight=False, soft_wrap=True)
    if demo:
        say("Try, in another terminal:\n")
        for command in commands(server, address):
            say(f"  {command}\n", markup=False, highlight=False, soft_wrap=True)


def commands(server: Server, address: str) -> Sequence[str]:
    """Write three example requests: typed, as events, and in OpenAI's format."""
    name = next(iter(server.served))
    text = "My parcel should have come on Friday, and it is not here. Where is it?"
    body = {"model": name, "messages": [{"role": "user", "content": text}]}
    typed = shlex.quote(json.dumps(text))
    url = f"{address}/run/{name}"
    return (
        f"curl {url} --json {typed}",
        f"curl -N {url} --json {typed} -H 'Accept: text/event-stream'",
        f"curl {address}/v1/chat/completions --json {shlex.quote(json.dumps(body))}",
    )


def _show_warnings() -> None:
    """Print the server's warnings on standard error, without texts of requests."""
    handler = LogHandler(logging.WARNING)
    handler.setFormatter(LineFormatter())
    for name in ("moa.serving", "moa.learning", "moa.adapters.sqlite"):
        logging.getLogger(name).addHandler(handler)


class LogHandler(logging.Handler):
    """Prints records on standard error. One that can't be printed stops nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        line = self.format(record)
        try:
            screen.err().print(line, markup=False, highlight=False, soft_wrap=True)
        except OSError:  # the disk of the log is full, which is no reason to answer nobody
            self.handleError(record)


def mcp(
    names: options.GraphNames,
    *,
    timeout_s: options.RunTimeout = 300.0,
    asking: options.AskingOptions,
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
