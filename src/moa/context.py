"""RunContext: the budget, the deadline and the ledger of a run. The only mutable thing in it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import islice
from types import TracebackType
from typing import cast

from moa.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    EndpointRejected,
    EndpointUnavailable,
    MoaError,
)
from moa.journal import Place
from moa.trace import Event, Note, NoteKind, TextDelta
from moa.usage import (
    NOTHING,
    UNKNOWN_PRICE,
    UNLIMITED,
    Amount,
    Budget,
    Part,
    Price,
    Tier,
    Usage,
)

_logger = logging.getLogger(__name__)
_NOTHING_CHARGED: Mapping[str, Usage] = {}
_USUAL = 2
"""How many times the mean length of earlier answers a call needs at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The large model that a run is compared with: what would it have cost there alone?"""

    endpoint: str
    price: Price


class RunContext:
    """What the nodes of one run share. It nests: what a nested run is charged, its parents are too.

    Args:
        budget: Limits on this run, on top of those of its parents.
        timeout_s: Seconds from now until the run's deadline; `None` is no deadline.
        node: Name of the node that runs in it.
        reference: The large model to compare the cost with.
        listener: Called with each event while the run goes on.
        keep_notes: Whether `trace` fills. Off for a context that outlives many runs nested in
            it, each of which keeps its own notes.

    Examples:
        >>> context = RunContext(budget=Budget(calls=10), timeout_s=30)
        >>> result = asyncio.run(Agent(ScriptedEndpoint(["Hello!"]), "Greet.").run("Hi", context))
        >>> context.usage.calls
        1
    """

    __slots__ = (
        "_calls",
        "_flights",
        "_held",
        "_limited",
        "_lock",
        "_notes",
        "_spent",
        "_unpriced",
        "_used_up",
        "_waiters",
        "budget",
        "charged",
        "deadline",
        "journal",
        "keep_notes",
        "listener",
        "more",
        "node",
        "parent",
        "reference",
    )

    def __init__(
        self,
        *,
        budget: Budget = UNLIMITED,
        timeout_s: float | None = None,
        node: str = "",
        reference: Reference | None = None,
        listener: Callable[[Event], None] | None = None,
        keep_notes: bool = True,
    ) -> None:
        self.budget = budget
        self.deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.node = node
        self.reference = reference
        self.listener = listener
        self.keep_notes = keep_notes
        self.parent: RunContext | None = None
        self.journal: Place | None = None
        """Where finished calls are kept, of a run that can be resumed."""
        self.charged: Mapping[str, Usage] = _NOTHING_CHARGED
        """What runs that can be resumed have spent here, by the key of each call."""
        self.more: Callable[[Callable[[], Budget | None]], Awaitable[bool]] | None = None
        """Asked before a call is refused, where `budget` is a share of a larger one. It is given
        what tells how much the limits lack, and says whether it is worth looking again."""
        self._limited: tuple[RunContext, ...] = () if budget is UNLIMITED else (self,)
        """The levels with a budget, from this one up: they alone keep what is set aside."""
        self._lock = threading.Lock()
        self._spent: dict[Part, Amount] = {}
        self._notes: list[Note] = []
        if self._limited:
            self._held = NOTHING
            self._used_up = False
            self._unpriced: set[str] = set()
            self._calls: dict[Tier, int] = {}
            self._flights: set[Reservation] = set()
            self._waiters: deque[_Waiter] = deque()

    def __repr__(self) -> str:
        shown = [repr(self.node)] if self.node else []
        if self.budget is not UNLIMITED:
            shown.append(f"budget={self.budget!r}")
        if self.deadline is not None:
            shown.append(f"{max(0.0, self.deadline - time.monotonic()):.1f} s left")
        return f"RunContext({', '.join([*shown, f'spent: {self.usage.line()}'])})"

    def nested(
        self, node: str = "", *, budget: Budget = UNLIMITED, timeout_s: float | None = None
    ) -> RunContext:
        """Open a context for a node of this run.

        Args:
            node: Its name, appended to the path of this one.
            budget: Tighter limits for it alone.
            timeout_s: Seconds until its own deadline; the run's stays in force.
        """
        path = f"{self.node}/{node}" if self.node and node else self.node or node
        child = RunContext(
            budget=budget,
            timeout_s=timeout_s,
            node=path,
            reference=self.reference,
            listener=self.listener,
        )
        if self.deadline is not None:
            child.deadline = min(self.deadline, child.deadline or self.deadline)
        child.parent = self
        child.journal = self.journal
        child._limited += self._limited
        child._lock = self._lock
        return child

    @property
    def limited(self) -> bool:
        """Whether there is a budget, here or above."""
        return bool(self._limited)

    @property
    def usage(self) -> Usage:
        """What has been spent in this run so far."""
        with self._lock:
            return Usage(dict(self._spent))

    @property
    def trace(self) -> tuple[Note, ...]:
        """The notes of this run so far."""
        return tuple(self._notes)

    def note(
        self,
        kind: NoteKind,
        text: str,
        *,
        endpoint: str | None = None,
        error: MoaError | None = None,
    ) -> None:
        """Keep something for the result's trace, here and in every parent.

        Args:
            kind: What happened.
            text: In words.
            endpoint: Who answered, or failed.
            error: Why, where it is to be logged too, without its words.
        """
        if error is not None:
            status = getattr(error, "status", None)
            why = type(error).__name__ + (f" (HTTP {status})" if status else "")
            _logger.info("%s: %s %s after %s", self.node or "run", endpoint, kind, why)
        written = Note(kind, self.node, text, endpoint)
        for level in self._lineage():
            if level.keep_notes:
                level._notes.append(written)

    def charge(self, usage: Usage, *, back: bool = False, within: object = None) -> None:
        """Count what was spent before, here and in every parent; with `back`, count it no more.

        Args:
            usage: What was spent.
            back: Whether it is to be counted no more.
            within: The highest context that it is counted in; `None`: there is none.
        """
        levels = list(self._lineage())
        if within is not None:
            levels = levels[: levels.index(cast("RunContext", within)) + 1]
        with self._lock:
            for part, spent in usage.parts.items():
                amount = -spent if back else spent
                for level in levels:
                    level._spent[part] = level._spent.get(part, NOTHING) + amount
                    if back and not level._spent[part].calls:
                        del level._spent[part]
                for level in self._limited:
                    if level in levels:
                        level._calls[part.tier] = level._calls.get(part.tier, 0) + amount.calls

    def recall(
        self, key: str, usage: Usage, notes: Iterable[Note], *, within: object = None
    ) -> None:
        """Count a call that was made before, and keep its notes where they are not kept yet.

        Args:
            key: Of the call, in `charged`.
            usage: What it took.
            notes: Of its trace.
            within: The highest context that is charged with it; `None`: all are.
        """
        self.charge(usage, within=within)
        for level in self._lineage():
            if level.keep_notes and key not in level.charged:
                level._notes.extend(notes)

    def is_within(self, other: object) -> bool:
        """Whether what is spent here is spent there too."""
        return any(level is other for level in self._lineage())

    def emit(self, event: Event) -> None:
        """Tell whoever listens to this run."""
        if self.listener is not None:
            self.listener(event)

    @property
    def is_used_up(self) -> bool:
        """Whether a budget, here or above, has refused a call, or its deadline has passed."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return late or any(level._used_up for level in self._limited)

    def remaining_s(self) -> float | None:
        """Seconds until the deadline, or `None` where there is none.

        Raises:
            DeadlineExceeded: it has passed.
        """
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"{self.node or 'run'}: the time given to the run is up")
        return left

    async def reserve(
        self,
        endpoint: str,
        tier: Tier,
        estimate: Amount,
        *,
        price: Price = UNKNOWN_PRICE,
        cuttable: bool = False,
    ) -> Reservation:
        """Set aside what a call is expected to take, before it is sent.

        Use it as a context manager around the call and `settle` it with what was really used.
        What doesn't fit waits, in the order of arrival, for calls in flight that may settle for
        less than they set aside; it doesn't wait for those that it is made within.

        Args:
            endpoint: Who will be asked.
            tier: Its tier.
            estimate: The most calls, tokens and cost expected.
            price: What the endpoint charges.
            cuttable: Whether the answer may be limited to fewer `output_tokens`: to what the
                budget pays for once no call is in flight, if that is twice what answers to this
                node took before. `Reservation.estimate` says how many.

        Raises:
            BudgetExceeded: a limit here or above would be passed, whatever the calls in flight
                take. Nothing is set aside then.
            DeadlineExceeded: the deadline has passed, here or while it waited.
        """
        self.remaining_s()
        if estimate.unpriced_calls and self._limited:
            self._warn_of_unpriced(endpoint)
        part = Part(tier, self.node, endpoint)
        with self._lock:
            if self._refusal([(tier, estimate)]) is None:
                return self._set_aside(part, estimate, price)
        return await self._awaited(part, estimate, price, cuttable=cuttable)

    def reserve_now(
        self, endpoint: str, tier: Tier, estimate: Amount, *, price: Price = UNKNOWN_PRICE
    ) -> Reservation:
        """As `reserve`, where nothing can be awaited: what doesn't fit now is refused.

        Raises:
            BudgetExceeded: a limit here or above would be passed, if the calls in flight take what
                they set aside.
            DeadlineExceeded: the deadline has passed.
        """
        self.remaining_s()
        if estimate.unpriced_calls and self._limited:
            self._warn_of_unpriced(endpoint)
        part = Part(tier, self.node, endpoint)
        with self._lock:
            refused = self._refusal([(tier, estimate)])
            if refused is None:
                return self._set_aside(part, estimate, price)
            level, passed = refused
            raise level._exceeded(part, passed)

    def limit_ahead(self, calls: Iterable[tuple[Tier, Amount]]) -> str | None:
        """Name the first limit, here or above, that further calls together would pass.

        Nothing is set aside, so it tells how to go on, and not whether a call may be sent.

        Args:
            calls: The tier of each, and what it is expected to take.

        Returns:
            Such as `calls=9 of 8`; `None`: all of them fit.
        """
        with self._lock:
            refused = self._refusal(list(calls))
        return None if refused is None else refused[1]

    def _warn_of_unpriced(self, endpoint: str) -> None:
        """Log, once in a run, that no limit on the cost holds for an endpoint."""
        told = self._limited[-1]._unpriced
        if endpoint not in told and any(one.budget.cost is not None for one in self._limited):
            told.add(endpoint)
            _logger.warning(
                "No price of %s is known: calls to it don't count against Budget(cost=…). Give it "
                "a `price`, or limit its calls or tokens instead",
                endpoint,
            )

    def _refusal(
        self, planned: Sequence[tuple[Tier, Amount]], *, when_settled: bool = False
    ) -> tuple[RunContext, str] | None:
        """Find the first level, from here up, with a limit that calls would pass, and which.

        `when_settled`, calls in flight count as calls alone: they may take nothing.
        """
        if not self._limited:
            return None
        total = sum((amount for _, amount in planned), NOTHING)
        for level in self._limited:
            calls = dict(level._calls)
            for tier, amount in planned:
                calls[tier] = calls.get(tier, 0) + amount.calls
            held = Amount(calls=level._held.calls) if when_settled else level._held
            used = sum(level._spent.values(), held + total)
            passed = level.budget.limit_passed(used, calls)
            if passed is not None:
                return level, passed
        return None

    def _set_aside(self, part: Part, estimate: Amount, price: Price) -> Reservation:
        reservation = Reservation(self, part, estimate, price)
        for level in self._limited:
            level._held += estimate
            level._calls[part.tier] = level._calls.get(part.tier, 0) + estimate.calls
            if estimate.tokens or estimate.priced_cost:
                level._flights.add(reservation)
        return reservation

    async def _awaited(
        self, part: Part, estimate: Amount, price: Price, *, cuttable: bool
    ) -> Reservation:
        waiter = _Waiter()
        with self._lock:
            for call in waiter.around:
                call.waits += 1
        try:
            while True:
                left_s = self.remaining_s()
                if await self._given_more(part.tier, estimate):
                    continue
                waiter.turn.clear()
                with self._lock:
                    reservation = self._tried(waiter, part, estimate, price, cuttable=cuttable)
                if reservation is not None:
                    return reservation
                with suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await waiter.turn.wait()
        finally:
            with self._lock:
                self._leave_queue(waiter)
                for call in waiter.around:
                    call.waits -= 1

    async def _given_more(self, tier: Tier, estimate: Amount) -> bool:
        """Ask for more where a budget is a share; whether it is worth looking again."""
        for level in self._limited:

            def lacking(level: RunContext = level) -> Budget | None:
                with self._lock:
                    calls = dict(level._calls)
                    calls[tier] = calls.get(tier, 0) + estimate.calls
                    used = sum(level._spent.values(), level._held + estimate)
                    return level.budget.lacking(used, calls)

            if level.more is not None and lacking() is not None:
                return await level.more(lacking)
        return False

    def _tried(
        self, waiter: _Waiter, part: Part, estimate: Amount, price: Price, *, cuttable: bool
    ) -> Reservation | None:
        """Set aside what fits; `None`: it is worth waiting for calls in flight."""
        refused = self._refusal([(part.tier, estimate)])
        if refused is None:
            return self._set_aside(part, estimate, price)
        level, passed = refused
        least = level._usual(part, estimate) if cuttable else estimate.output_tokens

        def shorter(tokens: int) -> Amount:
            return price.charge(replace(estimate, output_tokens=tokens))

        def is_refused(tokens: int) -> bool:
            return self._refusal([(part.tier, shorter(tokens))]) is not None

        smallest = shorter(least) if cuttable else estimate
        if self._refusal([(part.tier, smallest)], when_settled=True) is None:
            if level._queued(waiter):
                return None
            fitting = bisect_left(range(least, estimate.output_tokens), True, key=is_refused)
            if fitting:
                return self._set_aside(part, shorter(least + fitting - 1), price)
            above = self._refusal([(part.tier, smallest)])
            if above is not None and above[0]._queued(waiter):
                return None
        raise level._exceeded(part, passed)

    def _exceeded(self, part: Part, passed: str) -> BudgetExceeded:
        self._used_up = True
        _logger.info("%s: the budget is used up: %s", part.node or "run", passed)
        return BudgetExceeded(
            f"{self.node or 'run'}: the next call would pass the budget: {passed}. "
            "It was not sent; give a larger budget to go on",
            spent=Usage(dict(self._spent)),
        )

    def _usual(self, part: Part, estimate: Amount) -> int:
        """Tell for how many output tokens at least a call is worth sending."""
        before = self._spent.get(part, NOTHING)
        if not before.output_tokens:
            return estimate.output_tokens
        return min(estimate.output_tokens, _USUAL * -(-before.output_tokens // (before.calls or 1)))

    def _settle(self, reservation: Reservation, actual: Amount) -> None:
        part, taken = reservation.part, reservation.estimate
        if _logger.isEnabledFor(logging.DEBUG):
            read, written, seconds = actual.input_tokens, actual.output_tokens, actual.seconds
            said = "%s: %s took %d tokens in, %d out, %.2f s"
            _logger.debug(said, part.node or "run", part.endpoint, read, written, seconds)
        with self._lock:
            for level in self._lineage():
                before = level._spent.get(part)
                level._spent[part] = actual if before is None else before + actual
            if self._limited:
                self._give_back(reservation, calls=actual.calls - taken.calls)

    def _release(self, reservation: Reservation) -> None:
        with self._lock:
            if self._limited:
                self._give_back(reservation, calls=-reservation.estimate.calls)

    def _give_back(self, reservation: Reservation, *, calls: int) -> None:
        """Free what was set aside where there is a budget; `calls` were made beyond it."""
        part, back = reservation.part, -reservation.estimate
        for level in self._limited:
            level._held += back
            level._calls[part.tier] = level._calls.get(part.tier, 0) + calls
            level._flights.discard(reservation)
            level._wake_first()

    def _queued(self, waiter: _Waiter) -> bool:
        """Let a call wait for those in flight that can settle before it; whether there are any."""
        if all(flight.waits for flight in self._flights):
            return False
        if waiter.level is not self:
            self._leave_queue(waiter)
            waiter.level = self
            self._waiters.append(waiter)
        return True

    def _leave_queue(self, waiter: _Waiter) -> None:
        if waiter.level is not None:
            waiter.level._waiters.remove(waiter)
            waiter.level._wake_first()

    def _wake_first(self) -> None:
        """Have the first try again; it may be in another thread. When it leaves, the next does."""
        for waiter in islice(self._waiters, 1):
            waiter.loop.call_soon_threadsafe(waiter.turn.set)

    def _lineage(self) -> Iterator[RunContext]:
        level: RunContext | None = self
        while level is not None:
            yield level
            level = level.parent


class Reservation:
    """Something set aside in a run's budget for one call.

    Leaving it unsettled charges the estimate, since nobody knows what was billed; of a call that
    the server refused or that never reached it, the call alone.
    """

    __slots__ = ("_context", "_price", "_start", "estimate", "part", "settled", "waits")

    def __init__(self, context: RunContext, part: Part, estimate: Amount, price: Price) -> None:
        self.part = part
        self.estimate = estimate
        """What is set aside."""
        self.waits = 0
        """How many calls that are made within this one wait, so that it can't settle."""
        self._context = context
        self._price = price
        self.settled = False
        """Whether it has been charged, or released."""
        self._start = time.perf_counter()
        _within.set((*_open_around(), self))

    def settle(self, actual: Amount) -> None:
        """Charge what was really used, once; `seconds` is filled in where it is zero."""
        assert not self.settled, "a reservation is settled once"
        self.settled = True
        if not actual.seconds:
            actual = replace(actual, seconds=time.perf_counter() - self._start)
        self._context._settle(self, actual)  # pyright: ignore[reportPrivateUsage]

    def release(self) -> None:
        """Charge nothing, once: nobody was asked."""
        assert not self.settled, "a reservation is settled once"
        self.settled = True
        self._context._release(self)  # pyright: ignore[reportPrivateUsage]

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.settled:
            return
        if isinstance(error, ConfigError) or (
            isinstance(error, EndpointRejected | EndpointUnavailable) and not error.begun
        ):
            self.settle(Amount(calls=self.estimate.calls))
            return
        taken = replace(self.estimate, seconds=time.perf_counter() - self._start)
        self.settle(self._price.charge(taken) if self._price.known else taken)


def run_context(given: RunContext | None) -> RunContext:
    """Give the context that a node is run with, or begin one.

    Raises:
        ConfigError: something else is given, such as a budget.
    """
    if given is None:
        return RunContext()
    if not isinstance(cast("object", given), RunContext):
        raise ConfigError(
            f"a node is run with a RunContext, not {given!r:.80}: give "
            "RunContext(budget=Budget(…), timeout_s=…)"
        )
    return given


def quiet(context: RunContext) -> RunContext:
    """Open a context in which nobody listens, for what is not to be shown."""
    inner = context.nested()
    inner.listener = None
    return inner


def count_text_deltas(context: RunContext) -> tuple[Callable[[], int], RunContext]:
    """Open a context, and count the pieces of text that are shown from it.

    What was shown can't be taken back: whoever broke off then has no stand-in.
    """
    inner = context.nested()
    pieces = 0

    def listen(event: Event) -> None:
        nonlocal pieces
        pieces += isinstance(event, TextDelta)
        context.emit(event)

    if context.listener is not None:
        inner.listener = listen
    return lambda: pieces, inner


_within: ContextVar[tuple[Reservation, ...]] = ContextVar("_within", default=())
"""The calls that the running code is within: none of them settles before it goes on."""


def open_call() -> Part | None:
    """Say who asks whom in the call that the running code is within; `None`: it is in none."""
    around = _open_around()
    return around[-1].part if around else None


def _open_around() -> tuple[Reservation, ...]:
    return tuple(call for call in _within.get() if not call.settled)


@dataclass(slots=True, eq=False)
class _Waiter:
    """A call that doesn't fit into a budget before others have settled. Used under its lock."""

    around: tuple[Reservation, ...] = field(default_factory=_open_around)
    level: RunContext | None = None
    """Where it queues: whose limit it would pass."""
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
