"""Comparing: designs side by side on the same cases, at the same budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from moa._files import Existing
from moa.acceptance import all_of
from moa.context import RunContext
from moa.decisions.arrays import Bools, Floats, np
from moa.decisions.measures import coverage_line
from moa.endpoints import Endpoint
from moa.errors import BudgetExceeded, ConfigError
from moa.evals.answers import Answer, Cache
from moa.evals.cases import Case, Data, cases_of
from moa.evals.intervals import Interval, difference, mcnemar, mean_of
from moa.evals.labels import confidences, label_metrics, ranked
from moa.evals.report import Against, Comparison, DesignReport, Point
from moa.evals.running import Progress, answers_of
from moa.evals.texts import TEXT_METRICS, metric_for
from moa.evals.verdicts import ruling
from moa.measuring import percentile
from moa.mixing.judges import Outcome, judged
from moa.node import Node
from moa.usage import Budget

T = TypeVar("T")

REFERENCE = "llm"
"""The design that others are compared with, where it is among them."""
_BINS = 10
_POINTS = 101
_WORTH: Mapping[Outcome, float] = {
    "first": 1.0,
    "tie": 0.5,
    "second": 0.0,
    "unreadable": float("nan"),
}
"""Of a reply that is judged beside the reference text of its case."""


async def compare(
    rows: Iterable[Mapping[str, object]],
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
        rows: With `text` or `prompt`, and `label` or `reference`.
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
            `moa.evals.answers.Cache`.
        concurrency: Most cases that a design works on at once.
        progress: Told how far each design is.

    Raises:
        InputError: rows lack what is asked or expected.
        ConfigError: there is no design, the reference is none of them, the metric is not known
            or has no judge, or a design can't work at all.
        MissingDependency: numpy is not installed.
    """
    data = cases_of(rows)
    main = _reference(designs, reference)
    parts = len(designs) + (metric == "judge")
    each = None if budget_usd is None else budget_usd / parts
    paid = RunContext(budget=Budget(cost=each), keep_notes=False)
    scoring = _Scoring.of(data, metric, judge, paid)
    answers: dict[str, list[Answer]] = {}
    scores: dict[str, Floats] = {}
    kept = Cache(cache, existing=existing, setup=setup)
    try:
        for name, node in designs.items():
            answers[name] = await answers_of(
                name,
                node,
                data.cases,
                cache=kept,
                context=RunContext(budget=Budget(cost=each), keep_notes=False),
                concurrency=concurrency,
                progress=progress,
            )
            scores[name] = await scoring.scores(data.cases, answers[name])
    finally:
        kept.close()
    found = [_design(name, answers[name], scores[name], data, risk) for name in designs]
    ruled = _ruled(found, scores, main, binary=scoring.binary)
    return _comparison(data, scoring, main, each, ruled, answers, scores)


def _comparison(
    data: Data,
    scoring: _Scoring,
    main: str,
    budget: float | None,
    designs: tuple[DesignReport, ...],
    answers: Mapping[str, Sequence[Answer]],
    scores: Mapping[str, Floats],
) -> Comparison:
    return Comparison(
        kind=data.kind,
        metric=scoring.metric,
        n=len(data.cases),
        reference=main,
        budget=budget,
        designs=designs,
        curve=_curve(answers, scores),
        reliability=_each_sure(answers, scores, confidences, _reliability),
        coverage=_each_sure(answers, scores, ranked, _coverage),
    )


