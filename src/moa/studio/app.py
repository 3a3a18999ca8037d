"""App: the studio over HTTP: its page, without data, and the JSON that the page reads."""

from __future__ import annotations

import asyncio
import hmac
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path

from pydantic import BaseModel, JsonValue
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

from moa.core._json import is_list, is_object, object_of
from moa.core.errors import ConfigError, MoaError, RequestRefused
from moa.rows.decided import Values
from moa.rows.records import line
from moa.serving.asking import Body, read_as
from moa.serving.faults import fault_of
from moa.serving.http import (
    check_format,
    check_host,
    check_length,
    json_response,
    limit_body,
    read_json,
)
from moa.serving.runs import FinishedRun, Stream
from moa.serving.server import Server, Settings
from moa.studio.data import Query
from moa.studio.sources import Source, View
from moa.studio.trials import Trials

STATIC = Path(__file__).parent / "static"
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_MOST = 500
"""Maximum rows in one response."""
_LONGEST = 500
"""Characters of a text in the output of a served run. A decision has fewer."""


class RowPath(BaseModel):
    """The path of a row. The converter of Starlette fails on a number of 5,000 digits."""

    place: int


class LabelBody(Body):
    """A label, as the page sends it."""

    place: int
    id: str | None = None
    digest: str | None = None
    question: str
    label: str


class AnswerBody(Body):
    """A person's answer to a question of a run."""

    answer: JsonValue


def studio_app(
    view: View,
    *,
    settings: Settings | None = None,
    key: str = "",
    trials: Trials | None = None,
) -> Starlette:
    """Make the application of the page.

    Args:
        view: Data of the page.
        settings: Accepted host names, and limits of requests.
        key: Key that the page must send in the header `Authorization` to read data; empty: no key
            is needed. It is never part of a URL.
        trials: Runs inputs from the page; `None`: inputs can't be tried.
    """
    page_settings = settings or Settings()
    view.can_run = trials.names if trials else ()

    async def answer_error(request: Request, error: Exception) -> Response:
        del request
        if isinstance(error, ConfigError):  # the user started it, and can fix that
            error = RequestRefused(str(error), status=409, code="not_possible")
        return fault_of(error).response(None)

    handlers: dict[type[Exception], ExceptionHandler] = dict.fromkeys(
        (MoaError, HTTPException, Exception), answer_error
    )
    return Starlette(
        routes=[*_pages(), *_api(view, page_settings), *(_live(trials) if trials else ())],
        middleware=[Middleware(PageGuard, settings=page_settings, key=key)],
        exception_handlers=handlers,
    )


