"""Listening: the socket, and uvicorn on it, which gives each connection a limited time and size.

`moa serve` and `moa studio` both listen so.
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

from moa.errors import ConfigError

HEAD_BYTES = 64 << 10
"""Most bytes of a request before its body: its line and its headers."""
HEAD_S = 30.0
"""Seconds in which they have to come, from the first byte on, or from when a client connects."""
_LAST_S = 2
"""Seconds that uvicorn waits beyond those that runs have to end: for their last words."""
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


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
        drain_s: Seconds that requests have left when it is told to end.
        end: Called after those, to end what still runs.
    """
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=ceil(drain_s) + _LAST_S,
    )
    return _DrainingServer(config, drain_s, end)


class _DrainingServer(uvicorn.Server):
    """Ends what still runs once its seconds are over, so that its clients are told."""

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
    """A connection of uvicorn's, which is closed if the head of a request doesn't come.

    uvicorn waits for it for ever, and keeps, with one of its two parsers, all that comes of it.
    """

    def __init__(self, **settings: Any) -> None:
        self._inner: Any = AutoHTTPProtocol(**settings)
        self._transport: asyncio.Transport
        self._size = 0
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is of another class
        self._inner.connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        # A new cycle means that a head is complete. Until then, and after an answer is sent, all
        # bytes belong to a head, and count.
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
