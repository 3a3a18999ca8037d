"""Listening: a socket and a uvicorn server that no client keeps busy, by sending or by not reading.

`moa serve` and `moa studio` use it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from moa.core._logs import LineFormatter
from moa.core.errors import ConfigError

_logger = logging.getLogger(__name__)
HEAD_BYTES = 64 << 10
"""Maximum bytes of a request's head: its request line and headers."""
HEAD_S = 30.0
"""Maximum seconds until the head is complete, from its first byte or from the connection."""
_HEADERS = 256
"""Maximum number of headers. Each takes far more memory than its bytes."""
REST_BYTES = 8 << 20
"""Maximum bytes of a body that still come when its request has been answered. They are dropped, so
that a client that is refused early reads why."""
WRITE_S = 30.0
"""Maximum seconds until a client has taken a piece of an answer, or the whole of a smaller one."""
PIECE = 128 << 10
"""Bytes of an answer that are written at once. The next piece is written when they have left."""
_PIPELINED, _SLICE = 16, 4 << 10
"""Maximum requests that a client sends ahead, without waiting for answers, and the bytes after
which they are counted. A quarter of a megabyte, which comes at once, has thousands of requests."""
_IDLE = 768
"""Maximum connections, in addition to one for each request that is worked on."""
_BACKLOG, _ACCEPTED = 2048, 16
"""Connections that wait in the kernel, and how many of them are accepted in one step at most."""
_LAST_S = 2
"""Seconds that uvicorn waits after `drain_s`, so that stopped runs can tell their clients."""
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)

_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": LineFormatter}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"uvicorn": {"handlers": ["stderr"], "propagate": False}},
}
"""uvicorn's errors, with their tracebacks, as the other lines of the log."""


def listen_on(host: str, port: int) -> socket.socket:
    """Listen on an address, or raise a `ConfigError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"nothing can listen on {host}, port {port}: {error.strerror}. Give another --port, or "
            "0 for any that is free"
        ) from error


def address_of(listener: socket.socket) -> str:
    """Return the address of a listening socket as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def uvicorn_for(
    app: ASGIApp, *, drain_s: float, end: Callable[[], None] = lambda: None, requests: int = 256
) -> uvicorn.Server:
    """Make a uvicorn server for an application, to be run on listening sockets.

    It has at most 768 connections more than `requests`, and at most half of the files that the
    process may open. Beyond them, a new connection takes the place of one that waits for its
    client: the one that was silent for longest, of the address that has most.

    Args:
        app: The application.
        drain_s: Seconds that open requests have left at shutdown.
        end: Called after `drain_s`, to stop the requests that are still open.
        requests: Maximum requests that the application works on at once.
    """
    connections = Connections(most_connections(requests))
    config = uvicorn.Config(
        _InPieces(app),
        http=cast("type[asyncio.Protocol]", partial(_Connection, connections)),
        ws="none",
        lifespan="on",
        log_config=_LOGGING,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=ceil(drain_s) + _LAST_S,
        backlog=most_accepted(),
    )
    return _DrainingServer(config, drain_s, end)


