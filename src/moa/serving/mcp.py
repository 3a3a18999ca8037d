"""MCP: the served graphs and agents over the Model Context Protocol, at `/mcp` and over stdio.

Each HTTP request has its own tasks, which end with it. No state is kept between requests.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager, redirect_stdout, suppress
from dataclasses import replace
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING, Any, NoReturn, Self

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from moa.core._async import first_error
from moa.core._json import is_object, object_of
from moa.core.errors import MissingDependency, RequestRefused
from moa.core.telemetry import tracer_of
from moa.core.telemetry.spans import attach_to
from moa.serving.http import caller_of, read_body
from moa.serving.parsing import parse
from moa.serving.server import Server

if TYPE_CHECKING:
    from mcp.server import Server as Protocol

    from moa.serving.keys import Caller

_logger = logging.getLogger(__name__)
_LATE_S = 10.0
"""Seconds after its run's deadline at which an exchange is cut off."""
_READ_AHEAD = 64
"""Maximum lines of standard input that are read ahead."""
_LONGEST = 16 * 2**20
"""Maximum bytes of a line. Nothing is read after a longer one."""
_END = b"\n"
"""Marks the end of the lines. No line contains it."""
Pipes = tuple[Any, Any]
"""Streams to read from and write to. Their types are private in the SDK."""
_MOST_VALUES = 10_000
"""Maximum number of values in a body. The SDK reads each several times, on the event loop."""
_NOISY_LOGGERS = ("mcp.server.streamable_http_manager", "mcp.server.streamable_http")
"""Loggers of the SDK that log the start and end of each request."""


def routes(server: Server) -> list[Route]:
    """Make the route `/mcp`. Without the SDK, it answers 501 and says what to install."""
    if find_spec("mcp") is None:
        return [Route("/mcp", _refuse, methods=["POST"])]
    from moa.serving.mcp_tools import Tools

    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    protocol = Tools(server).protocol()

    settings = replace(server.settings, values=min(server.settings.values, _MOST_VALUES))

    async def exchange(request: Request) -> Exchange:
        def is_free(value: object) -> bool:
            return not is_object(value) or value.get("method") != "tools/call"

        body = await read_body(request)
        request.state.is_free = await parse(body, caller_of(request).name, settings, is_free)
        return Exchange(protocol, body, server.settings.timeout_s + _LATE_S)

    return [Route("/mcp", exchange, methods=["POST"])]


async def _refuse(request: Request) -> NoReturn:
    del request
    error = MissingDependency("mcp", extra="mcp", purpose="to serve MCP")
    raise RequestRefused(f"this server doesn't speak MCP: {error}", status=501, code="no_mcp")


class Exchange:
    """The response to one request whose body has been read.

    Failures may have the status 200. Of a request that may be repeated with its `Idempotency-Key`,
    `request.state.has_failed` says whether this is one.

    Args:
        protocol: MCP server that answers.
        body: Body of the request.
        limit_s: Seconds after which it is cut off, whether or not the client reads.
    """

    def __init__(self, protocol: Protocol, body: bytes, limit_s: float) -> None:
        self._protocol = protocol
        self._unread = [body]
        self._limit_s = limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request. All tasks have ended when this returns."""
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        async def again() -> Message:
            if self._unread:  # it isn't kept for as long as the exchange lasts
                return {"type": "http.request", "body": self._unread.pop(), "more_body": False}
            return await receive()

        last = b""

        async def watch(message: Message) -> None:
            nonlocal last
            last = message.get("body") or last
            await send(message)

        manager = StreamableHTTPSessionManager(self._protocol, stateless=True)
        try:
            # The SDK opens its own span, and looks for the parent only in its protocol.
            with attach_to(tracer_of(Headers(scope=scope))):
                async with asyncio.timeout(self._limit_s), manager.run():
                    await manager.handle_request(scope, again, watch)
        except TimeoutError:
            _logger.warning("an exchange of MCP was cut off: it took too long")
        if "idempotency-key" in Headers(scope=scope):
            Request(scope).state.has_failed = _is_failure(last)


@asynccontextmanager
async def pipes() -> AsyncGenerator[Pipes]:
    """Reserve standard input and output for the protocol.

    Other output goes to standard error, and processes started meanwhile read an empty input.
    """
    from mcp.server.stdio import stdio_server

    lines: Any = _StdinLines()
    try:
        async with stdio_server(stdin=lines) as (read, write), read, write:
            with redirect_stdout(sys.stderr):
                yield read, write
    except BaseExceptionGroup as group:  # the SDK's tasks wrap errors in a group
        error = first_error(group)
        if not isinstance(error, BrokenPipeError):  # nobody reads any longer
            raise error from None


async def serve_pipes(server: Server, owner: Caller, pipes: Pipes) -> None:
    """Serve over pipes until the input ends, then cancel all runs.

    Args:
        server: Server with the nodes and their runs.
        owner: Caller that all runs belong to.
        pipes: Streams from `pipes`.
    """
    from moa.serving.mcp_tools import Tools

    protocol = Tools(server, owner).protocol()
    await protocol.run(*pipes, protocol.create_initialization_options())


class _StdinLines:
    """The lines of standard input. Waiting for one can be cancelled, such as by Ctrl-C.

    The SDK reads them in a thread that can't be stopped, and that is joined when the process exits.
    """

    def __init__(self) -> None:
        self._lines = asyncio.Queue[bytes](_READ_AHEAD)
        self._input = os.dup(0)
        null_file = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null_file, 0)
        os.close(null_file)
        loop = asyncio.get_running_loop()
        Thread(target=self._read, args=(loop,), name="moa-stdin", daemon=True).start()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        rest = b""
        with suppress(RuntimeError, CancelledError):  # the loop has ended
            while len(rest) <= _LONGEST and (chunk := os.read(self._input, 2**16)):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    asyncio.run_coroutine_threadsafe(self._lines.put(line), loop).result()
            asyncio.run_coroutine_threadsafe(self._lines.put(_END), loop).result()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """Return the next line."""
        line = await self._lines.get()
        if line is _END:
            raise StopAsyncIteration
        return line.decode(errors="replace")


def _is_failure(message: bytes) -> bool:
    """Return True if the last message of an exchange is an error, or the result of a failed tool.

    Args:
        message: JSON, or an event of a stream.
    """
    data = [line[5:] for line in message.splitlines() if line.startswith(b"data:")]
    try:
        answer = object_of(from_json(b"\n".join(data) if data else message))
    except ValueError:  # such as a stream that was cut off
        return True
    return "error" in answer or object_of(answer.get("result")).get("isError") is True
