"""Tally: counts of outcomes and the run's usage, in bounded memory."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from math import ceil

from pydantic import BaseModel

from moa.core.batch import Item
from moa.core.node import Outcome
from moa.core.questions import answers_in, is_accepted
from moa.core.usage import Usage

_KEPT = 10_000
"""Number of items whose seconds are kept. Of more, it is the size of a random sample."""
WAITING = "waiting for an LLM or people"
"""Name of the row that counts items which no small model settles, if there is no large one."""
_TROUBLES = ("retried", "waited", "fell back")
"""Kinds of notes about an endpoint that did not answer at once."""


class Tally:
    """Counts of items and their outcomes.

    Doubtful answers are counted in all outputs. `labels` returns how many labels to ask for, in
    words.
    """

    def __init__(self, *, labels: Callable[[], str] = lambda: "some", guarantee: str = "") -> None:
        self._labels = labels
        self.guarantee = guarantee
        """Guarantee of accepted answers, in words."""
        self.start()
        self.statuses: Counter[str] = Counter()
        self.inputs = 0
        """Number of items that a model could be asked about; malformed ones are none."""
        self.needed_llm = 0
        self.usage = Usage()
        self.before = Usage()
        """Usage before the first item, such as fitting an agent to its task."""
        self.outcomes: Counter[str] = Counter()
        """Number of items by outcome."""
        self.settled: Counter[str] = Counter()
        """Number of settled items by outcome; see `Item.settled`."""
        self.has_outcomes = False
        """True if an output had an outcome that says who handles it."""
        self.accepted = 0
        """Number of items whose answer a calibration's guarantee covers."""
        self.calibrated = False
        """True if an answer was accepted or not by a calibration."""
        self.questions: set[str] = set()
        """Questions with a doubtful answer in some item, or the nodes that asked them."""
        self.doubts: Counter[str] = Counter()
        """Number of items with a doubt, by its text in the trace."""
        self.troubles: Counter[tuple[str, str]] = Counter()
        """Number of items in which an endpoint did not answer at once, by its name and the kind of
        note."""
        self._seconds: list[float] = []
        self._dice = random.Random(0)

    def start(self) -> None:
        """Restart the clock."""
        self.started = time.monotonic()

    @property
    def total_usage(self) -> Usage:
        """Total usage."""
        return self.before + self.usage

    @property
    def items(self) -> int:
        """Number of items so far."""
        return self.statuses.total()

    @property
    def has_failed(self) -> bool:
        """True if an item failed."""
        return self.statuses["failed"] > 0

    @property
    def llm_share(self) -> float:
        """Share of the items for which a large model was asked."""
        return self.needed_llm / self.items if self.items else 0.0

    @property
    def items_per_second(self) -> float:
        """Items per second of wall time."""
        return self.items / max(time.monotonic() - self.started, 1e-9)

    def add(self, item: Item[object]) -> None:
        """Count an item."""
        self.statuses[item.status] += 1
        self.inputs += item.error is None or bool(item.usage.calls)
        self.needed_llm += item.needed_llm
        self.usage += item.usage
        self._add_outcome(item)
        # The seconds of the calls count, not those in which the item waited for its turn.
        seconds = item.usage.total.seconds or item.seconds
        if not seconds:
            return
        if len(self._seconds) < _KEPT:
            self._seconds.append(seconds)
        elif (index := self._dice.randrange(self.items)) < _KEPT:
            self._seconds[index] = seconds

    @property
    def mean(self) -> float:
        """Mean of the total call seconds of an item."""
        return sum(self._seconds) / len(self._seconds) if self._seconds else 0.0

    def percentile(self, share: float) -> float:
        """Return the call seconds that were enough for a share of the items (nearest rank)."""
        rank = max(1, ceil(share * len(self._seconds)))
        return sorted(self._seconds)[rank - 1] if self._seconds else 0.0

    def _add_outcome(self, item: Item[object]) -> None:
        outcome = outcome_of(item)
        self.outcomes[outcome] += 1
        self.settled[outcome] += item.settled
        output: object = item.output
        self.has_outcomes = self.has_outcomes or (
            isinstance(output, Outcome) and output.became != "not found"
        )
        self.troubles.update(
            {(n.endpoint, n.kind) for n in item.trace if n.endpoint and n.kind in _TROUBLES}
        )
        answers = (output, *answers_in(output).values())
        said = [
            flag for flag in (getattr(a, "accepted", None) for a in answers) if flag is not None
        ]
        if said:
            self.calibrated = True
            # An outcome may hold decisions without a guarantee: only those that have one count.
            covered = all(said) if isinstance(output, Outcome) else is_accepted(output)
            self.accepted += bool(covered)
        notes = [note for note in item.trace if note.kind == "doubtful"]
        names = set(_doubtful_questions("", item.output))
        self.questions |= {note.node.rpartition("/")[2] for note in notes} or names
        titles = (repr(name) if name else "its question" for name in names)
        said = {note.text for note in notes} or {f"{name} is DOUBTFUL" for name in titles}
        self.doubts.update(said)

    def rows(self) -> list[tuple[str, str]]:
        """Return the rows of the closing table: name and text."""
        rows = list(self._outcome_rows())
        if self.calibrated or self.guarantee:
            details = f", {self.guarantee}" if self.guarantee else ""
            rows.append(("accepted", f"{self.accepted} of {self.items}{details}"))
        if self.doubts:
            counts = sorted(self.doubts.items())
            details = (f"{doubt}, in {count} of {self.items}" for doubt, count in counts)
            rows.append(("doubtful", "\n".join(details)))
        elif self.has_outcomes:
            rows.append(("doubtful", "none"))
        if self.troubles:
            rows.append(("in trouble", "\n".join(self._trouble_lines())))
        steps = "\n".join(self._next_steps())
        return [*rows, ("next", steps)] if steps else rows

    def _outcome_rows(self) -> Iterator[tuple[str, str]]:
        ends, settled = self.outcomes, self.settled
        if ends["in danger"]:
            yield "in danger, to people first", f"{ends['in danger']}"
        if self.items:
            count = f"{settled.total()} of {self.items} ({settled.total() / self.items:.0%})"
            parts = (
                f"{settled['replied']} replies by template, {settled['routed']} to people's queues"
            )
            yield "settled", f"{count}: {parts}" if self.has_outcomes else count
        if not self.has_outcomes:
            return
        if ends["written"]:
            yield "written by the LLM", f"{ends['written']}"
        drafts = f", {ends['drafted']} of them with a draft to read" if ends["drafted"] else ""
        yield WAITING, f"{ends['waiting'] + ends['drafted']}{drafts}"

    def _trouble_lines(self) -> Iterator[str]:
        for endpoint in sorted({name for name, _ in self.troubles}):
            counts = ((kind, self.troubles[endpoint, kind]) for kind in _TROUBLES)
            details = ", ".join(f"{kind} in {count}" for kind, count in counts if count)
            yield f"{endpoint}: {details} of {self.items} items"

    def _next_steps(self) -> Iterator[str]:
        if first := self.outcomes["in danger"]:
            yield f"answer the queue danger first: {first}"
        drafted = self.outcomes["drafted"]
        if "llm" in self.usage.by_tier():
            if drafted:
                yield f"read the drafts, and send what is right: {drafted}"
        elif waiting := self.outcomes["waiting"] + drafted:
            yield f"add an LLM in moa.toml to have {waiting} replies written"
        if quarantined := self.outcomes["quarantined"]:
            yield f"look through quarantine: {quarantined}"
        if self.doubts:
            names = ", ".join(repr(name) for name in sorted(self.questions) if name) or "it"
            yield (
                f"label {self._labels()} of these and run moa learn to decide {names} by your "
                "labels"
            )


def outcome_of(item: Item[object]) -> str:
    """Return the outcome of an item: that of its output, or else its status.

    Without a large model, the answer of a model that writes badly is `drafted`.
    """
    if isinstance(item.output, Outcome):
        return str(item.output.became)
    drafted = any(note.kind == "drafted" for note in item.trace)
    if item.status == "answered" and drafted and "llm" not in item.usage.by_tier():
        return "drafted"
    return item.status


def _doubtful_questions(name: str, value: object) -> Iterator[str]:
    """Yield the questions with doubtful answers anywhere in an output."""
    if not isinstance(value, BaseModel):
        return
    if getattr(value, "doubtful", False) is True:
        yield str(getattr(value, "question", "") or name)
    for key in type(value).model_fields:
        yield from _doubtful_questions(key, getattr(value, key, None))
