"""Comparison: designs side by side on the same cases and budget, and which ones pay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import Field

from moa.core._async import map_async
from moa.core._files import Existing
from moa.core._text import as_html
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import BudgetExceeded, ConfigError
from moa.core.node import Frozen, Node
from moa.decisions.arrays import Floats, bins_of, coverage_line, np
from moa.decisions.features import Progress
from moa.decisions.guarantee import percent
from moa.endpoints import Endpoint
from moa.evals.cases import Cache, Case, Data, DataKind, DesignAnswer, answers_of, cases_of
from moa.evals.metrics import (
    TEXT_METRICS,
    Interval,
    LabelMetrics,
    confidences,
    difference,
    label_metrics,
    mcnemar,
    mean_of,
    metric_for,
    rank_answers,
    stats,
)
from moa.recipes.judges import Candidates, Listwise

REFERENCE = "llm"
"""Name of the design that others are compared with, if present."""
MARGIN = 0.05
"""Non-inferiority margin: a cheaper design pays if it is shown to lose less quality than this, on
the metric's scale of 0 to 1 (Piaggio et al. 2012, JAMA 308). It is fixed before any answer is seen.
Half of it would take about four times the cases."""
_POINTS = 101
_JUDGED_AT_ONCE = 8


class DifferenceToReference(Frozen):
    """Difference of a design to the reference, on the same cases."""

    reference: str
    difference: Interval
    """Lead over the reference, at 95 % confidence for all designs together."""
    p: float | None
    """McNemar's exact test for this design alone; `None` if answers aren't just right or wrong."""


class DesignReport(Frozen):
    """Quality and cost of one design."""

    name: str
    answered: int
    """Number of cases with an answer."""
    unreadable: int = 0
    """Number of answers without a verdict of the judge. They are left out of `quality`."""
    quality: Interval
    """Mean over the cases. One without an answer counts as 0."""
    labels: LabelMetrics | None
    """`None` if texts are compared."""
    cost: float | None
    """US dollars for all cases; `None` if a price is unknown."""
    tokens: float
    """Mean per case."""
    llm_calls: float
    """Mean per case."""
    seconds_mean: float
    """Mean over the cases with an answer, as is `seconds_p95`."""
    seconds_p95: float
    """95th percentile, by nearest rank."""
    against: DifferenceToReference | None = None
    """`None` for the reference itself."""
    pays: bool | None = None
    """True if the design is worth its cost; `None` if only the user can weigh loss against cost, or
    there are too few cases."""
    verdict: str = ""
    error: str | None = None
    """Error of the first case without an answer."""


class Point(Frozen):
    """Figures at one threshold: the small model answers above it, the large one below."""

    llm_share: float
    """Share of cases that the large model answers."""
    quality: float
    cost: float | None
    """US dollars for all cases. The small model is asked about each."""


class Comparison(Frozen):
    """Designs side by side on the same cases."""

    kind: DataKind
    metric: str
    """Metric of `quality`: `accuracy`, or the text metric."""
    n: int
    reference: str
    budget: float | None
    """US dollars for each design; `None` for no limit."""
    designs: tuple[DesignReport, ...]
    curve: tuple[Point, ...] = ()
    """Quality against cost of `slm` before `llm`, by threshold: answers that its calibration
    accepts come first, then the most confident. Empty if one of the two is missing, or has no
    confidence."""
    reliability: dict[str, list[tuple[float, float, int]]] = Field(default_factory=dict)
    """By design: mean confidence, share of right answers and number of cases in each bin."""
    coverage: dict[str, list[tuple[float, float]]] = Field(default_factory=dict)
    """By design: share of cases accepted, and the share of wrong ones among them. Answers that a
    calibration accepts come first, then the most confident."""

    def design(self, name: str) -> DesignReport:
        """Return the report of one design."""
        return {design.name: design for design in self.designs}[name]

    @property
    def columns(self) -> list[str]:
        """Column names of the table."""
        names = ["design", self.metric, f"against {self.reference}"]
        if self.kind == "labels":
            names += ["macro F1", "ECE (by chance)", "accepts", "wrong of it"]
        return [*names, "US$", "LLM calls", "tokens", "s mean", "s p95", "failed"]

    def cells(self, design: DesignReport) -> list[str]:
        """Return a design's row of the table. Unknown is `-`."""
        quality, measured = design.quality, design.labels
        labels: list[str] = []
        if measured is not None:
            labels = [
                f"{measured.macro_f1:.3f}",
                f"{figure(measured.ece)} ({figure(measured.ece_by_chance)})",
                figure(measured.coverage),
                figure(measured.accepted_error),
            ]
        unreadable = f", {design.unreadable} without a verdict" if design.unreadable else ""
        return [
            design.name,
            f"{quality.value:.3f} ({quality.low:.3f}-{quality.high:.3f})",
            "-" if design.against is None else _format_difference(design.against),
            *labels,
            "unknown" if design.cost is None else f"{design.cost:.4f}",
            f"{design.llm_calls:.2f}",
            f"{design.tokens:.0f}",
            f"{design.seconds_mean:.2f}",
            f"{design.seconds_p95:.2f}",
            f"{self.n - design.answered}{unreadable}",
        ]

    def markdown(self) -> str:
        """Write the comparison as Markdown: the table, and the verdict on each design."""
        budget = "" if self.budget is None else f", each with US$ {self.budget:.2f}"
        lines = [
            f"{self.n} cases{budget}. Intervals are at 95 % confidence.",
            "",
            _markdown_row(self.columns),
            _markdown_row(["---"] * len(self.columns)),
            *(_markdown_row(self.cells(design)) for design in self.designs),
            "",
            *(f"* **{_escape(design.name)}**: {design.verdict}." for design in self.designs),
        ]
        return "\n".join(lines) + "\n"

    def _repr_html_(self) -> str:
        verdicts = [("design", "is it worth having?"), *((d.name, d.verdict) for d in self.designs)]
        return as_html([self.columns, *map(self.cells, self.designs)], verdicts)


