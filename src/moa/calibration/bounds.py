"""Bounds: from which confidence on decisions can be accepted, at a risk that is guaranteed.

Thresholds are tested one after another, from a strict one on, until the first that fails
("fixed-sequence testing" in Learn then Test; Angelopoulos, Bates, Candès, Jordan and Lei 2021,
arXiv:2110.01052). How many held-out decisions each accepts is fixed before their labels are looked
at, by the labels that the scorer was fitted on; their scores say where it lies. Given the score
below it, the decisions above are a sample of those that it accepts, so the wrong ones among them
are binomial, whatever the scores mean. Since testing stops at the first failure, the guarantee
breaks only where the first threshold that should have failed passes, so that no part of the
confidence is lost to the number of thresholds. That is proven where the risk crosses the target
once as the threshold falls; where it crosses it more often, tests and simulations found no more
guarantees broken than stated.

Where several decisions belong to one case they are wrong together, and the binomial doesn't hold.
Then one decision of each case is drawn for the test, before any is looked at, so that each case
counts once: what is proven is the risk of a decision that is drawn from a case. If cases with many
decisions are wrong more often, more of all decisions are wrong than of those. So a threshold must
also keep the risk among all held-out decisions that it accepts, which only makes it stricter.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moa.calibration import Bound, Guarantee, allowed_errors, fewest, percent, tail, upper_bound
from moa.decisions.arrays import Floats, Ints, coverage_at_risk, np
from moa.errors import InputError

_THRESHOLDS = 60
_START, _BLIND_START = 0.55, 0.3
_LIKELY = 0.8
"""Chance of success that the estimate of missing labels aims at."""
_ERRORS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55)
_STEPS = 20
_FEWEST = 5
"""Minimum of the surest decisions whose error rate says something."""
_SURE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A decision whose right answer is known."""

    confidence: float
    """How sure the scorer is of its answer, from 0 to 1."""
    correct: bool
    label: str = ""
    """The answer that was given, for bounds by label."""
    case: str | None = None
    """What the decision is about, where several decisions are about one thing."""


def find_bound(
    fitting: Sequence[Outcome], held_out: Sequence[Outcome], guarantee: Guarantee
) -> Bound:
    """Find from which confidence on decisions are accepted.

    Args:
        fitting: Decisions on the labels that the scorer was fitted on, each by a fit without its
            own label (cross-validation). They say only in which order thresholds are tested; there
            may be none, where the scorer was fitted on no labels.
        held_out: Decisions on labels that took no part in anything before, of the same scorer.
            Decisions about one case stand all on one side.
        guarantee: What is guaranteed.

    Raises:
        InputError: a confidence is not between 0 and 1, or a case stands on both sides.
    """
    both = {o.case for o in fitting} & {o.case for o in held_out} - {None}
    if both:
        raise InputError(
            f"{len(both)} cases, such as {min(both, key=str)!r}, have decisions on both sides; "
            "split by case, so that what was fitted says nothing about what is held out"
        )
    confidences = [o.confidence for o in one_of_each(held_out)]
    thresholds = sequence(fitting, confidences, guarantee)
    return bound_along(thresholds, held_out, guarantee, known=fitting)


def find_bounds_by_label(
    fitting: Sequence[Outcome], held_out: Sequence[Outcome], guarantee: Guarantee
) -> dict[str, Bound]:
    """Find for each label from which confidence on it is accepted, at the risk of that label.

    All the guarantees hold together with the confidence (Bonferroni). Arguments and errors are
    those of `find_bound`. Labels that `fitting` gives too rarely to be accepted ever are not
    tested, and cost the others nothing.
    """
    ratio = len(held_out) / len(fitting) if fitting else 1.0
    seen = fitting or held_out  # which label was given, not which one is right
    names = sorted({o.label for o in (*fitting, *held_out)})
    given = {name: sum(o.label == name for o in seen) for name in names}
    tested = sorted(given, key=lambda name: -given[name])
    while len(tested) > 1:
        if given[tested[-1]] * ratio >= guarantee.shared(len(tested)).needed():
            break
        tested.pop()
    each = guarantee.shared(len(tested))
    bounds: dict[str, Bound] = {}
    for name in given:
        fitted = [o for o in fitting if o.label == name]
        held = [o for o in held_out if o.label == name]
        if name in tested:
            bounds[name] = find_bound(fitted, held, each)
        else:
            bounds[name] = bound_along((), held, each, known=fitted)
    return bounds


