"""Supervisor: a process that starts one server, and restarts it after crashes, until told to stop.

For each start it forks a keeper, which runs the server, writes its log, and leaves none of its
processes running, however it ends. If one of the two is killed, the other ends what vLLM started.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import logging.handlers
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import IO, NamedTuple

import psutil
from filelock import Timeout
from pydantic import SecretStr

from moa.core.errors import ConfigError
from moa.vllm.causes import describe_taken_port, explain
from moa.vllm.command import ServerSpec
from moa.vllm.endpoint import VLLMServer, is_free
from moa.vllm.state import Phase, Server, ServerFolder, ServerState

STARTED, JOINED = "started", "joined"
"""Answers of a supervisor. Any other answer is the reason why it doesn't start."""
_POLL_S = 0.25
_LONGEST_WAIT_S = 60.0
_LOCK_S = 1.0
"""Seconds to wait for the lock. Checking whether it is held takes it for a moment."""
_KEEPER_S = 10.0
"""Seconds that the keeper has to end, after the server's `grace_s`."""
_TAIL_LINES = 400
_LONGEST_LINE = 4000
_NOT_STARTED = 127
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class End(NamedTuple):
    """The end of a server."""

    code: int
    tail: list[str]
    """The last lines of its log."""


class Supervisor:
    """Supervises one server, until one of the file descriptors `stops` can be read."""

    def __init__(
        self, spec: ServerSpec, folder: ServerFolder, *, key: SecretStr, stops: Sequence[int]
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._key = key
        self._stops = list(stops)
        fields = spec.model_dump(include={*Server.model_fields})
        self._state = ServerState(**fields, pid=os.getpid(), phase="starting")
        folder.write(self._state)

    def run(self) -> None:
        """Keep the server running until it is told to stop, or fails for good."""
        failures = 0
        while not self._is_to_stop():
            up_s, cause = self._run_once()
            if self._is_to_stop():
                break
            failures = 1 if up_s > self._spec.steady_s else failures + 1
            if self._state.ready is None or failures > self._spec.most_restarts:
                return self._note("failed", cause=cause)
            self._note("restarting", cause=cause, restarts=self._state.restarts + 1)
            wait(self._stops, min(_LONGEST_WAIT_S, self._spec.first_wait_s * 2 ** (failures - 1)))
        self._note("stopped")

    def _run_once(self) -> tuple[float, str]:
        """Run the server until it ends. Return the seconds that it was ready, and the cause."""
        if not is_free(self._spec.port):
            return 0.0, describe_taken_port(self._spec)
        fork = get_context("fork")
        supervisor_side, keeper_side = fork.Pipe()
        keeper = fork.Process(
            target=_keep, args=(self._spec, self._folder, self._key, keeper_side, supervisor_side)
        )
        keeper.start()
        keeper_side.close()
        ready: float | None = None
        try:
            while not wait([supervisor_side, *self._stops], None if ready else _POLL_S):
                if self._answers():
                    ready = time.monotonic()
                    self._note("ready", ready=time.time())
            up_s = time.monotonic() - ready if ready else 0.0
        finally:
            end = self._put_down(keeper, supervisor_side)
        return up_s, explain(end.tail, spec=self._spec, code=end.code)

    def _answers(self) -> bool:
        server = VLLMServer(self._spec.name, port=self._spec.port, api_key=self._key)
        return asyncio.run(server.is_ready())

    def _put_down(self, keeper: BaseProcess, supervisor_side: Connection) -> End:
        """Let the keeper stop the server. If the keeper was killed, kill what is left."""
        end: End | None = None
        with suppress(OSError, EOFError):
            supervisor_side.send("stop")
        with suppress(OSError, EOFError):
            if supervisor_side.poll(self._spec.grace_s + _KEEPER_S):
                end = supervisor_side.recv()
        supervisor_side.close()
        keeper.kill()
        keeper.join()
        _sweep()
        return end or End(keeper.exitcode or 1, [])

    def _is_to_stop(self) -> bool:
        return bool(wait(self._stops, 0))

    def _note(self, phase: Phase, **changes: object) -> None:
        self._state = self._state.model_copy(update={"phase": phase, **changes})
        with suppress(OSError):  # the disk is full: the server goes on
            self._folder.write(self._state)


class _Log(logging.handlers.RotatingFileHandler):
    """A log of bounded size. If the disk is full, lines are lost, and the server goes on."""

    def __init__(self, spec: ServerSpec, folder: ServerFolder) -> None:
        size, parts = spec.log_bytes, spec.log_parts
        super().__init__(folder.log, maxBytes=size, backupCount=parts, encoding="utf-8", delay=True)
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def add(self, lines: IO[str]) -> None:
        for line in lines:
            if text := line.rstrip()[:_LONGEST_LINE]:
                self.tail.append(text)
                self.emit(logging.makeLogRecord({"msg": text}))

    def handleError(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            self.close()  # the next line opens it again


def _keep(
    spec: ServerSpec,
    folder: ServerFolder,
    key: SecretStr,
    keeper_side: Connection,
    supervisor_side: Connection,
) -> None:
    """Run a server until it ends, or the supervisor stops it or is gone; send how it ended."""
    supervisor_side.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_signal)
    _adopt_orphans()
    log = _Log(spec, folder)
    with folder.lock("keeper"):
        try:
            server = subprocess.Popen(
                spec.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                env={**spec.env, "VLLM_API_KEY": key.get_secret_value()},
                start_new_session=True,
                preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
            )
        except OSError as error:
            end = End(_NOT_STARTED, [f"{spec.command[0]}: {error.strerror}"])
        else:
            reader = threading.Thread(target=log.add, args=(server.stdout,), daemon=True)
            reader.start()
            ending = (server, keeper_side, spec.grace_s)
            threading.Thread(target=_await_end, args=ending, daemon=True).start()
            code = server.wait()
            _sweep(server.pid)
            reader.join(timeout=5.0)
            end = End(code, list(log.tail))
        with suppress(OSError):  # the supervisor is gone
            keeper_side.send(end)


def _ignore_signal(number: int, frame: FrameType | None) -> None:
    """Do nothing. If the signal were set to be ignored, the server would ignore it too."""


def _await_end(server: subprocess.Popen[str], keeper_side: Connection, grace_s: float) -> None:
    with suppress(EOFError, ConnectionResetError):
        keeper_side.recv()
    server.terminate()
    try:
        server.wait(grace_s)
    except subprocess.TimeoutExpired:
        server.kill()


def _sweep(group: int | None = None) -> None:
    """Kill all processes that this one started or adopted, until none is left.

    A process group is killed as well, since not every system lets orphans be adopted.
    """
    if group is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    while left := psutil.Process().children(recursive=True):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1.0)


