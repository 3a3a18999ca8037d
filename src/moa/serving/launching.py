"""Launching: starts supervisors, waits for their servers, and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from moa.endpoints.vllm import is_free
from moa.endpoints.weights import cache_folder
from moa.errors import ConfigError, EndpointUnavailable
from moa.servers import ServerFolder, ServerState
from moa.serving.causes import Served, port_taken
from moa.serving.environments import inherited
from moa.serving.spec import ServerSpec

_POLL_S = 0.1
_LOCK_TRIES, _LOCK_WAIT_S = 5, 0.02
_STOP_TIMEOUT_S = 40.0
"""Longer than a supervisor gives its server."""
_TAIL_BYTES = 4096
_SUPERVISOR_LOG = "supervisor.log"


@dataclass(frozen=True, slots=True)
class Launched:
    """A server that comes up, or is up."""

    spec: ServerSpec
    folder: ServerFolder
    tether: subprocess.Popen[bytes] | None = None
    """Its supervisor, where it ends with this process: it stops at the end of its input."""
    joined: bool = False
    """Whether another started it."""

    @property
    def state(self) -> ServerState | None:
        """Its state; `None` while the supervisor has not written it."""
        state = self.folder.read()
        # What a supervisor left that was killed is not the state of the next one.
        return state if state and runs(state.pid) else None

    def words(self) -> str:
        """Say in words that it comes up."""
        how = "comes up already" if self.joined else "comes up"
        return f"{self.spec.name}: {how}, on port {self.spec.port}"

    def last_line(self) -> str:
        """Read the last line of its log; empty where there is none."""
        return last_line(self.folder.log)

    def let_go(self) -> None:
        """Stop it where it is tethered, and wait until it has ended."""
        if self.tether is None:
            return
        assert self.tether.stdin is not None
        self.tether.stdin.close()
        try:
            self.tether.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.tether.kill()  # its keeper hears of it, and ends the server
            self.tether.wait()
        if self.spec.passing:
            shutil.rmtree(self.folder.path, ignore_errors=True)


def launch(spec: ServerSpec) -> Launched:
    """Start a server, or join it where it runs or comes up already.

    Raises:
        ConfigError: the port is taken, another server has it, or its state can't be kept.
    """
    _refuse_windows()
    folder = ServerFolder.of(spec.port)
    folder.make()
    lock = folder.lock()
    for _ in range(_LOCK_TRIES):
        if lock is None:  # perhaps held for the moment that it takes to look whether it is
            time.sleep(_LOCK_WAIT_S)
            lock = folder.lock()
    if lock is None:
        return _joined(spec, folder)
    try:
        if not is_free(spec.port):
            raise ConfigError(port_taken(Served(spec.name, spec.model, spec.port)))
        folder.make_key()
        _announce(spec, folder)
        return Launched(spec, folder, tether=_supervise(spec, folder, lock))
    finally:
        os.close(lock)


async def until_ready(
    launched: Launched,
    *,
    timeout_s: float | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> ServerState:
    """Wait until a server is ready.

    Args:
        launched: What comes up.
        timeout_s: Seconds to wait; `None`: for as long as it takes.
        tell: Called with the last line of its log, again and again.

    Raises:
        EndpointUnavailable: it failed, and why, or it is not ready in time.
    """
    until = None if timeout_s is None else time.monotonic() + timeout_s
    spec = launched.spec
    while True:
        locked = launched.folder.locked
        state = launched.state if locked else launched.folder.read()
        if locked and state is not None and state.phase == "ready":
            return state
        if not locked:
            raise EndpointUnavailable(_why_not(launched, state), endpoint=spec.name)
        if until is not None and time.monotonic() > until:
            line = launched.last_line() or "it has said nothing yet"
            late = f"vLLM is not ready after {timeout_s:g} s"
            if not spec.tethered:
                late += " and goes on coming up: moa status shows it, moa down stops it"
            raise EndpointUnavailable(f"{late}. It said last: {line}", endpoint=spec.name)
        tell(launched.last_line())
        await asyncio.sleep(_POLL_S)


async def stop(folder: ServerFolder) -> bool:
    """Stop the server of a folder, and wait until nothing of it is left.

    Returns:
        Whether there was one.

    Raises:
        EndpointUnavailable: something of it is left.
    """
    if not folder.locked:
        return False
    until = time.monotonic() + _STOP_TIMEOUT_S
    told: int | None = None
    while folder.locked:
        state = folder.read()
        late = time.monotonic() > until
        if state is not None and runs(state.pid) and (late or told != state.pid):
            with contextlib.suppress(ProcessLookupError):
                # Its keeper hears of its death, and ends the server.
                os.kill(state.pid, signal.SIGKILL if late else signal.SIGTERM)
            told = state.pid
        if time.monotonic() > until + _STOP_TIMEOUT_S:
            raise EndpointUnavailable(
                f"the server did not stop; its lock {folder.path / 'lock'} is held",
                endpoint=state.name if state else folder.path.name,
            )
        await asyncio.sleep(_POLL_S)
    return True


def last_line(log: Path) -> str:
    """Read the last line of a log; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _joined(spec: ServerSpec, folder: ServerFolder) -> Launched:
    state = folder.read()
    if state is not None and runs(state.pid) and state.settings != spec.settings:
        other = "with other settings" if state.name == spec.name else f"for {state.name!r}"
        raise ConfigError(
            f"a server runs on port {spec.port} {other} ({state.model}). Stop it first "
            f"(moa down {state.name}), or give [endpoints.{spec.name}.vllm] another port"
        )
    return Launched(spec, folder, joined=True)


def _announce(spec: ServerSpec, folder: ServerFolder) -> None:
    """Write the first state, so that a full disk is told before anything is started."""
    state = ServerState(
        name=spec.name,
        model=spec.model,
        port=spec.port,
        settings=spec.settings,
        started=time.time(),
        phase="starting",
    )
    try:
        folder.write(state)
    except OSError as error:
        raise folder.unusable(error) from error


def _supervise(spec: ServerSpec, folder: ServerFolder, lock: int) -> subprocess.Popen[bytes] | None:
    own = {"MOA_CACHE": str(cache_folder().absolute())}
    if "PYTHONPATH" in os.environ:
        own["PYTHONPATH"] = os.environ["PYTHONPATH"]
    try:
        with (folder.path / _SUPERVISOR_LOG).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "moa.serving.supervisor", str(lock)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=inherited() | own,
                pass_fds=(lock,),
                start_new_session=True,
            )
    except OSError as error:
        raise folder.unusable(error) from error
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died, as its log says
        process.stdin.write(spec.model_dump_json().encode() + b"\n")
        process.stdin.flush()
    if spec.tethered:
        return process
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.wait()
    return None


def _why_not(launched: Launched, state: ServerState | None) -> str:
    if state is not None and state.phase == "failed" and state.cause:
        log = "" if launched.spec.passing else f". Its log: {launched.folder.log}"
        return f"vLLM did not come up: {state.cause}{log}"
    if state is not None and state.phase == "stopped":
        return "it was stopped before it was ready"
    said = last_line(launched.folder.path / _SUPERVISOR_LOG)
    return f"what watches over vLLM ended by itself{f': {said}' if said else ''}"


def runs(pid: int | None) -> TypeGuard[int]:
    """Say whether there is a process of that number."""
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _refuse_windows() -> None:
    if sys.platform == "win32":
        raise ConfigError(
            "vLLM does not run on Windows. Start it in WSL, and give its address as base_url"
        )
