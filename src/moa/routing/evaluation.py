"""Routing evaluation: the part of the quality gap between two models that a ranking recovers.

The measures are those of RouteLLM (Ong et al. 2024, arXiv 2406.18665): the highest scores go to the
strong model first, and quality is measured over the share of strong calls. For tied scores, the
mean over all orders of the tied requests is taken, so that no measure depends on the order of rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import computed_field

from moa.core.errors import InputError
from moa.core.node import Frozen
from moa.decisions.arrays import Floats, np
from moa.evals.metrics import Interval, difference, stats
from moa.evals.plots import Axes, save_picture
from moa.routing.recorded import RecordedRequest
from moa.routing.router import Router, RouterKind

CHANCE = 0.5
_DRAWS = 1000
_CONFIDENCE = 0.95
_NOTHING = 1e-12


class Figures(Frozen):
    """APGR, and the shares of strong calls that recover 50 % and 80 % of the gap."""

    apgr: float | None
    """`None`, like the others, if the strong model is no better than the weak one."""
    cpt50: float | None
    cpt80: float | None


RANDOM = Figures(apgr=CHANCE, cpt50=0.5, cpt80=0.8)
"""Average figures of asking the strong model at random."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Quality over the share of strong calls: a line through points, from share 0 to share 1."""

    shares: Floats
    """Shares of strong calls, rising from 0 to 1."""
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
        """Average performance gap recovered (APGR); `None` if the strong model is no better.

        It is the area under the performance gap recovered (the part of the gap between the models
        that quality has made up) over the share of strong calls, from 0 to 1.
        0.5 is chance. Above 1 is possible, if the weak model is right and the strong one isn't.

        The area is exact, by trapezoids between all shares that the scores allow. RouteLLM's paper
        has the same definition, but takes the mean over ten shares. Its code takes trapezoids
        between about ten.
        """
        gap = self.strong - self.weak
        if gap <= _NOTHING:
            return None
        area = float(np.trapezoid(self.qualities, self.shares))
        return (area - self.weak) / gap

    def share_for(self, recovered: float) -> float | None:
        """Return the smallest share of strong calls that recovers a part of the gap (0 to 1).

        `share_for(0.5)` is CPT(50%), the call-performance threshold. `None` if the strong model is
        no better than the weak one.
        """
        if not 0 <= recovered <= 1:
            raise InputError(f"a part of the gap is from 0 to 1, not {recovered}")
        if self.strong - self.weak <= _NOTHING:
            return None
        quality = self.weak + recovered * (self.strong - self.weak) - _NOTHING
        index = int(np.argmax(self.qualities >= quality))
        if index == 0:
            return 0.0
        low, high = self.qualities[index - 1 : index + 1].tolist()
        left, right = self.shares[index - 1 : index + 1].tolist()
        along = max(0.0, (quality + _NOTHING - low) / (high - low))
        return min(right, left + (right - left) * along)

    @property
    def figures(self) -> Figures:
        """The figures of this curve."""
        return Figures(apgr=self.apgr, cpt50=self.share_for(0.5), cpt80=self.share_for(0.8))

    def quality_at(self, share: float) -> float:
        """Return the quality at a share of strong calls."""
        return float(np.interp(share, self.shares, self.qualities))


