"""App: `serve` makes a Starlette application of graphs and agents, to run or to mount."""

from __future__ import annotations

import ast
import inspect
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ExceptionHandler

from moa.config.endpoints import Endpoints
from moa.config.loading import READY, load_graph
from moa.config.trust import object_in
from moa.core._files import encode_json
from moa.core.errors import MoaError
from moa.core.node import AnyNode
from moa.serving import chat_completions, mcp, metrics, models, systemone, typed
from moa.serving.faults import fault_of
from moa.serving.http import RequestChecks, caller_of, json_response
from moa.serving.idempotency import Idempotent
from moa.serving.keys import keys_in
from moa.serving.openapi import Schemas, document
from moa.serving.served import ServedNode
from moa.serving.server import DECIDE, ENCODER, Server, Settings

_ROUTES = (
    typed.routes,
    chat_completions.routes,
    systemone.routes,
    models.routes,
    mcp.routes,
    metrics.routes,
)
_PATHS = (typed.paths, chat_completions.paths, systemone.paths, models.paths)
"""Functions that describe the routes that clients call, for `/openapi.json`."""


def serve(
    *nodes: AnyNode | str,
    endpoints: Endpoints | None = None,
    keys: str | None = None,
    settings: Settings | None = None,
) -> Starlette:
    """Make a Starlette application that serves graphs and agents over HTTP.

        app = moa.serve(graph)          # in app.py; then: uvicorn app:app

    To mount it in your own application, enter `app.router.lifespan_context(app)` in your lifespan.

    Args:
        nodes: Graphs and agents, or names for `load_graph`. Each is served under its name.
        endpoints: Endpoints for nodes given by name; `None`: those of `moa.toml`, closed with the
            server.
        keys: File or table of the keys; `None`: anyone who reaches the server may use it.
        settings: Limits and hosts.

    Raises:
        ConfigError: a name is unknown or repeated, or a setting is wrong.
        MissingDependency: the extra `serve` isn't installed.

    Examples:
        >>> from starlette.testclient import TestClient
        >>> app = serve(Agent(ScriptedEndpoint(["Hello!"]), "Greet.", name="greeter"))
        >>> with TestClient(app, base_url="http://localhost") as client:
        ...     client.post("/run/greeter", json="Hi").json()["output"]
        {'text': 'Hello!'}
    """
    closes = endpoints is None
    return app_of(
        server_of(nodes, endpoints or Endpoints(), keys=keys, settings=settings), closes=closes
    )


def server_of(
    nodes: Iterable[AnyNode | str],
    endpoints: Endpoints,
    *,
    keys: str | None = None,
    settings: Settings | None = None,
) -> Server:
    """Make the server that all routes share; see `serve`."""
    served_nodes = [serve_node(node, endpoints) for node in nodes]
    return Server(served_nodes, endpoints, settings or Settings(), keys_in(keys))


def app_of(server: Server, *, closes: bool = False) -> Starlette:
    """Make the application of a server. With `closes`, its endpoints are closed when it ends."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with server.endpoints if closes else nullcontext(), server.lifespan():
            yield

    async def answer_error(request: Request, error: Exception) -> Response:
        return fault_of(error).response(getattr(request.state, "headers", None))

    routes = _server_routes(server)
    for routes_of in _ROUTES:
        routes += routes_of(server)
    middleware = [Middleware(RequestChecks, server=server), Middleware(Idempotent, server=server)]
    if server.settings.origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=server.settings.origins,
            allow_headers=["*"],
            allow_methods=["GET", "POST"],
            expose_headers=["*"],
        )
        middleware.insert(0, cors)
    handlers: dict[type[Exception], ExceptionHandler] = dict.fromkeys(
        (MoaError, HTTPException, Exception), answer_error
    )
    app = Starlette(
        routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan
    )
    app.router.redirect_slashes = False
    app.state.server = server
    return app


def _server_routes(server: Server) -> list[Route]:
    """Make the routes about the server itself."""

    async def health(_: Request) -> Response:
        return json_response({"status": "ok"})

    async def ready(_: Request) -> Response:
        if server.is_ready:
            return json_response({"status": "ready"})
        state = "can't be loaded: the log says why" if server.warming_error else "are being loaded"
        return json_response({"status": f"the models {state}"}, status=503)

    documents: dict[tuple[str, ...], bytes] = {}
    """Documents by the models that callers see: each takes some 20 ms to make."""

    async def openapi(request: Request) -> Response:
        caller = caller_of(request)
        visible = tuple(filter(caller.may_run, (*server.served, DECIDE, ENCODER)))
        if visible not in documents:
            paths: dict[str, object] = {}
            schemas = Schemas()
            for describe in _PATHS:
                paths |= describe(server, caller, schemas)
            documents[visible] = encode_json(document(server, caller, paths, schemas))
        return Response(documents[visible], media_type="application/json")

    return [
        Route("/health", health, methods=["GET"]),
        Route("/ready", ready, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
    ]


def serve_node(node_or_name: AnyNode | str, endpoints: Endpoints) -> ServedNode:
    """Serve a node, or the one that `load_graph` loads by a name.

    A ready one is served under the name that was asked for, any other under its own name. A custom
    one is described by the docstring of its class, or of its file.
    """
    if not isinstance(node_or_name, str):
        kind = type(node_or_name)
        is_custom = not kind.__module__.startswith("moa.")  # ours are for programmers
        return ServedNode(
            node_or_name,
            description=_first(inspect.cleandoc(kind.__doc__ or "")) if is_custom else "",
        )
    node = load_graph(node_or_name, endpoints)
    if node_or_name in READY:
        return ServedNode(node, name=node_or_name, description=READY[node_or_name].does)
    location = object_in(node_or_name)
    return ServedNode(node, description=_first(_docstring(location[0])) if location else "")


def _docstring(file: Path) -> str | None:
    return ast.get_docstring(ast.parse(file.read_text("utf-8")))


def _first(docstring: str | None) -> str:
    """Return the first paragraph on one line."""
    return " ".join((docstring or "").partition("\n\n")[0].split())
