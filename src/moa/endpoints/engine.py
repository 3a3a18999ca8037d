"""Engine: llama.cpp's server in a process of its own, which dies with the one that started it."""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from moa._machine import usable_cores
from moa.endpoints.weights import find_weights
from moa.errors import EndpointUnavailable, MissingDependency, ModelNotFound

_logger = logging.getLogger(__name__)
_PROGRAM = Path(__file__).with_name("engine_server.py")
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 5.0
_RESTARTS, _RESTARTS_WITHIN_S = 3, 60.0
_CORES_PER_SLOT = 4
_MOST_THREADS = 8
_LONGEST_BATCH = 2048
_ENGINE = "engine"
"""Named in errors until the endpoint that hears of them puts its own name there."""
_FAULT = re.compile(r"error loading model: (.+)")
_LIBRARY = re.compile(r"(lib[\w+-]+\.so[.\d]*): cannot open shared object file")
_COMMANDS = {"libgomp.so.1": "apt-get install libgomp1"}
"""What installs a library of the system; slim containers lack it."""


def check_engine() -> None:
    """Import llama.cpp, or raise `MissingDependency`; nothing is started."""
    try:
        import_module("xllamacpp")
    except ImportError as error:
        raise _missing("" if isinstance(error, ModuleNotFoundError) else str(error)) from error