def recovery(
    scores: Sequence[float] | Floats,
    weak_correct: Sequence[bool] | Floats,
    strong_correct: Sequence[bool] | Floats,
) -> Recovery:
    """Return the quality curve of a ranking. The highest scores go to the strong model first.

    Answers are right or wrong, or partly right, from 0 to 1.

    Raises:
        InputError: their numbers differ or are 0, or a score isn't a finite number.
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
    levels, inverse = np.unique(-ranked, return_inverse=True)
    sizes = np.bincount(inverse, minlength=len(levels))
    gains = np.bincount(inverse, weights=strong - weak, minlength=len(levels))
    shares = np.concatenate([[0.0], np.cumsum(sizes) / len(ranked)])
    qualities = weak.mean() + np.concatenate([[0.0], np.cumsum(gains) / len(ranked)])
    return Recovery(shares, qualities)


class ThresholdResult(Frozen):
    """Result of a router at its threshold."""

    threshold: float
    strong_share: float
    """Share of the requests that go to the strong model."""
    quality: float
    """Share of right answers."""


class RoutingReport(Figures):
    """Result of a ranking on requests that both models have answered."""

    kind: RouterKind | None = None
    """`None` if it isn't a router's ranking."""
    n: int
    weak_quality: float
    strong_quality: float
    gap: Interval
    """Lead of the strong model, on the same requests."""
    apgr_interval: tuple[float, float] | None
    """95 % confidence interval of APGR, by bootstrap over the requests; `None` if the gap is not
    shown to be above 0."""
    random: Figures = RANDOM
    oracle: Figures
    """Figures of a ranking that knows both answers: no router can do better."""
    at_threshold: ThresholdResult | None = None
    """`None` if it isn't a router's ranking."""
    curve: tuple[tuple[float, float], ...]
    """Pairs of the share of strong calls, from 0 to 1, and quality."""

    @computed_field
    @property
    def verdict(self) -> str:
        """The verdict on routing by this ranking, in words."""
        gap = self.gap.signed
        if self.gap.high < 0.0:
            return (
                f"Routing doesn't pay here: the strong model is worse, by {gap}. Use the weak one."
            )
        if self.apgr_interval is None or self.cpt80 is None:
            return (
                f"Not shown to pay: on {self.n} rows the strong model is better by {gap}, which "
                "may be nothing. Use the weak one, or give more rows."
            )
        low, high = self.apgr_interval
        if low <= CHANCE:
            return (
                f"That is not told from chance (0.500) on {self.n} rows: the interval is from "
                f"{low:.3f} to {high:.3f}. Don't route by it before more rows say otherwise."
            )
        return (
            f"Better than chance: on these rows {self.cpt80:.0%} strong calls recover 80 % "
            f"of the gap of {gap}, where chance takes 80 %."
        )


def evaluate_routing(
    scores: Sequence[float] | Floats,
    weak_correct: Sequence[bool],
    strong_correct: Sequence[bool],
    *,
    router: Router | None = None,
) -> RoutingReport:
    """Evaluate a ranking (see `recovery`), and its `router` at the router's threshold.

    Raises:
        InputError: their numbers differ or are 0, or a score isn't a finite number.
        MissingDependency: scipy is not installed.
    """
    line = recovery(scores, weak_correct, strong_correct)
    weak, strong = (np.asarray(v, dtype=float) for v in (weak_correct, strong_correct))
    gap, at_threshold = difference(strong, weak), None
    if router is not None:
        share = float((np.asarray(scores) >= router.threshold).mean())
        at_threshold = ThresholdResult(
            threshold=router.threshold, strong_share=share, quality=line.quality_at(share)
        )
    return RoutingReport(
        **dict(line.figures),
        kind=router and router.kind,
        n=len(weak),
        weak_quality=line.weak,
        strong_quality=line.strong,
        gap=gap,
        apgr_interval=_interval(np.asarray(scores), weak, strong) if gap.low > 0.0 else None,
        oracle=recovery(strong - weak, weak, strong).figures,
        at_threshold=at_threshold,
        curve=tuple(zip(line.shares.tolist(), line.qualities.tolist(), strict=True)),
    )


def _interval(scores: Floats, weak: Floats, strong: Floats) -> tuple[float, float] | None:
    """Bootstrap APGR over the requests, without draws in which the strong model is no better."""

    def apgr(*sample: Floats) -> float:
        value = recovery(*sample).apgr
        return np.nan if value is None else value

    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # for draws without one
        result = stats().bootstrap(
            (scores, weak, strong),
            apgr,
            paired=True,
            vectorized=False,
            n_resamples=_DRAWS,
            method="percentile",
            rng=np.random.default_rng(0),
        )
    values: Floats = result.bootstrap_distribution
    values = values[~np.isnan(values)]
    if not values.size:
        return None
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail]).tolist()
    return low, high


def evaluate_router(router: Router, recorded: Sequence[RecordedRequest]) -> RoutingReport:
    """Evaluate a router on recorded answers that it wasn't fitted on.

    Raises:
        InputError: there are none, or it is a cascade and one has no reply.
        MissingDependency: scipy is not installed.
    """
    gains = router.gains([row.case for row in recorded])
    weak, strong = [r.weak_correct for r in recorded], [r.strong_correct for r in recorded]
    return evaluate_routing(gains, weak, strong, router=router)


def plot_routing(report: RoutingReport, path: Path, *, title: str = "") -> None:
    """Draw the curve of a router as `.png` or `.svg`, with chance and both models alone."""
    save_picture(path, partial(_draw, report, title))


def _draw(report: RoutingReport, title: str, axes: Axes) -> None:
    ends = (report.weak_quality, report.strong_quality)
    axes.plot((0, 1), ends, linestyle="--", color="grey", label="by chance: APGR 0.500")
    name = "router" if report.apgr is None else f"router: APGR {report.apgr:.3f}"
    axes.plot(*zip(*report.curve, strict=True), color="tab:blue", label=name)
    for value, label in zip(ends, ("weak model alone", "strong model alone"), strict=True):
        axes.axhline(value, linewidth=0.8, color="grey")
        axes.annotate(label, (0.1, value), textcoords="offset points", xytext=(0, 3), fontsize=8)
    axes.set(xlabel="share of strong calls", ylabel="share of right answers", title=title)
    axes.set_xlim(0, 1)
    axes.legend(loc="center right")
