"""Verdicts: whether a design pays, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from moa.calibration import percent
from moa.evals.intervals import Interval
from moa.evals.report import DesignReport

MARGIN = 0.05
"""The non-inferiority margin: a cheaper design pays where it is shown to lose less quality than
this, on the scale of the metric, from 0 to 1 (Piaggio et al. 2012, JAMA 308). It is fixed before
any answer is looked at; half of it would take about four times the cases."""


class Ruling(NamedTuple):
    """Whether a design pays, and why."""

    pays: bool | None
    """`None`: that is for the user to weigh, or the cases are too few to tell."""
    sentence: str


def ruling(
    design: DesignReport,
    others: Sequence[DesignReport],
    reference: DesignReport,
    lead: Mapping[str, Interval],
) -> Ruling:
    """Say whether a design pays.

    Args:
        design: The one in question.
        others: All others, the reference among them.
        reference: What it is compared with.
        lead: How much better the design is than each of the others, by name.
    """
    if design.name == reference.name:
        return Ruling(None, "what the others are compared with")
    ratios = {other.name: cost_ratio(other, design) for other in others}
    cheaper = [o for o in others if (ratio := ratios[o.name]) is not None and ratio < 1.0]
    as_good = [o for o in cheaper if lead[o.name].low <= 0.0 and lead[o.name].high < MARGIN]
    if as_good:
        best = min(as_good, key=lambda o: lead[o.name].high)
        apart = _apart(lead[best.name])
        how = f"less than {MARGIN} worse, if at all" if lead[best.name].high >= 0.0 else "better"
        return Ruling(
            False,
            f"doesn't pay: {best.name} is cheaper, and {how} ({apart} against it). Use {best.name}",
        )
    return _beside(lead[reference.name], _cost(design, reference), reference.name)


def cost_ratio(design: DesignReport, other: DesignReport) -> float | None:
    """Give what a design costs as a multiple of another; `None` where neither prices nor calls
    to large models tell.
    """
    if design.cost is not None and other.cost:
        return design.cost / other.cost
    if design.cost and other.cost == 0.0:
        return float("inf")
    unpriced = design.cost is None or other.cost is None
    return design.llm_calls / other.llm_calls if unpriced and other.llm_calls else None


class _Cost(NamedTuple):
    ratio: float | None
    words: str


def _cost(design: DesignReport, reference: DesignReport) -> _Cost:
    ratio = cost_ratio(design, reference)
    priced = design.cost is not None and reference.cost is not None
    what = "cost" if priced else "calls to large models (prices are not known)"
    if ratio is None:
        return _Cost(None, "at a cost that is not known")
    share = f"{percent(ratio)} of" if ratio <= 1.0 else f"{ratio:.1f} times"
    return _Cost(ratio, f"at {share} the {what}")


def _apart(lead: Interval) -> str:
    return f"{lead.value:+.3f} ({lead.low:+.3f} to {lead.high:+.3f})"


def _beside(lead: Interval, cost: _Cost, reference: str) -> Ruling:
    apart = _apart(lead)
    saves = cost.ratio is not None and cost.ratio < 1.0
    if lead.low > 0.0:
        return Ruling(True, f"pays: better than {reference} by {apart}, {cost.words}")
    if lead.high < 0.0 and saves:
        return Ruling(
            None, f"worse than {reference} by {apart}, {cost.words}: pays only if that loss is fine"
        )
    if lead.high < 0.0:
        return Ruling(False, f"doesn't pay: worse than {reference} by {apart}, {cost.words}")
    if not saves:
        return Ruling(
            False, f"doesn't pay: not shown to be better than {reference} ({apart}), {cost.words}"
        )
    if lead.low > -MARGIN:
        return Ruling(
            True,
            f"pays: less than {MARGIN} worse than {reference}, if at all ({apart}), {cost.words}",
        )
    return Ruling(
        None,
        f"not shown to pay: these cases don't exclude that it is {-lead.low:.3f} worse than "
        f"{reference} ({apart}), and less than {MARGIN} is wanted, {cost.words}",
    )
