"""Bounds: the minimum confidence at which decisions are accepted, for a guaranteed risk.

Thresholds are tested in order, a strict one first, until one fails ("fixed-sequence testing" in
Learn then Test; Angelopoulos, Bates, Candès, Jordan and Lei 2021, arXiv:2110.01052). The labels
that the scorer was fitted on fix how many held-out decisions each threshold accepts, before the
held-out labels are seen. The held-out scores then locate the threshold.
Given the next lower score, the accepted decisions are a random sample, so the number of wrong ones
is binomial, whatever the scores mean. Testing stops at the first failure. The guarantee is
therefore broken only if the first threshold that should fail passes, and no confidence is lost to
the number of thresholds. The proof holds if the risk crosses the target once as the threshold
falls; if it crosses several times, tests and simulations found no more broken guarantees than
stated.

Decisions about one case are wrong together, so the binomial doesn't apply to them. The test
therefore uses one decision of each case, drawn blindly, and the proof covers the risk of a decision
drawn from a case. If cases with many decisions are wrong more often, the share of wrong decisions
is larger than that. So a threshold must also keep the risk among all held-out decisions that it
accepts, which only makes it stricter.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moa.core.errors import InputError
from moa.core.node import Frozen
from moa.decisions.arrays import Floats, Ints, coverage_at_risk, np
from moa.decisions.guarantee import (
    Bound,
    Guarantee,
    allowed_errors,
    min_decisions,
    percent,
    tail,
    upper_bound,
)

_THRESHOLDS = 60
_START, _BLIND_START = 0.55, 0.3
_LIKELY = 0.8
"""Probability of success that the estimate of missing labels aims at."""
_ERRORS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55)
_STEPS = 20
_FEWEST = 5
"""Minimum of decisions to estimate an error rate from."""
_SURE = 0.9
_POINTS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A decision with a known right answer."""

    confidence: float
    """The scorer's confidence, from 0 to 1."""
    correct: bool
    label: str = ""
    """The given answer, for bounds by label."""
    case: str | None = None
    """Groups decisions about one thing."""


def find_bound(
    fitting: Sequence[Outcome], held_out: Sequence[Outcome], guarantee: Guarantee
) -> Bound:
    """Find the minimum confidence at which decisions are accepted.

    Args:
        fitting: Decisions on the labels that the scorer was fitted on, each by a fit without its
            own label (cross-validation). They only set the order in which thresholds are tested.
            Empty if the scorer was fitted on no labels.
        held_out: Decisions of the same scorer on labels that were used for nothing else. All
            decisions about one case are on one side.
        guarantee: The guarantee to prove.

    Raises:
        InputError: a confidence is not between 0 and 1, or a case is on both sides.
    """
    shared_cases = {o.case for o in fitting} & {o.case for o in held_out} - {None}
    if shared_cases:
        raise InputError(
            f"{len(shared_cases)} cases, such as {min(shared_cases, key=str)!r}, have decisions on "
            "both sides; split by case, so that what was fitted says nothing about what is held out"
        )
    confidences = [o.confidence for o in draw_one_per_case(held_out)]
    thresholds = choose_thresholds(fitting, confidences, guarantee)
    return find_bound_among(thresholds, held_out, guarantee, scored=fitting)


def find_bounds_by_label(
    fitting: Sequence[Outcome], held_out: Sequence[Outcome], guarantee: Guarantee
) -> dict[str, Bound]:
    """Find a threshold for each label, at the risk of that label.

    All guarantees hold together with the confidence (Bonferroni). Arguments and errors are those of
    `find_bound`. Labels too rare in `fitting` to ever be accepted are not tested, and cost the
    others nothing.
    """
    ratio = len(held_out) / len(fitting) if fitting else 1.0
    seen = fitting or held_out  # which label was given, not which one is right
    names = sorted({o.label for o in (*fitting, *held_out)})
    counts = {name: sum(o.label == name for o in seen) for name in names}
    tested = sorted(counts, key=lambda name: -counts[name])
    while len(tested) > 1:
        if counts[tested[-1]] * ratio >= guarantee.split(len(tested)).count_needed():
            break
        tested.pop()
    label_guarantee = guarantee.split(len(tested))
    bounds: dict[str, Bound] = {}
    for name in counts:
        label_fitting = [o for o in fitting if o.label == name]
        label_held_out = [o for o in held_out if o.label == name]
        if name in tested:
            bounds[name] = find_bound(label_fitting, label_held_out, label_guarantee)
        else:
            bounds[name] = find_bound_among(
                (), label_held_out, label_guarantee, scored=label_fitting
            )
    return bounds


