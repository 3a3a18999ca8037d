"""Curve: what each threshold would accept, and how many errors that leaves possible there.

Each point stands for itself, and guarantees nothing: whoever looks at all of them and takes the
best has looked many times. What is guaranteed of a threshold is tested, on new rows (`bounds.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from moa.calibration import upper_bound
from moa.calibration.bounds import Outcome, one_of_each
from moa.decisions.arrays import np
from moa.node import Frozen

_POINTS = 120


class CurvePoint(Frozen):
    """A threshold, and what became of the labelled decisions from it on."""

    threshold: float
    """Decisions from this confidence on are accepted."""
    accepted: int
    errors: int
    """Wrong ones among the accepted."""
    lower: float
    """Smallest error rate that these counts leave possible, by the exact one-sided bound."""
    upper: float
    """Largest error rate that they leave possible, by the exact one-sided bound."""


def curve(
    outcomes: Sequence[Outcome], *, confidence: float = 0.95, most: int = _POINTS
) -> tuple[CurvePoint, ...]:
    """Follow the error rate from the strictest threshold to the one that accepts all.

    Args:
        outcomes: Labelled decisions that were drawn at random. One of each case counts.
        confidence: Of each bound by itself.
        most: Points, spread evenly over what they accept.
    """
    cases = sorted(one_of_each(outcomes), key=lambda one: -one.confidence)
    if not cases:
        return ()
    wrong = np.cumsum([not one.correct for one in cases])
    sure = np.array([one.confidence for one in cases])
    ends = np.flatnonzero(np.append(sure[1:] < sure[:-1], True))  # equal ones stay together
    if len(ends) > most:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, most).astype(int))]
    return tuple(
        _point(float(sure[end]), int(end) + 1, int(wrong[end]), confidence) for end in ends
    )


def _point(threshold: float, accepted: int, errors: int, confidence: float) -> CurvePoint:
    return CurvePoint(
        threshold=threshold,
        accepted=accepted,
        errors=errors,
        lower=1.0 - upper_bound(accepted - errors, accepted, confidence),
        upper=upper_bound(errors, accepted, confidence),
    )
