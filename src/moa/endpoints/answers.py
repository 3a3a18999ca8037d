"""Answers: reads the probabilities that a server sends, and works out nothing but them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from moa.errors import InvalidResponse
from moa.questions import Answer, Question

_BAND = (0.97, 1.03)
"""Sums that are rounding: gateways that keep two decimals send 0.33 three times."""
_ROUNDING = 1e-6
"""How far a probability may lie outside of 0 to 1."""


def answered(
    question: Question,
    probabilities: Sequence[object],
    *,
    endpoint: str,
    label_mass: object = None,
) -> Answer:
    """Build the answer to a question from a probability for each option, in order.

    Raises:
        InvalidResponse: one is no probability, or they don't add up to 1.
    """
    read = [_probability(value, question, endpoint) for value in probabilities]
    total = math.fsum(read)
    if not _BAND[0] <= total <= _BAND[1]:
        raise InvalidResponse(
            f"the probabilities of question {question.name!r} add up to {total:.4g}, not to 1",
            endpoint=endpoint,
        )
    return Answer(
        question=question,
        probabilities=tuple(value / total for value in read),
        label_mass=_number(label_mass),
    )


def by_name(
    question: Question, names: Sequence[str], given: Mapping[str, Any], *, endpoint: str
) -> list[object]:
    """Put probabilities that came under the names of options in order; one left out is 0.

    Raises:
        InvalidResponse: there is one for an option that was not offered.
    """
    exact = {name: index for index, name in enumerate(names)}
    alike: dict[str, int] = {}
    for index, name in enumerate(names):
        key = _folded(name)
        alike[key] = -1 if key in alike else index
    ordered: list[object] = [0.0] * len(names)
    for name, value in given.items():
        index = exact.get(name, alike.get(_folded(name), -1))
        if index < 0:
            raise InvalidResponse(
                f"question {question.name!r} was answered with option {name!r}, which was not "
                f"offered. Options: {', '.join(names)}",
                endpoint=endpoint,
            )
        ordered[index] = value
    return ordered


def complement(yes: object) -> list[object]:
    """Put the probability of no beside that of yes."""
    number = _number(yes)
    return [yes, yes if number is None else 1.0 - number]


def written(question: Question, name: object) -> Answer:
    """Build the answer from a written label; one that was not offered is no answer."""
    names = [_folded(option.name) for option in question.options]
    label = _folded(name.strip()) if isinstance(name, str) else ""
    if names.count(label) != 1:
        return Answer(question=question, status="missing", source="text")
    return Answer(question=question, written=names.index(label), source="text")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _probability(value: object, question: Question, endpoint: str) -> float:
    number = _number(value)
    if number is None or not -_ROUNDING <= number <= 1.0 + _ROUNDING:
        raise InvalidResponse(
            f"{value!r} is no probability (question {question.name!r})", endpoint=endpoint
        )
    return min(1.0, max(0.0, number))


def _number(value: object) -> float | None:
    """Read a finite number; booleans are none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
