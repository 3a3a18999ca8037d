"""Routing evals: what a ranking of requests recovers, beside chance and an oracle.

APGR and CPT are RouteLLM's (Ong et al. 2024, arXiv 2406.18665); see `moa.routing.recovery`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moa.evals.intervals import Interval, difference
from moa.routing.recovery import Recovery, recovery

_DRAWS = 1000
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Figures:
    """APGR, and the shares of strong calls that recover 50 % and 80 % of the gap."""

    apgr: float | None
    """`None`, as the others, where the strong model is no better than the weak one."""
    cpt50: float | None
    cpt80: float | None


CHANCE = 0.5
RANDOM = Figures(apgr=CHANCE, cpt50=0.5, cpt80=0.8)
"""What asking the strong model by chance recovers, on average."""


@dataclass(frozen=True, slots=True)
class RoutingReport:
    """What a ranking recovers on requests that both models have answered."""

    n: int
    weak_quality: float
    strong_quality: float
    figures: Figures
    gap: Interval
    """How much better the strong model is, on the same requests."""
    interval: tuple[float, float] | None
    """Where APGR lies with 95 % confidence, by bootstrap over the requests; `None` where the gap is
    not shown to be above 0, since APGR is a part of it."""
    oracle: Figures
    """Of a ranking that knows both answers: no router can do better."""
    line: Recovery

    @property
    def curve(self) -> list[tuple[float, float]]:
        """Pairs of the share of strong calls, from 0 to 1, and quality."""
        return list(zip(self.line.shares.tolist(), self.line.qualities.tolist(), strict=True))

    @property
    def verdict(self) -> str:
        """Say in a sentence whether routing by this ranking pays."""
        gap = f"{self.gap.value:+.3f} ({self.gap.low:+.3f} to {self.gap.high:+.3f})"
        if self.gap.high < 0.0:
            return (
                f"Routing doesn't pay here: the strong model is worse, by {gap}. Use the weak one."
            )
        if self.interval is None or self.figures.cpt80 is None:
            return (
                f"Not shown to pay: on {self.n} rows the strong model is better by {gap}, which "
                "may be nothing. Use the weak one, or give more rows."
            )
        low, high = self.interval
        if low <= CHANCE:
            return (
                f"That is not told from chance (0.500) on {self.n} rows: the interval is from "
                f"{low:.3f} to {high:.3f}. Don't route by it before more rows say otherwise."
            )
        return (
            f"Better than chance: on these rows {self.figures.cpt80:.0%} strong calls recover 80 % "
            f"of the gap of {gap}, where chance takes 80 %."
        )


def figures_of(line: Recovery) -> Figures:
    """Read the figures off a curve."""
    return Figures(line.apgr, line.share_for(0.5), line.share_for(0.8))


def evaluate_routing(
    scores: Sequence[float] | NDArray[np.float64],
    weak_correct: Sequence[bool],
    strong_correct: Sequence[bool],
) -> RoutingReport:
    """Evaluate a ranking.

    Args:
        scores: The higher, the sooner the strong model is asked.
        weak_correct: Whether the weak model's answers are right.
        strong_correct: Whether the strong one's are.

    Raises:
        InputError: they are not as many, or none, or a score is no number.
    """
    line = recovery(scores, weak_correct, strong_correct)
    weak, strong = (np.asarray(v, dtype=float) for v in (weak_correct, strong_correct))
    gap = difference(strong, weak)
    return RoutingReport(
        n=len(weak),
        weak_quality=line.weak,
        strong_quality=line.strong,
        figures=figures_of(line),
        gap=gap,
        interval=_interval(np.asarray(scores), weak, strong) if gap.low > 0.0 else None,
        oracle=figures_of(recovery(strong - weak, weak, strong)),
        line=line,
    )


def _interval(
    scores: NDArray[np.float64], weak: NDArray[np.float64], strong: NDArray[np.float64]
) -> tuple[float, float] | None:
    draws = np.random.default_rng(0).integers(0, len(weak), (_DRAWS, len(weak)))
    found = [recovery(scores[drawn], weak[drawn], strong[drawn]).apgr for drawn in draws]
    known = [apgr for apgr in found if apgr is not None]
    if not known:
        return None
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail]).tolist()
    return low, high
