"""Windows: counts of a stream's labels, window by window, and their changes."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import InitVar, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, Field

from moa.core.node import Frozen
from moa.decisions.drift import Counts, LabelShift, add_counts, find_label_shifts
from moa.graphs.recipe import read_state, write_state

_EXAMPLES = 3
_LONGEST = 300
"""Maximum characters of a stored example."""


class Window(BaseModel):
    """Counts and examples of one window."""

    number: int = 1
    items: int = 0
    failed: int = 0
    """Number of items that could not be decided."""
    counts: dict[str, dict[str, int]] = Field(default_factory=dict[str, dict[str, int]])
    """Count of each label, by question name."""
    examples: dict[str, dict[str, tuple[str, ...]]] = Field(
        default_factory=dict[str, dict[str, tuple[str, ...]]]
    )
    """First few texts of each label, shortened, by question name."""

    def add(self, text: str, labels: Mapping[str, str] | None) -> None:
        """Add one item. Its labels are `None` if it could not be decided."""
        self.items += 1
        self.failed += labels is None
        for question, label in (labels or {}).items():
            counts = self.counts.setdefault(question, {})
            counts[label] = counts.get(label, 0) + 1
            examples = self.examples.setdefault(question, {})
            texts = examples.get(label, ())
            examples[label] = texts if len(texts) == _EXAMPLES else (*texts, text[:_LONGEST])


class Change(Frozen):
    """Labels that moved, and the window that showed it."""

    moved: tuple[LabelShift, ...]
    window: Window
    reference: Counts


class State(BaseModel):
    """State that is stored between processes."""

    reference: Counts = Field(default_factory=dict[str, Mapping[str, int]])
    learned: int = 0
    """Number of windows in the reference so far."""
    latest: tuple[Counts, ...] = ()
    """Counts of the later windows that are compared together, the latest last."""
    window: Window = Field(default_factory=Window)
    ends: datetime | None = None
    """End of the open window, if windows go by time."""
    untold: tuple[Change, ...] = ()
    """Changes without a report so far."""
    counts: str = ""
    """Fingerprint of what is counted; empty if it wasn't stored."""


@dataclass(slots=True)
class Entry:
    """An item's place in the stream."""

    text: str
    at: datetime
    labels: Mapping[str, str] | None = None
    """Its labels by question; `None`: it could not be decided."""
    decided: bool = False


@dataclass(kw_only=True)
class Windows:
    """The windows of a stream, and their changes. It has state, and belongs to one event loop."""

    size: int | timedelta
    """Items per window, or its duration."""
    reference: int
    """Number of windows that the next ones are compared with."""
    alpha: float
    """Maximum rate of false alarms per compared window."""
    file: Path | None
    """File that stores the state between processes; `None` stores nothing."""
    counts: InitVar[str]
    """Text that identifies what is counted. Stored counts of anything else are dropped."""

    def __post_init__(self, counts: str) -> None:
        state = read_state(self.file, State, what="the windows of a monitor") or State()
        counts = hashlib.sha256(f"{self.size}/{counts}".encode()).hexdigest()[:16]
        self.is_reset = state.counts not in ("", counts)
        """True if the file held counts of something else."""
        self.state = State() if self.is_reset else state
        self.state.counts = counts
        self._queue: deque[Entry] = deque()
        """Items that aren't counted yet, in order of arrival."""
        self._claimed: set[int] = set()
        """Numbers of the windows whose change is being reported."""

    @contextmanager
    def enter(self, text: str, at: datetime | None) -> Generator[Entry]:
        """Queue an item. Set its labels inside the block.

        Items are counted in the order of these calls.
        """
        at = at or datetime.now(UTC)
        entry = Entry(text, at if at.tzinfo else at.replace(tzinfo=UTC))
        self._queue.append(entry)
        try:
            yield entry
        finally:  # a failed or cancelled item still has its place in the window
            entry.decided = True
            if entry is self._queue[0]:
                while self._queue and self._queue[0].decided:
                    self._count(self._queue.popleft())
                write_state(self.file, self.state)

    @contextmanager
    def claim_change(self) -> Generator[Change | None]:
        """Claim a change that isn't being reported yet, if there is one.

        If the block raises, the next call claims it again; otherwise it counts as reported.
        """
        unclaimed = (
            candidate
            for candidate in self.state.untold
            if candidate.window.number not in self._claimed
        )
        change = next(unclaimed, None)
        if change is None:
            yield None
            return
        self._claimed.add(change.window.number)
        try:
            yield change
            self.state.untold = tuple(
                candidate for candidate in self.state.untold if candidate is not change
            )
            write_state(self.file, self.state)
        finally:
            self._claimed.discard(change.window.number)

    def _count(self, entry: Entry) -> None:
        if isinstance(self.size, timedelta):
            ends = self.state.ends or entry.at + self.size
            if entry.at >= ends:
                self._close()
                ends += self.size * ((entry.at - ends) // self.size + 1)
            self.state.ends = ends
        self.state.window.add(entry.text, entry.labels)
        if self.state.window.items == self.size:
            self._close()

    def _close(self) -> None:
        """Close the open window: add it to the reference, or compare it with the reference."""
        state, window = self.state, self.state.window
        state.window = Window(number=window.number + 1)
        if state.learned < self.reference:
            state.reference = add_counts([state.reference, window.counts])
            state.learned += 1
            return
        state.latest = (*state.latest, window.counts)[-self.reference :]
        shifts = find_label_shifts(state.reference, state.latest, alpha=self.alpha)
        if shifts:
            change = Change(moved=shifts, window=window, reference=state.reference)
            state.untold = (*state.untold, change)
            state.reference, state.learned, state.latest = {}, 0, ()
