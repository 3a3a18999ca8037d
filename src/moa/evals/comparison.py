"""Comparison: designs side by side on the same cases, at the same budget, and which ones pay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from moa._async import map_async
from moa._files import Existing
from moa.budget import Budget
from moa.calibration import percent
from moa.calibration.measures import coverage_line
from moa.context import RunContext
from moa.decisions.arrays import Bools, Floats, np
from moa.endpoints import Endpoint
from moa.errors import BudgetExceeded, ConfigError
from moa.evals.cases import Answer, Cache, Case, Data, Progress, answers_of, cases_of
from moa.evals.metrics import (
    TEXT_METRICS,
    Interval,
    confidences,
    difference,
    label_metrics,
    mcnemar,
    mean_of,
    metric_for,
    ranked,
)
from moa.evals.report import Against, Comparison, DesignReport, Point
from moa.mixing.judges import Candidates, Listwise
from moa.node import Node

T = TypeVar("T")

REFERENCE = "llm"
"""The design that others are compared with, where it is among them."""
MARGIN = 0.05
"""The non-inferiority margin: a cheaper design pays where it is shown to lose less quality than
this, on the scale of the metric, from 0 to 1 (Piaggio et al. 2012, JAMA 308). It is fixed before
any answer is looked at; half of it would take about four times the cases."""
_BINS = 10
_POINTS = 101
_JUDGED_AT_ONCE = 8


async def compare(
    rows: Iterable[Mapping[str, object]] | Data,
    designs: Mapping[str, Node[Any, Any]],
    *,
    metric: str | None = None,
    judge: Endpoint | None = None,
    reference: str | None = None,
    risk: float = 0.05,
    budget_usd: float | None = None,
    cache: Path | None = None,
    existing: Existing = "resume",
    setup: Mapping[str, str] | None = None,
    concurrency: int = 8,
    progress: Progress | None = None,
) -> Comparison:
    """Let designs answer the same rows, and say what each reaches, what it takes, and if it pays.

    Args:
        rows: With `text` or `prompt`, and `label` or `reference`; or what
            `moa.evals.cases.read_cases` read of a file.
        designs: Nodes that take a text, by the name they are shown by.
        metric: Of texts: `exact`, `numeric`, `rouge-l` or `judge`; `None` chooses by what the
            references look like. Labels are compared by accuracy.
        judge: The model that judges, where the metric is `judge`.
        reference: The design that the others are compared with; `None`: `llm`, else the first.
        risk: Risk at which the coverage of labels is shown.
        budget_usd: US dollars for all designs together; each has an equal part, and so has the
            judge, if there is one: what it can't pay for has no verdict. Calls without a price
            don't count against it.
        cache: File of answers; `None` keeps none.
        existing: What is done with answers that it has.
        setup: What the answers of each design depend on beside its name and the rows; see
            `moa.evals.cases.Cache`.
        concurrency: Maximum number of cases that a design works on at once.
        progress: Told how far each design is.

    Raises:
        InputError: rows lack what is asked or expected.
        ConfigError: there is no design, the reference is none of them, the metric is not known
            or has no judge, or a design can't work at all.
        MissingDependency: numpy is not installed.
    """
    data = rows if isinstance(rows, Data) else cases_of(rows)
    main = _reference(designs, reference)
    parts = len(designs) + (metric == "judge")
    metric = _metric(data, metric, judge)
    each = None if budget_usd is None else budget_usd / parts
    judging = _context(each)
    answers: dict[str, list[Answer]] = {}
    scores: dict[str, Floats] = {}
    with closing(Cache(cache, existing=existing, setup=setup)) as kept:
        for name, node in designs.items():
            answers[name] = await answers_of(
                name,
                node,
                data.cases,
                cache=kept,
                context=_context(each),
                concurrency=concurrency,
                progress=progress,
            )
            if metric == "judge" and judge is not None:
                scores[name] = await _judged(judge, data.cases, answers[name], judging)
            else:
                scores[name] = _scored(metric, data.cases, answers[name])
    found = [_design(name, answers[name], scores[name], data, risk) for name in designs]
    return Comparison(
        kind=data.kind,
        metric=metric,
        n=len(data.cases),
        reference=main,
        budget=each,
        designs=ruled(found, scores, main, binary=metric in ("accuracy", "exact", "numeric")),
        curve=_curve(answers, scores),
        reliability=_each_sure(answers, scores, confidences, _reliability),
        coverage=_each_sure(answers, scores, ranked, _coverage),
    )


def _context(cost: float | None) -> RunContext:
    return RunContext(budget=Budget(cost=cost), keep_notes=False)


def _reference(designs: Mapping[str, object], wanted: str | None) -> str:
    if not designs:
        raise ConfigError("there is no design to compare")
    if wanted is not None and wanted not in designs:
        raise ConfigError(f"the reference {wanted!r} is none of {', '.join(designs)}")
    return wanted or (REFERENCE if REFERENCE in designs else next(iter(designs)))


def _metric(data: Data, wanted: str | None, judge: Endpoint | None) -> str:
    if data.kind == "labels":
        if wanted not in (None, "accuracy"):
            raise ConfigError(f"rows with labels are compared by accuracy, not by {wanted!r}")
        return "accuracy"
    metric = wanted or metric_for([case.expected for case in data.cases])
    known = [*TEXT_METRICS, "judge"]
    if metric not in known:
        raise ConfigError(f"there is no metric {metric!r}, only {', '.join(known)}")
    if metric == "judge" and judge is None:
        raise ConfigError("metric 'judge' needs a model that judges: give judge=…")
    return metric


def _scored(metric: str, cases: Sequence[Case], answers: Sequence[Answer]) -> Floats:
    """Score each answer from 0 to 1; a missing one has 0."""
    score = TEXT_METRICS.get(metric, lambda text, expected: float(text == expected))
    pairs = zip(cases, answers, strict=True)
    return np.array([0.0 if a.text is None else score(a.text, c.expected) for c, a in pairs])


async def _judged(
    judge: Endpoint, cases: Sequence[Case], answers: Sequence[Answer], context: RunContext
) -> Floats:
    """Score each answer beside the reference of its case; one without a verdict is not a number."""
    picks = Listwise(judge)

    async def one(pair: tuple[Case, Answer]) -> float:
        case, answer = pair
        if answer.text is None:
            return 0.0
        if answer.text == case.expected:
            return 0.5
        both = Candidates(request=case.request, replies=(answer.text, case.expected))
        try:
            picked = (await picks.run(both, context)).output
        except BudgetExceeded:
            return float("nan")
        worth = {"won": 1.0 - picked.place, "tied": 0.5, "unreadable": float("nan")}
        return worth[picked.verdict]

    pairs = zip(cases, answers, strict=True)
    return np.array(await map_async(one, pairs, max_concurrency=_JUDGED_AT_ONCE))


def _design(
    name: str, answers: Sequence[Answer], scores: Floats, data: Data, risk: float
) -> DesignReport:
    expected = [case.expected for case in data.cases]
    known = scores[~np.isnan(scores)]
    costs = [a.cost for a in answers]
    seconds = [a.seconds for a in answers if a.text is not None]
    return DesignReport(
        name=name,
        answered=len(seconds),
        unreadable=len(scores) - len(known),
        quality=mean_of(known),
        labels=label_metrics(answers, expected, risk=risk) if data.kind == "labels" else None,
        cost=None if None in costs else float(sum(c for c in costs if c is not None)),
        tokens=sum(a.tokens for a in answers) / len(answers),
        llm_calls=sum(a.llm_calls for a in answers) / len(answers),
        seconds_mean=sum(seconds) / max(1, len(seconds)),
        seconds_p95=float(np.quantile(seconds or [0.0], 0.95, method="inverted_cdf")),
        error=next((a.error for a in answers if a.error is not None), None),
    )


class Ruling(NamedTuple):
    """Whether a design pays, and why."""

    pays: bool | None
    """`None`: that is for the user to weigh, or the cases are too few to tell."""
    sentence: str


def ruled(
    designs: Sequence[DesignReport], scores: Mapping[str, Floats], main: str, *, binary: bool
) -> tuple[DesignReport, ...]:
    """Say of each design how far it is from the reference, and whether it pays.

    By the scores of each on the same cases, not a number where there is none; `binary` are those
    of which a case is right or wrong, and nothing between.
    """
    reference = next(design for design in designs if design.name == main)
    found: list[DesignReport] = []
    for design in designs:
        mine = scores[design.name]
        others = [other for other in designs if other is not design]
        lead: dict[str, Interval] = {}
        for other in others:
            theirs = scores[other.name]
            both = ~np.isnan(mine) & ~np.isnan(theirs)
            lead[other.name] = difference(mine[both], theirs[both], together=len(others))
        pays, sentence = ruling(design, others, reference, lead)
        against = None
        if design is not reference:
            p = mcnemar(mine == 1.0, scores[main] == 1.0) if binary else None
            against = Against(reference=main, difference=lead[main], p=p)
        update = {"against": against, "pays": pays, "verdict": sentence}
        found.append(design.model_copy(update=update))
    return tuple(found)


def ruling(
    design: DesignReport,
    others: Sequence[DesignReport],
    reference: DesignReport,
    lead: Mapping[str, Interval],
) -> Ruling:
    """Say whether a design pays, by how much better it is than each of the others."""
    if design.name == reference.name:
        return Ruling(None, "what the others are compared with")
    ratios = {other.name: cost_ratio(other, design) for other in others}
    cheaper = [o for o in others if (ratio := ratios[o.name]) is not None and ratio < 1.0]
    as_good = [o for o in cheaper if lead[o.name].low <= 0.0 and lead[o.name].high < MARGIN]
    if as_good:
        best = min(as_good, key=lambda o: lead[o.name].high)
        how = f"less than {MARGIN} worse, if at all" if lead[best.name].high >= 0.0 else "better"
        said = f"doesn't pay: {best.name} is cheaper, and {how} ({_signed(lead[best.name])}"
        return Ruling(False, f"{said} against it). Use {best.name}")
    return _beside(lead[reference.name], design, reference)


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


def pays(lead: Interval, ratio: float | None) -> bool | None:
    """Say whether a design pays beside another one: what costs more has to be shown to be better.

    By how much better it is, and its cost as a multiple of the other's, if that is known. `None`
    where it rests on what a loss is worth, or can't be told yet.
    """
    saves = ratio is not None and ratio < 1.0
    if lead.low > 0.0 or (saves and lead.low > -MARGIN and lead.high >= 0.0):
        return True
    return None if saves else False


def _beside(lead: Interval, design: DesignReport, reference: DesignReport) -> Ruling:
    name, apart, cost = reference.name, _signed(lead), _cost(design, reference)
    found = pays(lead, cost_ratio(design, reference))
    if lead.low > 0.0:
        said = f"pays: better than {name} by {apart}, {cost}"
    elif lead.high < 0.0:
        worse = f"worse than {name} by {apart}, {cost}"
        fine = f"{worse}: pays only if that loss is fine"
        said = f"doesn't pay: {worse}" if found is False else fine
    elif found is False:
        said = f"doesn't pay: not shown to be better than {name} ({apart}), {cost}"
    elif found:
        said = f"pays: less than {MARGIN} worse than {name}, if at all ({apart}), {cost}"
    else:
        said = (
            f"not shown to pay: these cases don't exclude that it is {-lead.low:.3f} worse than "
            f"{name} ({apart}), and less than {MARGIN} is wanted, {cost}"
        )
    return Ruling(found, said)


def _cost(design: DesignReport, reference: DesignReport) -> str:
    ratio = cost_ratio(design, reference)
    if ratio is None:
        return "at a cost that is not known"
    priced = design.cost is not None and reference.cost is not None
    what = "cost" if priced else "calls to large models (prices are not known)"
    share = f"{percent(ratio)} of" if ratio <= 1.0 else f"{ratio:.1f} times"
    return f"at {share} the {what}"


def _signed(lead: Interval) -> str:
    return f"{lead.value:+.3f} ({lead.low:+.3f} to {lead.high:+.3f})"


def _curve(
    answers: Mapping[str, Sequence[Answer]], scores: Mapping[str, Floats]
) -> tuple[Point, ...]:
    """Let the small model alone be believed on none to all cases, the surest first."""
    small, large = answers.get("slm"), answers.get(REFERENCE)
    sure = None if small is None else ranked(small)
    if small is None or large is None or sure is None:
        return ()
    order = np.argsort(sure, kind="stable")
    n = len(order)
    better = np.cumsum((scores[REFERENCE] - scores["slm"])[order])
    prices = [a.cost for a in (*small, *large)]
    dear = None if None in prices else np.cumsum(np.array(prices[n:], float)[order])
    base = sum(p for p in prices[:n] if p is not None)
    start = float(scores["slm"].sum())
    points: list[Point] = []
    for count in np.unique(np.linspace(0, n, min(n + 1, _POINTS)).astype(int)).tolist():
        gained = float(better[count - 1]) if count else 0.0
        cost = None if dear is None else base + (float(dear[count - 1]) if count else 0.0)
        points.append(Point(llm_share=count / n, quality=(start + gained) / n, cost=cost))
    return tuple(points)


def _each_sure(
    answers: Mapping[str, Sequence[Answer]],
    scores: Mapping[str, Floats],
    order: Callable[[Sequence[Answer]], Floats | None],
    read: Callable[[Floats, Bools], T],
) -> dict[str, T]:
    found = {name: order(given) for name, given in answers.items()}
    return {
        name: read(sure, scores[name] == 1.0) for name, sure in found.items() if sure is not None
    }


def _reliability(sure: Floats, correct: Bools) -> list[tuple[float, float, int]]:
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    return [
        (float(sure[bins == b].mean()), float(correct[bins == b].mean()), int((bins == b).sum()))
        for b in np.unique(bins)
    ]


def _coverage(sure: Floats, correct: Bools) -> list[tuple[float, float]]:
    shares, errors = coverage_line(sure, correct)
    return list(zip(shares.tolist(), errors.tolist(), strict=True))
