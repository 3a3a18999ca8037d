"""Native: decides by a route of the server itself; questions of one tick go out as one request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from moa._async import gather
from moa.context import Reservation, RunContext
from moa.endpoints import Decision, Example
from moa.endpoints.client import Client
from moa.endpoints.dialects import Dialect
from moa.endpoints.tokens import estimate_of
from moa.endpoints.wires import Wire
from moa.errors import DeadlineExceeded, EndpointRejected, EndpointUnsupported
from moa.questions import Question
from moa.usage import NOTHING, Amount

_TOKENS_AN_ANSWER = 2


@dataclass(slots=True)
class _Batch:
    """Questions that are being gathered, and those that wait for their answers."""

    request: asyncio.Task[tuple[Decision, RunContext]] | None = None
    questions: list[Question] = field(default_factory=list[Question])
    contexts: list[RunContext] = field(default_factory=list[RunContext])
    sizes: list[int] = field(default_factory=list[int])
    """How many questions each asks."""
    calls: list[int] = field(default_factory=list[int])
    """How many requests each has reserved: those that its questions add."""
    waiting: int = 0


_Key = tuple[asyncio.AbstractEventLoop, str]
"""Where questions are gathered, and the text that they are about."""


class Native:
    """Decides by a route of the server itself.

    Questions about one text that come in one tick share a request where the server answers them
    independently of each other (as GraphQL's DataLoader gathers loads). Each caller reserves and is
    charged its share: the first the call itself, a later one only where its questions take another
    request, and all of them the tokens and the cost of their part of the questions. One that is
    cancelled leaves the request to the others; the last one takes it along.

    Args:
        client: The connection to the server.
        dialect: What the server takes in one request.
        wire: The wire format.
    """

    def __init__(self, client: Client, dialect: Dialect, wire: Wire) -> None:
        self.title = wire.title
        self._client = client
        self._dialect = dialect
        self._wire = wire
        self._open: dict[_Key, _Batch] = {}

    def can_join(self, text: str) -> bool:
        """Whether questions about `text` would go out with a request that is being gathered."""
        return self._dialect.together and (asyncio.get_running_loop(), text) in self._open

    async def decide(
        self,
        text: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example],
    ) -> Decision:
        """Answer typed questions about `text`; see `Backend.decide`."""
        self._dialect.check(text, questions)
        ask = self._gathered if self._dialect.together else self._send
        decision = await ask(text, questions, context)
        if examples:
            said = f"{len(examples)} examples: this server decides by itself and takes none"
            context.note("dropped", said, endpoint=self._client.name)
        return decision

    async def _send(
        self, text: str, questions: Sequence[Question], context: RunContext
    ) -> Decision:
        requests = self._dialect.requests(questions)
        if len(requests) == 1:
            return await self._ask(text, requests[0], context)
        parts = await gather(self._ask(text, few, context) for few in requests)
        return replace(
            parts[0],
            answers=tuple(answer for part in parts for answer in part.answers),
            amount=sum((part.amount for part in parts), NOTHING),
        )

    async def _ask(self, text: str, questions: Sequence[Question], context: RunContext) -> Decision:
        client = self._client
        body = self._wire.body(client.model, text, questions)
        estimate = self._estimate(text, questions)
        try:
            reply, amount = await client.post(self._wire.path, body, context, estimate=estimate)
        except EndpointRejected as error:
            if not self._wire.is_unable(error):
                raise
            raise EndpointUnsupported(
                error.message, endpoint=client.name, status=error.status
            ) from error
        answers = self._wire.read(reply, questions, client.name)
        for answer in answers:
            if answer.status == "refused":
                context.note("refused", answer.question.name, endpoint=client.name)
        model = reply.get("model")
        served = model if isinstance(model, str) and model else client.model
        context.note("answered", served, endpoint=client.name)
        return Decision(answers=tuple(answers), endpoint=client.name, model=served, amount=amount)

    def _estimate(self, text: str, questions: Sequence[Question]) -> Amount:
        asked = [
            words
            for question in questions
            for words in (question.text, *(option.name for option in question.options))
        ]
        tokens = _TOKENS_AN_ANSWER * len(questions)
        estimate = estimate_of(text, *asked, max_tokens=tokens, price=self._client.price)
        return replace(estimate, calls=len(self._dialect.requests(questions)))

    async def _gathered(
        self, text: str, questions: Sequence[Question], context: RunContext
    ) -> Decision:
        """Answer `questions`, together with those that others ask about `text` in this tick."""
        key = (asyncio.get_running_loop(), text)
        call = await self._reserved(key, questions, context)
        with call:
            left_s = context.remaining_s()
            batch = self._open.get(key) or self._start(key)
            place, start = len(batch.sizes), len(batch.questions)
            batch.questions += questions
            batch.contexts.append(context)
            batch.sizes.append(len(questions))
            batch.calls.append(call.estimate.calls)
            decision, ledger = await self._wait(batch, left_s)
            share = _shares(decision.amount, batch.sizes, batch.calls)[place]
            call.settle(share)
        for note in ledger.trace:
            context.note(note.kind, note.text, endpoint=note.endpoint)
        mine = zip(decision.answers[start : start + len(questions)], questions, strict=True)
        answers = tuple(replace(answer, question=question) for answer, question in mine)
        return replace(decision, answers=answers, amount=share)

    async def _reserved(
        self, key: _Key, questions: Sequence[Question], context: RunContext
    ) -> Reservation:
        """Set aside a share of what is being gathered, which may go out while it waits for that."""
        while True:
            batch = self._open.get(key)
            before = len(batch.sizes) if batch else 0
            estimate = self._share(key[1], questions, batch)
            call = await context.reserve(self._client.name, self._client.tier, estimate)
            now = self._open.get(key)
            if now is batch and (len(now.sizes) if now else 0) == before:
                return call
            call.settle(NOTHING)

    def _share(self, text: str, questions: Sequence[Question], batch: _Batch | None) -> Amount:
        """Estimate what questions add to a batch: the text is read once, for the first."""
        if batch is None:
            return self._estimate(text, questions)
        before = len(self._dialect.requests(batch.questions))
        after = len(self._dialect.requests([*batch.questions, *questions]))
        return replace(self._estimate("", questions), calls=after - before)

    def _start(self, key: _Key) -> _Batch:
        batch = self._open[key] = _Batch()
        # Any caller may be cancelled, so none of them can own the request: the batch does.
        batch.request = key[0].create_task(self._flush(key, batch))
        return batch

    async def _flush(self, key: _Key, batch: _Batch) -> tuple[Decision, RunContext]:
        try:
            await asyncio.sleep(0)
        finally:
            del self._open[key]
        ledger = RunContext(node=batch.contexts[0].node)
        ledger.deadline = _latest(batch.contexts)
        return await self._send(key[1], unique(batch.questions), ledger), ledger

    async def _wait(self, batch: _Batch, left_s: float | None) -> tuple[Decision, RunContext]:
        assert batch.request is not None
        batch.waiting += 1
        try:
            async with asyncio.timeout(left_s):
                return await asyncio.shield(batch.request)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{self._client.name}: the run's time was up before the decision was there"
            ) from error
        finally:
            batch.waiting -= 1
            if not batch.waiting:
                batch.request.cancel()


def _shares(amount: Amount, sizes: Sequence[int], calls: Sequence[int]) -> list[Amount]:
    """Split what a request took by the number of questions; the shares add up to it."""
    total, unpriced = sum(sizes), amount.unpriced_calls
    own = calls[1:] if unpriced == amount.calls else [0] * len(calls[1:])
    rest = [
        Amount(
            calls=reserved,
            input_tokens=amount.input_tokens * size // total,
            cached_input_tokens=amount.cached_input_tokens * size // total,
            output_tokens=amount.output_tokens * size // total,
            priced_cost=amount.priced_cost * size / total,
            unpriced_calls=few,
            unpriced_shares=int(bool(unpriced) and not few),
            seconds=amount.seconds * size / total,
            joules=amount.joules * size / total,
        )
        for size, reserved, few in zip(sizes[1:], calls[1:], own, strict=True)
    ]
    others = sum(rest, NOTHING)
    first = Amount(
        calls=amount.calls - others.calls,
        input_tokens=amount.input_tokens - others.input_tokens,
        cached_input_tokens=amount.cached_input_tokens - others.cached_input_tokens,
        output_tokens=amount.output_tokens - others.output_tokens,
        priced_cost=amount.priced_cost - others.priced_cost,
        unpriced_calls=unpriced - others.unpriced_calls,
        unpriced_shares=int(bool(unpriced) and unpriced == others.unpriced_calls),
        seconds=amount.seconds - others.seconds,
        joules=amount.joules - others.joules,
    )
    return [first, *rest]


def unique(questions: Sequence[Question]) -> list[Question]:
    """Number the questions whose names are taken, so that answers can be told apart."""
    taken: set[str] = set()
    renamed: list[Question] = []
    for question in questions:
        name, count = question.name, 1
        while name in taken:
            count += 1
            name = f"{question.name}_{count}"
        taken.add(name)
        renamed.append(question if name == question.name else replace(question, name=name))
    return renamed


def _latest(contexts: Sequence[RunContext]) -> float | None:
    deadlines = [context.deadline for context in contexts]
    known = [deadline for deadline in deadlines if deadline is not None]
    return max(known) if len(known) == len(deadlines) else None
