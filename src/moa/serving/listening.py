"""Listening: a socket and a uvicorn server that limits the time and size of request heads.

`moa serve` and `moa studio` use it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from math import ceil
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from moa._logs import LineFormatter
from moa.errors import ConfigError

HEAD_BYTES = 64 << 10
"""Maximum bytes of a request's head: its request line and headers."""
HEAD_S = 30.0
"""Maximum seconds until the head is complete, from its first byte or from the connection."""
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
        return socket.create_server((host, port), family=family, backlog=2048)
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
    app: ASGIApp, *, drain_s: float, end: Callable[[], None] = lambda: None
) -> uvicorn.Server:
    """Make a uvicorn server for an application, to be run on listening sockets.

    Args:
        app: The application.
        drain_s: Seconds that open requests have left at shutdown.
        end: Called after `drain_s`, to stop the requests that are still open.
    """
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="on",
        log_config=_LOGGING,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=ceil(drain_s) + _LAST_S,
    )
    return _DrainingServer(config, drain_s, end)


class _DrainingServer(uvicorn.Server):
    """A server that calls `end` after `drain_s` of its shutdown, so that clients get an answer."""

    def __init__(self, config: uvicorn.Config, drain_s: float, end: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain_s = drain_s
        self._end = end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.get_running_loop().call_later(self._drain_s, self._end)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()


class _Connection(asyncio.Protocol):
    """A uvicorn connection that is closed if a request's head comes too late or is too large.

    uvicorn itself waits forever, and one of its two parsers buffers the head without a limit.
    """

    def __init__(self, **settings: Any) -> None:
        self._inner: Any = AutoHTTPProtocol(**settings)
        self._transport: asyncio.Transport
        self._size = 0
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop has its own class
        self._inner.connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        # A new cycle means that a head is complete. Until then, and after an answer is sent, all
        # bytes belong to a head and are counted.
        before = self._inner.cycle
        self._inner.data_received(data)
        if self._inner.cycle is not before:
            self._size = 0
            self._stop()
        elif before is None or before.response_complete:
            self._size += len(data)
            if self._late is None:
                self._wait()
            if self._size > HEAD_BYTES and not self._transport.is_closing():
                self._transport.write(_TOO_LARGE)
                self._transport.close()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def _wait(self) -> None:
        self._late = asyncio.get_running_loop().call_later(HEAD_S, self._transport.abort)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
