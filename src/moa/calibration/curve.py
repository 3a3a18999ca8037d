"""Curve: what each threshold would accept, and the error rates possible there.

No point is a guarantee: picking the best of all thresholds means testing many. A threshold's
guarantee is tested on new rows (`bounds.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from moa.calibration import upper_bound
from moa.calibration.bounds import Outcome, draw_one_per_case
from moa.decisions.arrays import np
from moa.node import Frozen

_POINTS = 120


class CurvePoint(Frozen):
    """A threshold, with the labelled decisions that it accepts."""

    threshold: float
    """Decisions from this confidence on are accepted."""
    accepted: int
    errors: int
    """Wrong ones among the accepted."""
    lower: float
    """Lower bound of the error rate by these counts, exact and one-sided."""
    upper: float
    """Upper bound of the error rate by these counts, exact and one-sided."""


def risk_curve(
    outcomes: Sequence[Outcome], *, confidence: float = 0.95, most: int = _POINTS
) -> tuple[CurvePoint, ...]:
    """Compute the error rate from the strictest threshold to the one that accepts all.

    Args:
        outcomes: Randomly drawn labelled decisions. One of each case counts.
        confidence: Confidence of each bound by itself.
        most: Maximum of points, spread evenly over the accepted counts.
    """
    cases = sorted(draw_one_per_case(outcomes), key=lambda one: -one.confidence)
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