def together(bounds: Mapping[str, Bound], guarantee: Guarantee) -> Bound:
    """Sum the bounds of labels up to one that is to be read; each is applied by itself."""
    labels = sum(bound.labels for bound in bounds.values())
    accepted = sum(bound.accepted for bound in bounds.values())
    found = {name: b.threshold for name, b in bounds.items() if b.threshold is not None}
    none = sorted(name for name in bounds if name not in found)
    missing = [bounds[name].more_labels for name in none]
    known = [more for more in missing if more is not None]
    summary = (
        f"accepts {percent(accepted / labels) if labels else 'nothing'} "
        f"({accepted} of {labels} held-out decisions): of each label {guarantee}"
    )
    if not found:
        summary = f"accepts nothing: no label has a threshold that was shown to keep {guarantee}"
    elif none:
        summary += f"; nothing is accepted of {', '.join(none)}"
    if known:
        summary += f". For the label that takes least, about {min(known)} more held-out labels"
    return Bound(
        guarantee=guarantee,
        threshold=min(found.values(), default=None),
        labels=labels,
        accepted=accepted,
        errors=sum(bound.errors for bound in bounds.values()),
        upper=max((bounds[name].upper for name in found), default=1.0),
        more_labels=None if found else min(known, default=None),
        summary=summary,
    )


def sequence(
    fitting: Sequence[Outcome], confidences: Sequence[float], guarantee: Guarantee
) -> tuple[float, ...]:
    """Choose the thresholds to be tested, in order, without a look at the held-out labels.

    A threshold that accepts 123 decisions may have one error at 5 % risk and 95 % confidence, one
    that accepts 124 may have two: so they are set where one more is allowed, and closely behind
    the last of those. They lie halfway between two scores, so that a score may move a little with
    the batch it is in.

    Where the sequence starts decides how much is accepted in the end: too strict a start has too
    few decisions to bear one error, too lenient a one fails at once. It starts at three tenths; or
    halfway to a little over half of the share that could be accepted by the labels that the scorer
    was fitted on, which are too few to be followed all the way. The page of benchmarks shows what
    that accepts of nine kinds of simulated scores.
    """
    scores = np.sort(_checked(confidences))[::-1]
    counts = _counts(len(scores), guarantee)
    if not counts:
        return ()
    first = _BLIND_START
    if fitting:
        known = _checked([o.confidence for o in fitting])
        right = np.array([o.correct for o in fitting])
        could = coverage_at_risk(known, right, guarantee.risk)
        first = (_BLIND_START + _START * could) / 2
    start = min(counts, key=lambda count: abs(count - first * len(scores)))
    ranks = np.array([count for count in counts if count >= start])
    ranks = ranks[np.unique(np.linspace(0, len(ranks) - 1, _THRESHOLDS).astype(int))]
    levels = np.unique(scores)
    below = np.searchsorted(levels, scores[ranks - 1]) - 1
    halfway = np.where(below < 0, 0.0, (levels[below] + levels[below + 1]) / 2)
    return tuple(np.unique(halfway)[::-1].tolist())


def _counts(labels: int, guarantee: Guarantee) -> list[int]:
    """How many decisions to accept: where one error more is allowed, and from the last on all."""
    allowed = allowed_errors(labels, risk=guarantee.risk, failure=guarantee.failure)
    counts = [n for n in range(1, labels + 1) if allowed[n] > allowed[n - 1]]
    return sorted({*counts, *range(counts[-1], labels + 1)}) if counts else []


def bound_along(
    thresholds: Sequence[float],
    held_out: Sequence[Outcome],
    guarantee: Guarantee,
    *,
    known: Sequence[Outcome] = (),
) -> Bound:
    """Test thresholds on held-out labels until the first that fails, and take the last to pass.

    Their order was fixed without a look at `held_out`. From these and `known`, other labelled
    decisions, it is estimated how many labels are missing.
    """
    _checked([o.confidence for o in held_out])
    cases = one_of_each(held_out)
    labels = len(held_out)
    if labels and thresholds:
        allowed = allowed_errors(len(cases), risk=guarantee.risk, failure=guarantee.failure)
        tested, fails = _counts_along(thresholds, cases)
        accepted, wrong = _counts_along(thresholds, held_out)
        passed = (fails <= np.array(allowed)[tested]) & (wrong <= guarantee.risk * accepted)
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
    tells = one_of_each((*known, *held_out))
    more, summary = _shortfall(
        [(o.confidence, o.correct) for o in tells], guarantee, labels=labels, cases=len(cases)
    )
    return Bound(
        guarantee=guarantee, threshold=None, labels=labels, more_labels=more, summary=summary
    )


