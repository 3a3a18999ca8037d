"""Decided: the decisions in a line that a run wrote, however deep in its output."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from moa.questions import NONE_OF_THESE

Values = Mapping[str, Any]
DEEP = 20
"""Levels of a value that are looked into."""
_LABELS = ("label", "level", "value")
"""Fields of a decision that say it, the first that is there."""


class Decision(NamedTuple):
    """The decision about one question."""

    name: str
    """Of the question, or the field that it stands in."""
    said: str
    """Name of the option; else why there is none: `refused` or `missing`."""
    probabilities: Mapping[str, float]
    """By name of the option; empty where there are none."""
    answered: bool = True
    accepted: bool | None = None
    """Whether a guarantee covers it; `None`: nothing says so."""
    doubtful: bool = False
    filters: bool = False
    """Whether it comes from a filter or a guard, which says if a text meets its criterion."""

    @property
    def confidence(self) -> float:
        """Probability of the decision; 0 if there is none."""
        return self.probabilities.get(self.said, 0.0) if self.answered else 0.0


def decisions_in(value: object, name: str = "", deep: int = 0) -> Iterator[Decision]:
    """Find the decisions in an output; one that is the output itself is called `decision`."""
    if not isinstance(value, Mapping) or deep == DEEP:
        return
    fields = cast("Values", value)
    if is_decision(fields):
        yield _decision(name or "decision", fields)
    elif isinstance(fields.get("met"), bool):
        yield _filtered(name or "decision", fields)
    else:
        for key, inner in fields.items():
            yield from decisions_in(inner, key, deep + 1)


def is_decision(fields: Values) -> bool:
    """Return True for the fields of a decision with probabilities."""
    return isinstance(fields.get("probabilities"), Mapping)


def written(value: object) -> str:
    """Write a value in a line as people read it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{round(value, 4)}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def describe_fields(fields: Iterable[tuple[str, object]]) -> str:
    """Write the plain fields of a result in one line, save those that are empty."""
    plain = [
        (name, value)
        for name, value in fields
        if isinstance(value, str | int | float) and value != ""
    ]
    return ", ".join(f"{name} {written(value)}" for name, value in plain)


def _decision(name: str, fields: Values) -> Decision:
    label = next((fields[field] for field in _LABELS if fields.get(field) is not None), None)
    status = fields.get("status", "answered")
    said = NONE_OF_THESE if label is None else written(label)
    return Decision(
        name=name,
        said=said if status == "answered" else str(status),
        probabilities=numbers(fields["probabilities"]),
        answered=status == "answered",
        accepted=_truth(fields.get("accepted")),
        doubtful=fields.get("doubtful") is True,
    )


def _filtered(name: str, fields: Values) -> Decision:
    said = "yes" if fields["met"] else "no"
    sure = fields.get("confidence")
    p = float(sure) if isinstance(sure, int | float) else None
    other = "no" if said == "yes" else "yes"
    return Decision(
        name=name,
        said=said,
        probabilities={} if p is None else {said: p, other: 1.0 - p},
        accepted=_truth(fields.get("accepted")),
        doubtful=fields.get("doubtful") is True,
        filters=True,
    )


def numbers(found: Any) -> dict[str, float]:
    """Return the numeric values of a mapping."""
    return {
        str(name): float(p)
        for name, p in found.items()
        if isinstance(p, int | float) and not isinstance(p, bool)
    }


def _truth(value: object) -> bool | None:
    return value if isinstance(value, bool) else None
