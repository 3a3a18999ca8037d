"""moa serve: graphs and agents over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from moa.cli import options, screen
from moa.errors import ConfigError, needed

_LOOPBACK = ("127.0.0.1", "::1", "localhost")

Served = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME…", help="Ready graphs or agents, which moa graphs lists, or file.py:object."
    ),
]


def serve(
    names: Served,
    *,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0: any that is free.")
    ] = 8080,
    keys: Annotated[
        str | None,
        typer.Option("--keys", metavar="FILE", help="Keys that may ask, and their budgets."),
    ] = None,
    demo: Annotated[
        bool,
        typer.Option("--demo", help="Ask the built-in models alone, and print commands to try."),
    ] = False,
    config: options.ConfigFile = None,
    quiet: options.Quiet = False,
) -> None:
    """Serve graphs and agents over HTTP.

    Try it on a small model in this machine, without a key:

        moa serve support --demo
    """
    if host not in _LOOPBACK and keys is None:
        raise ConfigError(
            f"--host {host} lets other machines ask: give --keys FILE, so that only those with a "
            "key may (moa keys new makes one)"
        )
    with needed("uvicorn", extra="serve", purpose="to serve"):
        import uvicorn

    from moa.config.endpoints import Endpoints
    from moa.config.tables import Config
    from moa.serving.app import serve as app_of
    from moa.serving.server import Settings

    endpoints = Endpoints(Config() if demo else options.configured(config))
    settings = Settings()
    app = app_of(*names, endpoints=endpoints, keys=keys, settings=settings)
    screen.notes().print(f"http://{host}:{port}")
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=int(settings.drain_s),
    )