def _counts_along(thresholds: Sequence[float], outcomes: Sequence[Outcome]) -> tuple[Ints, Ints]:
    """How many decisions each threshold accepts, and how many of them are wrong."""
    takes = np.array([o.confidence for o in outcomes])[:, None] >= np.array(thresholds)
    return takes.sum(0), takes[[not o.correct for o in outcomes]].sum(0)


def one_of_each(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Draw one decision of each case: which one doesn't depend on what it is."""
    cases: dict[str | int, list[Outcome]] = {}
    for row, outcome in enumerate(outcomes):
        cases.setdefault(row if outcome.case is None else outcome.case, []).append(outcome)
    draw = random.Random(0)
    return [found[0] if len(found) == 1 else draw.choice(found) for found in cases.values()]


def _checked(confidences: Sequence[float]) -> Floats:
    found = np.array(confidences, float)
    if not ((found >= 0.0) & (found <= 1.0)).all():
        bad = next(one for one in confidences if not 0.0 <= one <= 1.0)
        raise InputError(f"a confidence must lie between 0 and 1, and one is {bad}")
    return found


def _shortfall(
    outcomes: Sequence[tuple[float, bool]], guarantee: Guarantee, *, labels: int, cases: int
) -> tuple[int | None, str]:
    """Estimate how many held-out labels are missing, and say why nothing is accepted yet.

    By one decision of each case, with its confidence and whether it is right. The number is `None`
    where labels alone won't help.
    """
    what = "labels" if cases == labels else "cases"
    needed = guarantee.needed()
    likely, lowest, hopeless = _look(outcomes, guarantee)
    why = _why(guarantee, cases, needed, what)
    if likely is not None:
        more = max(likely - cases, needed - cases, needed // 2)
        said = f"It takes about {more} more held-out {what}"
    elif not hopeless:
        more = max(needed - cases, cases)
        said = (
            f"It takes at least about {more} more held-out {what}, if the scorer is good enough at "
            "all, which can't be told yet"
        )
    else:
        return None, (
            f"accepts nothing: {why}. Even among the surest decisions about "
            f"{percent(lowest)} are wrong, so more labels alone won't help: it takes a better "
            "scorer, or a larger risk"
        )
    each = labels / cases if cases else 1.0
    return math.ceil(more * each), f"accepts nothing: {why}. {said}"


def _why(guarantee: Guarantee, cases: int, needed: int, what: str) -> str:
    confidence = f"(confidence {percent(guarantee.confidence)})"
    if cases >= needed:
        return (
            f"no threshold was shown to keep {percent(guarantee.risk)} on {cases} held-out {what} "
            f"{confidence}"
        )
    if not cases:
        return (
            f"there are too few rows to hold any out, and {percent(guarantee.risk)} takes at least "
            f"{needed} held out and accepted without an error {confidence}"
        )
    named = "" if what == "labels" else f"{what} "
    best = percent(guarantee.shown_by(cases))
    return (
        f"with {cases} held-out {what} the best that can be shown is at most {best} wrong, and "
        f"{percent(guarantee.risk)} takes at least {needed} {named}accepted without an error "
        f"{confidence}"
    )


def _look(
    outcomes: Sequence[tuple[float, bool]], guarantee: Guarantee
) -> tuple[int | None, float, bool]:
    """Say what the error rates among the surest decisions, few to all of them, let expect.

    That is the held-out labels with which some threshold would likely pass, the lowest error rate
    as far as it can be told, and whether all of them are above the risk, and not by chance.
    """
    ranked = sorted(outcomes, key=lambda outcome: -outcome[0])
    n = len(ranked)
    sizes = [fewest(k, risk=guarantee.risk, failure=guarantee.failure) for k in _ERRORS]
    wanted: list[int] = []
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
            wanted += [] if size is None else [math.ceil(size * n / accepted)]
    return min(wanted, default=None), lowest, hopeless
