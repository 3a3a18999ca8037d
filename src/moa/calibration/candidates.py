"""Candidates: which members are worth what they take, by cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from moa.calibration.reading_members import Reading
from moa.calibration.scorers import Part, held_out
from moa.decisions.arrays import Floats, Ints
from moa.decisions.heads import log_loss
from moa.decisions.measures import measure

_GAIN = 0.002
"""Least fall of the log loss for which a member is added."""


class Candidate(BaseModel):
    """Some members together, and what they reach and take."""

    model_config = ConfigDict(frozen=True)

    name: str
    accuracy: float
    macro_f1: float
    ece: float
    """Expected calibration error, in 10 bins."""
    log_loss: float
    seconds: float
    """Wall time of a decision, several being made at once."""
    tokens: float
    """Tokens of a decision that no cache had."""
    cost: float | None
    """US dollars of a decision; `None` is unknown."""
    utility: float
    """Accuracy less the price of its time."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate, and the members it is made of."""

    candidate: Candidate
    places: tuple[int, ...]
    probabilities: Floats
    """Of each text, by fits without its label."""


def tried(
    readings: Sequence[Reading], parts: Sequence[Part], labels: Ints, folds: Ints, *, price: float
) -> list[Tried]:
    """Try each member alone, then add to the best what lowers the log loss, one at a time.

    Args:
        readings: What the members gave.
        parts: The members, fitted to `labels`.
        labels: Index of the right option of each text.
        folds: Number of the part that each text belongs to.
        price: Accuracy that a second a decision must bring.
    """

    def of(places: tuple[int, ...]) -> Tried:
        probabilities = held_out([parts[place] for place in places], labels, folds)
        return Tried(
            _candidate([readings[place] for place in places], probabilities, labels, price),
            places,
            probabilities,
        )

    # The options in the opposite order are the same member once more, and stand beside it.
    alone = [p for p, r in enumerate(readings) if not getattr(r.member, "turned", False)]
    found = [of((place,)) for place in alone]
    best = min(found, key=lambda one: one.candidate.log_loss)
    while len(best.places) < len(parts):
        others = [
            of(tuple(sorted((*best.places, place))))
            for place in range(len(parts))
            if place not in best.places
        ]
        better = min(others, key=lambda one: one.candidate.log_loss)
        if better.candidate.log_loss > best.candidate.log_loss - _GAIN:
            break
        found.append(better)
        best = better
    return found


def chosen(found: Sequence[Tried], *, price: float) -> tuple[Tried, str]:
    """Choose the candidate of the highest utility, and say why."""
    best = max(found, key=lambda one: (one.candidate.utility, -one.candidate.log_loss))
    accurate = max(found, key=lambda one: (one.candidate.accuracy, -one.candidate.log_loss))
    mine, other = best.candidate, accurate.candidate
    if best is accurate or mine.accuracy >= other.accuracy:
        return best, (
            f"{mine.name}: the most accurate by cross-validation ({mine.accuracy:.3f}), and worth "
            f"its {_time(mine.seconds)} a decision at a price of {price:g} a second"
        )
    return best, (
        f"{mine.name}: {other.accuracy - mine.accuracy:.3f} less accurate than {other.name} "
        f"({mine.accuracy:.3f}, {other.accuracy:.3f}), but {_time(mine.seconds)} a decision "
        f"instead of {_time(other.seconds)}; at a price of {price:g} a second that is the better "
        "bargain"
    )


def _candidate(
    readings: Sequence[Reading], probabilities: Floats, labels: Ints, price: float
) -> Candidate:
    measures = measure(probabilities, labels)
    seconds = sum(reading.seconds for reading in readings)
    costs = [reading.cost for reading in readings if reading.cost is not None]
    return Candidate(
        name=" + ".join(reading.member.name for reading in readings),
        accuracy=measures.accuracy,
        macro_f1=measures.macro_f1,
        ece=measures.ece,
        log_loss=log_loss(np.log(np.maximum(probabilities, 1e-12)), labels),
        seconds=seconds,
        tokens=sum(reading.tokens for reading in readings),
        cost=float(sum(costs)) if len(costs) == len(readings) else None,
        utility=measures.accuracy - price * seconds,
    )


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
