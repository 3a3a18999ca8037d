"""HTTP: checks on every request, before any route sees it. Pure ASGI.

Nothing here buffers a response or runs it in another context, as `BaseHTTPMiddleware` would.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moa._files import encode_json
from moa._json import is_object, list_of
from moa.errors import RequestRefused
from moa.serving.faults import fault_of
from moa.serving.keys import Caller

if TYPE_CHECKING:
    from moa.serving.server import Server, Settings

OPEN = ("/health", "/ready")
"""Paths that are always open to anyone, since they reveal nothing about anyone."""
_BODY_S = 30.0
"""Seconds that a client may take to send a request."""

_DIGITS = 18
"""Maximum digits of a length that is read as a number."""


class RequestChecks:
    """Middleware that refuses other hosts, other formats, too large requests, and strangers.

    Routes get the caller by `caller_of(request)`.
    """

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer with the refusal."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._check(scope)
        except RequestRefused as refused:
            await fault_of(refused).response()(scope, receive, send)
            return
        if _path(scope) in OPEN:
            await self._app(scope, receive, send)
            return
        self._active += 1
        try:
            await self._app(scope, _count_body(receive, self._server.settings), send)
        finally:
            self._active -= 1

    async def _check(self, scope: Scope) -> None:
        headers, settings = Headers(scope=scope), self._server.settings
        hosts = headers.getlist("host")
        check_host(hosts[0] if len(hosts) == 1 else "", settings)
        if _path(scope) in OPEN:
            return
        if not self._server.is_open:
            raise RequestRefused(
                "the server is not started: where its application is mounted in another, the "
                "lifespan of that enters app.router.lifespan_context(app)",
                status=503,
                code="not_started",
            )
        if self._active >= settings.concurrency:
            raise RequestRefused(
                f"{self._active} requests are worked on, and no more are at once: try again",
                status=503,
                code="server_busy",
                retry_after_s=1,
            )
        try:
            check_format(scope["method"], headers)
        except RequestRefused:
            if _has_route(scope):  # else it is 404 or 405, whatever its format
                raise
        check_length(headers.get("content-length"), settings)
        caller = await self._server.keys.caller(headers.get("authorization"))
        scope.setdefault("state", {})["caller"] = caller


def _has_route(scope: Scope) -> bool:
    """Return True if a route matches a request."""
    return any(route.matches(scope)[0] is Match.FULL for route in scope["app"].router.routes)


def caller_of(request: Request) -> Caller:
    """Return the caller of a request."""
    return request.state.caller


def check_host(host: str, settings: Settings) -> None:
    """Refuse a request to another host, which a web page can send by DNS rebinding.

    Raises:
        RequestRefused: the host is not an IP address, `localhost` or an allowed host (421).
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if name == "localhost" or name in settings.hosts or _is_address(name):
        return
    raise RequestRefused(
        f"this server doesn't answer for the host {name[:100]!r}: start it with "
        "--allow-host NAME, or ask it by its address",
        status=421,
        code="misdirected_request",
    )


def check_format(method: str, headers: Headers) -> None:
    """Refuse formats that a page of another origin can send without a CORS preflight.

    Raises:
        RequestRefused: it has a body that isn't JSON (415).
    """
    if method != "POST":  # no other method takes a body here
        return
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestRefused(
            "send JSON, with the header Content-Type: application/json",
            status=415,
            code="unsupported_media_type",
        )


def check_length(length: str | None, settings: Settings) -> None:
    """Refuse a request whose stated length is too large.

    Raises:
        RequestRefused: it is too large (413).
    """
    if length is None or not length.isdecimal():
        return
    digits = length.lstrip("0")  # of thousands, `int` makes no number
    if len(digits) > _DIGITS or int(digits or 0) > settings.body_bytes:
        raise _too_large(settings)


async def read_body(request: Request) -> bytes:
    """Read the body of a request.

    Raises:
        RequestRefused: it is too large (413), takes too long (408), or its client left before it
            was complete (400, which nobody reads).
    """
    try:
        async with asyncio.timeout(_BODY_S):
            return await request.body()
    except TimeoutError as error:
        problem = f"the request took more than {_BODY_S:g} seconds to come: send it again"
        raise RequestRefused(
            problem, status=408, code="request_timeout", retry_after_s=1
        ) from error
    except ClientDisconnect as error:
        problem = "the client left before its request had come"
        raise RequestRefused(problem, status=400, code="client_disconnected") from error


async def read_json(request: Request, settings: Settings) -> object:
    """Read the body of a request.

    Raises:
        RequestRefused: it isn't JSON or is nested too deep (400), is too large (413), or takes too
            long (408).
    """
    body = await read_body(request)
    try:
        value: object = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestRefused(f"the body is no JSON: {error}", status=400, code="no_json") from error
    if _is_deeper(value, settings.depth):
        problem = f"it is nested deeper than the {settings.depth} arrays and objects that may be"
        raise RequestRefused(problem, status=400, code="too_deep")
    return value


def json_response(
    value: object, headers: Mapping[str, str] | None = None, status: int = 200
) -> Response:
    """Answer with JSON. NaN and infinity become null."""
    return Response(encode_json(value), status, headers, "application/json")


class TimeLimit:
    """A response with a time limit, which also applies to slow readers."""

    def __init__(self, response: ASGIApp, timeout_s: float) -> None:
        self._response = response
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                await self._response(scope, receive, send)


def _count_body(receive: Receive, settings: Settings) -> Receive:
    """Limit the size of a body, counting bytes as they come."""
    read = 0

    async def receive_some() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > settings.body_bytes:
            raise _too_large(settings)
        return message

    return receive_some


def _too_large(settings: Settings) -> RequestRefused:
    return RequestRefused(
        f"a request may have {settings.body_bytes} bytes: send less at once",
        status=413,
        code="request_too_large",
        headers={"connection": "close"},
    )


def _is_deeper(value: object, depth: int) -> bool:
    level = [value]
    for _ in range(depth + 1):
        level = [part for item in level for part in _parts(item)]
        if not level:
            return False
    return True


def _parts(value: object) -> Iterable[object]:
    """Return the items of an array or an object; nothing for anything else."""
    return value.values() if is_object(value) else list_of(value)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _path(scope: Scope) -> str:
    """Return the path within this application, which may be mounted in another."""
    return scope["path"].removeprefix(scope.get("root_path", ""))