def mount(studio: Starlette, app: Starlette | None = None, *, only_page: bool = False) -> Starlette:
    """Mount the page at `/studio/`, next to a server of graphs if there is one.

    Args:
        studio: The page.
        app: The server. It is open while the page is.
        only_page: True if the server only runs trials of the page, and its routes aren't mounted.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with app.router.lifespan_context(app) if app else nullcontext():
            yield

    async def to_page(request: Request) -> Response:
        del request
        return RedirectResponse("/studio/", status_code=307)

    routes: list[BaseRoute] = [Route("/studio", to_page), Mount("/studio", studio)]
    routes.append(Route("/", to_page) if app is None or only_page else Mount("/", app))
    return Starlette(routes=routes, lifespan=lifespan)


class PageGuard:
    """Checks the host and the key, and sets headers so that the page loads only its own files."""

    def __init__(self, app: ASGIApp, settings: Settings, key: str) -> None:
        self._app = app
        self._settings = settings
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        try:
            self._check(scope)
        except RequestRefused as error:
            await fault_of(error).response()(scope, receive, send_guarded)
            return
        await self._app(scope, limit_body(receive, self._settings), send_guarded)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        check_host(headers.get("host", ""), self._settings)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not path.startswith("/api/"):
            return
        check_format(scope["method"], headers)
        check_length(headers.get("content-length"), self._settings)
        key = headers.get("authorization", "").removeprefix("Bearer ")
        if self._key and not hmac.compare_digest(key.encode(), self._key.encode()):
            raise RequestRefused(
                "enter the key of the studio: $MOA_STUDIO_KEY, else the one that its start printed",
                status=401,
                code="invalid_api_key",
            )


@cache
def static_file(name: str) -> tuple[bytes, str]:
    """Return a file of the page, and its media type.

    Raises:
        RequestRefused: there is no file with this name (404).
    """
    paths = {path.name: path for path in STATIC.iterdir() if path.suffix in _KINDS}
    if name not in paths:
        raise RequestRefused("there is no such page", status=404, code="not_found")
    return paths[name].read_bytes(), _KINDS[paths[name].suffix]


def _pages() -> list[Route]:
    async def page(request: Request) -> Response:
        body, kind = static_file(request.path_params.get("name") or "index.html")
        return Response(body, media_type=kind)

    return [Route("/", page), Route("/{name}", page)]


def _api(view: View, settings: Settings) -> list[Route]:
    async def state(request: Request) -> Response:
        del request
        return json_response(await asyncio.to_thread(view.state))

    async def overview(request: Request) -> Response:
        del request
        return json_response(await asyncio.to_thread(view.overview))

    async def rows(request: Request) -> Response:
        parameters = {key: value for key, value in request.query_params.items() if value != ""}
        query = read_query(parameters)
        return json_response(await asyncio.to_thread(view.book.find, query, texts=view.texts))

    async def row(request: Request) -> Response:
        path = read_as(RowPath, request.path_params)
        return json_response(await asyncio.to_thread(view.detail, path.place))

    async def label(request: Request) -> Response:
        body = read_as(LabelBody, await read_json(request, settings))
        row_line = await asyncio.to_thread(
            view.label, body.place, body.question, body.label, id=body.id, digest=body.digest
        )
        return json_response(row_line)

    async def undo(request: Request) -> Response:
        del request
        return json_response(await asyncio.to_thread(view.undo))

    async def reload(request: Request) -> Response:
        del request
        await asyncio.to_thread(view.reload)
        return json_response(await asyncio.to_thread(view.overview))

    async def learn(request: Request) -> Response:
        if view.learning is None:
            raise RequestRefused("nothing learns here", status=404, code="no_learning")
        action = view.learning.start if request.method == "POST" else view.learning.progress
        return json_response(await asyncio.to_thread(action))

    return [
        Route("/api/learn", learn, methods=["GET", "POST"]),
        Route("/api/state", state),
        Route("/api/overview", overview),
        Route("/api/rows", rows),
        Route("/api/rows/{place}", row),
        Route("/api/labels", label, methods=["POST"]),
        Route("/api/undo", undo, methods=["POST"]),
        Route("/api/reload", reload, methods=["POST"]),
    ]


def _live(trials: Trials) -> list[Route]:
    async def run(request: Request) -> Stream:
        return await trials.run(request)

    async def questions(request: Request) -> Response:
        del request
        return json_response(trials.questions)

    async def answer(request: Request) -> Response:
        body = read_as(AnswerBody, await read_json(request, trials.server.settings))
        trials.answer(request.path_params["id"], body.answer)
        return json_response(trials.questions)

    return [
        Route("/api/run/{name}", run, methods=["POST"]),
        Route("/api/questions", questions),
        Route("/api/questions/{id}", answer, methods=["POST"]),
    ]


def read_query(parameters: dict[str, str]) -> Query:
    """Read a query for rows from URL parameters.

    Raises:
        RequestRefused: a number is invalid (400).
    """
    query = read_as(Query, parameters)
    return query.model_copy(
        update={"limit": min(max(query.limit, 1), _MOST), "offset": max(query.offset, 0)}
    )


def _cut(value: object) -> object:
    """Cut the texts in a JSON value, which may be whole answers, to what a decision can be."""
    if is_object(value):
        return {key: _cut(inner) for key, inner in value.items()}
    if is_list(value):
        return [_cut(inner) for inner in value]
    return value[:_LONGEST] if isinstance(value, str) else value


def recent_runs(server: Server) -> Source:
    """Return a source of a server's last `settings.kept` runs, without their texts."""
    lines: deque[Values] = deque(maxlen=server.settings.kept)

    def keep(finished: FinishedRun) -> None:
        values = object_of(_cut(line(replace(finished.item, input=None))))
        lines.append({**values, "id": finished.id[:8], "served": finished.served.name})

    server.runs.listeners.append(keep)
    return Source(
        name=", ".join(server.served),
        about="the last runs of this server",
        lines=lambda: list(lines),
        live=True,
        mark=lambda: (len(lines), lines[-1]["id"] if lines else None),
    )
