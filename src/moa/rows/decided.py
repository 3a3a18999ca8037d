"""Decided: the decisions in a line of a run, at any depth of its output."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from moa.core._json import is_object, object_of
from moa.core.questions import NONE_OF_THESE

Values = Mapping[str, Any]
DEEP = 20
"""Maximum depth to which a value is searched."""
_LABELS = ("label", "level", "value")
"""Fields that may hold the decision. The first one present counts."""


class Decision(NamedTuple):
    """The decision about one question."""

    name: str
    """Name of the question, or of its field."""
    said: str
    """Name of the option, or why there is none: `refused` or `missing`."""
    probabilities: Mapping[str, float]
    """Probabilities by option name; empty if there are none."""
    answered: bool = True
    accepted: bool | None = None
    """True if a guarantee covers it; `None`: unknown."""
    doubtful: bool = False
    filters: bool = False
    """True if it comes from a filter or a guard, about its criterion."""

    @property
    def confidence(self) -> float:
        """Probability of the decision; 0 if there is none."""
        return self.probabilities.get(self.said, 0.0) if self.answered else 0.0


def decisions_in(value: object, name: str = "", deep: int = 0) -> Iterator[Decision]:
    """Find the decisions in an output. If the output is one itself, its name is `decision`."""
    if not is_object(value) or deep == DEEP:
        return
    if is_decision(value):
        yield _decision(name or "decision", value)
    elif isinstance(value.get("met"), bool):
        yield _filter_decision(name or "decision", value)
    else:
        for key, inner in value.items():
            yield from decisions_in(inner, key, deep + 1)


def is_decision(fields: Mapping[str, object]) -> bool:
    """Return True for the fields of a decision with probabilities."""
    return is_object(fields.get("probabilities"))


def format_value(value: object) -> str:
    """Format a value of a line for people."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{round(value, 4)}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def describe_fields(fields: Iterable[tuple[str, object]]) -> str:
    """Format the plain fields of a result in one line, without empty ones."""
    pairs = [
        (name, value)
        for name, value in fields
        if isinstance(value, str | int | float) and value != ""
    ]
    return ", ".join(f"{name} {format_value(value)}" for name, value in pairs)


def _decision(name: str, fields: Mapping[str, object]) -> Decision:
    label = next((fields[field] for field in _LABELS if fields.get(field) is not None), None)
    status = fields.get("status", "answered")
    option = NONE_OF_THESE if label is None else format_value(label)
    return Decision(
        name=name,
        said=option if status == "answered" else str(status),
        probabilities=numbers(fields["probabilities"]),
        answered=status == "answered",
        accepted=_bool_or_none(fields.get("accepted")),
        doubtful=fields.get("doubtful") is True,
    )


def _filter_decision(name: str, fields: Mapping[str, object]) -> Decision:
    option = "yes" if fields["met"] else "no"
    confidence = fields.get("confidence")
    p = float(confidence) if isinstance(confidence, int | float) else None
    opposite = "no" if option == "yes" else "yes"
    return Decision(
        name=name,
        said=option,
        probabilities={} if p is None else {option: p, opposite: 1.0 - p},
        accepted=_bool_or_none(fields.get("accepted")),
        doubtful=fields.get("doubtful") is True,
        filters=True,
    )


def numbers(value: object) -> dict[str, float]:
    """Return the numeric values of a JSON object."""
    return {
        name: float(p)
        for name, p in object_of(value).items()
        if isinstance(p, int | float) and not isinstance(p, bool)
    }


def _bool_or_none(value: object) -> bool | None:
    return value if isinstance(value, bool) else None
