"""Stdio: an MCP server that runs as a process, over its standard input and output.

The SDK's own transport reads lines of any length, parses them by trying each kind of message, and
leaves the process behind if a task is cancelled twice.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process, SubprocessStreamProtocol
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import anyio
import psutil
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import (
    PARSE_ERROR,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)
from pydantic_core import from_json, to_json

from moa.adapters.mcp import Command
from moa.core._json import is_object
from moa.core._terminal import escape_json
from moa.core.errors import ConfigError, EndpointError, EndpointUnavailable, InvalidResponse

Incoming = SessionMessage | Exception
Streams = tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]

LARGEST_MESSAGE = 4 * 2**20
"""Maximum bytes of a server's message; a model reads much less."""
_LONGEST_LINE_READ = 16 * LARGEST_MESSAGE
"""Maximum bytes of a line that is read to its end, to fail only the call that it answers."""
_ID_WITHIN = 200
_ID = rb'"id"\s*:\s*(?P<id>\d{1,15}|"[\w-]{1,64}")'
_FIRST_ID = re.compile(rb'\s*\{\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*' + _ID + rb"\s*,")
_LAST_ID = re.compile(_ID + rb'\s*(,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z')
"""Request ID of a message; SDKs write it first or last."""
_MOST_GARBAGE = 100
"""Maximum lines that aren't messages; some servers print a greeting."""
_LAST_LINES = 8
_LONGEST_LINE = 300
_GRACE_S = 2.0
"""Seconds to exit after its input is closed, and again after it is terminated."""
_POLL_S = 0.01
_LAST_WORDS_S = 0.5

_logger = logging.getLogger(__name__)


class StdioTransport:
    """One server process, from start to end."""

    def __init__(self, name: str, command: Command) -> None:
        self.name = name
        self.command = command
        self._process: Process | None = None
        self._pipes: asyncio.SubprocessTransport | None = None
        self._code: int | None = None
        """Exit code, if it exited by itself."""
        self._fault: EndpointError | None = None
        self._garbage = ""
        self._errors = deque[str](maxlen=_LAST_LINES)

    @asynccontextmanager
    async def streams(self) -> AsyncGenerator[Streams]:
        """Start the server, yield its streams, and stop it at the end.

        Raises:
            ConfigError: there is no such command or folder, or it may not be run.
        """
        process = await self._start()
        incoming, received = anyio.create_memory_object_stream[Incoming](0)
        sent, outgoing = anyio.create_memory_object_stream[SessionMessage](math.inf)
        try:
            async with anyio.create_task_group() as group, received, sent:
                group.start_soon(self._read, process.stdout, incoming)
                group.start_soon(self._write, process.stdin, outgoing)
                group.start_soon(self._listen, process.stderr)
                try:
                    yield received, sent
                finally:
                    received.close()
                    await self._end(process)
                    group.cancel_scope.cancel()
        finally:
            self.kill()

    async def _start(self) -> Process:
        loop, command = asyncio.get_running_loop(), self.command
        variables = {name: value.get_secret_value() for name, value in command.env.items()}
        env = get_default_environment() | variables
        try:
            self._pipes, protocol = await loop.subprocess_exec(
                lambda: SubprocessStreamProtocol(limit=LARGEST_MESSAGE, loop=loop),
                shutil.which(command.command, path=env.get("PATH")) or command.command,
                *command.args,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=env,
                cwd=command.cwd,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the MCP server {self.name!r} can't be started by {command.command!r}: {error}. "
                "Is it installed here, and on the PATH?"
            ) from error
        self._process = Process(self._pipes, protocol, loop)
        return self._process

    async def _read(
        self, stdout: asyncio.StreamReader | None, incoming: MemoryObjectSendStream[Incoming]
    ) -> None:
        assert stdout is not None
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async with incoming:
                try:
                    await self._pass_on(stdout, incoming)
                except _UnreadableOutput as error:
                    self._fault = self._invalid(str(error))
        while self._fault is None and await stdout.read(2**16):
            pass  # it can only exit if its output is read

    async def _pass_on(
        self, stdout: asyncio.StreamReader, incoming: MemoryObjectSendStream[Incoming]
    ) -> None:
        garbage = 0
        while line := await _read_line(stdout):
            try:
                message = _message(line)
            except ValueError:
                self._garbage = _quote(line)
                garbage += 1
            else:
                await incoming.send(SessionMessage(message))
            if garbage >= _MOST_GARBAGE:
                raise _UnreadableOutput("it writes what is no message of MCP")

    async def _write(
        self,
        stdin: asyncio.StreamWriter | None,
        outgoing: MemoryObjectReceiveStream[SessionMessage],
    ) -> None:
        assert stdin is not None
        with suppress(ConnectionError):
            async with outgoing:
                async for session_message in outgoing:
                    text = session_message.message.model_dump_json(
                        by_alias=True, exclude_unset=True
                    )
                    stdin.write(text.encode() + b"\n")
                    await stdin.drain()

    async def _listen(self, stderr: asyncio.StreamReader | None) -> None:
        """Keep the last lines of its standard error, without control codes for a terminal."""
        assert stderr is not None
        rest = b""
        while chunk := await stderr.read(2**16):
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[:_LONGEST_LINE]
            for line in lines[-_LAST_LINES:]:
                self._keep_line(line)
        self._keep_line(rest)

    def _keep_line(self, line: bytes) -> None:
        if line.strip():
            self._errors.append(_quote(line))
            _logger.debug("MCP server %s: %s", self.name, self._errors[-1])

    async def lost_error(self, message: str = "") -> EndpointError:
        """Return the error of a lost connection; the SDK's `message` says less, and is ignored."""
        del message
        if self._fault is not None:
            return self._fault
        if self._process is not None and await _wait_exit(self._process, _LAST_WORDS_S):
            self._code = self._process.returncode
        ended = self._code is not None
        how = f"its process ended with code {self._code}" if ended else "it closed its output"
        if self._garbage:
            return self._invalid(f"{how}, and wrote what is no message of MCP")
        return EndpointUnavailable(f"{how}{self.last_output()}", endpoint=self.name)

    def last_output(self) -> str:
        """Return its last output outside of the protocol, to end an error message."""
        words = f". It wrote {self._garbage!r}, which is no message" if self._garbage else ""
        if self._errors:
            words += f". Its standard error ends with: {' | '.join(self._errors)}"
        return words

    def _invalid(self, fault: str) -> InvalidResponse:
        return InvalidResponse(f"{fault}{self.last_output()}", endpoint=self.name)

    async def _end(self, process: Process) -> None:
        """Close its input, wait for it to exit, and terminate it if it doesn't."""
        if process.stdin is not None:
            process.stdin.close()
        if await _wait_exit(process, _GRACE_S):
            self._code = process.returncode
        else:
            with suppress(ProcessLookupError):
                process.terminate()
            await _wait_exit(process, _GRACE_S)

    def kill(self) -> None:
        """Kill it and its child processes at once; do nothing if they have ended."""
        if self._process is None or self._pipes is None:
            return
        process, self._process = self._process, None
        children: list[psutil.Process] = []
        with suppress(psutil.Error):
            if process.returncode is None:
                children = psutil.Process(process.pid).children(recursive=True)
        if sys.platform != "win32":  # also those whose parent has ended
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        for child in children:
            with suppress(psutil.Error):
                child.kill()
        with suppress(PermissionError):
            self._pipes.close()  # kills the process itself, too


