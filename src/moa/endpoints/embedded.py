"""EmbeddedEndpoint: a model that runs on this machine, without a server and a key."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from moa.context import RunContext
from moa.endpoints import Capability, close_all
from moa.endpoints.control_tokens import neutralise
from moa.endpoints.dialects import LLAMACPP
from moa.endpoints.engine import Engine, EngineHost, EngineSettings, acquire, release
from moa.endpoints.known import Identity, installed
from moa.endpoints.labels import LlamaCppReader
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.weights import SMOLLM2, find_weights, sha256_of
from moa.endpoints.wrappers import Within
from moa.errors import DeadlineExceeded, EndpointRejected, EndpointUnavailable, InvalidResponse
from moa.usage import FREE, Price, Tier

ALL: frozenset[Capability] = frozenset(("complete", "stream", "decide", "embed"))
_DEATH_SEEN_WITHIN_S = 2.0
_TOO_LONG = re.compile(r"\((\d+) tokens\) is too large to process.*size: (\d+)\)")


class EmbeddedEndpoint(Within):
    """A model that runs on this machine, in a process of its own.

    The default is SmolLM2-135M-Instruct, fetched on first use (98 MB). The engine starts at the
    first call, serves all endpoints of this process that ask for the same, and ends with the last
    that is closed, or with the process. Where it dies, the calls that run fail with
    `EndpointUnavailable`, and the next one starts it again, at most three times a minute. Each
    call raises `ModelNotFound` where there are no weights, or llama.cpp can't load them, and
    `MissingDependency` where xllamacpp is not installed.

    It decides by the log-probabilities of the labels; `ConfigError` says where they can't be told
    apart. `embed` gives vectors of length 1: the mean of the model's last hidden states, or with
    `EngineSettings(pooling="last")` that of the last token. What doesn't fit the context window,
    or of a text to embed has over 2048 tokens, is refused with `EndpointRejected`.

    Args:
        name: Shown in traces, errors and usage.
        tier: `slm` or `llm`.
        model: Its name in identities and measurements; `None` is that of its file.
        model_path: A GGUF file; `None` is `$MOA_MODEL`, or else the default model.
        price: What it charges, such as that of an hour of this machine; by default nothing.
        settings: Context window, threads and slots.
        timeout_s: Seconds that a whole request may take, waiting for a slot excluded.

    Examples:
        >>> small = EmbeddedEndpoint()  # doctest: +SKIP
        >>> Sentiment(small).run_sync("I love it!").output.label  # doctest: +SKIP
        'positive'
    """

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
        self._host: EngineHost | None = None
        self._served: dict[Engine, OpenAIEndpoint] = {}
        """What talks to the engines there have been, the running one last."""
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
        """Start the engine now, so that the first call doesn't wait for it; raises what that would.

        Raises:
            EndpointUnavailable: the engine did not come up.
        """
        await self._started(context)

    async def count_tokens(self, text: str, context: RunContext, /) -> int:
        """Count the tokens of a text by the model's own tokenizer; see `CountsTokens`."""
        async with self.within(context) as served:
            reader = LlamaCppReader(served.client)
            return len(await reader.tokens(neutralise(text), context, whole=False))

    async def identity(self, context: RunContext, /) -> Identity:
        """Name the model, the SHA-256 of its weights, and the version of llama.cpp."""
        del context
        weights = await asyncio.to_thread(find_weights, self.model_path)
        return Identity(
            model=self.model,
            digest=await asyncio.to_thread(sha256_of, weights),
            server="llama.cpp",
            version=installed("xllamacpp"),
        )

    async def close(self) -> None:
        """Let go of the engine, which ends where nobody else uses it. Twice does nothing."""
        hidden, self._hidden = self._hidden, None
        if hidden is not None:
            await hidden.close()
        served, self._served = self._served, {}
        await close_all(served.values())
        if self._host is not None:
            self._host = None
            await asyncio.to_thread(release, self.model_path, self.settings)

    @asynccontextmanager
    async def within(self, context: RunContext) -> AsyncGenerator[OpenAIEndpoint, None]:
        """Have the engine run, and tell where it died meanwhile."""
        engine = await self._started(context)
        try:
            yield self._served[engine]
        except (EndpointUnavailable, InvalidResponse) as error:
            if found := _TOO_LONG.search(str(error)):  # llama.cpp says it as a failure of its own
                raise EndpointRejected(
                    f"a text of {found[1]} tokens is too long to embed: {found[2]} fit. Split it",
                    endpoint=error.endpoint,
                    status=error.status,
                ) from error
            lost = error.status is None
            if lost and await asyncio.to_thread(engine.ends_within, _DEATH_SEEN_WITHIN_S):
                raise EndpointUnavailable(
                    f"the engine died while it worked on this call ({engine.death()}). "
                    "The next call starts it again",
                    endpoint=self.name,
                ) from error
            raise

    async def _started(self, context: RunContext) -> Engine:
        if self._host is None:
            self._host = acquire(self.model_path, self.settings)
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
        if engine not in self._served:
            if self._served:
                context.note("retried", "with the engine started again", endpoint=self.name)
            self._served[engine] = self._serve(engine)
        return engine

    def _serve(self, engine: Engine) -> OpenAIEndpoint:
        return OpenAIEndpoint(
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
