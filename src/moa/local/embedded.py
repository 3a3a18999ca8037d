"""EmbeddedEndpoint: a model on this machine, without a separate server or a key.

Its engine is llama.cpp's server in a child process, which ends with its parent.
"""

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
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from moa.core._async import closing_stream
from moa.core.context import RunContext
from moa.core.errors import (
    ConfigError,
    DeadlineExceeded,
    EndpointRejected,
    EndpointUnavailable,
    InvalidResponse,
    MissingDependency,
    ModelNotFound,
)
from moa.core.usage import FREE, Price, Tier
from moa.endpoints import Capability, Completion, Endpoint, Prompt, close_all
from moa.endpoints.dialects import LLAMACPP
from moa.endpoints.known import Identity, package_version, reads_labels
from moa.endpoints.logprobs import LlamaCppReader
from moa.endpoints.openai import OpenAIEndpoint, Settings
from moa.endpoints.rehearsal import REHEARSAL
from moa.endpoints.tokens import neutralise
from moa.endpoints.wrappers import ScopedSender, T
from moa.local.encoders import joint_encoder
from moa.local.machine import usable_cores
from moa.local.weights import SMOLLM2, find_weights, sha256_of

_logger = logging.getLogger(__name__)
_PROGRAM = Path(__file__).with_name("engine_server.py")
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 5.0
_RESTARTS, _RESTARTS_WITHIN_S = 3, 60.0
_CORES_PER_SLOT = 4
_MOST_THREADS = 8
_LONGEST_BATCH = 2048
_NOWHERE = "http://127.0.0.1/v1"
"""Placeholder address for requests that a rehearsal shows."""
_ENGINE = "engine"
"""Name in errors until the endpoint replaces it by its own."""
_FAULT = re.compile(r"error loading model: (.+)")
_LIBRARY = re.compile(r"(lib[\w+-]+\.so[.\d]*): cannot open shared object file")
_COMMANDS = {"libgomp.so.1": "apt-get install libgomp1"}
"""Commands that install a system library missing in slim containers."""
ALL: frozenset[Capability] = frozenset(("complete", "stream", "decide", "embed"))
_SETTINGS = {"price", "timeout_s"}
"""Settings that an endpoint made from a string takes."""
_DEATH_SEEN_WITHIN_S = 2.0
_LOGGED_WITHIN_S = 1.0
_TOO_LONG = re.compile(r"\((\d+) tokens\) is too large to process.*size: (\d+)\)")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings of the engine; zero means a default for this machine."""

    context_window: int = 4096
    """Tokens of one request, prompt and answer together."""
    threads: int = 0
    """Zero: the physical cores that this process may use, at most 8."""
    slots: int = 0
    """Parallel requests. Zero: one for every four threads. They share the threads, and each has its
    own prompt cache, so few are faster than many."""
    pooling: Literal["mean", "last"] = "mean"
    """Result of `embed`: the mean of the last hidden states of a text's tokens, or that of the last
    token. It is a setting of the engine, so the other one takes a second engine."""

    def resolve(self) -> EngineSettings:
        """Replace zeros by the defaults for this machine."""
        threads = self.threads or min(_MOST_THREADS, usable_cores())
        slots = self.slots or max(1, threads // _CORES_PER_SLOT)
        return replace(self, threads=threads, slots=slots)

    @property
    def batch(self) -> int:
        """Tokens per batch, and of the longest text to embed."""
        return min(self.context_window, _LONGEST_BATCH)


class EmbeddedEndpoint(ScopedSender):
    """A model that runs on this machine, in a process of its own.

    The default is SmolLM2-135M-Instruct, downloaded on first use (98 MB). The engine starts at the
    first call. Endpoints of this process with the same settings share it; it stops when the last
    one is closed, or with the process. If it dies, running calls fail with `EndpointUnavailable`,
    and the next call restarts it, at most three times a minute. A call raises `ModelNotFound` if
    the weights are missing or can't be loaded, and `MissingDependency` without xllamacpp.

    The built-in model decides by the log-probabilities of the labels, and raises `ConfigError` if
    two labels can't be told apart; beside it decides an encoder, if it is installed. Another model
    decides itself. `embed` returns vectors of length 1: the mean of the model's last hidden states,
    or with `EngineSettings(pooling="last")` that of the last token. A request beyond the context
    window, or a text of over 2048 tokens to embed, raises `EndpointRejected`.

    Args:
        name: Shown in traces, errors and usage.
        tier: `slm` or `llm`.
        model: Its name in identities and measurements; `None`: the file's name.
        model_path: A GGUF file; `None`: `$MOA_MODEL`, else the default model.
        price: Its price, such as that of an hour of this machine; free by default.
        settings: Context window, threads and slots.
        timeout_s: Maximum seconds of a request, without waiting for a slot.
        decides: By the log-probabilities of `labels`, by answers that it writes as JSON (`text`),
            or as is known to be better for its model (`auto`); see `moa models probe`.

    Examples:
        >>> small = EmbeddedEndpoint()  # doctest: +SKIP
        >>> Sentiment(small).run_sync("I love it!").output.label  # doctest: +SKIP
        'positive'
    """

    shows_requests = True

    def __init__(
        self,
        name: str = "embedded",
        *,
        tier: Tier = "slm",
        model: str | None = None,
        model_path: str | Path | None = None,
        price: Price = FREE,
        settings: EngineSettings | None = None,
        timeout_s: float = 120.0,
        decides: Literal["auto", "labels", "text"] = "auto",
    ) -> None:
        path = model_path or os.environ.get("MOA_MODEL")
        self.name = name
        self.tier: Tier = tier
        self._stem = Path(path or SMOLLM2.file).stem
        """The engine's name of the model."""
        self.model = model or self._stem
        self.model_path = None if path is None else Path(path)
        self.price = price
        self.settings = settings or EngineSettings()
        self.context_window = self.settings.context_window
        self.concurrency = self.settings.resolve().slots
        self.capabilities = ALL
        self.timeout_s = timeout_s
        self._decides: Literal["auto", "labels", "text"] = decides
        self._host: EngineHost | None = None
        self._clients: dict[Engine, OpenAIEndpoint] = {}
        """Clients of all engines so far, the running one last."""
        self._hidden: EmbeddedEndpoint | None = None

    @property
    def hidden_states(self) -> EmbeddedEndpoint:
        """The same model, with the hidden state of a text's last token as the result of `embed`.

        It has its own engine, which starts at its first call, and is closed with this one.
        """
        if self._hidden is None:
            self._hidden = EmbeddedEndpoint(
                f"{self.name} hidden states",
                tier=self.tier,
                model=self.model,
                model_path=self.model_path,
                price=self.price,
                settings=replace(self.settings, pooling="last"),
                timeout_s=self.timeout_s,
            )
        return self._hidden

    @property
    def decides(self) -> Literal["labels", "text"]:
        """How it decides: by labels that continue a prompt, or by answers as JSON."""
        if self._decides != "auto":
            return self._decides
        return "labels" if reads_labels(self.model) else "text"

    def deciding_by(self, way: Literal["chat", "labels"]) -> EmbeddedEndpoint:
        """Return an endpoint of the same engine that decides in one way; close it by itself."""
        return EmbeddedEndpoint(
            self.name,
            tier=self.tier,
            model=self.model,
            model_path=self.model_path,
            price=self.price,
            settings=self.settings,
            timeout_s=self.timeout_s,
            decides="labels" if way == "labels" else "text",
        )

    @property
    def decides_itself(self) -> bool:
        """True for a model of your own: an encoder decides beside it only where asked for."""
        return self.model_path is not None

    @property
    def encoder(self) -> Endpoint | None:
        """The joint encoder, which decides beside the built-in model; `None`: not installed."""
        return joint_encoder()

    async def start(self, context: RunContext, /) -> None:
        """Start the engine now, so that the first call doesn't wait for it."""
        await self._running_engine(context)

    async def count_tokens(self, text: str, context: RunContext, /) -> int:
        """Count the tokens of a text by the model's own tokenizer; see `CountsTokens`."""
        async with self.scope(context) as endpoint:
            reader = LlamaCppReader(endpoint.client)
            return len(await reader.tokenize(neutralise(text), context, whole=False))

    async def identity(self, context: RunContext, /) -> Identity:
        """Return the model, the SHA-256 of its weights, and the version of llama.cpp."""
        del context
        weights = await asyncio.to_thread(find_weights, self.model_path)
        return Identity(
            model=self.model,
            digest=await asyncio.to_thread(sha256_of, weights),
            server="llama.cpp",
            version=package_version("xllamacpp"),
        )

    async def ask(self, send: Callable[[Endpoint], Awaitable[T]], context: RunContext) -> T:
        """Send a request; a rehearsal shows it without an engine."""
        if REHEARSAL.get() is not None:
            return await send(self._client_of(_NOWHERE, self._stem))
        return await super().ask(send, context)

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`; it streams if somebody watches the progress."""
        if context.watcher is None:
            return await super().complete(prompt, context)
        async with closing_stream(self.stream(prompt, context)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Completion):
                    return piece
        raise AssertionError("a stream ends with its completion, or raises")

    async def close(self) -> None:
        """Release the engine, which stops with its last user. A second call does nothing."""
        hidden_endpoint, self._hidden = self._hidden, None
        if hidden_endpoint is not None:
            await hidden_endpoint.close()
        clients, self._clients = self._clients, {}
        await close_all(clients.values())
        if self._host is not None:
            self._host = None
            await asyncio.to_thread(release, self.model_path, self.settings)

    @asynccontextmanager
    async def scope(self, context: RunContext) -> AsyncGenerator[OpenAIEndpoint, None]:
        """Start the engine, and report if it dies meanwhile."""
        engine = await self._running_engine(context)
        try:
            yield self._clients[engine]
        except (EndpointUnavailable, InvalidResponse) as error:
            if match := _TOO_LONG.search(str(error)):  # llama.cpp says it as a failure of its own
                raise EndpointRejected(
                    f"a text of {match[1]} tokens is too long to embed: {match[2]} fit. Split it",
                    endpoint=error.endpoint,
                    status=error.status,
                ) from error
            was_lost = error.status is None
            if was_lost and await asyncio.to_thread(engine.wait_for_end, _DEATH_SEEN_WITHIN_S):
                raise EndpointUnavailable(
                    f"the engine died while it worked on this call ({engine.describe_death()}). "
                    "The next call starts it again",
                    endpoint=self.name,
                ) from error
            raise

    async def _running_engine(self, context: RunContext) -> Engine:
        if self._host is None:
            self._host = acquire(self.model_path, self.settings)
        try:
            async with asyncio.timeout(context.remaining_s()):
                engine = await self._host.get_engine()
        except EndpointUnavailable as error:
            raise EndpointUnavailable(
                error.message, endpoint=self.name, retry_after_s=error.retry_after_s
            ) from error
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{self.name}: the run's time was up before the engine had started"
            ) from error
        if engine not in self._clients:
            if self._clients:
                context.note("retried", "with the engine started again", endpoint=self.name)
            self._clients[engine] = self._client_of(engine.base_url, engine.model, engine.api_key)
        return engine

    def _client_of(
        self, base_url: str, model: str, api_key: SecretStr | None = None
    ) -> OpenAIEndpoint:
        return OpenAIEndpoint(
            self.name,
            model=model,
            base_url=base_url,
            api_key=api_key,
            tier=self.tier,
            price=self.price,
            context_window=self.context_window,
            # The next one is there when a slot is free.
            concurrency=self.settings.resolve().slots + 1,
            timeout_s=self.timeout_s,
            capabilities=ALL,
            decides=self.decides,
            dialect=LLAMACPP,
        )


def make_embedded(name: str, tier: Tier, settings: Settings) -> EmbeddedEndpoint:
    """Make the endpoint that the string `embedded` stands for; see `moa.endpoint`.

    Raises:
        ConfigError: a setting is none of its own.
    """
    if wrong := settings.keys() - _SETTINGS:
        raise ConfigError(f"the embedded model takes no {', '.join(sorted(wrong))}: leave it out")
    price, timeout_s = settings.get("price", FREE), settings.get("timeout_s", 120.0)
    fixed_price = price if isinstance(price, Price) else price()
    return EmbeddedEndpoint(name, tier=tier, price=fixed_price, timeout_s=timeout_s)


def check_engine() -> None:
    """Import llama.cpp, or raise `MissingDependency`; nothing is started."""
    try:
        import_module("xllamacpp")
    except ImportError as error:
        raise _missing_library(
            "" if isinstance(error, ModuleNotFoundError) else str(error)
        ) from error


def _missing_library(reason: str = "") -> MissingDependency:
    """Return the error for a missing package, by the message of the failed import."""
    library = _LIBRARY.search(reason)
    if library is None:
        command = 'pip install --force-reinstall "mixture-of-agents[local]"' if reason else None
        purpose = f"for the embedded model ({reason})" if reason else "for the embedded model"
        return MissingDependency("xllamacpp", extra="local", purpose=purpose, command=command)
    name = library[1]
    return MissingDependency(
        name,
        extra="local",
        purpose="by llama.cpp, for the embedded model",
        command=_COMMANDS.get(name, f"apt-get install the package that has {name}"),
    )


class Engine:
    """One server process, ready when this is constructed."""

    def __init__(self, weights: Path, settings: EngineSettings) -> None:
        if find_spec("xllamacpp") is None:
            raise _missing_library()
        self.weights = weights
        self.settings = settings.resolve()
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
            self.base_url = f"{self._start_serving()}/v1"
        except BaseException:
            self.stop()
            raise

    @property
    def is_alive(self) -> bool:
        """True while its process runs."""
        return self.process.poll() is None

    def wait_for_end(self, seconds: float) -> bool:
        """Wait this long for its process to end; return True if it did."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def describe_death(self) -> str:
        """Describe how its process ended."""
        code = self.process.returncode
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        lines = [] if self._log.closed else self._read_log().splitlines()
        last_line = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{cause}; its last words: {last_line}" if last_line else cause

    def stop(self) -> None:
        """End its process. A second call does nothing."""
        if os.getpid() != self._owner:  # a fork must not stop what its parent uses
            return
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what it has not read is lost with it
                    pipe.close()
        if not self.wait_for_end(_STOP_TIMEOUT_S):
            self.process.kill()
            self.process.wait()
        self._log.close()

    def _start_serving(self) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        settings = {
            "path": str(self.weights),
            "model": self.model,
            "api_key": self.api_key.get_secret_value(),
            "batch": self.settings.batch,
            **asdict(self.settings),
        }
        timer = threading.Timer(_START_TIMEOUT_S, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps(settings).encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
        if not line:
            self.process.wait()
            raise EndpointUnavailable(
                f"the engine did not start on {self.weights} ({self.describe_death()})",
                endpoint=_ENGINE,
            )
        reply: dict[str, str] = json.loads(line)
        if "missing" in reply:
            raise _missing_library(reply["missing"])
        if "refused" in reply:
            fault = self._find_fault() or reply["refused"]
            raise ModelNotFound(
                f"llama.cpp can't load {self.weights}: {fault}. "
                "Give another GGUF file, as `model` of its endpoint, `model_path` or $MOA_MODEL"
            )
        return reply["address"]

    def _find_fault(self) -> str:
        """Return what llama.cpp logs about a model that it can't load; empty if it logs nothing.

        A thread of its own writes the log, so the line may come a little after the refusal.
        """
        deadline = time.monotonic() + _LOGGED_WITHIN_S
        while (match := _FAULT.search(self._read_log())) is None:
            if time.monotonic() > deadline:
                return ""
            time.sleep(0.02)
        return match[1].strip()

    def _read_log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")


class EngineHost:
    """Keeps one engine running for all users of the same weights.

    A thread finds the weights, or fetches them, at each start.
    """

    def __init__(self, find: Callable[[], Path], settings: EngineSettings) -> None:
        self.users = 0
        """Number of endpoints that share it; see `acquire`."""
        self._find = find
        self._settings = settings
        self._lock = threading.Lock()
        self._starting: Future[Engine] | None = None
        self._restarts: deque[float] = deque(maxlen=_RESTARTS)

    async def get_engine(self) -> Engine:
        """Return the engine; start it first if it doesn't run. The loop isn't blocked."""
        with self._lock:
            starting = self._starting
            if starting is None or (
                starting.done() and (starting.exception() or not starting.result().is_alive)
            ):
                if starting is not None:
                    self._check_restart(starting)
                worker = ThreadPoolExecutor(1, thread_name_prefix="moa-engine")
                starting = self._starting = worker.submit(self._start_engine)
                worker.shutdown(wait=False)
        return await asyncio.shield(asyncio.wrap_future(starting))

    def stop(self) -> None:
        """Stop the engine. A later `get_engine` starts a new one."""
        with self._lock:
            starting, self._starting = self._starting, None
        if starting is not None and starting.exception() is None:
            _stop_engine(starting.result())

    def _start_engine(self) -> Engine:
        start = time.monotonic()
        engine = Engine(self._find(), self._settings)
        _logger.info("%s is up after %.1f s", engine.model, time.monotonic() - start)
        atexit.register(engine.stop)
        return engine

    def _check_restart(self, last: Future[Engine]) -> None:
        if last.exception() is not None:  # it never ran: the caller sees why each time
            return
        now = time.monotonic()
        if len(self._restarts) == _RESTARTS and now - self._restarts[0] < _RESTARTS_WITHIN_S:
            raise EndpointUnavailable(
                f"the engine died {_RESTARTS + 1} times within {_RESTARTS_WITHIN_S:g} s "
                f"({last.result().describe_death()}), so it isn't started again yet. "
                "Is there enough memory?",
                endpoint=_ENGINE,
                retry_after_s=_RESTARTS_WITHIN_S,
            )
        self._restarts.append(now)
        _stop_engine(last.result())


def _stop_engine(engine: Engine) -> None:
    atexit.unregister(engine.stop)
    engine.stop()


_hosts: dict[tuple[Path | None, EngineSettings], EngineHost] = {}
_hosts_lock = threading.Lock()


def acquire(model_path: Path | None, settings: EngineSettings) -> EngineHost:
    """Return the host of an engine; equal weights and settings share one. See `release`."""
    with _hosts_lock:
        host = _hosts.get((model_path, settings))
        if host is None:
            host = EngineHost(partial(find_weights, model_path), settings)
            _hosts[model_path, settings] = host
        host.users += 1
        return host


def release(model_path: Path | None, settings: EngineSettings) -> None:
    """Release an engine; the last user stops it, and blocks until then."""
    with _hosts_lock:
        host = _hosts[model_path, settings]
        host.users -= 1
        if host.users:
            return
        del _hosts[model_path, settings]
    host.stop()
