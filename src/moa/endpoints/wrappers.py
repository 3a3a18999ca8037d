"""Wrappers: endpoints around an endpoint, which nest in any order."""

from __future__ import annotations

import asyncio
import json
import time
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from moa._async import closing_stream
from moa._sqlite import ContentStore
from moa.context import RunContext
from moa.endpoints import (
    COMPLETION,
    EMBEDDINGS,
    Capability,
    Completion,
    Decision,
    Embeddings,
    Endpoint,
    EndpointBase,
    Examples,
    Pieces,
    Prompt,
    Questions,
    close_all,
    decision_form,
    question_key,
)
from moa.endpoints.calls import replaceable
from moa.errors import (
    ConfigError,
    DeadlineExceeded,
    EndpointError,
    OutputError,
)
from moa.journal_records import Form
from moa.usage import NOTHING, Price, Tier

T = TypeVar("T")
Answered = TypeVar("Answered", Completion, Decision, Embeddings)

_USUAL_TIMEOUT_S = 120.0
"""Of a request to an endpoint that doesn't say how long it may take."""


def innermost(endpoint: Endpoint) -> Endpoint:
    """Look through all that wraps an endpoint; of replicas, at the first."""
    while isinstance(endpoint, Wrapping):
        endpoint = endpoint.endpoint
    return endpoint


def concurrency_of(endpoint: Endpoint) -> int | None:
    """Requests that an endpoint works on at once, while further ones wait; `None` is unknown."""
    most: object = getattr(innermost(endpoint), "concurrency", None)
    return most if isinstance(most, int) else None


def timeout_of(endpoint: Endpoint) -> float:
    """Seconds after which an endpoint gives up a request, or the usual ones where it says none."""
    while (most := getattr(endpoint, "timeout_s", None)) is None and isinstance(endpoint, Wrapping):
        endpoint = endpoint.endpoint
    return float(most) if isinstance(most, int | float) else _USUAL_TIMEOUT_S


def shared_capabilities(endpoints: Sequence[Endpoint]) -> frozenset[Capability]:
    """What all of several endpoints can do."""
    first, *others = (one.capabilities for one in endpoints)
    return first.intersection(*others)


