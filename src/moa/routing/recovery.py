"""Recovery: how much of the quality between two models a ranking of requests recovers.

The measures are those of RouteLLM (Ong et al. 2024, arXiv 2406.18665): requests are given to the
strong model from the highest score on, and quality is followed over the share of strong calls.
Where scores are tied, the mean over all orders of the tied requests is taken, so that no measure
depends on the order of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moa.decisions.arrays import Floats, np
from moa.errors import InputError


@dataclass(frozen=True, slots=True)
class Recovery:
    """Quality over the share of strong calls: a line through points, from share 0 to share 1."""

    shares: Floats
    """Rising, from 0 to 1."""
    qualities: Floats
    """Share of right answers at each share of strong calls."""

    @property
    def weak(self) -> float:
        """Quality of the weak model alone."""
        return float(self.qualities[0])

    @property
    def strong(self) -> float:
        """Quality of the strong model alone."""
        return float(self.qualities[-1])

    @property
    def apgr(self) -> float | None:
        """Average performance gap recovered: the area under the performance gap recovered (the part
        of the gap between the models that quality has made up) over the share of strong calls,
        from 0 to 1; `None` where the strong model is no better.

        0.5 is chance. Above 1 is possible, where the weak model is right and the strong one isn't.
        The area is exact, by trapezoids between all shares that the scores can make. RouteLLM's
        paper defines it so too, and takes the mean over ten shares for it; its code takes
        trapezoids between about ten.
        """
        gap = self.strong - self.weak
        if gap <= _NOTHING:
            return None
        area = float(np.trapezoid(self.qualities, self.shares))
        return (area - self.weak) / gap

    def share_for(self, recovered: float) -> float | None:
        """Give the smallest share of strong calls that recovers a part of the gap.

        `share_for(0.5)` is CPT(50%), the call-performance threshold. `None` where the strong model
        is no better than the weak one.

        Args:
            recovered: Part of the gap, from 0 to 1.

        Raises:
            InputError: `recovered` is not from 0 to 1.
        """
        if not 0 <= recovered <= 1:
            raise InputError(f"a part of the gap is from 0 to 1, not {recovered}")
        if self.strong - self.weak <= _NOTHING:
            return None
        wanted = self.weak + recovered * (self.strong - self.weak) - _NOTHING
        place = int(np.argmax(self.qualities >= wanted))
        if place == 0:
            return 0.0
        (low, high), (left, right) = (
            (float(values[place - 1]), float(values[place]))
            for values in (self.qualities, self.shares)
        )
        return min(
            right, left + (right - left) * max(0.0, (wanted + _NOTHING - low) / (high - low))
        )

    def quality_at(self, share: float) -> float:
        """Give the quality at a share of strong calls."""
        return float(np.interp(share, self.shares, self.qualities))


_NOTHING = 1e-12


def recovery(
    scores: Sequence[float] | Floats,
    weak_correct: Sequence[bool] | Floats,
    strong_correct: Sequence[bool] | Floats,
) -> Recovery:
    """Follow the quality of a ranking.

    Args:
        scores: The higher, the sooner the strong model is asked.
        weak_correct: Whether (or how much, from 0 to 1) the weak model's answer is right.
        strong_correct: The same of the strong one.

    Raises:
        InputError: they are not as many, or none, or a score is no number.
    """
    ranked = np.asarray(scores, dtype=float)
    weak, strong = (np.asarray(values, dtype=float) for values in (weak_correct, strong_correct))
    if not len(ranked) == len(weak) == len(strong) > 0:
        raise InputError(
            f"{len(ranked)} scores, {len(weak)} weak and {len(strong)} strong answers: there must "
            "be as many of each, and at least one"
        )
    if not np.isfinite(ranked).all():
        raise InputError("a score is no number")
    levels, place = np.unique(-ranked, return_inverse=True)
    sizes = np.bincount(place, minlength=len(levels))
    gains = np.bincount(place, weights=strong - weak, minlength=len(levels))
    shares = np.concatenate([[0.0], np.cumsum(sizes) / len(ranked)])
    qualities = weak.mean() + np.concatenate([[0.0], np.cumsum(gains) / len(ranked)])
    return Recovery(shares, qualities)
