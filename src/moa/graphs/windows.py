"""Windows: items in the order in which they came, whatever the order in which they are decided."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from moa.calibration.drift import Counts, Moved, added, moved
from moa.errors import ConfigError
from moa.graphs.keeping import keep, read_kept

_EXAMPLES = 3
_LONGEST = 300
"""Characters of an example that are kept."""


class Window(BaseModel):
    """What came in one window."""

    model_config = ConfigDict(frozen=True)

    number: int = 1
    items: int = 0
    failed: int = 0
    """Those of them that could not be decided."""
    counts: Counts = Field(default_factory=dict[str, Mapping[str, int]])
    examples: Mapping[str, Mapping[str, tuple[str, ...]]] = Field(
        default_factory=dict[str, Mapping[str, tuple[str, ...]]]
    )
    """The first few texts of each label, cut, by the name of the question."""

    def after(self, text: str, labels: Mapping[str, str] | None) -> Window:
        """Take in one item; `None`: it could not be decided."""
        if labels is None:
            return self.model_copy(update={"items": self.items + 1, "failed": self.failed + 1})
        examples = {question: dict(known) for question, known in self.examples.items()}
        for question, label in labels.items():
            kept = examples.setdefault(question, {}).get(label, ())
            if len(kept) < _EXAMPLES:
                examples[question][label] = (*kept, text[:_LONGEST])
        counts = added([self.counts, {question: {label: 1} for question, label in labels.items()}])
        return self.model_copy(
            update={"items": self.items + 1, "counts": counts, "examples": examples}
        )


class Change(BaseModel):
    """What moved, and the window at whose end that was known."""

    model_config = ConfigDict(frozen=True)

    moved: tuple[Moved, ...]
    window: Window
    reference: Counts


class State(BaseModel):
    """What is kept from one process to the next."""

    model_config = ConfigDict(frozen=True)

    reference: Counts = Field(default_factory=dict[str, Mapping[str, int]])
    learned: int = 0
    """Windows in the reference so far."""
    latest: tuple[Counts, ...] = ()
    """The windows since then that are looked at, the latest last."""
    window: Window = Window()
    ends: datetime | None = None
    """When the open window ends, where windows go by time."""
    untold: tuple[Change, ...] = ()
    """Changes of which there is no report yet."""
    counts: str = ""
    """Tells what is counted from anything else; empty where that was not kept."""

    def closed(self, reference: int, *, alpha: float) -> State:
        """Close the open window: it adds to the reference, or is compared with it."""
        opened = {"window": Window(number=self.window.number + 1)}
        if self.learned < reference:
            learned = {
                "reference": added([self.reference, self.window.counts]),
                "learned": self.learned + 1,
            }
            return self.model_copy(update=opened | learned)
        latest = (*self.latest, self.window.counts)[-reference:]
        found = moved(self.reference, latest, alpha=alpha)
        if not found:
            return self.model_copy(update=opened | {"latest": latest})
        change = Change(moved=found, window=self.window, reference=self.reference)
        return State(
            window=Window(number=self.window.number + 1),
            ends=self.ends,
            untold=(*self.untold, change),
            counts=self.counts,
        )


class Ticket(NamedTuple):
    """An item's place in the stream."""

    number: int
    closes: int | None
    """Number of the window that is closed with it: its own where windows are counted, the one
    before where they go by time; `None`: none is."""
    ends: datetime | None
    """When its window ends, where windows go by time."""