def most_connections(requests: int) -> int:
    """Return how many connections may be open. The other files are for models, stores and jobs."""
    return min(requests + _IDLE, max(_most_files() // 2, 1))


def most_accepted() -> int:
    """Return how many connections are accepted in one step.

    Those of some steps are open before they are counted, and as many are still closing. Without a
    free file, asyncio accepts nothing for a second.
    """
    return min(_ACCEPTED, max(_most_files() // 32, 1))


def _most_files() -> int:
    """Return how many files the process may open."""
    try:
        import resource
    except ImportError:  # on Windows, where no such limit is known
        return sys.maxsize
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files < 0 else files


class _InPieces:
    """An application whose answers are written in pieces, each when the last one has left.

    uvicorn takes an answer of any size at once, and lets the application end: nothing would count
    what nobody reads. So the request lasts until its last piece is written.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_pieces(message: Message) -> None:
            body = message.get("body", b"")
            *starts, last = range(0, max(len(body), 1), PIECE)
            for start in starts:
                piece = body[start : start + PIECE]
                await send({**message, "body": piece, "more_body": True})
            await send({**message, "body": body[last:]} if starts else message)

        await self._app(scope, receive, send_pieces)


class _DrainingServer(uvicorn.Server):
    """A server that calls `end` after `drain_s` of its shutdown, so that clients get an answer."""

    def __init__(self, config: uvicorn.Config, drain_s: float, end: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain_s = drain_s
        self._end = end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():  # uvicorn has one number for both
            listener.listen(_BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.get_running_loop().call_later(self._drain_s, self._end)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()


class Connections:
    """The open connections of a server, by when they were last heard from.

    Args:
        most: Maximum number.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[_Connection, str] = {}
        """Their addresses. Who was silent for longest is first."""
        self._by_address = Counter[str]()

    def add(self, connection: _Connection, address: str) -> bool:
        """Add a connection, in place of one that waits if there are too many.

        Returns:
            False if there are too many, and none waits.
        """
        if len(self._open) >= self._most:
            waiting = self._find_waiting()
            if waiting is None:
                return False
            self.remove(waiting)
            waiting.abort()
        self._open[connection] = address
        self._by_address[address] += 1
        return True

    def remove(self, connection: _Connection) -> None:
        """Remove a connection, if it is there."""
        address = self._open.pop(connection, None)
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def touch(self, connection: _Connection) -> None:
        """Note that a connection was heard from."""
        address = self._open.pop(connection, None)
        if address is not None:
            self._open[connection] = address

    def _find_waiting(self) -> _Connection | None:
        """Find the connection that waits for longest, of the address that has most of them."""
        most = max(self._by_address.values(), default=0)
        others: _Connection | None = None
        for connection, address in self._open.items():
            if connection.waits:
                if self._by_address[address] == most:
                    return connection
                others = others or connection
        return others


class _Connection(asyncio.Protocol):
    """A uvicorn connection that is closed if its client is too slow, or sends too much ahead.

    uvicorn itself waits forever for a head and for a reader, and one of its two parsers buffers the
    head without a limit.
    """

    def __init__(self, connections: Connections, **settings: Any) -> None:
        self._inner: Any = AutoHTTPProtocol(**settings)
        self._connections = connections
        self._transport: asyncio.Transport
        self._size = 0
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    @property
    def waits(self) -> bool:
        """True if it waits for its client: to ask something, or to read what is sent to it."""
        cycle = self._inner.cycle
        return cycle is None or cycle.response_complete or self._unread is not None

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop has its own
        transport.set_write_buffer_limits(high=0)  # so that it is paused while anything is unsent
        self._inner.connection_made(transport)
        address = transport.get_extra_info("peername")
        if not self._connections.add(self, str(address[0]) if address else ""):
            transport.abort()
            return
        self._late = self._abort_after(HEAD_S)

    def data_received(self, data: bytes) -> None:
        self._connections.touch(self)
        for start in range(0, len(data), _SLICE):
            if self._transport.is_closing():
                return
            self._feed(data[start : start + _SLICE])

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        self._stop_late()
        self._stop_unread()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._unread = asyncio.get_running_loop().call_later(WRITE_S, self._cut_off)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._stop_unread()
        self._connections.touch(self)
        self._inner.resume_writing()

    def _feed(self, data: bytes) -> None:
        # A new cycle means that a head is complete. Until then, and after a request has come, all
        # bytes belong to a head and are counted. What is left of the body of an answered request
        # is counted too. The scope is new from the first byte of a head on.
        cycle, scope = self._inner.cycle, self._inner.scope
        has_come = cycle is None or cycle.response_complete or not cycle.more_body
        before = 0 if cycle is None else len(cycle.body)
        self._inner.data_received(data)
        if len(getattr(self._inner, "pipeline", ())) > _PIPELINED:
            self._transport.abort()
        elif self._inner.cycle is not cycle:
            self._size = 0
            self._stop_late()
        elif has_come:
            is_rest = cycle is not None and self._inner.scope is cycle.scope
            self._size = self._size + len(data) if self._inner.scope is scope else len(data)
            if self._late is None:
                self._late = self._abort_after(HEAD_S)
            if self._has_too_much(REST_BYTES if is_rest else HEAD_BYTES):
                self._refuse()
        else:
            # The parser takes the lines after the last chunk of a body for headers, and stores
            # them. No part of the body comes after them.
            has_grown = cycle is not None and len(cycle.body) > before
            self._size = 0 if has_grown else self._size + len(data)
            if self._has_too_much(HEAD_BYTES):
                self._transport.abort()  # the application may have begun its answer

    def _has_too_much(self, most: int) -> bool:
        return self._size > most or len(self._inner.headers or ()) > _HEADERS

    def _refuse(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_TOO_LARGE)
            self._transport.close()

    def _abort_after(self, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def _cut_off(self) -> None:
        _logger.warning("a client was cut off: it did not read its answer")
        self._transport.abort()

    def _stop_late(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
