"""Supervisor: a process that brings one server up, and up again after crashes, until told to stop.

Its settings come on standard input, as one line. It holds the lock of the server's folder, and so
does the keeper under it: while one of them lives, the lock is held.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Coroutine
from contextlib import suppress
from typing import NamedTuple, TypeVar

from pydantic import SecretStr

from moa.endpoints.vllm import VLLMServer, is_free
from moa.servers import Phase, ServerFolder, ServerState
from moa.serving import keeper
from moa.serving.causes import Served, explain, port_taken
from moa.serving.spec import ServerSpec

_POLL_S = 0.25
_LONGEST_WAIT_S = 60.0
_KEEPER_S = 10.0
"""Seconds that the keeper has, beyond those that it gives the server."""

T = TypeVar("T")


class End(NamedTuple):
    """How a server ended."""

    code: int
    tail: list[str]


class Supervisor:
    """Watches over one server.

    Args:
        spec: What is served.
        folder: Where its state is kept.
        lock: The lock of that folder, which is held.
        key: The server's key.
    """

    def __init__(
        self, spec: ServerSpec, folder: ServerFolder, *, lock: int, key: SecretStr
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._lock = lock
        self._key = key
        self._served = Served(spec.name, spec.model, spec.port)
        self._stopping = asyncio.Event()
        self._started = time.time()
        self._ready_at: float | None = None
        self._restarts = 0
        self._cause: str | None = None

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Bring the server down, and then end."""
        self._stopping.set()

    async def run(self) -> None:
        """Keep the server up until `stop`, or until it can't be."""
        failures = 0
        self._write("starting")
        while not self.stopping:
            was_ready, end = await self._run_once()
            if self.stopping:
                break
            self._cause = end if isinstance(end, str) else self._explain(end)
            steady = was_ready is not None and time.monotonic() - was_ready > self._spec.steady_s
            failures = 1 if steady else failures + 1
            if self._ready_at is None or failures > self._spec.most_restarts:
                return self._write("failed")
            self._restarts += 1
            self._write("restarting")
            wait_s = min(_LONGEST_WAIT_S, self._spec.first_wait_s * 2 ** (failures - 1))
            await self._unless_stopped(asyncio.sleep(wait_s))
        self._write("stopped")

    async def _run_once(self) -> tuple[float | None, End | str]:
        """Run the server until it ends; give when it was ready, and how it ended."""
        if not is_free(self._spec.port):
            return None, port_taken(self._served)
        process = await self._start()
        ended = asyncio.ensure_future(_end_of(process))
        try:
            ready = None
            if await self._unless_stopped(self._wait_ready(ended)):
                ready, self._ready_at = time.monotonic(), time.time()
                self._write("ready")
            await self._unless_stopped(asyncio.shield(ended))
        finally:
            await self._put_down(process, ended)
        return ready, ended.result()

    async def _start(self) -> Process:
        spec = self._spec
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", keeper.__file__),
            *map(str, (self._folder.log, spec.log_bytes, spec.log_parts, spec.grace_s)),
            *spec.command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={**spec.env, "VLLM_API_KEY": self._key.get_secret_value()},
            pass_fds=(self._lock,),
            start_new_session=True,
            limit=2**22,
        )

    async def _wait_ready(self, ended: asyncio.Future[End]) -> bool:
        server = VLLMServer(self._spec.name, port=self._spec.port, api_key=self._key)
        while not ended.done():
            if await server.is_ready():
                return True
            await asyncio.wait((ended,), timeout=_POLL_S)
        return False

    async def _put_down(self, process: Process, ended: asyncio.Future[End]) -> None:
        """End the keeper, which ends the server; where it doesn't, kill all there is."""
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait((ended,), timeout=self._spec.grace_s + _KEEPER_S)
        if not ended.done():
            process.kill()
            await ended
        keeper.sweep()

    async def _unless_stopped(
        self, work: Coroutine[object, object, T] | asyncio.Future[T]
    ) -> T | None:
        """Wait for `work`, or for `stop`, which cancels it."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if working.done():
            return working.result()
        working.cancel()
        await asyncio.wait((working,))
        return None

    def _explain(self, end: End) -> str:
        return explain(end.tail, served=self._served, code=end.code)

    def _write(self, phase: Phase) -> None:
        state = ServerState(
            name=self._spec.name,
            model=self._spec.model,
            port=self._spec.port,
            settings=self._spec.settings,
            pid=os.getpid(),
            started=self._started,
            phase=phase,
            ready=self._ready_at,
            restarts=self._restarts,
            cause=self._cause,
        )
        with suppress(OSError):  # the disk is full: the server goes on
            self._folder.write(state)


async def _end_of(process: Process) -> End:
    assert process.stdout is not None
    said = await process.stdout.read()
    code = await process.wait()
    try:
        told = json.loads(said)
    except ValueError:  # the keeper itself was killed
        return End(code or 1, [])
    return End(told["code"], told["tail"])


async def _supervise(spec: ServerSpec, lock: int) -> None:
    folder = ServerFolder.of(spec.port)
    supervisor = Supervisor(spec, folder, lock=lock, key=folder.make_key())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    if spec.tethered:

        def end_of_input() -> None:
            if not os.read(sys.stdin.fileno(), 1024):
                loop.remove_reader(sys.stdin.fileno())
                supervisor.stop()

        loop.add_reader(sys.stdin.fileno(), end_of_input)
    await supervisor.run()
    if spec.passing and supervisor.stopping:
        shutil.rmtree(folder.path, ignore_errors=True)


def main() -> None:
    """Read the settings, let go of whoever started this unless tethered, and supervise."""
    spec = ServerSpec.model_validate_json(sys.stdin.buffer.readline())
    if not spec.tethered and os.fork():
        os._exit(0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    keeper.adopt_orphans()
    asyncio.run(_supervise(spec, int(sys.argv[1])))


if __name__ == "__main__":
    main()