class Windows:
    """The windows of a stream, and what changed. Of one event loop; it changes while it is used.

    Args:
        size: Items of a window, or how long one lasts.
        reference: Windows that the next ones are compared with.
        alpha: Rate of false alarms, for each window that is compared.
        file: Keeps the state from one process to the next; `None` keeps nothing.
        counts: Tells what is counted from anything else. Where the file has other counts, they are
            dropped.

    Raises:
        ConfigError: a number is out of range, or the file is there, and can't be read.
    """

    def __init__(
        self,
        size: int | timedelta,
        *,
        reference: int,
        alpha: float,
        file: Path | None,
        counts: str = "",
    ) -> None:
        long = size > timedelta(0) if isinstance(size, timedelta) else size > 0
        if not long or reference < 1 or not 0 < alpha < 1:
            raise ConfigError(
                f"window={size}, reference={reference} and alpha={alpha}, but a window and a "
                "reference hold something, and alpha lies between 0 and 1"
            )
        kept = read_kept(file, State, what="the windows of a monitor") or State()
        counts = hashlib.sha256(f"{size}/{counts}".encode()).hexdigest()[:16]
        self.anew = kept.counts not in ("", counts)
        """Whether the file held counts of something else."""
        self.state = (
            State(counts=counts) if self.anew else kept.model_copy(update={"counts": counts})
        )
        self._size = size
        self._reference = reference
        self._alpha = alpha
        self._file = file
        self._entered = 0
        self._absorbed = 0
        self._decided: dict[int, tuple[Ticket, str, Mapping[str, str] | None]] = {}
        self._closed: dict[int, asyncio.Event] = {}
        """Set when the window is closed, by the number of the item that closes it."""
        self._closers: dict[int, int] = {}
        """Who closes it, by the number of the window."""
        self._alive: set[int] = set()
        self._telling: set[int] = set()
        self._window = self.state.window.number
        self._filled = self.state.window.items
        self._until = self.state.ends

    def enter(self, at: datetime | None = None) -> Ticket:
        """Give an item its place, in the order of these calls; it must be `decided`, and `left`.

        Args:
            at: When it came; `None` is now. It matters where windows go by time.
        """
        self._entered += 1
        closes = None
        if self._is_over(at or datetime.now(UTC)):
            closes = self._window
            self._closers[closes] = self._entered
            self._closed[self._entered] = asyncio.Event()
            self._window += 1
        self._alive.add(self._entered)
        return Ticket(self._entered, closes, self._until)

    def decided(self, ticket: Ticket, text: str, labels: Mapping[str, str] | None) -> None:
        """Say what an item was found to be, once; `None`: it could not be decided.

        Raises:
            ConfigError: the file can't be written.
        """
        self._decided[ticket.number] = (ticket, text, labels)
        before = self._absorbed
        while self._absorbed + 1 in self._decided:
            self._absorbed += 1
            self._absorb(*self._decided.pop(self._absorbed))
        if self._absorbed > before:
            keep(self._file, self.state)

    async def change(self, ticket: Ticket) -> Change | None:
        """Give the change that an item is to tell of, once it is known; `None`: there is none.

        The item that closes a window waits for all before it, and tells. Where it has failed, the
        next one that asks does.
        """
        if ticket.closes is not None:
            await self._closed[ticket.number].wait()
        for change in self.state.untold:
            number = change.window.number
            closer = self._closers.get(number, 0)
            if number not in self._telling and (
                closer == ticket.number or closer not in self._alive
            ):
                self._telling.add(number)
                return change
        return None

    def left(self, ticket: Ticket, change: Change | None = None, *, told: bool = False) -> None:
        """Say that an item is done with, and whether it told of the change it was given.

        Raises:
            ConfigError: the file can't be written.
        """
        self._alive.discard(ticket.number)
        self._closed.pop(ticket.number, None)
        if change is None:
            return
        self._telling.discard(change.window.number)
        if told:
            untold = tuple(one for one in self.state.untold if one.window != change.window)
            self.state = self.state.model_copy(update={"untold": untold})
            keep(self._file, self.state)

    def _is_over(self, at: datetime) -> bool:
        """Whether a window is closed with the item that comes now."""
        if not isinstance(self._size, timedelta):
            self._filled = self._filled % self._size + 1
            return self._filled == self._size
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        if self._until is None:
            self._until = at + self._size
        if at < self._until:
            return False
        self._until += self._size * ((at - self._until) // self._size + 1)
        return True

    def _absorb(self, ticket: Ticket, text: str, labels: Mapping[str, str] | None) -> None:
        timed = isinstance(self._size, timedelta)
        if timed and ticket.closes is not None:
            self.state = self.state.closed(self._reference, alpha=self._alpha)
        window = self.state.window.after(text, labels)
        self.state = self.state.model_copy(update={"window": window, "ends": ticket.ends})
        if not timed and ticket.closes is not None:
            self.state = self.state.closed(self._reference, alpha=self._alpha)
        closed = self._closed.get(ticket.number)
        if closed is not None:  # who closes it has not been given up
            closed.set()