def _missing(why: str = "") -> MissingDependency:
    """Tell which package is missing, from what the import of llama.cpp says."""
    library = _LIBRARY.search(why)
    if library is None:
        again = 'pip install --force-reinstall "mixture-of-agents[local]"' if why else None
        purpose = f"for the embedded model ({why})" if why else "for the embedded model"
        return MissingDependency("xllamacpp", extra="local", purpose=purpose, command=again)
    name = library[1]
    return MissingDependency(
        name,
        extra="local",
        purpose="by llama.cpp, for the embedded model",
        command=_COMMANDS.get(name, f"apt-get install the package that has {name}"),
    )


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the engine runs; zero means as this machine allows."""

    context_window: int = 4096
    """Tokens of one request, prompt and answer together."""
    threads: int = 0
    """Zero: the physical cores that this process may use, at most 8."""
    slots: int = 0
    """Requests worked on at once. Zero: one for every four threads. They share the threads, and
    each has its own cache of prompts, so few are faster than many."""
    pooling: Literal["mean", "last"] = "mean"
    """What `embed` gives: the mean of the last hidden states of a text's tokens, or the one of its
    last token. It is the engine's own, so the other one takes a second engine."""

    def resolved(self) -> EngineSettings:
        """Replace zeros by what this machine allows."""
        threads = self.threads or min(_MOST_THREADS, usable_cores())
        slots = self.slots or max(1, threads // _CORES_PER_SLOT)
        return replace(self, threads=threads, slots=slots)

    @property
    def batch(self) -> int:
        """Tokens worked on in one go, and of the longest text that can be embedded."""
        return min(self.context_window, _LONGEST_BATCH)


class Engine:
    """One server process, which answers as soon as this is made.

    Args:
        weights: The GGUF file that it serves.
        settings: How it runs.

    Raises:
        MissingDependency: xllamacpp is not installed, or a library of the system that it needs.
        ModelNotFound: llama.cpp can't load the weights.
        EndpointUnavailable: it did not come up.
    """

    def __init__(self, weights: Path, settings: EngineSettings) -> None:
        if find_spec("xllamacpp") is None:
            raise _missing()
        self.weights = weights
        self.settings = settings.resolved()
        self.api_key = SecretStr(secrets.token_urlsafe(32))
        self.model = weights.stem
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._owner = os.getpid()
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            # Threads that spin while they wait slow a busy machine down to a tenth.
            env={"OMP_WAIT_POLICY": "passive", **os.environ},
        )
        try:
            self.base_url = f"{self._greet()}/v1"
        except BaseException:
            self.stop()
            raise

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process.poll() is None

    def ends_within(self, seconds: float) -> bool:
        """Wait so long for its process to end, and say whether it did."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def death(self) -> str:
        """Say in words how its process ended."""
        code = self.process.returncode
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        lines = [] if self._log.closed else self._logged().splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}; its last words: {last}" if last else how

    def stop(self) -> None:
        """End its process. Stopping twice does nothing."""
        if os.getpid() != self._owner:  # a fork must not stop what its parent uses
            return
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what it has not read is lost with it
                    pipe.close()
        if not self.ends_within(_STOP_TIMEOUT_S):
            self.process.kill()
            self.process.wait()
        self._log.close()

    def _greet(self) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        wanted = {
            "path": str(self.weights),
            "model": self.model,
            "api_key": self.api_key.get_secret_value(),
            "batch": self.settings.batch,
            **asdict(self.settings),
        }
        late = threading.Timer(_START_TIMEOUT_S, self.process.kill)
        late.start()
        try:
            self.process.stdin.write(json.dumps(wanted).encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            late.cancel()
        if not line:
            self.process.wait()
            raise EndpointUnavailable(
                f"the engine did not start on {self.weights} ({self.death()})", endpoint=_ENGINE
            )
        said: dict[str, str] = json.loads(line)
        if "missing" in said:
            raise _missing(said["missing"])
        if "refused" in said:
            found = _FAULT.search(self._logged())
            fault = found[1].strip() if found else said["refused"]
            raise ModelNotFound(
                f"llama.cpp can't load {self.weights}: {fault}. "
                "Give another GGUF file, as `model` of its endpoint, `model_path` or $MOA_MODEL"
            )
        return said["address"]

    def _logged(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")


class EngineHost:
    """Keeps one engine running for all who use the same weights.

    They are found, or fetched, in a thread at each start.
    """

    def __init__(self, find: Callable[[], Path], settings: EngineSettings) -> None:
        self.users = 0
        """Endpoints that share it; see `acquire`."""
        self._find = find
        self._settings = settings
        self._lock = threading.Lock()
        self._starting: Future[Engine] | None = None
        self._restarts: deque[float] = deque(maxlen=_RESTARTS)

    async def running(self) -> Engine:
        """Give the engine, after starting it where it doesn't run. The loop isn't blocked.

        Raises:
            ModelNotFound: there are no weights, or llama.cpp can't load them.
            MissingDependency: xllamacpp is not installed.
            EndpointUnavailable: it did not start, or died too often.
        """
        with self._lock:
            starting = self._starting
            if starting is None or (starting.done() and not _is_alive(starting)):
                if starting is not None:
                    self._allow_restart(starting)
                worker = ThreadPoolExecutor(1, thread_name_prefix="moa-engine")
                starting = self._starting = worker.submit(self._bring_up)
                worker.shutdown(wait=False)
        return await asyncio.shield(asyncio.wrap_future(starting))

    def stop(self) -> None:
        """Stop the engine. A later `running` starts a new one."""
        with self._lock:
            starting, self._starting = self._starting, None
        if starting is not None and starting.exception() is None:
            _put_away(starting.result())

    def _bring_up(self) -> Engine:
        start = time.monotonic()
        engine = Engine(self._find(), self._settings)
        _logger.info("%s is up after %.1f s", engine.model, time.monotonic() - start)
        atexit.register(engine.stop)
        return engine

    def _allow_restart(self, last: Future[Engine]) -> None:
        if last.exception() is not None:  # it never ran: the caller sees why each time
            return
        now = time.monotonic()
        if len(self._restarts) == _RESTARTS and now - self._restarts[0] < _RESTARTS_WITHIN_S:
            raise EndpointUnavailable(
                f"the engine died {_RESTARTS + 1} times within {_RESTARTS_WITHIN_S:g} s "
                f"({last.result().death()}), so it isn't started again yet. "
                "Is there enough memory?",
                endpoint=_ENGINE,
                retry_after_s=_RESTARTS_WITHIN_S,
            )
        self._restarts.append(now)
        _put_away(last.result())


def _is_alive(started: Future[Engine]) -> bool:
    return started.exception() is None and started.result().alive


def _put_away(engine: Engine) -> None:
    atexit.unregister(engine.stop)
    engine.stop()


_hosts: dict[tuple[Path | None, EngineSettings], EngineHost] = {}
_hosts_lock = threading.Lock()


def acquire(model_path: Path | None, settings: EngineSettings) -> EngineHost:
    """Give what runs the engine for all in this process who ask for the same; see `release`."""
    with _hosts_lock:
        host = _hosts.get((model_path, settings))
        if host is None:
            host = EngineHost(partial(find_weights, model_path), settings)
            _hosts[model_path, settings] = host
        host.users += 1
        return host


def release(model_path: Path | None, settings: EngineSettings) -> None:
    """Let go of an engine, which is stopped where nobody else uses it. Blocks until then."""
    with _hosts_lock:
        host = _hosts[model_path, settings]
        host.users -= 1
        if host.users:
            return
        del _hosts[model_path, settings]
    host.stop()
