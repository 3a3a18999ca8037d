"""HTTP: an MCP server that is reached at an address."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp.client.streamable_http import streamable_http_client
from pydantic_core import from_json

from moa.adapters.mcp import Address
from moa.adapters.mcp.stdio import LARGEST_MESSAGE, Streams
from moa.core._json import at, number_of, object_of
from moa.core._terminal import escape_json
from moa.core.errors import EndpointError, EndpointUnavailable

STATUS = "moa.status"
"""The key of the HTTP status in an error's data."""
UNREACHABLE = 0
"""The status if there was no answer."""
NOT_MCP = 200
"""The status of an answer that isn't an MCP message."""
_CONNECT_S = 30.0
_LONGEST_ERROR = 2**16
_UNSUPPORTED_VERSION = -32022
_INTERNAL_ERROR = -32603


class _Warnings(logging.Filter):
    """Log filter, as the SDK logs addresses, session IDs and whole messages, unescaped."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep only warnings, without control codes for a terminal."""
        record.msg, record.args = escape_json(record.getMessage()), ()
        return record.levelno >= logging.WARNING


for _name in ("client", "mcp.client.streamable_http"):
    logging.getLogger(_name).addFilter(_Warnings())
    logging.getLogger(_name).addHandler(logging.NullHandler())  # nothing is printed unasked


class HttpTransport:
    """One server, reached by the SDK's own transport."""

    def __init__(self, name: str, address: Address) -> None:
        self.name = name
        self.address = address

    @asynccontextmanager
    async def streams(self) -> AsyncGenerator[Streams]:
        """Connect, and yield the streams of received and sent messages."""
        headers = {name: value.get_secret_value() for name, value in self.address.headers.items()}
        url = httpx2.URL(self.address.url)
        async with (
            _Client(
                headers={"accept-encoding": "identity"} | headers,
                auth=(url.username, url.password) if url.userinfo else None,
                timeout=httpx2.Timeout(_CONNECT_S, read=None),  # a call has a limit of its own
            ) as client,
            streamable_http_client(
                str(url.copy_with(userinfo=b"")),  # requests are logged with their address
                http_client=client,
                max_sse_event_size=LARGEST_MESSAGE,
            ) as streams,
        ):
            yield streams  # pyright: ignore[reportReturnType]

    async def lost_error(self, message: str = "") -> EndpointError:
        """Return the error of a lost connection; `message` is the SDK's description."""
        reason = f"the connection is lost: {message}" if message else "the connection is lost"
        return EndpointUnavailable(reason, endpoint=self.name)

    def last_output(self) -> str:
        """Return an empty string: it has no output outside of the protocol."""
        return ""

    def kill(self) -> None:
        """Do nothing: no server was started."""


class _Client(httpx2.AsyncClient):
    """Turns each failure into a JSON-RPC error with its status, which the SDK would leave out.

    A request without an answer fails alone: the SDK would end the whole connection.
    """

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request, and limit the length of its answer."""
        try:
            response = await super().send(request, **options)
        except httpx2.TransportError as error:
            reason = str(error).rstrip(".") or type(error).__name__
            return _failure(request, 503, f"it can't be reached: {reason}", status=UNREACHABLE)
        kind = response.headers.get("content-type", "").lower()
        stream = response.stream
        if not kind.startswith("text/event-stream") and isinstance(stream, httpx2.AsyncByteStream):
            response.stream = _BoundedStream(stream)
        if response.status_code >= 400:
            return await _refusal(request, response)
        if _is_answer(response) and not kind.startswith(("application/json", "text/event-stream")):
            await response.aclose()
            return _failure(request, 400, f"its answer is {kind or 'nothing'}", status=NOT_MCP)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            return _failure(request, 400, "its answer is compressed, unasked", status=NOT_MCP)
        return response


def _is_answer(response: httpx2.Response) -> bool:
    return response.request.method == "POST" and response.status_code in (200, 201, 203)


async def _refusal(request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
    """Turn a refusal into an error with its status and the server's words."""
    try:
        body = await response.aread()
    except (httpx2.TransportError, httpx2.StreamError):
        body = b""
    finally:
        await response.aclose()
    status = response.status_code
    code, message, data = _error_in(body)
    if code == _UNSUPPORTED_VERSION:  # its data lists the supported ones
        return _answer(request, status, code, message, data)
    return _failure(request, status, message, code=code, status=status)


def _error_in(body: bytes) -> tuple[int, str, object]:
    """Read the code, message and data of a JSON-RPC error."""
    try:
        error = at(from_json(body[:_LONGEST_ERROR]), "error")
        code, message = int(number_of(at(error, "code"))), str(at(error, "message"))
        return code, message, object_of(error).get("data")
    except (ValueError, TypeError, KeyError):
        return _INTERNAL_ERROR, "", None


def _failure(
    request: httpx2.Request,
    http_status: int,
    message: str,
    *,
    status: int,
    code: int = _INTERNAL_ERROR,
) -> httpx2.Response:
    return _answer(request, http_status, code, message, {STATUS: status})


def _answer(
    request: httpx2.Request, status: int, code: int, message: str, data: object
) -> httpx2.Response:
    error = {"code": code, "message": message, "data": data}
    body = {"jsonrpc": "2.0", "id": None, "error": error}
    return httpx2.Response(status, json=body, request=request)


class _BoundedStream(httpx2.AsyncByteStream):
    """A response body of at most `LARGEST_MESSAGE` bytes."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield its pieces.

        Raises:
            StreamError: the body is longer.
        """
        left = LARGEST_MESSAGE
        async for piece in self._stream:
            left -= len(piece)
            if left < 0:
                raise httpx2.StreamError(f"a message is longer than {LARGEST_MESSAGE:,} bytes")
            yield piece

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()
