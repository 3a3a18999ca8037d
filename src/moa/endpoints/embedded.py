"""EmbeddedEndpoint: a model that runs on this machine, without a server and a key."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from moa.context import RunContext
from moa.endpoints import (
    Capability,
    Closing,
    Completion,
    Decision,
    Embeddings,
    Example,
    Prompt,
    closed_after,
)
from moa.endpoints.control_tokens import neutralise
from moa.endpoints.dialects import LLAMACPP
from moa.endpoints.engine import Engine, EngineHost, EngineSettings
from moa.endpoints.labels import LlamaCppReader
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.weights import SMOLLM2, find_weights
from moa.errors import (
    DeadlineExceeded,
    EndpointError,
    EndpointRejected,
    EndpointUnavailable,
    InvalidResponse,
)
from moa.questions import Question
from moa.usage import UNKNOWN_PRICE, Price, Tier

ALL: frozenset[Capability] = frozenset(("complete", "stream", "decide", "embed"))
_DEATH_SEEN_WITHIN_S = 2.0
_TOO_LONG = re.compile(r"\((\d+) tokens\) is too large to process.*size: (\d+)\)")


@dataclass(frozen=True, slots=True)
class _Served:
    """An engine, and what talks to it."""

    engine: Engine
    endpoint: OpenAIEndpoint


class EmbeddedEndpoint(Closing):
    """A model that runs on this machine, in a process of its own.

    The default is SmolLM2-135M-Instruct, fetched on first use (98 MB). The engine starts at the
    first call, serves all endpoints of this process that ask for the same, and ends with the last
    that is closed, or with the process. Where it dies, the calls that run fail, and the next one
    starts it again, at most three times a minute.

    Args:
        name: Shown in traces, errors and usage.
        tier: `slm` or `llm`.
        model: Its name in identities and measurements; `None` is that of its file.
        model_path: A GGUF file; `None` is `$MOA_MODEL`, or else the default model.
        price: What it charges, such as that of an hour of this machine.
        settings: Context window, threads and slots.
        timeout_s: Seconds that a whole request may take, waiting for a slot excluded.
    """

    def __init__(
        self,
        name: str = "embedded",
        *,
        tier: Tier = "slm",
        model: str | None = None,
        model_path: str | Path | None = None,
        price: Price = UNKNOWN_PRICE,
        settings: EngineSettings | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        given = model_path or os.environ.get("MOA_MODEL")
        self.name = name
        self.tier: Tier = tier
        self.model = model or Path(given or SMOLLM2.file).stem
        self.model_path = None if given is None else Path(given)
        self.price = price
        self.settings = settings or EngineSettings()
        self.context_window = self.settings.context_window
        self.concurrency = self.settings.resolved().slots
        self.capabilities = ALL
        self._timeout_s = timeout_s
        self._key = _Key(None if given is None else str(given), self.settings)
        self._host: EngineHost | None = None
        self._served: list[_Served] = []
        self._hidden: EmbeddedEndpoint | None = None

    @property
    def hidden_states(self) -> EmbeddedEndpoint:
        """The same model, whose `embed` gives the hidden state of the last token of a text.

        It has an engine of its own, which starts at its first call, and is closed with this one.
        """
        if self._hidden is None:
            self._hidden = EmbeddedEndpoint(
                f"{self.name} hidden states",
                tier=self.tier,
                model=self.model,
                model_path=self.model_path,
                price=self.price,
                settings=replace(self.settings, pooling="last"),
                timeout_s=self._timeout_s,
            )
        return self._hidden

    async def start(self, context: RunContext, /) -> None:
        """Start the engine now, so that the first call doesn't wait for it.

        Raises:
            ModelNotFound: there are no weights, or llama.cpp can't load them.
            MissingDependency: xllamacpp is not installed.
            EndpointUnavailable: the engine did not come up.
            DeadlineExceeded: the run's time is up.
        """
        await self._started(context)

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """Ask for text, or for JSON by a schema.

        Raises:
            EndpointError: the request failed; `EndpointRejected` where the prompt is too long,
                `EndpointUnavailable` where the engine died.
            ModelNotFound: there are no weights, or llama.cpp can't load them.
            MissingDependency: xllamacpp is not installed.
            OutputError: the model stopped before it wrote an answer.
            BudgetExceeded: a limit would be passed; nothing was sent.
            DeadlineExceeded: the run's time is up.
        """
        async with self._running(context) as served:
            return await served.endpoint.complete(prompt, context)

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        """Ask for text piece by piece; the whole `Completion` comes last.

        Raises:
            MoaError: as `complete`, at the start or in the middle.
        """
        async with (
            self._running(context) as served,
            closed_after(served.endpoint.stream(prompt, context)) as pieces,
        ):
            async for piece in pieces:
                yield piece

    async def decide(
        self,
        state: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example] = (),
    ) -> Decision:
        """Answer typed questions about `state` by the log-probabilities of their labels.

        Raises:
            EndpointError: a request failed; `EndpointRejected` where the text, with question and
                examples, doesn't fit the context window.
            ModelNotFound: there are no weights, or llama.cpp can't load them.
            MissingDependency: xllamacpp is not installed.
            ConfigError: the labels of a question can't be told apart.
            BudgetExceeded: a limit would be passed.
            DeadlineExceeded: the run's time is up.
        """
        async with self._running(context) as served:
            return await served.endpoint.decide(state, questions, context, examples=examples)

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """Turn texts into vectors of length 1: the mean of the model's last hidden states.

        With `EngineSettings(pooling="last")` it is the hidden state of the last token.

        Raises:
            EndpointError: the request failed; `EndpointRejected` where a text is over 2048 tokens.
            ModelNotFound: there are no weights, or llama.cpp can't load them.
            MissingDependency: xllamacpp is not installed.
            BudgetExceeded: a limit would be passed; nothing was sent.
            DeadlineExceeded: the run's time is up.
        """
        async with self._running(context) as served:
            return await served.endpoint.embed(texts, context)

    async def count_tokens(self, text: str, context: RunContext, /) -> int:
        """Count the tokens of a text by the model's own tokenizer.

        Raises:
            MoaError: as `complete`.
        """
        async with self._running(context) as served:
            reader = LlamaCppReader(served.endpoint.client)
            return len(await reader.tokens(neutralise(text), context, whole=False))

    async def close(self) -> None:
        """Let go of the engine, which ends where nobody else uses it. Twice does nothing."""
        hidden, self._hidden = self._hidden, None
        if hidden is not None:
            await hidden.close()
        served, self._served = self._served, []
        for one in served:
            await one.endpoint.close()
        if self._host is not None:
            self._host = None
            await asyncio.to_thread(_release, self._key)

    @asynccontextmanager
    async def _running(self, context: RunContext) -> AsyncGenerator[_Served, None]:
        served = await self._started(context)
        try:
            yield served
        except (EndpointUnavailable, InvalidResponse) as error:
            if too_long := _too_long_to_embed(error):
                raise too_long from error
            if await self._died(served.engine, error):
                raise EndpointUnavailable(
                    f"the engine died while it worked on this call ({served.engine.death()}). "
                    "The next call starts it again",
                    endpoint=self.name,
                ) from error
            raise

    async def _died(self, engine: Engine, error: EndpointError) -> bool:
        """Find out whether a lost connection is a dead engine."""
        if error.status is not None:
            return False
        return await asyncio.to_thread(engine.ends_within, _DEATH_SEEN_WITHIN_S)

    async def _started(self, context: RunContext) -> _Served:
        if self._host is None:
            self._host = _acquire(self._key)
        try:
            async with asyncio.timeout(context.remaining_s()):
                engine = await self._host.running()
        except EndpointUnavailable as error:
            raise EndpointUnavailable(
                error.message, endpoint=self.name, retry_after_s=error.retry_after_s
            ) from error
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{self.name}: the run's time was up before the engine had started"
            ) from error
        last = self._served[-1] if self._served else None
        if last is None or last.engine is not engine:
            if last is not None:
                context.note("retried", "with the engine started again", endpoint=self.name)
            self._served.append(self._serve(engine))
        return self._served[-1]

    def _serve(self, engine: Engine) -> _Served:
        endpoint = OpenAIEndpoint(
            self.name,
            model=engine.model,
            base_url=engine.base_url,
            api_key=engine.api_key,
            tier=self.tier,
            price=self.price,
            context_window=self.context_window,
            concurrency=engine.settings.slots + 1,  # the next one is there when a slot is free
            timeout_s=self._timeout_s,
            capabilities=ALL,
            decides="labels",
            dialect=LLAMACPP,
        )
        return _Served(engine, endpoint)


@dataclass(frozen=True, slots=True)
class _Key:
    """What endpoints have in common that share an engine."""

    model_path: str | None
    settings: EngineSettings


@dataclass(slots=True)
class _Shared:
    host: EngineHost
    users: int = 0


_shared: dict[_Key, _Shared] = {}
_shared_lock = threading.Lock()


def _acquire(key: _Key) -> EngineHost:
    with _shared_lock:
        shared = _shared.get(key)
        if shared is None:
            find = partial(find_weights, key.model_path)
            shared = _shared[key] = _Shared(EngineHost(find, key.settings))
        shared.users += 1
        return shared.host


def _release(key: _Key) -> None:
    with _shared_lock:
        shared = _shared[key]
        shared.users -= 1
        last = not shared.users
        if last:
            del _shared[key]
    if last:
        shared.host.stop()


def _too_long_to_embed(error: EndpointError) -> EndpointRejected | None:
    """Read what llama.cpp says, as a failure of its own, of a text longer than its batch."""
    found = _TOO_LONG.search(str(error))
    if found is None:
        return None
    return EndpointRejected(
        f"a text of {found[1]} tokens is too long to embed: {found[2]} fit. Split it",
        endpoint=error.endpoint,
        status=error.status,
    )
