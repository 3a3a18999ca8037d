"""Servers: start, wait for, stop and report on them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moa.core.errors import (
    ConfigError,
    EndpointError,
    EndpointUnavailable,
    MissingDependency,
    MoaError,
)
from moa.vllm.command import VISIBLE, ServerSpec, inherited_variables
from moa.vllm.endpoint import VLLMMetrics, VLLMServer
from moa.vllm.settings import local_url
from moa.vllm.state import ServerFolder, ServerState, state_folder
from moa.vllm.supervisor import JOINED, STARTED

_logger = logging.getLogger(__name__)
_POLL_S = 0.1
_STOP_TIMEOUT_S = 40.0
"""Maximum seconds to stop; longer than a supervisor gives its server."""
_COUNTED_S = 1.0
"""Seconds over which generated tokens are counted."""
_TAIL_BYTES = 4096
_SUPERVISOR_LOG = "supervisor.log"

Say = Callable[[str], None]
"""Called with a sentence."""


@dataclass(frozen=True, slots=True)
class LaunchedServer:
    """A server that is starting or running."""

    spec: ServerSpec
    folder: ServerFolder
    tether: subprocess.Popen[bytes] | None = None
    """Its supervisor, if it ends with this process: the supervisor stops when its input ends."""
    joined: bool = False
    """True if it had been started before."""

    def release(self) -> None:
        """Stop it if it is tethered, and wait until it has ended."""
        if self.tether is None:
            return
        assert self.tether.stdin is not None
        self.tether.stdin.close()
        try:
            self.tether.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.tether.kill()  # its keeper notices, and stops the server
            self.tether.wait()
        shutil.rmtree(self.folder.path, ignore_errors=True)


def launch(spec: ServerSpec) -> LaunchedServer:
    """Start a server, or join it if it is already starting or running."""
    if sys.platform == "win32":
        raise ConfigError(
            "vLLM does not run on Windows. Start it in WSL, and give its address as base_url"
        )
    folder = ServerFolder.of(spec.port)
    folder.make()
    if folder.is_held("supervisor"):
        return _join(spec, folder)
    process = _start_supervisor(spec, folder)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout as output:
        answer = output.read().decode()
    if answer == STARTED and spec.tethered:
        return LaunchedServer(spec, folder, tether=process)
    process.stdin.close()
    process.wait()
    if answer == STARTED:
        return LaunchedServer(spec, folder)
    if answer == JOINED:
        return _join(spec, folder)
    if answer:
        raise ConfigError(answer)
    raise EndpointUnavailable(_describe_death(folder), endpoint=spec.name)


def _start_supervisor(spec: ServerSpec, folder: ServerFolder) -> subprocess.Popen[bytes]:
    variables = {"MOA_CACHE": str(state_folder().parent.absolute())}
    if "PYTHONPATH" in os.environ:
        variables["PYTHONPATH"] = os.environ["PYTHONPATH"]
    try:
        with (folder.path / _SUPERVISOR_LOG).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "moa.vllm.supervisor"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=inherited_variables() | variables,
                start_new_session=True,
                bufsize=0,
            )
    except OSError as error:
        raise folder.unusable(error) from error
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died, as its log says
        process.stdin.write(spec.model_dump_json().encode() + b"\n")
    return process


def _join(spec: ServerSpec, folder: ServerFolder) -> LaunchedServer:
    state = folder.read()
    if state is not None and state.is_supervised and state.settings != spec.settings:
        difference = "with other settings" if state.name == spec.name else f"for {state.name!r}"
        raise ConfigError(
            f"a server runs on port {spec.port} {difference} ({state.model}). Stop it first "
            f"(moa down {state.name}), or give [endpoints.{spec.name}.vllm] another port"
        )
    return LaunchedServer(spec, folder, joined=True)


async def wait_until_ready(
    launched: LaunchedServer, *, timeout_s: float | None = None, tell: Say = lambda line: None
) -> ServerState:
    """Wait until a server is ready. `tell` is called repeatedly with the last line of its log."""
    until = None if timeout_s is None else time.monotonic() + timeout_s
    spec = launched.spec
    while True:
        is_running, state = launched.folder.is_running, launched.folder.read()
        if not is_running:
            raise EndpointUnavailable(_failure_reason(launched, state), endpoint=spec.name)
        # The state that a killed supervisor left isn't that of the next one.
        if state is not None and state.phase == "ready" and state.is_supervised:
            _logger.info("%s is up on port %d", spec.name, spec.port)
            return state
        line = _last_line(launched.folder.log)
        if until is not None and time.monotonic() > until:
            line = line or "it has said nothing yet"
            message = f"vLLM is not ready after {timeout_s:g} s"
            if not spec.tethered:
                message += " and goes on coming up: moa status shows it, moa down stops it"
            raise EndpointUnavailable(f"{message}. It said last: {line}", endpoint=spec.name)
        tell(line)
        await asyncio.sleep(_POLL_S)


def _failure_reason(launched: LaunchedServer, state: ServerState | None) -> str:
    if state is not None and state.phase == "failed" and state.cause:
        log = "" if launched.spec.tethered else f". Its log: {launched.folder.log}"
        return f"vLLM did not come up: {state.cause}{log}"
    if state is not None and state.phase == "stopped":
        return "it was stopped before it was ready"
    return _describe_death(launched.folder)


def _describe_death(folder: ServerFolder) -> str:
    line = _last_line(folder.path / _SUPERVISOR_LOG)
    return f"what watches over vLLM ended by itself{f': {line}' if line else ''}"


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


async def stop(folder: ServerFolder) -> bool:
    """Stop the server of a folder, and wait until it is gone. Return True if there was one."""
    if not folder.is_running:
        return False
    until = time.monotonic() + _STOP_TIMEOUT_S
    while folder.is_running:
        state = folder.read()
        is_late = time.monotonic() > until
        if state is not None and state.is_supervised:
            with contextlib.suppress(ProcessLookupError):
                # Its keeper notices its death, and stops the server.
                os.kill(state.pid, signal.SIGKILL if is_late else signal.SIGTERM)
        if time.monotonic() > until + _STOP_TIMEOUT_S:
            raise EndpointUnavailable(
                f"the server did not stop; a lock in {folder.path} is held",
                endpoint=state.name if state else folder.path.name,
            )
        await asyncio.sleep(_POLL_S)
    return True


async def bring_up(
    specs: Sequence[ServerSpec], *, timeout_s: float | None, tell: Say, say: Say
) -> None:
    """Start servers, and wait until they are ready.

    Servers that share a GPU, or have none, start one after another, since each checks how much
    memory is free. A server that fails or takes too long doesn't keep the others from starting. One
    that takes longer than `timeout_s` goes on in the background. Without a limit, none is waited
    for. If the wait is cancelled, the servers that this call started are stopped. `tell` is called
    repeatedly with the last line of each log, and `say` for each server that is ready or started.
    """
    servers: list[LaunchedServer] = []
    errors: dict[str, MoaError] = {}

    async def one(spec: ServerSpec) -> None:
        start = time.monotonic()
        launched = launch(spec)
        servers.append(launched)
        suffix = " already" if launched.joined else ""
        if timeout_s is None:
            return say(f"{spec.name}: comes up{suffix}, on port {spec.port}")
        await wait_until_ready(
            launched,
            timeout_s=timeout_s,
            tell=lambda line: tell(f"{spec.name} comes up{suffix}: {line or '…'}"),
        )
        waited_s = time.monotonic() - start
        outcome = f"ready after {waited_s:.0f} s"
        if launched.joined:
            outcome = "was up" if waited_s < 1 else f"was coming up already, and is {outcome}"
        say(f"{spec.name}: {outcome}, {spec.model} at {local_url(spec.port)}")

    async def in_turn(shared: Sequence[ServerSpec]) -> None:
        for spec in shared:
            try:
                await one(spec)
            except MoaError as error:
                errors[spec.label] = error

    by_gpu: dict[str, list[ServerSpec]] = {}
    for spec in specs:
        by_gpu.setdefault(spec.env.get(VISIBLE, ""), []).append(spec)
    try:
        await asyncio.gather(*map(in_turn, by_gpu.values()))
    except asyncio.CancelledError:
        folders = [launched.folder for launched in servers if not launched.joined]
        await asyncio.gather(*map(stop, folders))
        raise
    _raise(errors, of=len(specs))


def _raise(errors: Mapping[str, MoaError], *, of: int) -> None:
    """Raise the errors: a single one as it is, several as one that lists them."""
    if len(errors) == 1:
        raise next(iter(errors.values()))
    if errors:
        causes = [
            f"  {server}: {error.message if isinstance(error, EndpointError) else error}"
            for server, error in errors.items()
        ]
        raise EndpointUnavailable(
            "\n".join((f"{len(errors)} of {of} servers are not up", *causes)), endpoint="moa up"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReport:
    """The state of one server."""

    name: str
    model: str
    port: int
    phase: str = "down"
    """The phase that its supervisor wrote, or `down`, `stopping`, `not answering`."""
    pid: int | None = None
    up_s: float | None = None
    """Seconds since it became ready."""
    restarts: int = 0
    cause: str | None = None
    metrics: VLLMMetrics | None = None
    tokens_per_s: float | None = None
    """Tokens generated in the last second or so."""

    def line(self) -> dict[str, object]:
        """Return the report as a dict for `json`."""
        figures = ("running", "waiting", "kv_cache_use", "prefix_hit_rate")
        figures = (*figures, "prompt_tokens", "generated_tokens")
        return {
            "name": self.name,
            "model": self.model,
            "port": self.port,
            "state": self.phase,
            "pid": self.pid,
            "up_s": None if self.up_s is None else round(self.up_s, 1),
            "restarts": self.restarts,
            "cause": self.cause,
            **{name: getattr(self.metrics, name, None) for name in figures},
            "tokens_per_s": None if self.tokens_per_s is None else round(self.tokens_per_s, 1),
        }


async def report_servers(server_reports: Iterable[ServerReport]) -> list[ServerReport]:
    """Return reports of all wanted servers, given as if down, and of others that aren't down."""
    states = [(folder, state) for folder in ServerFolder.all() if (state := folder.read())]
    reports = await asyncio.gather(*(_report(*pair) for pair in states))
    wanted_by_key = {(report.name, report.port): report for report in server_reports}
    keys = {(report.name, report.port) for report in reports}
    visible = [
        report
        for report in reports
        if report.phase != "down" or (report.name, report.port) in wanted_by_key
    ]
    return [*visible, *(down for key, down in wanted_by_key.items() if key not in keys)]


async def _report(folder: ServerFolder, state: ServerState) -> ServerReport:
    is_running, key = folder.is_running, folder.key()
    phase: str = state.phase if state.is_supervised else "stopping"
    if not is_running:
        phase = "failed" if state.phase == "failed" else "down"
    report = ServerReport(
        name=state.name,
        model=state.model,
        port=state.port,
        phase=phase,
        pid=state.pid if is_running else None,
        up_s=time.time() - state.ready if phase == "ready" and state.ready else None,
        restarts=state.restarts,
        cause=state.cause,
    )
    if phase != "ready" or key is None:
        return report
    server = VLLMServer(state.name, port=state.port, api_key=key)
    try:
        before, start = await server.metrics(), time.monotonic()
        await asyncio.sleep(_COUNTED_S)
        after = await server.metrics()
    except EndpointError as error:
        return replace(report, phase="not answering", cause=error.message)
    except MissingDependency as error:
        return replace(report, cause=str(error))
    new_tokens = after.generated_tokens - before.generated_tokens
    rate = max(0.0, new_tokens / (time.monotonic() - start))
    return replace(report, metrics=after, tokens_per_s=rate)
