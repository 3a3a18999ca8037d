"""Overview: the figures over all rows, computed with the library's exact bounds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from moa.core.errors import MissingDependency
from moa.decisions.guarantee import percent, upper_bound
from moa.studio.book import Book, Entry, Verdict
from moa.studio.data import Curve, Figure, Point, TestedThreshold, Tone

if TYPE_CHECKING:
    from moa.decisions.bounds import Bound, CurvePoint
    from moa.decisions.file import Calibration
    from moa.learning.figures import LearningFigures

_SURE = 0.95


Calibrations = Mapping[str, "Calibration"]
"""Calibrations by question. The key is `""` for a file with one question."""


def no_calibrations() -> Calibrations:
    """Return an empty mapping."""
    return {}


def figures(
    book: Book, calibrations: Calibrations, learning: LearningFigures | None = None
) -> tuple[Figure, ...]:
    """Return the figures at the top of the page: four, or more if several questions are tested.

    Of a cascade that learns there is a fifth if the large model's labels are doubtful.
    """
    if learning is not None:
        return _learning(learning)
    rows = book.entries
    large = [entry for entry in rows if entry.tier == "large"]
    return (
        _settled(book),
        Figure(
            title="Asked the large model",
            value=_share(len(large), len(rows)),
            detail=_describe_large(large),
        ),
        _money(rows),
        *_guarantees(book, calibrations),
    )


def curve_of(
    name: str, book: Book, calibrations: Calibrations, next_step: str, cost: float | None
) -> Curve:
    """Return the curve of coverage against error of a question.

    Args:
        name: Name of the question.
        book: The rows.
        calibrations: Calibrations with tested thresholds.
        next_step: Command that tests a wish; see `Curve.next`.
        cost: US dollars per row for the large model, from `cost_of_large`.
    """
    tested = _tested_threshold(name, book, calibrations)
    entries = [
        entry for entry in book.labelled_entries(name) if _is_measured(entry.decisions[name])
    ]
    sample = [entry for entry in entries if name in entry.drawn]
    if not sample:
        remark = (
            f" The {len(entries)} labelled here were chosen to be looked at." if entries else ""
        )
        return Curve(
            question=name,
            chosen=len(entries),
            tested=tested,
            next=next_step,
            why_not="No row that was drawn at random has a right label, so nothing can be said "
            f"of errors.{remark} moa label --random draws some.",
        )
    try:
        points = _points(name, sample)
    except MissingDependency as error:
        return Curve(question=name, tested=tested, next=next_step, why_not=str(error))
    confidences, rows = book.confidences(name), len(book.entries)
    return Curve(
        question=name,
        labelled=len(sample),
        chosen=len(entries) - len(sample),
        tested=tested,
        next=next_step,
        points=tuple(_point(point, confidences, rows, cost) for point in points),
    )


def _is_measured(verdict: Verdict) -> bool:
    return verdict.p is not None and verdict.answered


def cost_of_large(rows: Sequence[Entry]) -> float | None:
    """Return the mean US dollars that the large model costs for a row that it is asked about.

    Taken from the rows where it was asked, else from the estimates of its cost; `None`: the cost
    is unknown or 0.
    """
    large = [entry for entry in rows if entry.tier == "large"]
    return _mean_of_known([entry.large_cost for entry in large] or _estimates(rows))


def cost_alone(rows: Sequence[Entry]) -> float | None:
    """Return the mean US dollars of the large model alone for a row, which is one call.

    Taken from the rows where it was asked, with its own prompt, else from all estimates.
    """
    large = [entry for entry in rows if entry.tier == "large"]
    costs = [entry.large_cost if entry.alone is None else entry.alone for entry in large]
    return _mean_of_known(costs or _estimates(rows))


def _estimates(rows: Iterable[Entry]) -> list[float]:
    return [entry.alone for entry in rows if entry.alone is not None]


def _mean_of_known(costs: Sequence[float | None]) -> float | None:
    known_costs = [cost for cost in costs if cost is not None]
    if not known_costs or len(known_costs) < len(costs):
        return None
    return sum(known_costs) / len(known_costs)


def dollars(cost: float) -> str:
    """Format US dollars, with more digits for small amounts."""
    if cost == 0:
        return "US$ 0"
    digits = 2 if cost >= 1 else 4 if cost >= 0.01 else 6
    return f"US$ {cost:,.{digits}f}"


def _points(name: str, sample: Sequence[Entry]) -> Sequence[CurvePoint]:
    from moa.decisions.bounds import Outcome, risk_curve

    return risk_curve(
        [
            Outcome(
                confidence=min(1.0, max(0.0, entry.decisions[name].confidence)),
                correct=name not in entry.disputed,
                case=entry.case,
            )
            for entry in sample
        ],
        confidence=_SURE,
    )


def _point(point: CurvePoint, confidences: Sequence[float], rows: int, cost: float | None) -> Point:
    share = _share_from(point.threshold, confidences, rows)
    return Point(
        threshold=point.threshold,
        share=share,
        accepted=point.accepted,
        errors=point.errors,
        error=point.errors / point.accepted,
        lower=point.lower,
        upper=point.upper,
        wish=f"{min(0.5, max(0.001, point.upper)):.3f}",
        cost=None if cost is None else 1000 * (1 - share) * cost,
    )


def _share_from(threshold: float, confidences: Sequence[float], rows: int) -> float:
    """Return the share of all rows whose confidence is at least a threshold."""
    return (len(confidences) - bisect_left(confidences, threshold)) / max(1, rows)


def _bound_of(name: str, book: Book, calibrations: Calibrations) -> Bound | None:
    """Return what a calibration says of a question; `None` if none is about it."""
    calibration = calibrations.get(name, calibrations.get(""))
    options = {option.name for option in book.question(name).options}
    return calibration.bound if calibration and options <= {*calibration.labels} else None


def _tested_threshold(name: str, book: Book, calibrations: Calibrations) -> TestedThreshold | None:
    bound = _bound_of(name, book, calibrations)
    if bound is None or bound.threshold is None:
        return None
    return TestedThreshold(
        threshold=bound.threshold,
        share=_share_from(bound.threshold, book.confidences(name), len(book.entries)),
        risk=bound.guarantee.risk,
        summary=bound.summary,
    )


def _money(rows: Sequence[Entry]) -> Figure:
    costs = [entry.cost for entry in rows]
    known_costs = [cost for cost in costs if cost is not None]
    large_cost = cost_alone(rows)
    value = dollars(sum(known_costs)) if len(known_costs) == len(costs) else "unknown"
    if value == "unknown" and known_costs:
        value = f"≥ {dollars(sum(known_costs))}"
    if large_cost is None:
        return Figure(
            title="Cost",
            value=value,
            detail="large model alone: its price is unknown",
        )
    # What failed before a model was asked, such as a malformed row, is no input of any.
    inputs = sum(entry.tier != "none" or entry.status != "failed" for entry in rows)
    large_total = large_cost * inputs
    comparison = (
        f", {large_total / sum(known_costs):.1f} times as much"
        if known_costs and sum(known_costs) > 0
        else ""
    )
    tone = "good" if len(known_costs) == len(costs) and sum(known_costs) < large_total else "plain"
    return Figure(
        title="Cost",
        value=value,
        detail=f"large model alone: about {dollars(large_total)}{comparison}",
        tone=tone,
    )


def _guarantees(book: Book, calibrations: Calibrations) -> tuple[Figure, ...]:
    """Return a figure for each question whose accepted answers have a tested guarantee.

    Without one: for each question with accepted answers, else one that says what is missing.
    """
    rows, names = book.entries, book.question_names
    bounds = {name: bound for name in names if (bound := _bound_of(name, book, calibrations))}
    tested = {name: bound for name, bound in bounds.items() if bound.threshold is not None}
    if tested:
        return tuple(_guarantee(name, rows, bound) for name, bound in tested.items())
    for name, bound in bounds.items():
        return (Figure(title=_title(name), value="none", detail=bound.summary, tone="warn"),)
    counts = {name: sum(_is_accepted(name, entry) for entry in rows) for name in names}
    accepted = tuple(
        Figure(
            title=_title(name),
            value=f"{_share(count, len(rows))} accepted",
            detail="by a calibration: give --calibration FILE to see its guarantee checked",
        )
        for name, count in counts.items()
        if count
    )
    none = Figure(title="Guarantee", value="none", detail="no calibration: moa learn makes one")
    return accepted or (none,)


def _title(name: str) -> str:
    return f"Guarantee of {name}"


def _is_accepted(name: str, entry: Entry) -> bool:
    return name in entry.decisions and entry.decisions[name].accepted is True


def _guarantee(name: str, rows: Sequence[Entry], bound: Bound) -> Figure:
    risk = bound.guarantee.risk
    checks = [
        name in entry.disputed
        for entry in rows
        if name in entry.drawn and _is_accepted(name, entry)
    ]
    detail, tone = _audit(checks, risk)
    return Figure(title=_title(name), value=f"≤ {percent(risk)} wrong", detail=detail, tone=tone)


def _audit(checks: Sequence[bool], risk: float) -> tuple[str, Tone]:
    """Check the guarantee against labels drawn at random."""
    if not checks:
        return "no accepted row that was drawn at random has a label to check it by", "plain"
    wrong, count = sum(checks), len(checks)
    lower = 1.0 - upper_bound(count - wrong, count, _SURE)
    upper = upper_bound(wrong, count, _SURE)
    finding = f"{wrong} of {count} checked are wrong, at most {percent(upper)} by these alone"
    if lower > risk:
        return f"broken: {finding}, and at least {percent(lower)}", "warn"
    return f"holds: {finding}", "good"


def _learning(learning: LearningFigures) -> tuple[Figure, ...]:
    in_use = any(look.in_use for look in learning.looks)
    audit = (
        f"{learning.differ} of {learning.checked} checked since differ"
        + (
            ""
            if learning.differ_at_most is None
            else f", at most {percent(learning.differ_at_most)} by these alone"
        )
        if learning.checked
        else "nothing was checked yet"
    )
    spent = "unknown" if learning.spent is None else dollars(learning.spent)
    saved = "" if learning.saved is None else f"saved so far: {dollars(learning.saved)}"
    doubt = Figure(
        title="Large model's labels", value="doubtful", detail=learning.doubt, tone="warn"
    )
    return (
        Figure(
            title="By the small model",
            value=_share(learning.by_small, learning.inputs),
            detail=f"{learning.by_small:,} of {learning.inputs:,} inputs",
        ),
        Figure(
            title="Asked the large model",
            value=f"{learning.calls:,} calls",
            detail="tests and checks included",
        ),
        Figure(title="Cost", value=spent, detail=saved, tone="good" if learning.saved else "plain"),
        Figure(
            title="Guarantee",
            value="in use" if in_use else "none yet",
            detail=f"{audit}. {learning.promise}",
            tone="good" if in_use else "plain",
        ),
        *([doubt] if learning.doubt else []),
    )


def _settled(book: Book) -> Figure:
    """Count the settled rows; see `Item.settled`."""
    rows = book.entries
    settled = sum(entry.settled is True for entry in rows)
    unknown = sum(entry.settled is None for entry in rows)
    others = f", {unknown:,} don't say" if unknown else ""
    return Figure(
        title="Settled",
        value="unknown" if unknown else _share(settled, len(rows)),
        detail=f"{settled:,} of {len(rows):,} rows{others}{_count_others(book)}",
    )


def _count_others(book: Book) -> str:
    counts = book.counts()
    failed, quarantined = counts.get("failed", 0), counts.get("quarantine", 0)
    parts = [f"{quarantined:,} quarantined"] if quarantined else []
    parts += [f"{failed:,} failed"] if failed else []
    return "".join(f", {part}" for part in parts)


def _describe_large(large: Sequence[Entry]) -> str:
    endpoints = sorted({entry.by for entry in large if entry.by})
    return f"{len(large):,} rows" + (f", by {', '.join(endpoints[:2])}" if endpoints else "")


def _share(part: int, total: int) -> str:
    return percent(part / total) if total else "none"