class Sender(EndpointBase):
    """Sends every request to an endpoint by one method."""

    @abstractmethod
    async def ask(self, send: Callable[[Endpoint], Awaitable[T]], context: RunContext) -> T:
        """Send a request: `send` sends it to an endpoint, each time that it is called."""

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`."""
        return await self.ask(lambda one: one.complete(prompt, context), context)

    async def decide(
        self, text: str, questions: Questions, context: RunContext, /, *, examples: Examples = ()
    ) -> Decision:
        """See `Endpoint.decide`."""
        return await self.ask(
            lambda one: one.decide(text, questions, context, examples=examples), context
        )

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """See `Endpoint.embed`."""
        return await self.ask(lambda one: one.embed(texts, context), context)


class Within(Sender):
    """Asks an endpoint inside of something; a stream is one request, from its start to its end."""

    @abstractmethod
    def within(self, context: RunContext) -> AbstractAsyncContextManager[Endpoint]:
        """What stands around a request of a run; it gives the endpoint that is asked."""

    async def ask(self, send: Callable[[Endpoint], Awaitable[T]], context: RunContext) -> T:
        """Send a request."""
        async with self.within(context) as one:
            return await send(one)

    async def stream(self, prompt: Prompt, context: RunContext, /) -> Pieces:
        """See `Endpoint.stream`."""
        async with (
            self.within(context) as one,
            closing_stream(one.stream(prompt, context)) as pieces,
        ):
            async for piece in pieces:
                yield piece


class Wrapping(Sender):
    """Passes everything on. A wrapper overrides what it changes, and keeps the name.

    Args:
        endpoint: What is wrapped.

    Examples:
        >>> from dataclasses import replace
        >>> from moa.endpoints.wrappers import Wrapping
        >>> class Loud(Wrapping):
        ...     async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        ...         found = await self.endpoint.complete(prompt, context)
        ...         return replace(found, text=found.text.upper())
        >>> print(Agent(Loud(ScriptedEndpoint(["Hello!"])), "Greet.").run_sync("Hi").output)
        HELLO!
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.endpoint!r})"

    def outgoing(self, prompt: Prompt) -> Prompt:
        """Write a request for text as it is passed on at first."""
        return prompt

    @property
    def name(self) -> str:
        """Name of the endpoint that is wrapped."""
        return self.endpoint.name

    @property
    def tier(self) -> Tier:
        """Its tier."""
        return self.endpoint.tier

    @property
    def model(self) -> str:
        """Its model."""
        return self.endpoint.model

    @property
    def price(self) -> Price:
        """What it charges."""
        return self.endpoint.price

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What can be asked of it."""
        return self.endpoint.capabilities

    @property
    def asks_several(self) -> bool:
        """True if the wrapped endpoint may ask different models for one call."""
        return isinstance(self.endpoint, EndpointBase) and self.endpoint.asks_several

    async def ask(self, send: Callable[[Endpoint], Awaitable[T]], context: RunContext) -> T:
        """Send a request; overridden, it changes all of them, and the start of every stream."""
        return await send(self.endpoint)

    async def stream(self, prompt: Prompt, context: RunContext, /) -> Pieces:
        """See `Endpoint.stream`; nothing is asked again once the first piece has come."""

        async def start(one: Endpoint) -> tuple[Pieces, str | Completion]:
            pieces = one.stream(prompt, context)
            return pieces, await anext(pieces)

        pieces, first = await self.ask(start, context)
        async with closing_stream(pieces):
            yield first
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        """Close what is wrapped."""
        await self.endpoint.close()


class Fallback(Wrapping):
    """Asks the next endpoint if one fails. The trace says why, the answer which one answered.

    Args:
        endpoint: The first endpoint; its name, tier and price are shown.
        others: The next ones, in order.

    Examples:
        >>> down = EndpointUnavailable("connection refused", endpoint="first")
        >>> both = Fallback(ScriptedEndpoint([down]), ScriptedEndpoint(["Here I am."]))
        >>> result = Agent(both, "Greet.").run_sync("Hi")
        >>> [note.kind for note in result.trace]
        ['fell back', 'answered']
    """

    def __init__(self, endpoint: Endpoint, *others: Endpoint) -> None:
        super().__init__(endpoint)
        self._endpoints = (endpoint, *others)

    def __repr__(self) -> str:
        return f"Fallback({', '.join(map(repr, self._endpoints))})"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What all of them can do."""
        return shared_capabilities(self._endpoints)

    @property
    def asks_several(self) -> bool:
        """It does, unless there is one alone."""
        return len(self._endpoints) > 1 or super().asks_several

    @property
    def timeout_s(self) -> float:
        """Seconds after which the last of them has given up, where each was asked."""
        return sum(timeout_of(one) for one in self._endpoints)

    async def ask(self, send: Callable[[Endpoint], Awaitable[T]], context: RunContext) -> T:
        """Send a request to one endpoint after the other, until one answers."""
        *tried, last = self._endpoints
        for one, following in zip(tried, self._endpoints[1:], strict=True):
            try:
                with replaceable():
                    return await send(one)
            except EndpointError as error:
                text = f"to {following.name}: {error}"
                context.note("fell back", text, endpoint=one.name, error=error)
        return await send(last)

    async def close(self) -> None:
        """Close all of them, also where one can't be; its error is raised at the end."""
        await close_all(self._endpoints)


class Cached(Wrapping):
    """Keeps answers in memory, the least recently used ones going first, and in a file for good.

    A hit costs nothing and says so in the trace. The key is the whole request, the model, and the
    owner of the run, where it has one. A prompt with a temperature above 0 is meant to be sampled
    anew, so it is passed on. One without a temperature is left to the server, most of which sample:
    its first answer is kept, as one that would do. What was cut by its length is not kept, and with
    a schema, neither is what is no JSON.

    Args:
        endpoint: What is asked.
        size: Maximum answers to keep in memory.
        file: Where they are kept for later processes too, which read them where the endpoint's
            name and model are the same; `None`: nowhere. Each call raises a `StoreError` where it
            can't be used.
    """

    def __init__(
        self, endpoint: Endpoint, *, size: int = 4096, file: str | Path | None = None
    ) -> None:
        if size < 1:
            raise ConfigError(f"{endpoint.name}: the size of a cache must be positive")
        super().__init__(endpoint)
        self._size = size
        self._file = None if file is None else ContentStore(Path(file))
        self._kept: OrderedDict[str, Completion | Decision | Embeddings] = OrderedDict()
        self._flights: dict[str, asyncio.Future[Completion | Decision | Embeddings]] = {}
        """Requests that are under way, for others that want the same."""

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`."""
        if prompt.temperature:
            return await self.endpoint.complete(prompt, context)
        return await self._once(
            self._key("complete", asdict(prompt), context),
            COMPLETION,
            lambda: self.endpoint.complete(prompt, context),
            context,
            lasts=lambda answer: _lasts(answer, prompt),
        )

    async def stream(self, prompt: Prompt, context: RunContext, /) -> Pieces:
        """See `Endpoint.stream`; a text that was kept comes in one piece."""
        key = self._key("complete", asdict(prompt), context)
        kept = None if prompt.temperature else self._look_up(key, COMPLETION)
        if kept is not None:
            completion = self._note_hit(kept, context)
            yield completion.text
            yield completion
            return
        async with closing_stream(self.endpoint.stream(prompt, context)) as pieces:
            async for piece in pieces:
                whole = isinstance(piece, Completion)
                if whole and not prompt.temperature and _lasts(piece, prompt):
                    self._keep(key, COMPLETION, piece)
                yield piece

    async def decide(
        self, text: str, questions: Questions, context: RunContext, /, *, examples: Examples = ()
    ) -> Decision:
        """See `Endpoint.decide`."""
        shown = [(example.text, dict(example.labels)) for example in examples]
        decision = await self._once(
            self._key(
                "decide", [text, [question_key(question) for question in questions], shown], context
            ),
            decision_form(questions),
            lambda: self.endpoint.decide(text, questions, context, examples=examples),
            context,
        )
        pairs = zip(decision.answers, questions, strict=True)
        answers = tuple(replace(answer, question=question) for answer, question in pairs)
        return replace(decision, answers=answers)

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """See `Endpoint.embed`."""
        key = self._key("embed", list(texts), context)
        return await self._once(
            key, EMBEDDINGS, lambda: self.endpoint.embed(texts, context), context
        )

    async def close(self) -> None:
        """Close what is wrapped, and the file."""
        if self._file is not None:
            self._file.close()
        await self.endpoint.close()

    def _key(self, kind: str, request: object, context: RunContext) -> str:
        def written(value: object) -> object:
            return value.model_dump() if isinstance(value, BaseModel) else repr(value)

        own = [context.owner] if context.owner else []  # nobody learns what others have asked
        whole = [kind, self.name, self.model, request, *own]
        return json.dumps(whole, sort_keys=True, default=written)

    async def _once(
        self,
        key: str,
        form: Form[Answered],
        ask: Callable[[], Awaitable[Answered]],
        context: RunContext,
        *,
        lasts: Callable[[Answered], bool] = lambda _: True,
    ) -> Answered:
        """Give what was kept, or what somebody else has asked for already, or else ask."""
        loop = asyncio.get_running_loop()
        while True:
            kept = self._look_up(key, form)
            if kept is not None:
                return self._note_hit(kept, context)
            flight = self._flights.get(key)
            if flight is None or flight.get_loop() is not loop:
                return await self._fly(key, form, ask, lasts)
            landed, _ = await asyncio.wait([flight], timeout=context.remaining_s())
            if not landed:
                raise DeadlineExceeded(
                    f"{self.name}: the run's time was up before the same request, which another "
                    "run had sent, was answered"
                )
            if not flight.cancelled():
                return self._note_hit(cast("Answered", flight.result()), context)

    async def _fly(
        self,
        key: str,
        form: Form[Answered],
        ask: Callable[[], Awaitable[Answered]],
        lasts: Callable[[Answered], bool],
    ) -> Answered:
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await ask()
            if lasts(answer):
                self._keep(key, form, answer)
            flight.set_result(answer)
        except (EndpointError, OutputError) as error:
            flight.set_exception(error)
            flight.exception()  # there may be nobody else to hear of it
            raise
        finally:
            flight.cancel()  # where a budget or a deadline ended it, which concerns this run alone
            if self._flights.get(key) is flight:
                del self._flights[key]
        return answer

    def _look_up(self, key: str, form: Form[Answered]) -> Answered | None:
        answer = cast("Answered | None", self._kept.get(key))
        if answer is None and self._file is not None:
            with suppress(ValueError):  # written by another version, or broken
                written = self._file.get(key)
                answer = None if written is None else form.load(written)
        if answer is not None:
            self._remember(key, answer)
        return answer

    def _keep(self, key: str, form: Form[Answered], answer: Answered) -> None:
        self._remember(key, answer)
        if self._file is not None:
            self._file.put(key, form.dump(answer))

    def _remember(self, key: str, answer: Completion | Decision | Embeddings) -> None:
        self._kept[key] = answer
        self._kept.move_to_end(key)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)

    @staticmethod
    def _note_hit(answer: Answered, context: RunContext) -> Answered:
        context.note("cached", f"an answer of {answer.model}", endpoint=answer.endpoint)
        return replace(answer, amount=NOTHING)


class Limited(Within, Wrapping):
    """Lets requests wait for their turn, and no longer than their run's deadline.

    Args:
        endpoint: What is asked.
        concurrency: Maximum requests in flight, in each event loop; `None` is no limit. A stream is
            in flight until its end.
        per_second: Maximum requests that start in a second, evenly spaced; `None` is no limit.
    """

    def __init__(
        self, endpoint: Endpoint, *, concurrency: int | None = None, per_second: float | None = None
    ) -> None:
        if (concurrency is not None and concurrency < 1) or (
            per_second is not None and per_second <= 0
        ):
            raise ConfigError(f"{endpoint.name}: concurrency and per_second must be positive")
        super().__init__(endpoint)
        self._concurrency = concurrency
        self._gap_s = 0.0 if per_second is None else 1.0 / per_second
        self._next_start = 0.0
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )

    @asynccontextmanager
    async def within(self, context: RunContext) -> AsyncGenerator[Endpoint, None]:
        """Wait for a slot and for the time to start, and free the slot afterwards."""
        loop = asyncio.get_running_loop()
        slots = self._slots.setdefault(loop, asyncio.Semaphore(self._concurrency or 2**31))
        try:
            async with asyncio.timeout(context.remaining_s()):
                await slots.acquire()
        except TimeoutError as error:
            raise self._late() from error
        try:
            await self._wait_for_start(context)
            yield self.endpoint
        finally:
            slots.release()

    async def _wait_for_start(self, context: RunContext) -> None:
        if not self._gap_s:
            return
        now = time.monotonic()
        start = max(now, self._next_start)
        left = context.remaining_s()
        if left is not None and start - now >= left:
            raise self._late()
        self._next_start = start + self._gap_s
        if start > now:
            await asyncio.sleep(start - now)

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self.name}: the run's time was up before its turn came. "
            "Raise the limit, or give it more time"
        )


def _lasts(completion: Completion, prompt: Prompt) -> bool:
    """Whether a completion is whole, so that it may be given again."""
    if completion.finish_reason == "length":
        return False
    if prompt.json_schema is None or completion.tool_calls:
        return True
    try:
        json.loads(completion.text)
    except ValueError:
        return False
    return True