@dataclass(frozen=True)
class _Scoring:
    """How answers are turned into numbers from 0 to 1."""

    metric: str
    judge: Endpoint | None
    context: RunContext
    """Of the judge: all that it is asked counts against one budget."""

    @classmethod
    def of(
        cls, data: Data, metric: str | None, judge: Endpoint | None, context: RunContext
    ) -> _Scoring:
        if data.kind == "labels":
            if metric not in (None, "accuracy"):
                raise ConfigError(f"rows with labels are compared by accuracy, not by {metric!r}")
            return cls("accuracy", None, context)
        metric = metric or metric_for([case.expected for case in data.cases])
        known = [*TEXT_METRICS, "judge"]
        if metric not in known:
            raise ConfigError(f"there is no metric {metric!r}, only {', '.join(known)}")
        if metric == "judge" and judge is None:
            raise ConfigError("metric 'judge' needs a model that judges: give judge=…")
        return cls(metric, judge if metric == "judge" else None, context)

    @property
    def binary(self) -> bool:
        """Whether a case is right or wrong, and nothing between."""
        return self.metric in ("accuracy", "exact", "numeric")

    async def scores(self, cases: Sequence[Case], answers: Sequence[Answer]) -> Floats:
        """Score each answer; a missing one has 0, one without a verdict is not a number."""
        if self.judge is not None:
            return await self._judged(self.judge, cases, answers)
        measure = TEXT_METRICS.get(self.metric, _same)
        return np.array(
            [
                0.0 if a.text is None else measure(a.text, case.expected)
                for a, case in zip(answers, cases, strict=True)
            ]
        )

    async def _judged(
        self, judge: Endpoint, cases: Sequence[Case], answers: Sequence[Answer]
    ) -> Floats:
        async def one(case: Case, answer: Answer) -> float:
            if answer.text is None:
                return 0.0
            try:
                outcome = await judged(
                    judge, case.request, answer.text, case.expected, self.context
                )
            except BudgetExceeded:
                outcome = "unreadable"
            return _WORTH[outcome]

        found: list[float] = []
        for start in range(0, len(cases), 8):
            part = zip(cases[start : start + 8], answers[start : start + 8], strict=True)
            found += await all_of(one(case, answer) for case, answer in part)
        return np.array(found)


def _same(text: str, expected: str) -> float:
    return float(text == expected)


def _reference(designs: Mapping[str, object], wanted: str | None) -> str:
    if not designs:
        raise ConfigError("there is no design to compare")
    if wanted is not None and wanted not in designs:
        raise ConfigError(f"the reference {wanted!r} is none of {', '.join(designs)}")
    return wanted or (REFERENCE if REFERENCE in designs else next(iter(designs)))


def _design(
    name: str, answers: Sequence[Answer], scores: Floats, data: Data, risk: float
) -> DesignReport:
    expected = [case.expected for case in data.cases]
    known = scores[~np.isnan(scores)]
    costs = [a.cost for a in answers]
    answered = [a for a in answers if a.text is not None]
    seconds = [a.seconds for a in answered]
    return DesignReport(
        name=name,
        answered=len(answered),
        unreadable=len(scores) - len(known),
        quality=mean_of(known),
        labels=label_metrics(answers, expected, risk=risk) if data.kind == "labels" else None,
        cost=None if None in costs else float(sum(c for c in costs if c is not None)),
        tokens=sum(a.tokens for a in answers) / len(answers),
        llm_calls=sum(a.llm_calls for a in answers) / len(answers),
        seconds_mean=sum(seconds) / max(1, len(seconds)),
        seconds_p95=percentile(seconds, 0.95),
        error=next((a.error for a in answers if a.error is not None), None),
    )


def _ruled(
    found: Sequence[DesignReport], scores: Mapping[str, Floats], main: str, *, binary: bool
) -> tuple[DesignReport, ...]:
    reference = next(design for design in found if design.name == main)
    ruled: list[DesignReport] = []
    for design in found:
        mine = scores[design.name]
        others = [other for other in found if other is not design]
        lead = {o.name: _lead(mine, scores[o.name], len(others)) for o in others}
        pays, sentence = ruling(design, others, reference, lead)
        against = None
        if design is not reference:
            right = (mine == 1.0, scores[main] == 1.0)
            p = mcnemar(right[0].tolist(), right[1].tolist()) if binary else None
            against = Against(reference=main, difference=lead[main], p=p)
        ruled.append(
            design.model_copy(update={"against": against, "pays": pays, "verdict": sentence})
        )
    return tuple(ruled)


def _lead(mine: Floats, other: Floats, together: int) -> Interval:
    both = ~np.isnan(mine) & ~np.isnan(other)
    return difference(mine[both], other[both], together=together)


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
