"""Wrappers: endpoints around an endpoint, in any order."""

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
from typing import TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from moa.core._async import closing_stream
from moa.core.context import RunContext
from moa.core.errors import ConfigError, DeadlineExceeded, EndpointError, OutputError
from moa.core.journal_records import Form
from moa.core.stores import open_store
from moa.core.usage import NOTHING, Price, Tier
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
from moa.endpoints.calls import mark_replaceable

T = TypeVar("T")
Answered = TypeVar("Answered", Completion, Decision, Embeddings)

_USUAL_TIMEOUT_S = 120.0
"""Default timeout of a request to an endpoint."""


def innermost(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint beneath all wrappers; with replicas, the first."""
    while isinstance(endpoint, Wrapping):
        endpoint = endpoint.endpoint
    return endpoint


def are_same_model(first: Endpoint, second: Endpoint) -> bool:
    """Return True if two endpoints are surely one model: the same object, address or file."""
    first, second = innermost(first), innermost(second)
    if first is second:
        return True
    places = [
        (type(each), each.model, getattr(each, "base_url", None), getattr(each, "model_path", None))
        for each in (first, second)
    ]
    has_place = any(place is not None for place in places[0][2:])
    return has_place and places[0] == places[1]


def concurrency_of(endpoint: Endpoint) -> int | None:
    """Return the maximum parallel requests of an endpoint, or `None` if unknown. Others wait."""
    limit: object = getattr(innermost(endpoint), "concurrency", None)
    return limit if isinstance(limit, int) else None


def timeout_of(endpoint: Endpoint) -> float:
    """Return the seconds after which an endpoint gives up on a request, or a default."""
    while (timeout_s := getattr(endpoint, "timeout_s", None)) is None and isinstance(
        endpoint, Wrapping
    ):
        endpoint = endpoint.endpoint
    return float(timeout_s) if isinstance(timeout_s, int | float) else _USUAL_TIMEOUT_S


def shared_capabilities(endpoints: Sequence[Endpoint]) -> frozenset[Capability]:
    """Return the capabilities that all endpoints have."""
    first, *others = (endpoint.capabilities for endpoint in endpoints)
    return first.intersection(*others)


class Sender(EndpointBase):
    """Sends every request to an endpoint through one method."""

    @abstractmethod
    async def ask(self, send: Callable[[Endpoint], Awaitable[T]], context: RunContext) -> T:
        """Send a request. Each call of `send` sends it to an endpoint."""

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`."""
        return await self.ask(lambda endpoint: endpoint.complete(prompt, context), context)

    async def decide(
        self, text: str, questions: Questions, context: RunContext, /, *, examples: Examples = ()
    ) -> Decision:
        """See `Endpoint.decide`."""
        return await self.ask(
            lambda endpoint: endpoint.decide(text, questions, context, examples=examples), context
        )

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """See `Endpoint.embed`."""
        return await self.ask(lambda endpoint: endpoint.embed(texts, context), context)


class ScopedSender(Sender):
    """Asks an endpoint inside a context manager. A stream is one request from start to end."""

    @abstractmethod
    def scope(self, context: RunContext) -> AbstractAsyncContextManager[Endpoint]:
        """Return the context manager of a request; it yields the endpoint to ask."""

    async def ask(self, send: Callable[[Endpoint], Awaitable[T]], context: RunContext) -> T:
        """Send a request."""
        async with self.scope(context) as endpoint:
            return await send(endpoint)

    async def stream(self, prompt: Prompt, context: RunContext, /) -> Pieces:
        """See `Endpoint.stream`."""
        async with (
            self.scope(context) as endpoint,
            closing_stream(endpoint.stream(prompt, context)) as pieces,
        ):
            async for piece in pieces:
                yield piece


class Wrapping(Sender):
    """Delegates everything. A subclass overrides what it changes, and keeps the name.

    Args:
        endpoint: The wrapped endpoint.

    Examples:
        >>> from dataclasses import replace
        >>> from moa.endpoints.wrappers import Wrapping
        >>> class Loud(Wrapping):
        ...     async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        ...         completion = await self.endpoint.complete(prompt, context)
        ...         return replace(completion, text=completion.text.upper())
        >>> print(Agent(Loud(ScriptedEndpoint(["Hello!"])), "Greet.").run_sync("Hi").output)
        HELLO!
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.endpoint!r})"

    def outgoing(self, prompt: Prompt) -> Prompt:
        """Return a prompt as it is first passed on."""
        return prompt

    @property
    def name(self) -> str:
        """Name of the wrapped endpoint."""
        return self.endpoint.name

    @property
    def tier(self) -> Tier:
        """Tier of the wrapped endpoint."""
        return self.endpoint.tier

    @property
    def model(self) -> str:
        """Model of the wrapped endpoint."""
        return self.endpoint.model

    @property
    def price(self) -> Price:
        """Price of the wrapped endpoint."""
        return self.endpoint.price

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Capabilities of the wrapped endpoint."""
        return self.endpoint.capabilities

    @property
    def asks_several(self) -> bool:
        """True if the wrapped endpoint may ask different models for one call."""
        return isinstance(self.endpoint, EndpointBase) and self.endpoint.asks_several

    async def ask(self, send: Callable[[Endpoint], Awaitable[T]], context: RunContext) -> T:
        """Send a request. An override affects all requests, and the start of every stream."""
        return await send(self.endpoint)

    async def stream(self, prompt: Prompt, context: RunContext, /) -> Pieces:
        """See `Endpoint.stream`. Nothing is repeated after the first piece."""

        async def start(endpoint: Endpoint) -> tuple[Pieces, str | Completion]:
            pieces = endpoint.stream(prompt, context)
            return pieces, await anext(pieces)

        pieces, first = await self.ask(start, context)
        async with closing_stream(pieces):
            yield first
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        """Close the wrapped endpoint."""
        await self.endpoint.close()


def _fields_of(prompt: Prompt) -> dict[str, object]:
    """Return a prompt's fields for the key of a cache, as older versions wrote it."""
    fields = asdict(prompt)
    for name, default in (("top_logprobs", 0), ("thinks", True), ("explained", False)):
        if fields[name] == default:
            del fields[name]
    return fields


class Fallback(Wrapping):
    """Asks the next endpoint if one fails. The trace says why, and the answer names the endpoint.

    Args:
        endpoint: The first endpoint. Its name, tier and price are shown.
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
        self.endpoints = (endpoint, *others)
        """All of them, in order."""

    def __repr__(self) -> str:
        return f"Fallback({', '.join(map(repr, self.endpoints))})"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Capabilities that all endpoints have."""
        return shared_capabilities(self.endpoints)

    @property
    def asks_several(self) -> bool:
        """True with more than one endpoint."""
        return len(self.endpoints) > 1 or super().asks_several

    @property
    def timeout_s(self) -> float:
        """Seconds after which all endpoints have given up."""
        return sum(timeout_of(endpoint) for endpoint in self.endpoints)

    async def ask(self, send: Callable[[Endpoint], Awaitable[T]], context: RunContext) -> T:
        """Send a request to one endpoint after another, until one answers."""
        *endpoints, last = self.endpoints
        for endpoint, successor in zip(endpoints, self.endpoints[1:], strict=True):
            try:
                with mark_replaceable():
                    return await send(endpoint)
            except EndpointError as error:
                text = f"to {successor.name}: {error}"
                context.note("fell back", text, endpoint=endpoint.name, error=error)
        return await send(last)

    async def close(self) -> None:
        """Close all endpoints, even if one fails. Its error is raised at the end."""
        await close_all(self.endpoints)


class Cached(Wrapping):
    """Caches answers in memory (LRU), and permanently in a file.

    A hit costs nothing, and the trace notes it. The key is the whole request, the model, and the
    owner of the run, if any. A prompt with a temperature above 0 asks for a new sample, so it is
    not cached, nor is anything in a context that is `fresh`. A prompt without a temperature uses
    the server's, and most servers sample: its first answer is cached, as any answer will do.
    Answers cut by their length, and invalid JSON for a schema, are not cached.

    Args:
        endpoint: The endpoint to ask.
        size: Maximum number of answers in memory.
        file: File shared with other processes if the endpoint's name and model are the same; `None`
            for no file. Each call raises a `StoreError` if it can't be used.
    """

    def __init__(
        self, endpoint: Endpoint, *, size: int = 4096, file: str | Path | None = None
    ) -> None:
        if size < 1:
            raise ConfigError(f"{endpoint.name}: the size of a cache must be positive")
        super().__init__(endpoint)
        self._size = size
        self._file = None if file is None else open_store(Path(file))
        self._answers: OrderedDict[str, Completion | Decision | Embeddings] = OrderedDict()
        self._flights: dict[str, asyncio.Future[Completion | Decision | Embeddings]] = {}
        """Requests in progress, shared by equal requests."""

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`."""
        if prompt.temperature:
            return await self.endpoint.complete(prompt, context)
        return await self._answer_once(
            Completion,
            self._key("complete", _fields_of(prompt), context),
            COMPLETION,
            lambda: self.endpoint.complete(prompt, context),
            context,
            is_whole=lambda answer: _is_whole(answer, prompt),
        )

    async def stream(self, prompt: Prompt, context: RunContext, /) -> Pieces:
        """See `Endpoint.stream`. A cached text comes in one piece."""
        key = self._key("complete", _fields_of(prompt), context)
        may_hit = not prompt.temperature and not context.fresh
        hit = await self._look_up(Completion, key, COMPLETION) if may_hit else None
        if hit is not None:
            completion = self._note_hit(hit, context)
            yield completion.text
            yield completion
            return
        async with closing_stream(self.endpoint.stream(prompt, context)) as pieces:
            async for piece in pieces:
                is_last = isinstance(piece, Completion)
                if is_last and may_hit and _is_whole(piece, prompt):
                    await self._keep(key, COMPLETION, piece)
                yield piece

    async def decide(
        self, text: str, questions: Questions, context: RunContext, /, *, examples: Examples = ()
    ) -> Decision:
        """See `Endpoint.decide`."""
        example_pairs = [(example.text, dict(example.labels)) for example in examples]
        decision = await self._answer_once(
            Decision,
            self._key(
                "decide",
                [text, [question_key(question) for question in questions], example_pairs],
                context,
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
        return await self._answer_once(
            Embeddings, key, EMBEDDINGS, lambda: self.endpoint.embed(texts, context), context
        )

    async def close(self) -> None:
        """Close the wrapped endpoint and the file."""
        if self._file is not None:
            self._file.close()
        await self.endpoint.close()

    def _key(self, kind: str, request: object, context: RunContext) -> str:
        def dump(value: object) -> object:
            return value.model_dump() if isinstance(value, BaseModel) else repr(value)

        owner = [context.owner] if context.owner else []  # answers aren't shared between owners
        parts = [kind, self.name, self.model, request, *owner]
        return json.dumps(parts, sort_keys=True, default=dump)

    async def _answer_once(
        self,
        kind: type[Answered],
        key: str,
        form: Form[Answered],
        ask: Callable[[], Awaitable[Answered]],
        context: RunContext,
        *,
        is_whole: Callable[[Answered], bool] = lambda _: True,
    ) -> Answered:
        """Return the cached answer, or that of an equal request in progress, else ask."""
        if context.fresh:
            return await ask()
        loop = asyncio.get_running_loop()
        while True:
            hit = await self._look_up(kind, key, form)
            if hit is not None:
                return self._note_hit(hit, context)
            flight = self._flights.get(key)
            if flight is None or flight.get_loop() is not loop:
                return await self._ask_and_share(key, form, ask, is_whole)
            done, _ = await asyncio.wait([flight], timeout=context.remaining_s())
            if not done:
                raise DeadlineExceeded(
                    f"{self.name}: the run's time was up before the same request, which another "
                    "run had sent, was answered"
                )
            if not flight.cancelled():
                answer = flight.result()
                assert isinstance(answer, kind), "the key names the kind of request"
                return self._note_hit(answer, context)

    async def _ask_and_share(
        self,
        key: str,
        form: Form[Answered],
        ask: Callable[[], Awaitable[Answered]],
        is_whole: Callable[[Answered], bool],
    ) -> Answered:
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await ask()
            flight.set_result(answer)
            if is_whole(answer):
                await self._keep(key, form, answer)
        except (EndpointError, OutputError) as error:
            flight.set_exception(error)
            flight.exception()  # marked as retrieved: maybe nobody waits
            raise
        finally:
            flight.cancel()  # if this run's budget or deadline ended it
            if self._flights.get(key) is flight:
                del self._flights[key]
        return answer

    async def _look_up(
        self, kind: type[Answered], key: str, form: Form[Answered]
    ) -> Answered | None:
        file, entry = self._file, self._answers.get(key)
        if entry is None and file is not None:
            record = await file.offload(lambda: file.get(key))
            entry = self._answers.get(key)  # an equal request may have ended meanwhile
            if entry is None and record is not None:
                with suppress(ValueError):  # written by another version, or broken
                    entry = form.load(record)
        answer = entry if isinstance(entry, kind) else None
        if answer is not None:
            self._remember(key, answer)
        return answer

    async def _keep(self, key: str, form: Form[Answered], answer: Answered) -> None:
        self._remember(key, answer)
        if (file := self._file) is not None:
            await file.offload(lambda: file.put(key, form.dump(answer)))

    def _remember(self, key: str, answer: Completion | Decision | Embeddings) -> None:
        self._answers[key] = answer
        self._answers.move_to_end(key)
        if len(self._answers) > self._size:
            self._answers.popitem(last=False)

    @staticmethod
    def _note_hit(answer: Answered, context: RunContext) -> Answered:
        context.note("cached", f"an answer of {answer.model}", endpoint=answer.endpoint)
        return replace(answer, amount=NOTHING)


class Limited(ScopedSender, Wrapping):
    """Limits the requests in flight and per second. Others wait, up to their run's deadline.

    Args:
        endpoint: The endpoint to ask.
        concurrency: Maximum requests in flight, in each event loop; `None` for no limit. A stream
            is in flight until its end.
        per_second: Maximum requests that start per second, evenly spaced; `None` for no limit.
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
    async def scope(self, context: RunContext) -> AsyncGenerator[Endpoint, None]:
        """Wait for a slot and the start time, then free the slot."""
        loop = asyncio.get_running_loop()
        slots = self._slots.setdefault(loop, asyncio.Semaphore(self._concurrency or 2**31))
        try:
            async with asyncio.timeout(context.remaining_s()):
                await slots.acquire()
        except TimeoutError as error:
            raise self._deadline_error() from error
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
        left_s = context.remaining_s()
        if left_s is not None and start - now >= left_s:
            raise self._deadline_error()
        self._next_start = start + self._gap_s
        if start > now:
            await asyncio.sleep(start - now)

    def _deadline_error(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self.name}: the run's time was up before its turn came. "
            "Raise the limit, or give it more time"
        )


def _is_whole(completion: Completion, prompt: Prompt) -> bool:
    """Return True if a completion is complete, so that it may be cached."""
    if completion.finish_reason == "length":
        return False
    return prompt.json_schema is None or bool(completion.tool_calls) or is_json(completion.text)


def is_json(text: str) -> bool:
    """Return True if a text is JSON."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
