"""moa serve: graphs and agents over HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import shlex
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options, screen
from moa.errors import ConfigError, needed

if TYPE_CHECKING:
    import uvicorn

    from moa.serving.server import Server

_LAST_S = 1
"""Seconds that uvicorn waits beyond those that runs have to end."""


def serve(
    names: options.Served,
    *,
    host: Annotated[
        str,
        typer.Option("--host", help="Address to listen on; beyond this machine only with --keys."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0: any that is free.")
    ] = 8080,
    keys: options.Keys = None,
    jobs: Annotated[
        Path | None,
        typer.Option("--jobs", metavar="DIR", help="Keep the jobs of POST /jobs in this folder."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Answer for this name too, beside localhost and addresses.",
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            "--cors",
            metavar="ORIGIN",
            help="Let pages of this origin ask: https://app.example.org.",
        ),
    ] = None,
    deadline_s: options.RunTimeout = 300.0,
    concurrency: options.DefaultConcurrency = 256,
    demo: options.Demo = False,
    config: options.ConfigFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Serve graphs and agents over HTTP.

    They are asked typed, as OpenAI's models are, and as System One. GET /health answers once
    requests are taken, /ready once models are loaded. SIGTERM lets what runs end within 30 seconds.
    Exit codes: 143 told to end, 2 usage or configuration, 130 Ctrl-C.

    With --demo the built-in models alone are asked, without a key, and commands to try printed:

        moa serve support --demo

    Several, and one of your own, which clients name as their model:

        moa serve support sentiment examples/custom_graph.py:graph --port 8000

    For other machines, each with a key that has a budget:

        moa serve support --host 0.0.0.0 --keys keys.toml --allow-host api.example.org
    """
    if keys is None and not _is_loopback(host):
        raise ConfigError(
            f"--host {host} lets other machines ask, and so needs --keys FILE: moa keys new makes "
            "a key. Without --host it listens on 127.0.0.1 alone"
        )
    with needed("uvicorn", extra="serve", purpose="to serve"):
        import uvicorn

    from moa.config.endpoints import NO_LLM, Endpoints
    from moa.config.tables import Config
    from moa.endpoints.encoders import keep_vectors
    from moa.serving.app import app_of, server_of
    from moa.serving.server import Settings

    _show_warnings()
    settings = Settings(
        hosts=tuple(name.lower() for name in allow_host or ()),
        origins=tuple(cors or ()),
        timeout_s=deadline_s,
        concurrency=concurrency,
        jobs=jobs,
    )
    endpoints = Endpoints(Config() if demo else options.configured(config))
    keep_vectors()
    server = server_of(names, endpoints, keys=keys, settings=settings)
    if endpoints.stood_in:
        screen.notes().print(NO_LLM)
    with _listening(host, port) as listener:
        address = _address(listener)
        _say(server, address, demo=demo)
        serving = uvicorn.Server(
            uvicorn.Config(
                app_of(server, closes=True),
                ws="none",
                lifespan="on",
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=int(settings.drain_s) + _LAST_S,
            )
        )
        asyncio.run(_serve(serving, server, listener))


async def _serve(serving: uvicorn.Server, server: Server, listener: socket.socket) -> None:
    """Serve until told to end, or until it is known that models can't be loaded."""

    async def watch() -> None:
        while not serving.should_exit and not server.is_ready:
            serving.should_exit = server.warming_failed is not None
            await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        await serving.serve(sockets=[listener])
        watching.cancel()
    if server.warming_failed is not None:
        raise server.warming_failed


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"nothing can listen on {host}, port {port}: {error.strerror}. Give another --port, or "
            "0 for any that is free"
        ) from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _say(server: Server, address: str, *, demo: bool) -> None:
    """Say where what is served, and with --demo what to try."""
    say = screen.details().print
    names = ", ".join(server.served)
    say(f"{names} on {address}", markup=False, highlight=False, soft_wrap=True)
    if demo:
        say("Try, in another terminal:\n")
        for command in commands(server, address):
            say(f"  {command}\n", markup=False, highlight=False, soft_wrap=True)


def commands(server: Server, address: str) -> Sequence[str]:
    """Write three commands that ask a server: typed, as events, and as OpenAI's clients do."""
    name = next(iter(server.served))
    text = "My parcel should have come on Friday, and it is not here. Where is it?"
    asked = {"model": name, "messages": [{"role": "user", "content": text}]}
    typed = shlex.quote(json.dumps(text))
    url = f"{address}/run/{name}"
    return (
        f"curl {url} --json {typed}",
        f"curl -N {url} --json {typed} -H 'Accept: text/event-stream'",
        f"curl {address}/v1/chat/completions --json {shlex.quote(json.dumps(asked))}",
    )


def _show_warnings() -> None:
    """Print on standard error what the server warns of, without texts of requests."""
    logging.getLogger("moa.serving").addHandler(_Warnings(logging.WARNING))


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        said = f"{record.levelname.lower()}: {record.getMessage()}"
        screen.err().print(said, markup=False, highlight=False, soft_wrap=True)
