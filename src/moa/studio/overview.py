"""Overview: the figures of all rows, made with the library's own exact bounds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from moa.calibration import percent, upper_bound
from moa.errors import MissingDependency
from moa.studio.book import Book, Entry, Verdict
from moa.studio.data import Curve, Figure, Point, TestedThreshold, Tone

if TYPE_CHECKING:
    from moa.calibration.bounds import CurvePoint
    from moa.calibration.figures import LearningFigures
    from moa.calibration.file import Calibration

_SURE = 0.95


Calibrations = Mapping[str, "Calibration"]
"""By question; that of a file of one question is called `""`."""


def no_calibrations() -> Calibrations:
    """Return none."""
    return {}


def figures(
    book: Book, calibrations: Calibrations, learning: LearningFigures | None = None
) -> tuple[Figure, ...]:
    """Return the four numbers on top."""
    if learning is not None:
        return _learning(learning)
    rows = book.entries
    done = [one for one in rows if one.status != "failed"]
    large = [one for one in rows if one.tier == "large"]
    small = sum(one.tier != "large" for one in done)
    return (
        Figure(
            title="Without the large model",
            value=_share(small, len(rows)),
            detail=f"{small:,} of {len(rows):,} rows{_count_others(book)}",
        ),
        Figure(
            title="Asked the large model",
            value=_share(len(large), len(rows)),
            detail=_describe_large(large),
        ),
        _money(rows),
        _guarantee_figure(rows, calibrations),
    )


def curve_of(
    name: str, book: Book, calibrations: Calibrations, next_step: str, cost: float | None
) -> Curve:
    """Return the curve of coverage against error of a question.

    Args:
        name: The question.
        book: The rows.
        calibrations: Those whose thresholds were tested.
        next_step: The command that tests a wish.
        cost: US dollars that the large model costs for a row, by `cost_of_large`.
    """
    tested = _tested_threshold(name, book, calibrations)
    known = [one for one in book.labelled_entries(name) if _is_measured(one.decisions[name])]
    drawn = [one for one in known if name not in one.chosen]
    if not drawn:
        also = f" The {len(known)} labelled here were chosen to be looked at." if known else ""
        return Curve(
            question=name,
            chosen=len(known),
            tested=tested,
            next=next_step,
            why_not="No row that was drawn at random has a right label, so nothing can be said "
            f"of errors.{also} moa label --random draws some.",
        )
    try:
        points = _points(name, drawn)
    except MissingDependency as error:
        return Curve(question=name, tested=tested, next=next_step, why_not=str(error))
    sure, rows = book.confidences(name), len(book.entries)
    return Curve(
        question=name,
        labelled=len(drawn),
        chosen=len(known) - len(drawn),
        tested=tested,
        next=next_step,
        points=tuple(_point(one, sure, rows, cost) for one in points),
    )


def _is_measured(one: Verdict) -> bool:
    return one.p is not None and one.answered


def cost_of_large(rows: Iterable[Entry]) -> float | None:
    """Return the mean cost of the large model for a row that it is asked about, in US dollars.

    By the rows where it was, else by the estimates of what it would have cost; `None`: neither
    says anything.
    """
    asked = [one for one in rows if one.tier == "large"]
    costs = [one.large_cost for one in asked] or [
        one.alone for one in rows if one.alone is not None
    ]
    known = [cost for cost in costs if cost is not None]
    mean = sum(known) / len(known) if known and len(known) == len(costs) else None
    return mean or None


def dollars(cost: float) -> str:
    """Write US dollars, small ones with the digits that tell them from nothing."""
    if cost == 0:
        return "US$ 0"
    digits = 2 if cost >= 1 else 4 if cost >= 0.01 else 6
    return f"US$ {cost:,.{digits}f}"


def _points(name: str, drawn: Sequence[Entry]) -> Sequence[CurvePoint]:
    from moa.calibration.bounds import Outcome, risk_curve

    return risk_curve(
        [
            Outcome(
                confidence=min(1.0, max(0.0, one.decisions[name].confidence)),
                correct=one.right[name] == one.decisions[name].said,
                case=one.case,
            )
            for one in drawn
        ],
        confidence=_SURE,
    )


def _point(one: CurvePoint, sure: Sequence[float], rows: int, cost: float | None) -> Point:
    share = _share_from(one.threshold, sure, rows)
    return Point(
        threshold=one.threshold,
        share=share,
        accepted=one.accepted,
        errors=one.errors,
        error=one.errors / one.accepted,
        lower=one.lower,
        upper=one.upper,
        wish=f"{min(0.5, max(0.001, one.upper)):.3f}",
        cost=None if cost is None else 1000 * (1 - share) * cost,
    )


def _share_from(threshold: float, sure: Sequence[float], rows: int) -> float:
    """Return the share of all rows whose confidence is at least a threshold."""
    return (len(sure) - bisect_left(sure, threshold)) / max(1, rows)


def _tested_threshold(name: str, book: Book, calibrations: Calibrations) -> TestedThreshold | None:
    calibration = calibrations.get(name, calibrations.get(""))
    options = {one.name for one in book.question(name).options}
    if calibration is None or not options <= {*calibration.labels}:
        return None
    bound = calibration.bound
    if bound is None or bound.threshold is None:
        return None
    return TestedThreshold(
        threshold=bound.threshold,
        share=_share_from(bound.threshold, book.confidences(name), len(book.entries)),
        risk=bound.guarantee.risk,
        summary=bound.summary,
    )


def _money(rows: Sequence[Entry]) -> Figure:
    costs = [one.cost for one in rows]
    known = [cost for cost in costs if cost is not None]
    each = cost_of_large(rows)
    value = dollars(sum(known)) if len(known) == len(costs) else "unknown"
    if value == "unknown" and known:
        value = f"≥ {dollars(sum(known))}"
    if each is None:
        return Figure(
            title="Cost",
            value=value,
            detail="large model alone: its price is unknown",
        )
    would = each * len(rows)
    more = f", {would / sum(known):.1f} times as much" if known and sum(known) > 0 else ""
    tone = "good" if len(known) == len(costs) and sum(known) < would else "plain"
    return Figure(
        title="Cost",
        value=value,
        detail=f"large model alone: about {dollars(would)}{more}",
        tone=tone,
    )


def _guarantee_figure(rows: Sequence[Entry], calibrations: Calibrations) -> Figure:
    accepted = [one for one in rows if "accepted" in one.tags]
    checked = [
        (one.right[name] != one.decisions[name].said)
        for one in accepted
        for name, decision in one.decisions.items()
        if decision.accepted and name in one.right and name not in one.chosen
    ]
    title = "Guarantee"
    bounds = [one.bound for one in calibrations.values() if one.bound is not None]
    if bounds:
        used = [bound for bound in bounds if bound.threshold is not None]
        if not used:
            return Figure(title=title, value="none", detail=bounds[0].summary, tone="warn")
        risk = max(bound.guarantee.risk for bound in used)
        value = f"≤ {percent(risk)} wrong"
        detail, tone = _audit(checked, risk)
        return Figure(title=title, value=value, detail=detail, tone=tone)
    if accepted:
        return Figure(
            title=title,
            value=f"{_share(len(accepted), len(rows))} accepted",
            detail="by a calibration: give --calibration FILE to see its guarantee checked",
        )
    return Figure(
        title=title,
        value="none",
        detail="no calibration: moa learn makes one",
    )


def _audit(checked: Sequence[bool], risk: float) -> tuple[str, Tone]:
    """Compare labels drawn at random with the guarantee."""
    if not checked:
        return "no accepted row that was drawn at random has a label to check it by", "plain"
    wrong, count = sum(checked), len(checked)
    lower = 1.0 - upper_bound(count - wrong, count, _SURE)
    upper = upper_bound(wrong, count, _SURE)
    found = f"{wrong} of {count} checked are wrong, at most {percent(upper)} by these alone"
    if lower > risk:
        return f"broken: {found}, and at least {percent(lower)}", "warn"
    return f"holds: {found}", "good"


def _learning(found: LearningFigures) -> tuple[Figure, ...]:
    in_use = any(look.in_use for look in found.looks)
    audit = (
        f"{found.differ} of {found.checked} checked since differ"
        + (
            ""
            if found.differ_at_most is None
            else f", at most {percent(found.differ_at_most)} by these alone"
        )
        if found.checked
        else "nothing was checked yet"
    )
    spent = "unknown" if found.spent is None else dollars(found.spent)
    saved = "" if found.saved is None else f"saved so far: {dollars(found.saved)}"
    return (
        Figure(
            title="Without the large model",
            value=_share(found.by_small, found.inputs),
            detail=f"{found.by_small:,} of {found.inputs:,} inputs",
        ),
        Figure(
            title="Asked the large model",
            value=f"{found.calls:,} calls",
            detail="tests and checks included",
        ),
        Figure(title="Cost", value=spent, detail=saved, tone="good" if found.saved else "plain"),
        Figure(
            title="Guarantee",
            value="in use" if in_use else "none yet",
            detail=f"{audit}. {found.promise}",
            tone="good" if in_use else "plain",
        ),
    )


def _count_others(book: Book) -> str:
    counts = book.counts()
    failed, aside = counts.get("failed", 0), counts.get("quarantine", 0)
    said = [f"{aside:,} quarantined"] if aside else []
    said += [f"{failed:,} failed"] if failed else []
    return "".join(f", {one}" for one in said)


def _describe_large(large: Sequence[Entry]) -> str:
    by = sorted({one.by for one in large if one.by})
    return f"{len(large):,} rows" + (f", by {', '.join(by[:2])}" if by else "")


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else "none"
