"""Cached: gives an answer that it has given before, and asks once where many ask the same."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TypeVar, cast

from moa.context import RunContext
from moa.endpoints import Completion, Decision, Embeddings, Endpoint, Example, Prompt, closed_after
from moa.endpoints.wrappers import Wrapping
from moa.errors import ConfigError, DeadlineExceeded, EndpointError, OutputError
from moa.questions import Question
from moa.usage import NOTHING

T = TypeVar("T", Completion, Decision, Embeddings)


@dataclass(slots=True)
class _Flight:
    """A request that is under way, for others that want the same."""

    loop: asyncio.AbstractEventLoop
    landed: asyncio.Event = field(default_factory=asyncio.Event)
    error: EndpointError | OutputError | None = None
    answer: Completion | Decision | Embeddings | None = None


class Cached(Wrapping):
    """Keeps answers in memory, the least recently used ones going first.

    A hit costs nothing and says so in the trace. The key is the whole request and the model. A
    prompt with a temperature above 0 is meant to be sampled anew, so it is passed on. One without a
    temperature is left to the server, most of which sample: its first answer is kept, as one that
    would do. What was cut by its length is not kept, and with a schema, neither is what is no JSON.

    Args:
        endpoint: What is asked.
        size: Most answers to keep.
    """

    def __init__(self, endpoint: Endpoint, *, size: int = 4096) -> None:
        if size < 1:
            raise ConfigError(f"{endpoint.name}: the size of a cache must be positive")
        super().__init__(endpoint)
        self._size = size
        self._kept: OrderedDict[str, Completion | Decision | Embeddings] = OrderedDict()
        self._flights: dict[str, _Flight] = {}

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`."""
        if prompt.temperature:
            return await self.endpoint.complete(prompt, context)
        key = self._key("complete", asdict(prompt))

        def ask() -> Awaitable[Completion]:
            return self.endpoint.complete(prompt, context)

        return await self._once(key, ask, context, lasts=lambda answer: _lasts(answer, prompt))

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        """See `Endpoint.stream`; a text that was kept comes in one piece."""
        key = self._key("complete", asdict(prompt))
        kept = None if prompt.temperature else self._kept.get(key)
        if kept is not None:
            completion = self._hit(key, cast("Completion", kept), context)
            yield completion.text
            yield completion
            return
        async with closed_after(self.endpoint.stream(prompt, context)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Completion) and not prompt.temperature:
                    self._keep(key, piece, lasts=_lasts(piece, prompt))
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
        """See `Endpoint.decide`."""
        asked = [
            (q.name, q.kind, q.text, [(o.name, o.description) for o in q.options], q.layout)
            for q in questions
        ]
        shown = [(example.text, dict(example.labels)) for example in examples]
        key = self._key("decide", [state, asked, shown])

        def ask() -> Awaitable[Decision]:
            return self.endpoint.decide(state, questions, context, examples=examples)

        decision = await self._once(key, ask, context)
        pairs = zip(decision.answers, questions, strict=True)
        answers = tuple(replace(answer, question=question) for answer, question in pairs)
        return replace(decision, answers=answers)

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """See `Endpoint.embed`."""
        key = self._key("embed", list(texts))
        return await self._once(key, lambda: self.endpoint.embed(texts, context), context)

    def _key(self, kind: str, request: object) -> str:
        return json.dumps([kind, self.model, request], sort_keys=True, default=repr)

    async def _once(
        self,
        key: str,
        ask: Callable[[], Awaitable[T]],
        context: RunContext,
        *,
        lasts: Callable[[T], bool] = lambda _: True,
    ) -> T:
        loop = asyncio.get_running_loop()
        while True:
            kept = self._kept.get(key)
            if kept is not None:
                return self._hit(key, cast("T", kept), context)
            flight = self._flights.get(key)
            if flight is None or flight.loop is not loop:
                return await self._fly(key, ask, lasts)
            await self._landed(flight, context)
            if flight.error is not None:
                raise flight.error
            if flight.answer is not None:
                return self._told(cast("T", flight.answer), context)

    async def _landed(self, flight: _Flight, context: RunContext) -> None:
        try:
            async with asyncio.timeout(context.remaining_s()):
                await flight.landed.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{self.name}: the run's time was up before the same request, which another run "
                "had sent, was answered"
            ) from error

    async def _fly(
        self, key: str, ask: Callable[[], Awaitable[T]], lasts: Callable[[T], bool]
    ) -> T:
        flight = self._flights[key] = _Flight(asyncio.get_running_loop())
        try:
            answer = await ask()
            flight.answer = answer
            self._keep(key, answer, lasts=lasts(answer))
        except (EndpointError, OutputError) as error:
            flight.error = error  # a budget or a deadline concerns its own run alone
            raise
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.landed.set()
        return answer

    def _keep(self, key: str, answer: Completion | Decision | Embeddings, *, lasts: bool) -> None:
        if not lasts:
            return
        self._kept[key] = answer
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)

    def _hit(self, key: str, answer: T, context: RunContext) -> T:
        self._kept.move_to_end(key)
        return self._told(answer, context)

    @staticmethod
    def _told(answer: T, context: RunContext) -> T:
        context.note("cached", f"an answer of {answer.model}", endpoint=answer.endpoint)
        return replace(answer, amount=NOTHING)


def _lasts(completion: Completion, prompt: Prompt) -> bool:
    """Whether a completion is whole, so that it may be given again."""
    if completion.finish_reason == "length":
        return False
    if prompt.json_schema is None:
        return True
    try:
        json.loads(completion.text)
    except ValueError:
        return False
    return True
