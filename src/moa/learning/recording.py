"""Recording: writes the rows of a learning cascade, and goes on without them while that fails.

A disk may be full, or a database away. Inputs are answered nevertheless, by the large model: a head
isn't used while its checks can't be written. The first write that fails is kept in memory, with all
later ones of the inputs in flight. Inputs that arrive after it aren't recorded until all of these
are written, in their order.

*Why the tests stay sound.* A small answer is given only after the row of its input is stored: what
is claimed of accepted answers is claimed of inputs that could be stored. Whether a later input is
recorded is decided on its arrival, by earlier writes alone, and never by its own text, side or
label. What is skipped by such a rule leaves the others independent draws of the same stream.

An input whose own write fails, perhaps because its text is long, isn't skipped: the large model
answers it, and it is written later. So is its label; until then it counts as unanswered, which is a
difference if it is held out. If the process ends before, the row is lost. Where many processes end
so, such as a command for each input on a disk that is nearly full, long texts may be missing from
all tests. They are then missing from the small answers too, for as long as they can't be stored;
once they can, they are inputs of a kind that no test has had, as in any stream that changes, and
the audit tells.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from moa.core.errors import StoreError
from moa.learning.answer_rows import UNRECORDED, LargeAnswer, NewRow
from moa.learning.answers import AnswerStore

T = TypeVar("T")
RETRY_S = 1.0
"""Seconds after a failure until a write is tried again."""
_TELL_S = 60.0
"""Seconds between two warnings in the log."""
_logger = logging.getLogger(__name__)


class Outage:
    """The time for which a store can't be used."""

    def __init__(self) -> None:
        self.reason = ""
        """Why nothing is recorded; empty while inputs are."""
        self._retry_at = 0.0
        self._told_at = -math.inf

    @property
    def may_try(self) -> bool:
        """True unless the store has just failed."""
        return not self.reason or time.monotonic() >= self._retry_at

    def begin(self, error: StoreError) -> None:
        """Note that the store has failed, and tell the log, but not each time."""
        now = time.monotonic()
        self._retry_at = now + RETRY_S
        self.reason = f"answers aren't recorded, so nothing is learned from this one: {error}"
        if now >= self._told_at + _TELL_S:
            self._told_at = now
            _logger.warning("inputs go to the large model, and nothing is learned: %s", error)

    def end(self, location: str) -> None:
        """Note that the store can be used."""
        if self.reason:
            self.reason = ""
            _logger.warning("answers are recorded in %s again", location)


class Recorder:
    """Writes rows to a store, or keeps their writes for later. Threads may share it.

    The index that `add` returns is below 0 while its row waits to be written. The other methods
    take it all the same, and change nothing if it is `UNRECORDED`.

    Args:
        store: The open store.
    """

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self._owed: deque[Callable[[], object]] = deque()
        """Writes to do, in their order."""
        self._indices: dict[int, int] = {}
        """Indices of rows that were written late, by the index that `add` returned."""
        self._lock = threading.Lock()
        self.outage = Outage()

    def read_on_arrival(
        self, read: Callable[[], T], check: Callable[[], object] | None = None
    ) -> T | None:
        """Return what the store says; `None` if an input that arrives now isn't recorded.

        Args:
            read: Asks the store.
            check: Reads what every input needs, and changes nothing. After a failure, nothing is
                recorded until it succeeds; `None`: until the store can be written.
        """
        if self._owed and self._lock.acquire(blocking=False):
            try:
                self._write_owed()
            finally:
                self._lock.release()
        if self._owed:
            return None
        try:
            return read()
        except StoreError as error:  # once it is over, the input has passed: nothing is read late
            self.fail(error, check)
            return None

    def add(self, row: NewRow, epoch: int) -> int:
        """Write a row before it is answered, and return its index."""
        # No other process that resumes the run may take it for one of its own.
        late, is_late = -1 - secrets.randbits(52), False

        def add() -> None:
            # The small model answers no input whose row isn't stored.
            stored = row._replace(by_small=False) if is_late else row
            self._indices[late] = self._store.add(stored, epoch)

        with self._lock:
            self._owed.append(add)
            self._write_owed()
            is_late = bool(self._owed)
        return late if is_late else self._indices.pop(late)

    def settle(self, index: int, answer: LargeAnswer) -> int:
        """Write the large model's answer; return the row's index, `UNRECORDED` if none is there."""
        return self._change(index, lambda place: self._store.settle(place, answer))

    def settle_by_small(self, index: int, *, moot: bool) -> int:
        """Write that the small model has answered; see `settle`."""
        return self._change(index, lambda place: self._store.settle_by_small(place, moot=moot))

    def drop(self, index: int) -> int:
        """Empty a row that could never be answered; see `settle`."""
        return self._change(index, self._store.drop)

    def fail(self, error: StoreError, check: Callable[[], object] | None = None) -> None:
        """Record nothing until the store can be written and read: something else couldn't be.

        Args:
            error: What has failed.
            check: See `read_on_arrival`.
        """
        with self._lock:
            self._owed += (self._store.touch, *([] if check is None else [check]))
            self.outage.begin(error)

    def _change(self, index: int, change: Callable[[int], None]) -> int:
        if index == UNRECORDED:
            return UNRECORDED
        places: list[int] = []

        def work() -> None:
            place = index if index > 0 else self._indices.get(index, UNRECORDED)
            if place != UNRECORDED:
                change(place)
            places.append(place)

        return places[0] if self._write(work) else UNRECORDED

    def _write(self, work: Callable[[], object]) -> bool:
        """Do it after all that is owed; return False if it is owed now, too."""
        with self._lock:
            self._owed.append(work)
            self._write_owed()
            return not self._owed

    def _write_owed(self) -> None:
        if not self.outage.may_try:
            return
        while self._owed:
            work = self._owed.popleft()
            try:
                work()
            except StoreError as error:
                self._owed.appendleft(work)
                self.outage.begin(error)
                return
        self.outage.end(self._store.location)