async def _wait_exit(process: Process, within_s: float) -> bool:
    """Wait for its exit; `Process.wait` would also wait for children that hold its pipes."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    while process.returncode is None and loop.time() < end:  # noqa: ASYNC110  nothing tells of it
        await asyncio.sleep(_POLL_S)
    return process.returncode is not None


class _UnreadableOutput(Exception):
    """A server's output can't be read any further."""


async def _read_line(stdout: asyncio.StreamReader) -> bytes:
    """Return the next line that isn't blank; an empty one at the end.

    Raises:
        _UnreadableOutput: the line has no end, or is too long and has no request ID.
    """
    while True:
        try:
            line = await stdout.readuntil()
        except asyncio.IncompleteReadError as end:
            return end.partial
        except asyncio.LimitOverrunError:
            return await _skip_long_line(stdout)
        if line.strip():
            return line


async def _skip_long_line(stdout: asyncio.StreamReader) -> bytes:
    """Skip a line that is too long, and return an error message for the same request."""
    fault = f"a message is longer than {LARGEST_MESSAGE:,} bytes"
    start, end, size, is_over = b"", b"", 0, False
    while not is_over and size < _LONGEST_LINE_READ:
        try:
            piece, is_over = await stdout.readuntil(), True
        except asyncio.LimitOverrunError as overrun:
            piece = await stdout.readexactly(overrun.consumed)
        except asyncio.IncompleteReadError as ended:
            piece, is_over = ended.partial, True
        start, end = start or piece[:_ID_WITHIN], (end + piece[-_ID_WITHIN:])[-_ID_WITHIN:]
        size += len(piece)
    match = _FIRST_ID.match(start) or _LAST_ID.search(end)
    if not is_over or match is None:
        raise _UnreadableOutput(fault)
    error = {"code": PARSE_ERROR, "message": fault}
    return to_json({"jsonrpc": "2.0", "id": from_json(match["id"]), "error": error})


def _message(line: bytes) -> JSONRPCMessage:
    value: object = from_json(line)
    if not is_object(value):
        raise ValueError("no object")
    if "method" in value:
        kind = JSONRPCRequest if "id" in value else JSONRPCNotification
    else:
        kind = JSONRPCError if "error" in value else JSONRPCResponse
    return kind.model_validate(value, by_name=False)


def _quote(line: bytes) -> str:
    text = line[: 4 * _LONGEST_LINE].decode(errors="replace")
    return escape_json(" ".join(text.split())[:_LONGEST_LINE])