def figure(value: float | None) -> str:
    """Format a figure to three places; `-` for `None`."""
    return "-" if value is None else f"{value:.3f}"


def _format_difference(against: DifferenceToReference) -> str:
    value, p = against.difference.value, against.p
    if p is None:
        return f"{value:+.3f}"
    return f"{value:+.3f} ({'p<0.001' if p < 0.001 else f'p={p:.3f}'})"


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(map(_escape, cells))} |"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


async def compare(
    rows: Iterable[Mapping[str, object]] | Data,
    designs: Mapping[str, Node[Any, object]],
    *,
    metric: str | None = None,
    judge: Endpoint | None = None,
    reference: str | None = None,
    risk: float = 0.05,
    budget_usd: float | None = None,
    strict: bool = False,
    cache: Path | None = None,
    existing: Existing = "resume",
    setup: Mapping[str, str] | None = None,
    concurrency: int = 8,
    progress: Progress | None = None,
) -> Comparison:
    """Let designs answer the same rows, and report quality, cost and whether each pays.

    Args:
        rows: Rows with `text` or `prompt`, and `label` or `reference`; or the result of
            `moa.evals.cases.read_cases`.
        designs: Nodes that take a text, by display name.
        metric: For texts: `exact`, `numeric`, `rouge-l` or `judge`; `None` chooses by the
            references. Labels are compared by accuracy.
        judge: Model that judges, for the metric `judge`.
        reference: Design that the others are compared with; `None` for `llm`, else the first.
        risk: Risk at which the coverage of labels is shown.
        budget_usd: US dollars for all designs together. Each has an equal part, and so has a judge:
            answers beyond its part get no verdict. Calls without a price don't count.
        strict: True to raise an error before a call without a price.
        cache: File of answers; `None` keeps none.
        existing: How to treat answers already in it.
        setup: Settings of each design that change its answers; see `moa.evals.cases.Cache`.
        concurrency: Maximum number of cases that a design works on at once.
        progress: Called with the progress of each design.

    Raises:
        InputError: rows lack a request or an expected answer.
        ConfigError: there is no design, the reference isn't one of them, the metric is unknown or
            has no judge, or a design can't work at all.
        MissingDependency: numpy or scipy, of the extra `calibration`, is not installed.
    """
    stats()  # fail before any paid call
    data = rows if isinstance(rows, Data) else cases_of(rows)
    main = _choose_reference(designs, reference)
    parts = len(designs) + (metric == "judge")
    metric = _choose_metric(data, metric, judge)
    budget = None if budget_usd is None else budget_usd / parts
    judging = _new_context(budget, strict)
    answers: dict[str, list[DesignAnswer]] = {}
    scores: dict[str, Floats] = {}
    with closing(Cache(cache, existing=existing, setup=setup)) as store:
        for name, node in designs.items():
            answers[name] = design_answers = await answers_of(
                name,
                node,
                data.cases,
                cache=store,
                context=_new_context(budget, strict),
                concurrency=concurrency,
                progress=progress,
                decision=data.decision,
            )
            scores[name] = await _score_answers(metric, data.cases, design_answers, judge, judging)
    return _build_comparison(
        data, metric, answers, scores, reference=main, risk=risk, budget=budget
    )


