"""Fan-out: asks several nodes in parallel, without waiting for the slowest."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from moa.core._async import cancel, gather, time_limit
from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    MoaError,
    NodeError,
    NotResumable,
    QuorumNotMet,
)
from moa.core.journal import explain, interrupts_of, join_interrupts
from moa.core.journal_records import PLAIN, Call
from moa.core.node import Node, Result, run_in_place, unique_names
from moa.core.trace import NodeFinished, NodeSkipped, NodeStarted, NoteKind
from moa.endpoints import Endpoint
from moa.endpoints.wrappers import concurrency_of, innermost

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberResult(Generic[Out]):
    """The result of one member of a fan-out."""

    place: int
    """Its index among the members that were asked, from 0."""
    name: str
    """Its name, numbered if several members have the same name."""
    result: Result[Out]
    seconds: float
    """Seconds from the start of the fan-out until the answer."""

    @property
    def output(self) -> Out:
        """The answer."""
        return self.result.output


async def fan_out(
    members: Sequence[Node[In, Out]],
    request: In,
    context: RunContext,
    *,
    quorum: int | None = None,
    timeout_s: float | None = None,
    straggler_timeout_s: float | None = 0.2,
    hurry_s: float | None = None,
    is_enough: Callable[[Sequence[Out]], bool] | None = None,
) -> list[MemberResult[Out]]:
    """Ask all members in parallel; return their results in the order of the members.

    Members that fail or are late are left out, and the trace names them with the reason. An
    exception that isn't an error of `moa` becomes a `NodeError`. Members that still run when there
    are enough answers are cancelled, and have ended when this returns. Nothing that members write
    is streamed. The same node may be a member several times, to be sampled.

    Args:
        members, request, context: Nodes to ask, what to ask them, and the context of the run.
        quorum: Minimum number of answers. Once they are there, the other members get
            `straggler_timeout_s` more. `None`: one answer is enough, but all members are waited
            for. If two or more have answered, the last one gets no more than `straggler_timeout_s`,
            unless the members queue at an endpoint with a lower concurrency.
        timeout_s: Seconds that a member may take, including retries and repairs; `None`: as long as
            the run has.
        straggler_timeout_s: Seconds that the other members get once the quorum is there, even in
            the middle of retries; `None` waits for all.
        hurry_s: Seconds after which only the minimum number of answers is waited for, to leave time
            for what follows; `None`: no limit.
        is_enough: Called after each answer with all answers so far, in the order of the members.
            `True` ends the fan-out at once.

    Raises:
        QuorumNotMet: too few members answered. It has the cause of each failure.
        BudgetExceeded: too few answered, only because of the budget.
        DeadlineExceeded: too few answered, and the run's time is up.
        ConfigError: there are no members, or fewer than the quorum.
    """
    if not 1 <= (quorum or 1) <= len(members):
        raise ConfigError(
            f"{context.node or 'a fan-out'} has {len(members)} members and a quorum of "
            f"{quorum or 1}: the quorum is at least 1, and at most as many as there are members"
        )
    context.remaining_s()
    if quorum is None and _take_turns(members):
        straggler_timeout_s = None
    fan = _Fan(
        unique_names([member.name for member in members]),
        context,
        timeout_s=timeout_s,
        straggler_timeout_s=math.inf if straggler_timeout_s is None else straggler_timeout_s,
        quorum=quorum,
        enough=is_enough,
    )
    call = Call(context, "fan out", (fan.names, request)) if context.journal else None
    if call and (finished := call.find(PLAIN)):
        await fan.ask_again(call.reuse(finished), members, request)
        return fan.answers()
    fan.start(members, request)
    try:
        await fan.wait(hurry_s)
    finally:
        await fan.stop()
    answers = fan.answers()
    if call:  # a resumed run leaves late members out, or others would read other answers
        await call.keep([sorted(fan.results), fan.notes], calls=())
    return answers


def _take_turns(members: Sequence[object]) -> bool:
    """Return True if more members ask an endpoint than it serves at once."""
    member_endpoints = (getattr(member, "endpoint", None) for member in members)
    endpoints: list[Endpoint] = [
        innermost(endpoint) for endpoint in member_endpoints if endpoint is not None
    ]
    return any(
        sum(other is endpoint for other in endpoints) > limit
        for endpoint in endpoints
        if (limit := concurrency_of(endpoint)) is not None and limit < len(endpoints)
    )


_FanRecord = tuple[list[int], list[tuple[int, NoteKind, str]]]
"""Indices of the members that answered, and the notes on the others."""


@dataclass(slots=True, eq=False)
class _Fan(Generic[Out]):
    """One fan-out. Its state belongs to one event loop."""

    names: Sequence[str]
    context: RunContext
    timeout_s: float | None
    straggler_timeout_s: float
    quorum: int | None
    enough: Callable[[Sequence[Out]], bool] | None
    running: dict[asyncio.Task[MemberResult[Out]], int] = field(
        default_factory=dict[asyncio.Task[MemberResult[Out]], int]
    )
    ended: list[asyncio.Task[MemberResult[Out]]] = field(
        default_factory=list[asyncio.Task[MemberResult[Out]]]
    )
    change: asyncio.Future[None] | None = None
    """Future that is done once a member has ended."""
    contexts: dict[int, RunContext] = field(default_factory=dict[int, RunContext])
    results: dict[int, MemberResult[Out]] = field(default_factory=dict[int, MemberResult[Out]])
    failed: dict[int, MoaError] = field(default_factory=dict[int, MoaError])
    notes: list[tuple[int, NoteKind, str]] = field(default_factory=list[tuple[int, NoteKind, str]])
    interrupts: list[Exception] = field(default_factory=list[Exception])
    """Interrupts of members that ask people. The run stops once the others have ended."""

    @property
    def minimum(self) -> int:
        """Minimum number of answers."""
        return self.quorum or 1

    @property
    def _waits_no_more(self) -> bool:
        """Return True if the others get no more than the straggler timeout."""
        count = len(self.results)
        if self.quorum is not None:
            return count >= self.quorum
        return count > 1 and len(self.running) < 2

    def start(self, members: Sequence[Node[In, Out]], request: In) -> None:
        loop = asyncio.get_running_loop()
        for index, member in enumerate(members):
            task = loop.create_task(self._ask(index, member, request))
            task.add_done_callback(self._end)
            self.running[task] = index

    async def ask_again(
        self, before: _FanRecord, members: Sequence[Node[In, Out]], request: In
    ) -> None:
        """Ask the members that had answered before, and repeat the notes on the others."""
        indices, notes = before
        calls = [self._ask(index, members[index], request) for index in indices]
        for index, result in zip(indices, await gather(calls), strict=True):
            self.results[index] = result
        for index, kind, text in notes:
            self._tell(index, kind, text)

    async def _ask(self, index: int, member: Node[In, Out], request: In) -> MemberResult[Out]:
        name, start = self.names[index], time.perf_counter()
        step = "" if name == member.name else name
        inner = self.context.nested(step, timeout_s=self.timeout_s)
        self.contexts[index] = inner
        inner.listener = None  # what members write isn't the answer yet
        is_heard = self.context.listener is not None
        if is_heard:
            self.context.emit(NodeStarted(self._path(index)))
        left = inner.remaining_s()
        message = "" if left is None else f"{name}: no answer within {left:.2f} s"
        async with time_limit(left, message):
            alone = inner.journal is None
            run = member.run(request, inner) if alone else run_in_place(member, request, inner)
            result = await run
        seconds = time.perf_counter() - start
        if is_heard:
            self.context.emit(NodeFinished(self._path(index), result.output, seconds))
        return MemberResult(place=index, name=name, result=result, seconds=seconds)

    async def wait(self, hurry_s: float | None) -> None:
        """Wait until there are enough answers, and note why each other member is left out."""
        now = asyncio.get_running_loop().time
        hurry_at = math.inf if hurry_s is None else now() + hurry_s
        cut_at = math.inf
        while self.running:
            count = len(self.results)
            if self.interrupts:
                cut_at = hurry_at = math.inf
            elif self._waits_no_more:
                cut_at = min(cut_at, now() + self.straggler_timeout_s)
            if count and not self.interrupts and self.enough and self.enough(self._outputs()):
                return self._leave_out("skipped", f"is not needed: {count} answers are enough")
            if now() >= cut_at:
                waited = f"{count} others had answered {self.straggler_timeout_s:g} s before"
                return self._leave_out("dropped", f"gave no answer in time: {waited}")
            if now() >= hurry_at and count >= self.minimum:
                return self._leave_out("dropped", "gave no answer in the time that is left for it")
            until = min(cut_at, math.inf if now() >= hurry_at else hurry_at)
            for task in sorted(await self._until_some_end(until), key=self.running.__getitem__):
                self._take(task)
        return None

    async def _until_some_end(self, time: float) -> list[asyncio.Task[MemberResult[Out]]]:
        """Wait until members have ended, at most until a time of the event loop."""
        if not self.ended:
            loop = asyncio.get_running_loop()
            self.change = loop.create_future()
            alarm = None if time == math.inf else loop.call_at(time, self._wake)
            try:
                await self.change
            finally:
                if alarm:
                    alarm.cancel()
        ended, self.ended = self.ended, []
        return ended

    def _end(self, task: asyncio.Task[MemberResult[Out]]) -> None:
        self.ended.append(task)
        self._wake()

    def _wake(self) -> None:
        if self.change and not self.change.done():
            self.change.set_result(None)

    async def stop(self) -> None:
        """Cancel the running members, and wait until they have ended."""
        await cancel([*self.running])

    def answers(self) -> list[MemberResult[Out]]:
        """Return the results, in the order of the members, if there are enough; see `fan_out`."""
        if self.interrupts:
            raise join_interrupts(self.interrupts)
        if len(self.results) < self.minimum:
            raise self._too_few_error()
        return [self.results[index] for index in sorted(self.results)]

    def _outputs(self) -> list[Out]:
        return [self.results[index].output for index in sorted(self.results)]

    def _take(self, task: asyncio.Task[MemberResult[Out]]) -> None:
        index = self.running.pop(task)
        try:
            self.results[index] = task.result()
        except NotResumable:
            raise
        except MoaError as error:
            self._miss(index, error)
        except asyncio.CancelledError as error:  # raised within: nothing here has cancelled it
            self._miss(index, NodeError(self.names[index], error))
        except Exception as error:
            if interrupts_of(error):
                self.interrupts.append(error)
                return
            error = explain(error, self._path(index))
            if isinstance(error, NotResumable):
                raise error from error.__context__
            failure = NodeError(self.names[index], error)
            failure.__cause__ = error  # set here, since it may be noted without being raised
            self._miss(index, failure)

    def _miss(self, index: int, error: MoaError) -> None:
        self.failed[index] = error
        self._tell(index, "failed", f"gave no answer: {error}")

    def _leave_out(self, kind: NoteKind, reason: str) -> None:
        for index in self.running.values():
            context = self.contexts.get(index)
            tries = (
                [note.text for note in context.trace if note.kind == "retried"] if context else []
            )
            remark = f"; it was asked again {tries[-1]}" if tries else ""
            self._tell(index, kind, reason + remark)

    def _tell(self, index: int, kind: NoteKind, text: str) -> None:
        self.notes.append((index, kind, text))
        self.context.note(kind, f"{self.names[index]!r} {text}")
        self.context.emit(NodeSkipped(self._path(index), text))

    def _path(self, index: int) -> str:
        return f"{self.context.node}/{self.names[index]}".lstrip("/")

    def _too_few_error(self) -> MoaError:
        causes = {self.names[index]: error for index, error in sorted(self.failed.items())}
        listed = "".join(f"\n  - {name}: {error}" for name, error in causes.items())
        message = (
            f"{self.context.node or 'fan-out'}: {len(self.results)} of {len(self.names)} answered, "
            f"and {self.minimum} must:{listed}"
        )
        if all(isinstance(error, BudgetExceeded) for error in causes.values()):
            return BudgetExceeded(message, spent=self.context.usage)
        try:
            self.context.remaining_s()
        except DeadlineExceeded:
            return DeadlineExceeded(message)
        return QuorumNotMet(message, causes=causes)