def sum_bounds(bounds: Mapping[str, Bound], guarantee: Guarantee) -> Bound:
    """Combine the bounds of labels into one for display. Each bound is applied separately."""
    labels = sum(bound.labels for bound in bounds.values())
    accepted = sum(bound.accepted for bound in bounds.values())
    thresholds = {name: b.threshold for name, b in bounds.items() if b.threshold is not None}
    other_names = sorted(name for name in bounds if name not in thresholds)
    missing = [bounds[name].more_labels for name in other_names]
    counts = [count for count in missing if count is not None]
    summary = (
        f"accepts {percent(accepted / labels) if labels else 'nothing'} "
        f"({accepted} of {labels} held-out decisions): of each label {guarantee}"
    )
    if not thresholds:
        summary = f"accepts nothing: no label has a threshold that was shown to keep {guarantee}"
    elif other_names:
        summary += f"; nothing is accepted of {', '.join(other_names)}"
    if counts:
        summary += f". For the label that takes least, about {min(counts)} more held-out labels"
    return Bound(
        guarantee=guarantee,
        threshold=min(thresholds.values(), default=None),
        labels=labels,
        accepted=accepted,
        errors=sum(bound.errors for bound in bounds.values()),
        upper=max((bounds[name].upper for name in thresholds), default=1.0),
        more_labels=None if thresholds else min(counts, default=None),
        summary=summary,
    )


def choose_thresholds(
    fitting: Sequence[Outcome], confidences: Sequence[float], guarantee: Guarantee
) -> tuple[float, ...]:
    """Choose the thresholds to test, in order, without looking at the held-out labels.

    At 5 % risk and 95 % confidence, a threshold that accepts 123 decisions may have one error, and
    one that accepts 124 may have two. So thresholds are set where one more error is allowed, and
    densely after the last of those. Each lies halfway between two scores, so that a score may vary
    a little with its batch.

    The start decides how much is accepted in the end: a strict start has too few decisions to bear
    one error, and a lenient one fails at once. Testing starts at three tenths of the decisions.
    With `fitting`, it starts halfway between that and 0.55 of the share that these labels would
    accept, since they are too few to rely on. The benchmarks page shows the result for nine kinds
    of simulated scores.
    """
    scores = np.sort(_check_confidences(confidences))[::-1]
    counts = _accepted_counts(len(scores), guarantee)
    if not counts:
        return ()
    first = _BLIND_START
    if fitting:
        fit_confidences = _check_confidences([o.confidence for o in fitting])
        right = np.array([o.correct for o in fitting])
        coverage = coverage_at_risk(fit_confidences, right, guarantee.risk)
        first = (_BLIND_START + _START * coverage) / 2
    start = min(counts, key=lambda count: abs(count - first * len(scores)))
    ranks = np.array([count for count in counts if count >= start])
    ranks = ranks[np.unique(np.linspace(0, len(ranks) - 1, _THRESHOLDS).astype(int))]
    levels = np.unique(scores)
    below = np.searchsorted(levels, scores[ranks - 1]) - 1
    halfway = np.where(below < 0, 0.0, (levels[below] + levels[below + 1]) / 2)
    return tuple(np.unique(halfway)[::-1].tolist())


def _accepted_counts(labels: int, guarantee: Guarantee) -> list[int]:
    """Return the counts at which one more error is allowed, and all counts after the last."""
    max_errors = allowed_errors(labels, risk=guarantee.risk, failure=guarantee.failure)
    counts = [n for n in range(1, labels + 1) if max_errors[n] > max_errors[n - 1]]
    return sorted({*counts, *range(counts[-1], labels + 1)}) if counts else []