def _build_comparison(
    data: Data,
    metric: str,
    answers: Mapping[str, Sequence[DesignAnswer]],
    scores: Mapping[str, Floats],
    *,
    reference: str,
    risk: float,
    budget: float | None,
) -> Comparison:
    reports = [_report_on(name, answers[name], scores[name], data, risk) for name in answers]
    binary = metric in ("accuracy", "exact", "numeric")
    reliability: dict[str, list[tuple[float, float, int]]] = {}
    coverage: dict[str, list[tuple[float, float]]] = {}
    for name, design_answers in answers.items():
        confidence, order, correct = (
            confidences(design_answers),
            rank_answers(design_answers),
            scores[name] == 1.0,
        )
        if confidence is None or order is None:
            continue
        bins = bins_of(confidence)
        reliability[name] = [
            (float(confidence[mask].mean()), float(correct[mask].mean()), int(mask.sum()))
            for mask in (bins == b for b in np.unique(bins))
        ]
        shares, errors = coverage_line(order, correct)
        coverage[name] = list(zip(shares.tolist(), errors.tolist(), strict=True))
    return Comparison(
        kind=data.kind,
        metric=metric,
        n=len(data.cases),
        reference=reference,
        budget=budget,
        designs=judge_designs(reports, scores, reference, binary=binary),
        curve=_trace_curve(answers, scores),
        reliability=reliability,
        coverage=coverage,
    )


def _new_context(cost: float | None, strict: bool) -> RunContext:
    return RunContext(budget=Budget(cost=cost, strict=strict), keep_notes=False)


def _choose_reference(designs: Mapping[str, object], reference: str | None) -> str:
    if not designs:
        raise ConfigError("there is no design to compare")
    if reference is not None and reference not in designs:
        raise ConfigError(f"the reference {reference!r} is none of {', '.join(designs)}")
    return reference or (REFERENCE if REFERENCE in designs else next(iter(designs)))


def _choose_metric(data: Data, name: str | None, judge: Endpoint | None) -> str:
    if data.kind == "labels":
        if name not in (None, "accuracy"):
            raise ConfigError(f"rows with labels are compared by accuracy, not by {name!r}")
        return "accuracy"
    metric = name or metric_for([case.expected for case in data.cases])
    metrics = [*TEXT_METRICS, "judge"]
    if metric not in metrics:
        raise ConfigError(f"there is no metric {metric!r}, only {', '.join(metrics)}")
    if metric == "judge" and judge is None:
        raise ConfigError("metric 'judge' needs a model that judges: give judge=…")
    return metric


async def _score_answers(
    metric: str,
    cases: Sequence[Case],
    answers: Sequence[DesignAnswer],
    judge: Endpoint | None,
    context: RunContext,
) -> Floats:
    """Score each answer from 0 to 1, by the reference, or by a judge that sees both.

    A missing answer scores 0, one without a verdict NaN.
    """
    score = TEXT_METRICS.get(metric, lambda text, expected: float(text == expected))
    picks = Listwise(judge) if metric == "judge" and judge is not None else None

    async def one(pair: tuple[Case, DesignAnswer]) -> float:
        case, answer = pair
        if answer.text is None:
            return 0.0
        if picks is None:
            return score(answer.text, case.expected)
        if answer.text == case.expected:
            return 0.5
        candidates = Candidates(request=case.request, replies=(answer.text, case.expected))
        try:
            pick = (await picks.run(candidates, context)).output
        except BudgetExceeded:
            return float("nan")
        scores = {"won": 1.0 - pick.place, "tied": 0.5, "unreadable": float("nan")}
        return scores[pick.verdict]

    pairs = zip(cases, answers, strict=True)
    return np.array(await map_async(one, pairs, max_concurrency=_JUDGED_AT_ONCE))


def _report_on(
    name: str, answers: Sequence[DesignAnswer], scores: Floats, data: Data, risk: float
) -> DesignReport:
    expected = [case.expected for case in data.cases]
    known_scores = scores[~np.isnan(scores)]
    costs = [a.cost for a in answers]
    seconds = [a.seconds for a in answers if a.text is not None]
    return DesignReport(
        name=name,
        answered=len(seconds),
        unreadable=len(scores) - len(known_scores),
        quality=mean_of(known_scores),
        labels=label_metrics(answers, expected, risk=risk) if data.kind == "labels" else None,
        cost=None if None in costs else float(sum(c for c in costs if c is not None)),
        tokens=sum(a.tokens for a in answers) / len(answers),
        llm_calls=sum(a.llm_calls for a in answers) / len(answers),
        seconds_mean=sum(seconds) / max(1, len(seconds)),
        seconds_p95=float(np.quantile(seconds or [0.0], 0.95, method="inverted_cdf")),
        error=next((a.error for a in answers if a.error is not None), None),
    )


