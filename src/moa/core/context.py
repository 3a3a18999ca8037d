"""RunContext: the budget, the deadline and the usage of a run, and its only mutable state."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, cast

from moa.core.budget import UNLIMITED, Budget, Planned, Purse, Reservation, Share
from moa.core.errors import ConfigError, DeadlineExceeded, MoaError
from moa.core.telemetry import Span, Tracer
from moa.core.telemetry.names import Kind
from moa.core.telemetry.spans import UNTRACED, start, tracer_for
from moa.core.trace import Event, Note, NoteKind, TextDelta
from moa.core.usage import UNKNOWN_PRICE, Amount, Part, Price, Tier, Usage

if TYPE_CHECKING:  # it loads pydantic, which `moa --help` doesn't wait for
    from moa.core.journal import Place

_logger = logging.getLogger(__name__)
_NOTHING_COUNTED: Mapping[str, Set[str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The large model that a run's cost is compared with: one call of it; see `Usage.alone`."""

    endpoint: str
    price: Price


class RunContext:
    """The shared state of a run: budget, deadline, usage. Nested runs also charge their parents.

    Args:
        budget: Limits on this run, on top of those of its parents.
        timeout_s: Seconds from now until the run's deadline; `None`: no deadline.
        node: Name of the node that runs in it.
        reference: The large model to compare the cost with.
        listener: Called with each event during the run.
        keep_notes: Collect notes in `trace`. Switch it off for a context that outlives many nested
            runs; each of these keeps its own notes.
        tracer: Starts the spans of nested runs; `None` uses OpenTelemetry's tracer provider, if
            one is set. See `moa.core.telemetry`.

    Examples:
        >>> context = RunContext(budget=Budget(calls=10), timeout_s=30)
        >>> result = asyncio.run(Agent(ScriptedEndpoint(["Hello!"]), "Greet.").run("Hi", context))
        >>> context.usage.calls
        1
    """

    __slots__ = (
        "_notes",
        "_purse",
        "counted",
        "deadline",
        "ended_by",
        "fresh",
        "journal",
        "keep_notes",
        "listener",
        "node",
        "owner",
        "parent",
        "reference",
        "tracer",
        "watcher",
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
        tracer: Tracer | None = None,
    ) -> None:
        self.reference = reference
        self.listener = listener
        self.watcher: Callable[[str, int], None] | None = None
        """Called while a model on this machine writes, with the node's name and the number of
        tokens so far, even if the text isn't shown."""
        self.keep_notes = keep_notes
        self.tracer: Tracer | Span | None = tracer_for(tracer)
        """Parent of new spans: the innermost open span, or the tracer; `None`: there are no
        spans."""
        self.owner = ""
        """Owner of the run, such as the key of a server's caller. What the run stores, as in a
        cache, is for this owner alone. Empty: for anybody."""
        self.journal: Place | None = None
        """Place in the journal of a run that can be resumed."""
        self.fresh = False
        """True if no answer may come from a cache, here and in nested runs."""
        self._begin(None, budget, timeout_s, node)

    def _begin(
        self, parent: RunContext | None, budget: Budget, timeout_s: float | None, node: str
    ) -> None:
        self.parent = parent
        self.node = node
        self.deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.ended_by: MoaError | None = None
        """The error that ended it, such as a wrong key; `None`: it goes on."""
        self.counted: Mapping[str, Set[str]] = _NOTHING_COUNTED
        """Keys of the calls charged here, by resumable run."""
        self._purse = Purse(budget, node, parent and parent._purse)
        self._notes: list[Note] = []

    @property
    def budget(self) -> Budget:
        """Limits on this run, on top of those of its parents."""
        return self._purse.own.budget if self._purse.own else UNLIMITED

    def share_budget(self, share: Share) -> Callable[[Budget], None]:
        """Make the budget a share of a larger one; return a function that sets another share."""
        account = self._purse.own
        assert account is not None, "a budget is shared where there is one"
        account.share = share

        def grow(budget: Budget) -> None:
            account.budget = budget

        return grow

    def __repr__(self) -> str:
        parts = [repr(self.node)] if self.node else []
        if self.budget is not UNLIMITED:
            parts.append(f"budget={self.budget!r}")
        if self.deadline is not None:
            parts.append(f"{max(0.0, self.deadline - time.monotonic()):.1f} s left")
        return f"RunContext({', '.join([*parts, f'spent: {self.usage.line()}'])})"

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
        child = RunContext.__new__(RunContext)
        child.reference = self.reference
        child.listener = self.listener
        child.watcher = self.watcher
        child.tracer = self.tracer
        child.keep_notes = True
        child.owner = self.owner
        child.journal = self.journal
        child.fresh = self.fresh
        child._begin(self, budget, timeout_s, path)
        if self.deadline is not None:
            child.deadline = min(self.deadline, child.deadline or self.deadline)
        return child

    def span(self, kind: Kind, name: str) -> AbstractContextManager[Span | None]:
        """Open the span of a run in this context, for use in `with`.

        Args:
            kind: Kind of the span.
            name: Its name.
        """
        if self.tracer is None or not self.tracer.is_recorded:
            return UNTRACED
        self.tracer = opened = start(self.tracer, kind, name, self.node)
        return opened

    def in_span(self, span: Span) -> RunContext:
        """Return a copy with the same budget, ledger and notes, inside a span."""
        inner = RunContext.__new__(RunContext)
        for slot in RunContext.__slots__:
            setattr(inner, slot, getattr(self, slot))
        inner.tracer = span
        return inner

    @property
    def has_budget(self) -> bool:
        """True if this run or a parent has a budget."""
        return bool(self._purse.accounts)

    @property
    def usage(self) -> Usage:
        """Usage of this run so far."""
        with self._purse.lock:
            return Usage(dict(self._purse.spent[0]))

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
        """Add a note to the trace of this run and of every parent.

        Args:
            kind: Kind of the event.
            text: Its description, in words.
            endpoint: The endpoint that answered or failed.
            error: The cause, to log its class (never its text).
        """
        if error is not None:
            status = getattr(error, "status", None)
            reason = type(error).__name__ + (f" (HTTP {status})" if status else "")
            _logger.info("%s: %s %s after %s", self.node or "run", endpoint, kind, reason)
        note = Note(kind, self.node, text, endpoint)
        for level in self._lineage():
            if level.keep_notes:
                level._notes.append(note)
        if self.tracer is not None:
            self.tracer.note(note, error)

    def charge(self, usage: Usage, *, back: bool = False, below: RunContext | None = None) -> None:
        """Add earlier spending, here and in every parent; with `back`, subtract it.

        `below` is the lowest context that it isn't counted in.
        """
        levels = list(self._lineage())
        end = len(levels) if below is None else levels.index(below)
        self._purse.charge(usage, back=back, levels=end)

    def recall(
        self, usage: Usage, notes: Iterable[Note], *, below: RunContext | None = None
    ) -> None:
        """Count an earlier call and add its notes, here and in every parent below a context."""
        self.charge(usage, below=below)
        for level in takewhile(lambda level: level is not below, self._lineage()):
            if level.keep_notes:
                level._notes.extend(notes)

    def is_within(self, other: object) -> bool:
        """Return True if spending here also counts there."""
        return any(level is other for level in self._lineage())

    def emit(self, event: Event) -> None:
        """Send an event to the run's listener."""
        if self.listener is not None:
            self.listener(event)

    @property
    def is_used_up(self) -> bool:
        """True if the run ends early.

        A budget, here or in a parent, has refused a call, its deadline has passed, or it was
        `ended_by` an error.
        """
        if self.ended_by is not None:
            return True
        is_late = self.deadline is not None and time.monotonic() >= self.deadline
        return is_late or any(account.is_used_up for account in self._purse.accounts)

    def remaining_s(self) -> float | None:
        """Return the seconds until the deadline; `None` if there is none.

        Raises:
            DeadlineExceeded: it has passed.
        """
        if self.deadline is None:
            return None
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineExceeded(f"{self.node or 'run'}: the time given to the run is up")
        return remaining

    async def reserve(
        self,
        endpoint: str,
        tier: Tier,
        estimate: Amount,
        *,
        price: Price = UNKNOWN_PRICE,
        cuttable: bool = False,
    ) -> Reservation:
        """Reserve the expected maximum of a call before it is sent.

        Use it as a context manager around the call, and `settle` it with the real usage. A call
        that doesn't fit waits, in the order of arrival, for calls in flight that may use less than
        they reserved; it doesn't wait for calls that enclose it.

        Args:
            endpoint: The endpoint to ask.
            tier: Its tier.
            estimate: Maximum calls, tokens and cost.
            price: Price of the endpoint.
            cuttable: Allow a smaller `output_tokens`: the number that the budget pays for once no
                call is in flight, if it is at least twice that of this node's earlier answers.
                `Reservation.estimate` has the number.

        Raises:
            BudgetExceeded: a limit here or in a parent would be exceeded, whatever the calls in
                flight use. Nothing is reserved then.
            PriceUnknown: a budget here or in a parent is strict, and the price isn't known.
            DeadlineExceeded: the deadline has passed, before or while it waited.
        """
        self.remaining_s()
        if estimate.unpriced_calls and self._purse.accounts:
            self._purse.check_price_known(endpoint)
        part = Part(tier, self.node, endpoint)
        with self._purse.lock:
            reserved = None
            if self._purse.refusal([(tier, estimate)]) is None:
                reserved = self._purse.set_aside(part, estimate, price)
        if reserved is None:
            reserved = await self._purse.wait_and_reserve(
                part, estimate, price, cuttable=cuttable, remaining_s=self.remaining_s
            )
        return self._report_to_span(reserved)

    def reserve_now(
        self, endpoint: str, tier: Tier, estimate: Amount, *, price: Price = UNKNOWN_PRICE
    ) -> Reservation:
        """Reserve without waiting, in synchronous code; see `reserve`.

        Raises:
            BudgetExceeded: a limit here or in a parent would be exceeded, if the calls in flight
                use what they reserved.
            PriceUnknown: a budget here or in a parent is strict, and the price isn't known.
            DeadlineExceeded: the deadline has passed.
        """
        self.remaining_s()
        if estimate.unpriced_calls and self._purse.accounts:
            self._purse.check_price_known(endpoint)
        part = Part(tier, self.node, endpoint)
        planned: Planned = [(tier, estimate)]
        while True:
            with self._purse.lock:
                refused = self._purse.refusal(planned)
                reserved = None if refused else self._purse.set_aside(part, estimate, price)
            if reserved is not None:
                return self._report_to_span(reserved)
            if refused and not self._purse.request_more_now(planned):
                account, passed = refused
                with self._purse.lock:
                    raise account.refuse(part, passed)

    def _report_to_span(self, reserved: Reservation) -> Reservation:
        """Report a call's usage to its span."""
        if self.tracer is not None:
            reserved.payment = self.tracer.payment_for(reserved.part, reserved.estimate)
        return reserved

    def limit_ahead(self, calls: Iterable[tuple[Tier, Amount]]) -> str | None:
        """Return the first limit, here or in a parent, that further calls together would exceed.

        Nothing is reserved: use it to plan, not to check if a call may be sent.

        Args:
            calls: Tier and expected usage of each call.

        Returns:
            The limit, such as `calls=9 of 8`; `None` if all calls fit.
        """
        planned = list(calls)
        with self._purse.lock:
            exceeded = (account.name_exceeded_at_most(planned) for account in self._purse.accounts)
            return next((passed for passed in exceeded if passed is not None), None)

    def _lineage(self) -> Iterator[RunContext]:
        level: RunContext | None = self
        while level is not None:
            yield level
            level = level.parent


def run_context(context: RunContext | None, node: str = "") -> RunContext:
    """Return the given context, or a new one. With `node`, return one nested in it for the node.

    Raises:
        ConfigError: `context` is something else, such as a budget.
    """
    if context is None:
        return RunContext(node=node)
    if not isinstance(cast("object", context), RunContext):
        raise ConfigError(
            f"a node is run with a RunContext, not {context!r:.80}: give "
            "RunContext(budget=Budget(…), timeout_s=…)"
        )
    return context.nested(node) if node else context


def quiet(context: RunContext) -> RunContext:
    """Open a context without a listener, for output that must not be shown."""
    inner = context.nested()
    inner.listener = None
    return inner


def count_text_deltas(context: RunContext) -> tuple[Callable[[], int], RunContext]:
    """Open a context that counts its streamed pieces of text; return the counter and the context.

    Shown text can't be taken back: a model that failed after showing some isn't replaced.
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
