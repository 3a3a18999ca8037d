"""RunContext: the budget, the deadline and the ledger of a run. The only mutable thing in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType

from moa.errors import BudgetExceeded, DeadlineExceeded, EndpointRejected, EndpointUnavailable
from moa.trace import Event, Note, NoteKind
from moa.usage import NOTHING, UNLIMITED, Amount, Budget, Part, Price, Tier, Usage


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
    """

    __slots__ = (
        "_calls",
        "_held",
        "_lock",
        "_notes",
        "_spent",
        "budget",
        "deadline",
        "keep_notes",
        "listener",
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
        self._lock = threading.Lock()
        self._spent: dict[Part, Amount] = {}
        self._held = NOTHING
        self._calls: dict[Tier, int] = {}
        self._notes: list[Note] = []

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
        child._lock = self._lock
        return child

    @property
    def usage(self) -> Usage:
        """What has been spent in this run so far."""
        with self._lock:
            return Usage(dict(self._spent))

    @property
    def trace(self) -> tuple[Note, ...]:
        """The notes of this run so far."""
        return tuple(self._notes)

    def note(self, kind: NoteKind, text: str, *, endpoint: str | None = None) -> None:
        """Keep something for the result's trace, here and in every parent."""
        written = Note(kind, self.node, text, endpoint)
        for level in self._lineage():
            if level.keep_notes:
                level._notes.append(written)

    def emit(self, event: Event) -> None:
        """Tell whoever listens to this run."""
        if self.listener is not None:
            self.listener(event)

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

    def reserve(self, endpoint: str, tier: Tier, estimate: Amount) -> Reservation:
        """Set aside what a call is expected to take, before the first `await`.

        Use it as a context manager around the call and `settle` it with what was really used.

        Args:
            endpoint: Who will be asked.
            tier: Its tier.
            estimate: Calls, tokens and cost expected.

        Raises:
            BudgetExceeded: a limit here or above would be passed. Nothing is set aside then.
            DeadlineExceeded: the deadline has passed.
        """
        self.remaining_s()
        with self._lock:
            for level in self._lineage():
                level._check(tier, estimate)
            for level in self._lineage():
                level._held += estimate
                level._calls[tier] = level._calls.get(tier, 0) + estimate.calls
        return Reservation(self, Part(tier, self.node, endpoint), estimate)

    def limit_ahead(self, calls: Iterable[tuple[Tier, Amount]]) -> str | None:
        """Name the first limit, here or above, that further calls together would pass.

        Nothing is set aside, so it tells how to go on, and not whether a call may be sent.

        Args:
            calls: The tier of each, and what it is expected to take.

        Returns:
            Such as `calls=9 of 8`; `None`: all of them fit.
        """
        planned = list(calls)
        total = sum((amount for _, amount in planned), NOTHING)
        with self._lock:
            for level in self._lineage():
                by_tier = dict(level._calls)
                for tier, amount in planned:
                    by_tier[tier] = by_tier.get(tier, 0) + amount.calls
                used = sum(level._spent.values(), NOTHING) + level._held + total
                passed = level.budget.limit_passed(used, by_tier)
                if passed is not None:
                    return passed
        return None

    def _check(self, tier: Tier, estimate: Amount) -> None:
        if self.budget is UNLIMITED:
            return
        spent = sum(self._spent.values(), NOTHING)
        calls = dict(self._calls)
        calls[tier] = calls.get(tier, 0) + estimate.calls
        passed = self.budget.limit_passed(spent + self._held + estimate, calls)
        if passed is not None:
            where = self.node or "run"
            raise BudgetExceeded(
                f"{where}: the next call would pass the budget: {passed}. "
                "It was not sent; give a larger budget to go on",
                spent=Usage(dict(self._spent)),
            )

    def _settle(self, part: Part, estimate: Amount, actual: Amount) -> None:
        back = Amount(
            calls=-estimate.calls,
            input_tokens=-estimate.input_tokens,
            output_tokens=-estimate.output_tokens,
            priced_cost=-estimate.priced_cost,
            unpriced_calls=-estimate.unpriced_calls,
            joules=-estimate.joules,
        )
        with self._lock:
            for level in self._lineage():
                level._held += back
                level._spent[part] = level._spent.get(part, NOTHING) + actual
                extra = actual.calls - estimate.calls
                level._calls[part.tier] = level._calls.get(part.tier, 0) + extra

    def _lineage(self) -> Iterator[RunContext]:
        level: RunContext | None = self
        while level is not None:
            yield level
            level = level.parent


class Reservation:
    """Something set aside in a run's budget for one call.

    Leaving it unsettled charges the call without tokens: at no cost where the server refused it,
    at an unknown cost where nobody knows whether it was billed.
    """

    __slots__ = ("_context", "_estimate", "_part", "_settled", "_start")

    def __init__(self, context: RunContext, part: Part, estimate: Amount) -> None:
        self._context = context
        self._part = part
        self._estimate = estimate
        self._settled = False
        self._start = time.perf_counter()

    def settle(self, actual: Amount) -> None:
        """Charge what was really used, once; `seconds` is filled in where it is zero."""
        assert not self._settled, "a reservation is settled once"
        self._settled = True
        if not actual.seconds:
            actual = replace(actual, seconds=time.perf_counter() - self._start)
        self._context._settle(self._part, self._estimate, actual)  # pyright: ignore[reportPrivateUsage]

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._settled:
            free = isinstance(error, EndpointRejected | EndpointUnavailable)
            calls = self._estimate.calls
            self.settle(Amount(calls=calls, unpriced_calls=0 if free else calls))
