"""App: `serve` makes a Starlette application of graphs and agents, to run or to mount."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moa.config.endpoints import Endpoints
from moa.errors import MoaError
from moa.graphs.loading import READY, asked_by, load_graph, texts_to_encode
from moa.node import Node
from moa.serving import mcp, typed
from moa.serving.faults import fault_of
from moa.serving.http import Checked, json_response
from moa.serving.keys import keys_in
from moa.serving.served import Served
from moa.serving.server import Server, Settings

_MODULES = (typed, mcp)
"""Whose `routes(server)` are served."""


def serve(
    *nodes: Node[Any, Any] | str,
    endpoints: Endpoints | None = None,
    keys: str | None = None,
    settings: Settings | None = None,
) -> Starlette:
    """Serve graphs and agents over HTTP: make a Starlette application of them.

        app = moa.serve(graph)          # in app.py; then: uvicorn app:app

    Mount it in one of your own, whose lifespan enters `app.router.lifespan_context(app)`.

    Args:
        nodes: Graphs and agents, or names that `load_graph` takes; each is served by its name.
        endpoints: Whom those with names ask; `None`: those of `moa.toml`, closed with the server.
        keys: File or table of the keys; `None`: whoever reaches the server may ask.
        settings: Limits and hosts.

    Raises:
        ConfigError: a name is unknown, two have the same one, or a setting is wrong.
        MissingDependency: the extra `serve` isn't installed.

    Examples:
        >>> from starlette.testclient import TestClient
        >>> app = serve(Agent(ScriptedEndpoint(["Hello!"]), "Greet.", name="greeter"))
        >>> with TestClient(app, base_url="http://localhost") as client:
        ...     client.post("/run/greeter", json="Hi").json()["output"]
        {'text': 'Hello!'}
    """
    own = endpoints is None
    endpoints = endpoints or Endpoints()
    served = [
        Served(load_graph(one, endpoints), name=_name(one), description=_does(one))
        if isinstance(one, str)
        else Served(one)
        for one in nodes
    ]
    return app_of(Server(served, endpoints, settings or Settings(), keys_in(keys)), closes=own)


def app_of(server: Server, *, closes: bool = False) -> Starlette:
    """Make the application of a server; with `closes` its endpoints are closed when it ends."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        await server.keys.open()
        async with asyncio.TaskGroup() as group:
            warming = group.create_task(_warm(server))
            try:
                yield
            finally:
                server.is_ready = False
                warming.cancel()
        await server.keys.close()
        if closes:
            await server.endpoints.close()

    async def failed(request: Request, error: Exception) -> Response:
        finished = getattr(request.state, "finished", None)
        return fault_of(error).response(finished and finished.headers)

    async def health(_: Request) -> Response:
        return json_response({"status": "ok"})

    async def ready(_: Request) -> Response:
        status = "ready" if server.is_ready else "models are being loaded"
        return json_response({"status": status}, status=200 if server.is_ready else 503)

    routes = [Route("/health", health), Route("/ready", ready)]
    for module in _MODULES:
        routes += module.routes(server)
    middleware = [Middleware(Checked, server=server)]
    if server.settings.origins:
        allowed = {"allow_origins": server.settings.origins, "allow_methods": ["GET", "POST"]}
        cors = Middleware(CORSMiddleware, **allowed, allow_headers=["*"], expose_headers=["*"])
        middleware.insert(0, cors)
    handlers: Any = {MoaError: failed, HTTPException: failed, Exception: failed}
    app = Starlette(
        routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan
    )
    app.state.server = server
    return app


async def _warm(server: Server) -> None:
    """Load and start what the nodes will ask, so that no request waits for it."""
    nodes = [one.node for one in server.served.values()]
    asked = [asked_by(node) for node in nodes]
    names = None if None in asked else {name for names in asked if names for name in names}
    texts = [text for node in nodes for text in texts_to_encode(node)]
    await server.endpoints.warm(names, texts=texts)
    server.is_ready = True


def _name(given: str) -> str:
    """Name what is served: a ready one as it is, one of a file by its object."""
    return given.rpartition(":")[2]


def _does(given: str) -> str:
    return READY[given].does if given in READY else ""
