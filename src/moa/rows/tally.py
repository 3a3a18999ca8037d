"""Tally: what many items came to, and what the run has settled, in bounded memory."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from math import ceil
from typing import cast

from pydantic import BaseModel

from moa.batch import Item
from moa.questions import accepted_in, answers_in
from moa.usage import Usage

_KEPT = 10_000
"""Seconds of so many items are kept; of more, a random sample of as many."""
_WAITING, _QUARANTINE = "replies", "quarantine"
"""Queues of what nobody could write, and of what looks unwanted."""
_DOUBTFUL = re.compile(r"question (['\"])(?P<name>.*)\1 is DOUBTFUL: (?P<why>.*)", re.DOTALL)


class Tally:
    """Adds items up, and counts what became of them by what their outputs say of themselves.

    Counted are outputs with a `kind`: `reply` with who it was `written_by`, `draft`, `route` with
    its `queue`, and `drop`. What is `doubtful` is counted in all outputs. `labels` says how many
    labels mend a question.
    """

    def __init__(self, *, labels: str = "some", promise: str = "") -> None:
        self._labels = labels
        self.promise = promise
        """What is promised of the answers that are accepted, in words."""
        self.start()
        self.statuses: Counter[str] = Counter()
        self.needed_llm = 0
        self.usage = Usage()
        self.before = Usage()
        """What was used before the first item, such as to fit an agent to its task."""
        self.fates: Counter[str] = Counter()
        """Items by `template`, `llm`, `draft`, `queue`, `waiting`, `quarantine` and `drop`."""
        self.stopped = 0
        """Items that a guard stopped, whose output says no more than that."""
        self.accepted = 0
        """Items whose answer a calibration's promise covers."""
        self.calibrated = False
        """Whether an answer said if it is accepted."""
        self.questions: Counter[str] = Counter()
        """Items in which a question is doubtful, by its name."""
        self.why: dict[str, str] = {}
        """Why a question is doubtful, by its name."""
        self._seconds: list[float] = []
        self._dice = random.Random(0)

    def start(self) -> None:
        """Start the clock again."""
        self.started = time.monotonic()

    @property
    def spent(self) -> Usage:
        """What was used in all."""
        return self.before + self.usage

    @property
    def items(self) -> int:
        """Items so far."""
        return self.statuses.total()

    @property
    def failed(self) -> bool:
        """Whether one of them failed."""
        return self.statuses["failed"] > 0

    @property
    def llm_share(self) -> float:
        """Share of the items for which a large model was asked."""
        return self.needed_llm / self.items if self.items else 0.0

    @property
    def items_per_second(self) -> float:
        """Items a second of wall time."""
        return self.items / max(time.monotonic() - self.started, 1e-9)

    def add(self, item: Item[object]) -> None:
        """Count an item in."""
        self.statuses[item.status] += 1
        self.needed_llm += item.needed_llm
        self.usage += item.usage
        self._add_worth(item)
        if not item.seconds:
            return
        if len(self._seconds) < _KEPT:
            self._seconds.append(item.seconds)
        elif (place := self._dice.randrange(self.items)) < _KEPT:
            self._seconds[place] = item.seconds

    @property
    def mean(self) -> float:
        """Mean of the seconds that an item took."""
        return sum(self._seconds) / len(self._seconds) if self._seconds else 0.0

    def percentile(self, share: float) -> float:
        """Seconds within which `share` of the items were done, from 0 to 1 (nearest rank)."""
        rank = max(1, ceil(share * len(self._seconds)))
        return sorted(self._seconds)[rank - 1] if self._seconds else 0.0

    def _add_worth(self, item: Item[object]) -> None:
        output: object = item.output
        answers = (output, *answers_in(output).values())
        if any(isinstance(getattr(answer, "accepted", None), bool) for answer in answers):
            self.calibrated = True
            self.accepted += bool(accepted_in(output))
        if (fate := _fate(item.output)) is not None:
            self.fates[fate] += 1
        elif item.status == "dropped":
            self.stopped += 1
        degraded = (note.text for note in item.trace if note.kind == "degraded")
        found = filter(None, map(_DOUBTFUL.fullmatch, degraded))
        noted = {one["name"]: one["why"] for one in found}
        names = set(noted) or set(_marked("", item.output))
        self.why |= noted
        self.questions.update(names)

    def rows(self) -> list[tuple[str, str]]:
        """Name what is worth a row of the closing table, and say it in words."""
        rows = list(self._fates()) if self.fates else []
        if self.calibrated or self.promise:
            said = f", {self.promise}" if self.promise else ""
            rows.append(("accepted", f"{self.accepted} of {self.items}{said}"))
        if self.questions:
            rows.append(("doubtful", "\n".join(map(self._doubt, sorted(self.questions)))))
        elif self.fates:
            rows.append(("doubtful", "none"))
        steps = "\n".join(self._next())
        return [*rows, ("next", steps)] if steps else rows

    def _fates(self) -> Iterator[tuple[str, str]]:
        fates, total = self.fates, self.fates.total() + self.stopped
        settled = fates["template"] + fates["queue"]
        parts = f"{fates['template']} replies by template, {fates['queue']} to people's queues"
        yield "settled without an LLM", f"{settled} of {total} ({settled / total:.0%}): {parts}"
        if fates["llm"]:
            yield "written by the LLM", f"{fates['llm']}"
        drafts = f", {fates['draft']} of them with a draft to read" if fates["draft"] else ""
        yield "waiting for an LLM or people", f"{fates['waiting'] + fates['draft']}{drafts}"
        yield "quarantined", f"{fates['quarantine']}"
        yield "dropped", f"{fates['drop'] + self.stopped}"

    def _doubt(self, name: str) -> str:
        why = f": {self.why[name]}" if name in self.why else ""
        shown = repr(name) if name else "its question"
        return f"{shown} is DOUBTFUL in {self.questions[name]} of {self.items}{why}"

    def _next(self) -> Iterator[str]:
        if waiting := self.fates["waiting"] + self.fates["draft"]:
            yield f"add an LLM in moa.toml to have {waiting} replies written"
        if quarantined := self.fates["quarantine"]:
            yield f"look through quarantine: {quarantined}"
        if self.questions:
            names = ", ".join(repr(name) for name in sorted(self.questions) if name) or "it"
            yield (
                f"label {self._labels} of these and run moa calibrate to decide {names} by your "
                "labels"
            )


def _fate(output: object) -> str | None:
    """Say what became of an item; `None` where its output doesn't."""
    kind = getattr(output, "kind", None)
    if kind == "reply":
        writer = getattr(output, "written_by", None)
        return writer if writer in ("template", "llm") else None
    if kind == "route":
        queue = getattr(output, "queue", None)
        return {_WAITING: "waiting", _QUARANTINE: "quarantine"}.get(cast("str", queue), "queue")
    return kind if kind in ("draft", "drop") else None


def _marked(name: str, value: object) -> Iterator[str]:
    """Name the questions whose answers in an output, however deep, are doubtful."""
    if not isinstance(value, BaseModel):
        return
    if getattr(value, "doubtful", False) is True:
        yield str(getattr(value, "question", "") or name)
    for key in type(value).model_fields:
        yield from _marked(key, getattr(value, key, None))