def _adopt_orphans() -> None:
    """Become the parent of orphans among this process's descendants, where that is possible."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _supervise(spec: ServerSpec) -> None:
    """Take the server's lock and supervise it, or tell the starting process why not."""
    folder = ServerFolder.of(spec.port)
    lock = folder.lock("supervisor")
    stop_reader, stop_writer = os.pipe()
    stops = [stop_reader, sys.stdin.fileno()] if spec.tethered else [stop_reader]
    try:
        lock.acquire(timeout=_LOCK_S)
        with folder.lock("keeper"):  # wait for a keeper whose supervisor was killed
            pass
        if not is_free(spec.port):
            raise ConfigError(describe_taken_port(spec))
        supervisor = Supervisor(spec, folder, key=folder.make_key(), stops=stops)
    except Timeout:
        return _answer(JOINED)
    except (ConfigError, OSError) as error:
        lock.release()  # the reader of the answer may retry at once
        return _answer(str(folder.unusable(error) if isinstance(error, OSError) else error))

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        os.write(stop_writer, b"x")

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    _answer(STARTED)
    supervisor.run()
    if spec.tethered and wait(stops, 0):
        shutil.rmtree(folder.path, ignore_errors=True)


def _answer(text: str) -> None:
    """Send the answer to the starting process, once, and close the pipe to it."""
    os.write(sys.stdout.fileno(), text.encode())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def main() -> None:
    """Read the spec from standard input, detach unless tethered, and supervise the server."""
    spec = ServerSpec.model_validate_json(sys.stdin.buffer.readline())
    if not spec.tethered and os.fork():
        os._exit(0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _adopt_orphans()
    _supervise(spec)


if __name__ == "__main__":
    main()