def find_bound_among(
    thresholds: Sequence[float],
    held_out: Sequence[Outcome],
    guarantee: Guarantee,
    *,
    scored: Sequence[Outcome] = (),
) -> Bound:
    """Test thresholds on held-out labels until one fails, and return the last that passed.

    Their order is fixed without looking at `held_out`. If none passes, the number of missing labels
    is estimated from `held_out` and `scored`, other labelled decisions.
    """
    _check_confidences([o.confidence for o in held_out])
    cases = draw_one_per_case(held_out)
    labels = len(held_out)
    if labels and thresholds:
        max_errors = allowed_errors(len(cases), risk=guarantee.risk, failure=guarantee.failure)
        tested, fails = _count_accepted(thresholds, cases)
        accepted, wrong = _count_accepted(thresholds, held_out)
        passed = (fails <= np.array(max_errors)[tested]) & (wrong <= guarantee.risk * accepted)
        last = int(np.logical_and.accumulate(passed).sum()) - 1
        if last >= 0:
            upper = upper_bound(int(fails[last]), int(tested[last]), 1.0 - guarantee.failure)
            by_case = "" if len(cases) == labels else f", by one of each of {len(cases)} cases"
            return Bound(
                guarantee=guarantee,
                threshold=thresholds[last],
                labels=labels,
                accepted=int(accepted[last]),
                errors=int(wrong[last]),
                upper=min(upper, guarantee.risk),
                summary=f"accepts {percent(float(accepted[last]) / labels)} ({accepted[last]} of "
                f"{labels} held-out decisions, {wrong[last]} of them wrong): {guarantee}{by_case}",
            )
    outcomes = draw_one_per_case((*scored, *held_out))
    more_labels, summary = _estimate_missing(
        [(o.confidence, o.correct) for o in outcomes], guarantee, labels=labels, cases=len(cases)
    )
    return Bound(
        guarantee=guarantee, threshold=None, labels=labels, more_labels=more_labels, summary=summary
    )


def _count_accepted(thresholds: Sequence[float], outcomes: Sequence[Outcome]) -> tuple[Ints, Ints]:
    """Count, for each threshold, the accepted decisions and the wrong ones among them."""
    takes = np.array([o.confidence for o in outcomes])[:, None] >= np.array(thresholds)
    return takes.sum(0), takes[[not o.correct for o in outcomes]].sum(0)


