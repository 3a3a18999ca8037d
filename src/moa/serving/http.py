"""HTTP: checks on every request, before any route sees it. Pure ASGI.

Nothing here buffers a response or runs it in another context, as `BaseHTTPMiddleware` would.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moa.core._files import encode_json
from moa.core.errors import RequestRefused
from moa.serving.faults import fault_of
from moa.serving.keys import ANYONE, Caller
from moa.serving.parsing import parse

if TYPE_CHECKING:
    from moa.serving.server import Server, Settings

T = TypeVar("T")

OPEN = ("/health", "/ready")
"""Paths that are always open to anyone, since they reveal nothing about anyone."""
_BODY_S = 30.0
"""Maximum seconds that a client may take to send a body."""
_FIRST_S, _PACE = 5.0, 32 << 10
"""Within these, a body may take `_FIRST_S` seconds, and one more for each `_PACE` bytes of it."""

_DIGITS = 18
"""Maximum digits of a length that is read as a number."""


class RequestChecks:
    """Middleware that refuses other hosts, other formats, too large requests, and strangers.

    Routes get the caller by `caller_of(request)`. Open paths have no caller.
    """

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server
        self._active = Counter[str]()
        """Requests that are worked on, by the name of their caller."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer with the refusal."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        receive = limit_body(receive, self._server.settings)
        try:
            caller = await self._check(scope)
            if caller is None:
                await self._app(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
            with self._slot(caller):
                await self._app(scope, receive, send)
        except RequestRefused as refused:
            await fault_of(refused).response()(scope, receive, send)

    async def _check(self, scope: Scope) -> Caller | None:
        """Check a request by its head, and return its caller; `None`: its path is open."""
        headers, settings = Headers(scope=scope), self._server.settings
        hosts = headers.getlist("host")
        check_host(hosts[0] if len(hosts) == 1 else "", settings)
        check_length(headers.get("content-length"), settings)
        if _path(scope) in OPEN:
            return None
        if not self._server.is_open:
            raise RequestRefused(
                "the server is not started: where its application is mounted in another, the "
                "lifespan of that enters app.router.lifespan_context(app)",
                status=503,
                code="not_started",
            )
        try:
            check_format(scope["method"], headers)
        except RequestRefused:
            if _has_route(scope):  # else it is 404 or 405, whatever its format
                raise
        return await self._server.keys.caller(headers.get("authorization"))

    @contextmanager
    def _slot(self, caller: Caller) -> Generator[None]:
        """Count a request for the time of the block, unless too many are worked on."""
        name, settings = caller.name, self._server.settings
        if self._active.total() >= settings.concurrency:
            raise RequestRefused(
                f"{settings.concurrency} requests are worked on, and no more at once: try again",
                status=503,
                code="server_busy",
                retry_after_s=1,
            )
        if name != ANYONE.name and self._active[name] >= settings.concurrency_per_key:
            raise RequestRefused(
                f"{settings.concurrency_per_key} requests of the key {name!r} are worked on, and "
                "no more at once: wait until one has ended",
                status=429,
                code="too_many_parallel",
                retry_after_s=1,
            )
        self._active[name] += 1
        try:
            yield
        finally:
            self._active[name] -= 1
            if not self._active[name]:
                del self._active[name]


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
    """Read the body of a request, once. The request itself keeps none of it while it is worked on.

    Raises:
        RequestRefused: it is too large (413), takes too long (408), or its client left before it
            was complete (400, which nobody reads).
    """
    try:
        return b"".join([part async for part in request.stream()])
    except ClientDisconnect as error:
        problem = "the client left before its request had come"
        raise RequestRefused(problem, status=400, code="client_disconnected") from error


async def read_json(request: Request, settings: Settings) -> object:
    """Read the body of a request.

    Raises:
        RequestRefused: it isn't JSON, is nested too deep or holds too many values (400), is too
            large (413), or takes too long (408).
    """
    return await read_as_json(request, settings, lambda value: value)


async def read_as_json(request: Request, settings: Settings, read: Callable[[object], T]) -> T:
    """Read the body of a request, and make something of it; see `read_json`.

    Args:
        request: The request.
        settings: Limits of the body.
        read: Makes something of the value. For a body of many values it runs in a thread.
    """
    caller: Caller = getattr(request.state, "caller", ANYONE)
    return await parse(await read_body(request), caller.name, settings, read)


async def read_run(request: Request, settings: Settings, read: Callable[[object], T]) -> T:
    """Read the body of a request for a run, unless its caller may begin none at the moment.

    Args:
        request, settings, read: See `read_as_json`.

    Raises:
        KeySpent: nothing is left of the caller's budget.
        RequestRefused: the caller has too many runs at once or in a minute (429), or the body is
            refused; see `read_json`.
    """
    await caller_of(request).check()
    return await read_as_json(request, settings, read)


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


def limit_body(receive: Receive, settings: Settings) -> Receive:
    """Limit the size of a body, counting bytes as they come, and the time that it takes.

    Reading it raises a `RequestRefused` if it is too large (413) or comes too slowly (408).
    """
    read, is_whole = 0, False
    start: float | None = None

    async def receive_some() -> Message:
        nonlocal read, is_whole, start
        if is_whole:  # what comes next is the disconnect, for which no time is set
            return await receive()
        start = asyncio.get_running_loop().time() if start is None else start
        seconds = min(_BODY_S, _FIRST_S + read / _PACE)
        try:
            async with asyncio.timeout_at(start + seconds):
                message = await receive()
        except TimeoutError as error:
            raise RequestRefused(
                f"{read} bytes of the request came in {seconds:.0f} seconds, and no more: send it "
                "again, and faster",
                status=408,
                code="request_timeout",
                retry_after_s=1,
                headers={"connection": "close"},
            ) from error
        read += len(message.get("body", b""))
        if read > settings.body_bytes:
            raise _too_large(settings)
        is_whole = not message.get("more_body", False)
        return message

    return receive_some


def _too_large(settings: Settings) -> RequestRefused:
    return RequestRefused(
        f"a request may have {settings.body_bytes} bytes: send less at once",
        status=413,
        code="request_too_large",
        headers={"connection": "close"},
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _path(scope: Scope) -> str:
    """Return the path within this application, which may be mounted in another."""
    return scope["path"].removeprefix(scope.get("root_path", ""))
