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
from moa.decisions.measures import coverage_at_risk, measure

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
    ece_by_chance: float | None = None
    """As in `Measures`; `None` in files that were made without it."""
    log_loss: float
    coverage: float
    """Share of the decisions, the surest first, of which no more than the risk are wrong."""
    seconds: float
    """Wall time of a decision, several being made at once."""
    tokens: float
    """Tokens of a decision that no cache had."""
    cost: float | None
    """US dollars of a decision; `None` is unknown."""
    utility: float
    """Minus the log loss, less the price of its time. The log loss tells candidates apart that
    accuracy and coverage, of a few hundred texts, leave to luck."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate, and the members it is made of."""

    candidate: Candidate
    places: tuple[int, ...]
    probabilities: Floats
    """Of each text, by fits without its label."""


def tried(
    readings: Sequence[Reading],
    parts: Sequence[Part],
    labels: Ints,
    folds: Ints,
    *,
    risk: float,
    price: float,
) -> list[Tried]:
    """Try each member alone, then add to the best what lowers the log loss, one at a time.

    Args:
        readings: What the members gave.
        parts: The members, fitted to `labels`.
        labels: Index of the right option of each text.
        folds: Number of the part that each text belongs to.
        risk: Share of the accepted that may be wrong.
        price: How much lower the log loss must be for a second a decision.
    """

    def of(places: tuple[int, ...]) -> Tried:
        probabilities = held_out([parts[place] for place in places], labels, folds)
        return Tried(
            _candidate([readings[place] for place in places], probabilities, labels, risk, price),
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


def unlearnt(
    readings: Sequence[Reading], probabilities: Floats, labels: Ints, *, risk: float, price: float
) -> Tried:
    """Measure all members together, as they are; the arguments are those of `tried`."""
    candidate = _candidate(readings, probabilities, labels, risk, price)
    return Tried(candidate, tuple(range(len(readings))), probabilities)


def chosen(found: Sequence[Tried], *, price: float) -> tuple[Tried, str]:
    """Choose the candidate of the highest utility, and say why."""
    best = max(found, key=lambda one: one.candidate.utility)
    without = min(found, key=lambda one: one.candidate.log_loss)
    mine, other = best.candidate, without.candidate
    if best is without:
        return best, (
            f"{mine.name}: the best by cross-validation ({_figures(mine)}), and worth its "
            f"{_time(mine.seconds)} a decision at a price of {price:g} a second"
        )
    return best, (
        f"{mine.name} ({_figures(mine)}): {other.name} is better ({_figures(other)}), but takes "
        f"{_time(other.seconds)} a decision instead of {_time(mine.seconds)}; at a price of "
        f"{price:g} a second that is the worse bargain"
    )


def _figures(one: Candidate) -> str:
    return f"log loss {one.log_loss:.3f}, {one.accuracy:.3f} right, {one.coverage:.0%} acceptable"


def _candidate(
    readings: Sequence[Reading], probabilities: Floats, labels: Ints, risk: float, price: float
) -> Candidate:
    measures = measure(probabilities, labels)
    right = probabilities.argmax(1) == labels
    coverage = coverage_at_risk(probabilities.max(1), right, risk)
    loss = log_loss(np.log(np.maximum(probabilities, 1e-12)), labels)
    seconds = sum(reading.seconds for reading in readings)
    costs = [reading.cost for reading in readings if reading.cost is not None]
    return Candidate(
        name=" + ".join(reading.member.name for reading in readings),
        accuracy=measures.accuracy,
        macro_f1=measures.macro_f1,
        ece=measures.ece,
        ece_by_chance=measures.ece_by_chance,
        log_loss=loss,
        coverage=coverage,
        seconds=seconds,
        tokens=sum(reading.tokens for reading in readings),
        cost=float(sum(costs)) if len(costs) == len(readings) else None,
        utility=-loss - price * seconds,
    )


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