def draw_one_per_case(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Draw one decision of each case, independently of its outcome."""
    cases: dict[str | int, list[Outcome]] = {}
    for row, outcome in enumerate(outcomes):
        cases.setdefault(row if outcome.case is None else outcome.case, []).append(outcome)
    draw = random.Random(0)
    return [group[0] if len(group) == 1 else draw.choice(group) for group in cases.values()]


def _check_confidences(confidences: Sequence[float]) -> Floats:
    values = np.array(confidences, float)
    if not ((values >= 0.0) & (values <= 1.0)).all():
        bad = next(value for value in confidences if not 0.0 <= value <= 1.0)
        raise InputError(f"a confidence must lie between 0 and 1, and one is {bad}")
    return values


def _estimate_missing(
    outcomes: Sequence[tuple[float, bool]], guarantee: Guarantee, *, labels: int, cases: int
) -> tuple[int | None, str]:
    """Estimate how many held-out labels are missing, and explain why nothing is accepted.

    Outcomes are pairs of a confidence and its correctness, one for each case. The number is `None`
    if more labels won't help.
    """
    unit = "labels" if cases == labels else "cases"
    minimum = guarantee.count_needed()
    likely, lowest, hopeless = _estimate_labels(outcomes, guarantee)
    reason = _explain(guarantee, cases, minimum, unit)
    if likely is not None:
        more_cases = max(likely - cases, minimum - cases, minimum // 2)
        advice = f"It takes about {more_cases} more held-out {unit}"
    elif not hopeless:
        more_cases = max(minimum - cases, cases)
        advice = (
            f"It takes at least about {more_cases} more held-out {unit}, if the scorer is good "
            "enough at all, which can't be told yet"
        )
    else:
        return None, (
            f"accepts nothing: {reason}. Even among the surest decisions about "
            f"{percent(lowest)} are wrong, so more labels alone won't help: it takes a better "
            "scorer, or a larger risk"
        )
    labels_per_case = labels / cases if cases else 1.0
    return math.ceil(more_cases * labels_per_case), f"accepts nothing: {reason}. {advice}"


def _explain(guarantee: Guarantee, cases: int, minimum: int, unit: str) -> str:
    confidence = f"(confidence {percent(guarantee.confidence)})"
    if cases >= minimum:
        return (
            f"no threshold was shown to keep {percent(guarantee.risk)} on {cases} held-out {unit} "
            f"{confidence}"
        )
    if not cases:
        return (
            f"there are too few rows to hold any out, and {percent(guarantee.risk)} takes at least "
            f"{minimum} held out and accepted without an error {confidence}"
        )
    prefix = "" if unit == "labels" else f"{unit} "
    best = percent(guarantee.smallest_risk(cases))
    return (
        f"with {cases} held-out {unit} the best that can be shown is at most {best} wrong, and "
        f"{percent(guarantee.risk)} takes at least {minimum} {prefix}accepted without an error "
        f"{confidence}"
    )


def _estimate_labels(
    outcomes: Sequence[tuple[float, bool]], guarantee: Guarantee
) -> tuple[int | None, float, bool]:
    """Extrapolate from the error rates of the surest decisions, from few to all of them.

    Return the number of held-out labels with which a threshold would likely pass, the lowest error
    rate, and True if all rates are significantly above the risk.
    """
    ranked = sorted(outcomes, key=lambda outcome: -outcome[0])
    n = len(ranked)
    sizes = [min_decisions(k, risk=guarantee.risk, failure=guarantee.failure) for k in _ERRORS]
    estimates: list[int] = []
    lowest, hopeless = 1.0, n >= _FEWEST
    for step in range(1, _STEPS + 1):
        accepted = math.ceil(n * step / _STEPS)
        if accepted < _FEWEST:
            continue
        wrong = sum(not correct for _, correct in ranked[:accepted])
        rate = (wrong + 0.5) / (accepted + 1)
        lowest = min(lowest, rate)
        hopeless &= tail(wrong - 1, accepted, guarantee.risk) >= _SURE
        if rate < guarantee.risk:
            pairs = zip(_ERRORS, sizes, strict=True)
            size = next((m for k, m in pairs if tail(k, m, rate) >= _LIKELY), None)
            estimates += [] if size is None else [math.ceil(size * n / accepted)]
    return min(estimates, default=None), lowest, hopeless


class CurvePoint(Frozen):
    """A threshold, with the labelled decisions that it accepts."""

    threshold: float
    """Minimum confidence of accepted decisions."""
    accepted: int
    errors: int
    """Wrong ones among the accepted."""
    lower: float
    """Lower bound of the error rate by these counts, exact and one-sided."""
    upper: float
    """Upper bound of the error rate by these counts, exact and one-sided."""


def risk_curve(outcomes: Sequence[Outcome], *, confidence: float = 0.95) -> tuple[CurvePoint, ...]:
    """Compute the error rate from the strictest threshold to the one that accepts all.

    No point is a guarantee: picking the best of all thresholds means testing many.

    Args:
        outcomes: Randomly drawn labelled decisions. One of each case counts.
        confidence: Confidence of each bound by itself.
    """
    cases = sorted(draw_one_per_case(outcomes), key=lambda outcome: -outcome.confidence)
    if not cases:
        return ()
    wrong = np.cumsum([not outcome.correct for outcome in cases])
    confidences = np.array([outcome.confidence for outcome in cases])
    # Decisions of equal confidence stay together.
    ends = np.flatnonzero(np.append(confidences[1:] < confidences[:-1], True))
    if len(ends) > _POINTS:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, _POINTS).astype(int))]
    return tuple(
        _point(float(confidences[end]), int(end) + 1, int(wrong[end]), confidence) for end in ends
    )


def _point(threshold: float, accepted: int, errors: int, confidence: float) -> CurvePoint:
    return CurvePoint(
        threshold=threshold,
        accepted=accepted,
        errors=errors,
        lower=1.0 - upper_bound(accepted - errors, accepted, confidence),
        upper=upper_bound(errors, accepted, confidence),
    )