def judge_designs(
    designs: Sequence[DesignReport], scores: Mapping[str, Floats], main: str, *, binary: bool
) -> tuple[DesignReport, ...]:
    """Compare each design with the reference, and judge whether it pays.

    Scores are of the same cases, NaN if missing. `binary` scores are only 0 or 1.
    """
    reference = next(design for design in designs if design.name == main)
    reports: list[DesignReport] = []
    for design in designs:
        mine = scores[design.name]
        others = [other for other in designs if other is not design]
        lead: dict[str, Interval] = {}
        for other in others:
            theirs = scores[other.name]
            has_both = ~np.isnan(mine) & ~np.isnan(theirs)
            lead[other.name] = difference(mine[has_both], theirs[has_both], together=len(others))
        pays, sentence = judge_design(design, others, reference, lead)
        against = None
        if design is not reference:
            p = mcnemar(mine == 1.0, scores[main] == 1.0) if binary else None
            against = DifferenceToReference(reference=main, difference=lead[main], p=p)
        update = {"against": against, "pays": pays, "verdict": sentence}
        reports.append(design.model_copy(update=update))
    return tuple(reports)


def judge_design(
    design: DesignReport,
    others: Sequence[DesignReport],
    reference: DesignReport,
    lead: Mapping[str, Interval],
) -> tuple[bool | None, str]:
    """Judge by its lead over each other design whether a design pays. Also return why.

    `None`: the user has to weigh it, or there are too few cases.
    """
    if design.name == reference.name:
        return None, "what the others are compared with"
    ratios = {other.name: cost_ratio(other, design) for other in others}
    cheaper = [o for o in others if (ratio := ratios[o.name]) is not None and ratio < 1.0]
    as_good = [o for o in cheaper if lead[o.name].low <= 0.0 and lead[o.name].high < MARGIN]
    if as_good:
        best = min(as_good, key=lambda o: lead[o.name].high)
        how = f"less than {MARGIN} worse, if at all" if lead[best.name].high >= 0.0 else "better"
        sentence = f"doesn't pay: {best.name} is cheaper, and {how} ({lead[best.name].signed}"
        return False, f"{sentence} against it). Use {best.name}"
    return _judge_against(lead[reference.name], design, reference)


def cost_ratio(design: DesignReport, other: DesignReport) -> float | None:
    """Return the cost of a design as a multiple of another's.

    `None` if neither prices nor calls to large models are known.
    """
    if design.cost is not None and other.cost:
        return design.cost / other.cost
    if design.cost and other.cost == 0.0:
        return float("inf")
    unpriced = design.cost is None or other.cost is None
    return design.llm_calls / other.llm_calls if unpriced and other.llm_calls else None


def pays(lead: Interval, ratio: float | None) -> bool | None:
    """Judge whether a design pays against another. If it costs more, it must be shown to be better.

    `ratio` is its cost as a multiple of the other's, if known. `None` if the verdict depends on the
    value of a loss, or is still open.
    """
    saves = ratio is not None and ratio < 1.0
    if lead.low > 0.0 or (saves and lead.low > -MARGIN and lead.high >= 0.0):
        return True
    return None if saves else False


def _judge_against(
    lead: Interval, design: DesignReport, reference: DesignReport
) -> tuple[bool | None, str]:
    name, lead_text, cost = reference.name, lead.signed, _format_cost(design, reference)
    does_pay = pays(lead, cost_ratio(design, reference))
    if lead.low > 0.0:
        sentence = f"pays: better than {name} by {lead_text}, {cost}"
    elif lead.high < 0.0:
        worse = f"worse than {name} by {lead_text}, {cost}"
        fine = f"{worse}: pays only if that loss is fine"
        sentence = f"doesn't pay: {worse}" if does_pay is False else fine
    elif does_pay is False:
        sentence = f"doesn't pay: not shown to be better than {name} ({lead_text}), {cost}"
    elif does_pay:
        sentence = f"pays: less than {MARGIN} worse than {name}, if at all ({lead_text}), {cost}"
    else:
        sentence = (
            f"not shown to pay: these cases don't exclude that it is {-lead.low:.3f} worse than "
            f"{name} ({lead_text}), and less than {MARGIN} is wanted, {cost}"
        )
    return does_pay, sentence


def _format_cost(design: DesignReport, reference: DesignReport) -> str:
    ratio = cost_ratio(design, reference)
    if ratio is None:
        return "at a cost that is not known"
    priced = design.cost is not None and reference.cost is not None
    measure = "cost" if priced else "calls to large models (prices are not known)"
    share = f"{percent(ratio)} of" if ratio <= 1.0 else f"{ratio:.1f} times"
    return f"at {share} the {measure}"


def _trace_curve(
    answers: Mapping[str, Sequence[DesignAnswer]], scores: Mapping[str, Floats]
) -> tuple[Point, ...]:
    """Trace quality and cost as the small model answers more cases, the most confident first."""
    small, large = answers.get("slm"), answers.get(REFERENCE)
    ranks = None if small is None else rank_answers(small)
    if small is None or large is None or ranks is None:
        return ()
    order = np.argsort(ranks, kind="stable")
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
