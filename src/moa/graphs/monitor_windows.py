"""Windows: what is counted of a stream, window by window, and where it has changed."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import InitVar, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, Field

from moa.calibration.drift import Counts, LabelShift, add_counts, find_label_shifts
from moa.graphs.recipe import read_state, write_state
from moa.node import Frozen

_EXAMPLES = 3
_LONGEST = 300
"""Characters of an example that are kept."""


class Window(BaseModel):
    """What came in one window."""

    number: int = 1
    items: int = 0
    failed: int = 0
    """Those of them that could not be decided."""
    counts: dict[str, dict[str, int]] = Field(default_factory=dict[str, dict[str, int]])
    """How often each label came, by the name of the question."""
    examples: dict[str, dict[str, tuple[str, ...]]] = Field(
        default_factory=dict[str, dict[str, tuple[str, ...]]]
    )
    """The first few texts of each label, cut, by the name of the question."""

    def add(self, text: str, labels: Mapping[str, str] | None) -> None:
        """Add one item; `None`: it could not be decided."""
        self.items += 1
        self.failed += labels is None
        for question, label in (labels or {}).items():
            counts = self.counts.setdefault(question, {})
            counts[label] = counts.get(label, 0) + 1
            examples = self.examples.setdefault(question, {})
            texts = examples.get(label, ())
            examples[label] = texts if len(texts) == _EXAMPLES else (*texts, text[:_LONGEST])


class Change(Frozen):
    """What moved, and the window at whose end that was known."""

    moved: tuple[LabelShift, ...]
    window: Window
    reference: Counts


class State(BaseModel):
    """What is kept from one process to the next."""

    reference: Counts = Field(default_factory=dict[str, Mapping[str, int]])
    learned: int = 0
    """Windows in the reference so far."""
    latest: tuple[Counts, ...] = ()
    """The windows since then that are looked at, the latest last."""
    window: Window = Field(default_factory=Window)
    ends: datetime | None = None
    """When the open window ends, where windows go by time."""
    untold: tuple[Change, ...] = ()
    """Changes of which there is no report yet."""
    counts: str = ""
    """Tells what is counted from anything else; empty where that was not kept."""


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
    """The windows of a stream, and what changed. Of one event loop; it changes while it is used."""

    size: int | timedelta
    """Items of a window, or how long one lasts."""
    reference: int
    """Windows that the next ones are compared with."""
    alpha: float
    """Rate of false alarms, for each window that is compared."""
    file: Path | None
    """Keeps the state from one process to the next; `None` keeps nothing."""
    counts: InitVar[str]
    """Tells what is counted from anything else. If the file has other counts, they are dropped.
    """

    def __post_init__(self, counts: str) -> None:
        state = read_state(self.file, State, what="the windows of a monitor") or State()
        counts = hashlib.sha256(f"{self.size}/{counts}".encode()).hexdigest()[:16]
        self.is_reset = state.counts not in ("", counts)
        """True if the file held counts of something else."""
        self.state = State() if self.is_reset else state
        self.state.counts = counts
        self._queue: deque[Entry] = deque()
        """The items that are not counted yet, in the order in which they came."""
        self._claimed: set[int] = set()
        """Numbers of the windows whose change is being reported."""

    @contextmanager
    def enter(self, text: str, at: datetime | None) -> Generator[Entry]:
        """Queue an item, in the order of these calls; set its labels inside the block.

        It is counted once all before it are.
        """
        at = at or datetime.now(UTC)
        entry = Entry(text, at if at.tzinfo else at.replace(tzinfo=UTC))
        self._queue.append(entry)
        try:
            yield entry
        finally:  # an item that fails, or is given up, has its place in the window all the same
            entry.decided = True
            if entry is self._queue[0]:
                while self._queue and self._queue[0].decided:
                    self._count(self._queue.popleft())
                write_state(self.file, self.state)

    @contextmanager
    def claim_change(self) -> Generator[Change | None]:
        """Claim a change that nobody reports yet, if there is one.

        It counts as reported if nothing is raised; else the next call claims it again.
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
        """Close the open window: it adds to the reference, or is compared with it."""
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
