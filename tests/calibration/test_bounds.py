"""Bounds: what is guaranteed of accepted decisions holds, also where little is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import Generator
from numpy.typing import NDArray

from moa.core.errors import ConfigError, InputError
from moa.decisions.bounds import (
    Outcome,
    choose_thresholds,
    find_bound,
    find_bound_among,
    find_bounds_by_label,
)
from moa.decisions.guarantee import (
    Bound,
    Guarantee,
    Learn,
    allowed_errors,
    held_out_share,
    min_decisions,
    min_rows,
    percent,
    tail,
    upper_bound,
)

PROMISE = Guarantee(0.05, 0.95)
LOOSE = Guarantee(0.2, 0.9)
DRAWS = 1200


@dataclass(frozen=True)
class World:
    """A known distribution: how frequent each score is, and how often it is wrong."""

    scores: NDArray[np.float64]
    mass: NDArray[np.float64]
    error: NDArray[np.float64]

    def draw(self, n: int, rng: Generator, *, label: str = "") -> list[Outcome]:
        picked = rng.choice(len(self.scores), n, p=self.mass / self.mass.sum())
        right = rng.random(n) >= self.error[picked]
        return [
            Outcome(confidence=float(self.scores[i]), correct=bool(ok), label=label)
            for i, ok in zip(picked, right, strict=True)
        ]

    def risk(self, threshold: float) -> float:
        takes = self.scores >= threshold
        return float((self.mass * self.error)[takes].sum() / max(1e-300, self.mass[takes].sum()))

    def coverage(self, threshold: float) -> float:
        return float(self.mass[self.scores >= threshold].sum() / self.mass.sum())

    def broken(self, bound: Bound) -> bool:
        threshold = bound.threshold
        return threshold is not None and self.risk(threshold) > bound.guarantee.risk


def _calibrated(spread: float) -> World:
    margins = np.linspace(0.0, 4 * spread, 400)
    scores = 1 / (1 + np.exp(-margins))
    return World(scores, np.exp(-((margins / spread) ** 2) / 2), 1 - scores)


def _even(error: NDArray[np.float64]) -> World:
    n = len(error)
    return World((np.arange(n) + 1) / n, np.full(n, 1 / n), error)


def worlds(risk: float) -> dict[str, World]:
    """Distributions that are easy to be wrong about, most of them just above the risk."""
    just_above = risk * 1.001
    rising = np.linspace(0.0, 1.0, 200)
    return {
        "calibrated": _calibrated(2.6),
        "sure": _calibrated(6.0),
        "no better when surer": _even(np.full(200, just_above)),
        "one tied score": _even(np.array([just_above])),
        "three tied scores": World(
            np.array([0.3, 0.6, 0.9]), np.array([0.2, 0.3, 0.5]), np.array([0.6, risk, just_above])
        ),
        "wrong where surest": _even(np.where(rising > 0.9, 6 * risk, risk * 0.4)),
        "a rare class is always wrong": World(
            np.array([0.4, 0.99]), np.array([just_above, 1 - just_above]), np.array([1.0, 0.0])
        ),
        "a cliff": _even(np.where(rising > 0.5, risk * 0.99, risk * 1.5)),
    }


def broken_of(world: World, n: int, guarantee: Guarantee, *, seed: int) -> int:
    """How many of `DRAWS` guarantees are broken."""
    rng = np.random.default_rng(seed)
    broken = 0
    for _ in range(DRAWS // 8):
        fitting = world.draw(n, rng)
        for _ in range(8):
            broken += world.broken(find_bound(fitting, world.draw(n, rng), guarantee))
    return broken


def breaks_too_often(broken: int, draws: int, guarantee: Guarantee) -> bool:
    """A binomial test, which finds guarantees that hold too often broken once in 1,000 times."""
    return 1 - tail(broken - 1, draws, guarantee.failure) < 0.001


@pytest.mark.parametrize(
    ("guarantee", "n", "name"),
    [
        *((LOOSE, n, name) for n in (11, 60) for name in worlds(0.2)),
        *((PROMISE, 200, name) for name in ("calibrated", "no better when surer")),
        *((PROMISE, 200, name) for name in ("three tied scores", "a cliff")),
    ],
)
def test_a_promise_is_broken_no_more_often_than_stated(
    guarantee: Guarantee, n: int, name: str
) -> None:
    broken = broken_of(worlds(guarantee.risk)[name], n, guarantee, seed=n)
    assert not breaks_too_often(broken, DRAWS, guarantee)


def test_a_threshold_that_only_looked_good_would_be_seen_to_break_its_promise() -> None:
    world = worlds(LOOSE.risk)["no better when surer"]
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(100):
        wrong = sum(not o.correct for o in world.draw(60, rng))
        threshold = 0.0 if wrong <= 60 * LOOSE.risk else None
        broken += world.broken(Bound(guarantee=LOOSE, threshold=threshold, labels=60, summary=""))
    assert breaks_too_often(broken, 100, LOOSE)
    assert breaks_too_often(round(0.087 * DRAWS), DRAWS, PROMISE)
    assert not breaks_too_often(round(0.05 * DRAWS), DRAWS, PROMISE)


@pytest.mark.parametrize("learn", ["split", "nothing", "approximate"])
@pytest.mark.parametrize(("risk", "labels"), [(0.05, 2), (0.1, 10), (0.01, 2)])
def test_the_rows_said_to_be_needed_hold_out_just_enough_to_accept_what_has_no_error(
    risk: float, labels: int, learn: Learn
) -> None:
    guarantee = Guarantee(risk, look=1)
    needed = min_rows(guarantee, labels, learn=learn)

    def accepts(rows: int) -> bool:
        share = held_out_share(rows, labels, guarantee, learn) if learn != "approximate" else 1.0
        held_out = [Outcome(confidence=0.9, correct=True)] * round(share * rows)
        return find_bound([], held_out, guarantee).threshold is not None

    assert accepts(needed)
    assert not accepts(needed - 1)


def test_looks_at_growing_rows_keep_the_promise_together() -> None:
    world = worlds(LOOSE.risk)["no better when surer"]
    rng = np.random.default_rng(2)
    broken = {True: 0, False: 0}
    for _ in range(DRAWS):
        rows = world.draw(150, rng)
        for counted in broken:
            looks = (
                find_bound((), rows[: 25 * k], replace(LOOSE, look=k if counted else None))
                for k in range(1, 7)
            )
            broken[counted] += any(world.broken(bound) for bound in looks)
    assert not breaks_too_often(broken[True], DRAWS, LOOSE)
    assert breaks_too_often(broken[False], DRAWS, LOOSE)


def test_all_looks_together_spend_the_probability_of_failure() -> None:
    spent = sum(Guarantee(look=look).failure for look in range(1, 2000))
    assert 0.999 * PROMISE.failure < spent <= PROMISE.failure
    with pytest.raises(ConfigError):
        Guarantee(look=0)


def test_promises_by_label_hold_together() -> None:
    world = worlds(LOOSE.risk)["no better when surer"]
    rng = np.random.default_rng(3)
    broken = 0
    for _ in range(DRAWS):
        fitting, held_out = (
            [o for label in ("a", "b", "c") for o in world.draw(30, rng, label=label)]
            for _ in range(2)
        )
        found = find_bounds_by_label(fitting, held_out, LOOSE)
        broken += any(world.broken(bound) for bound in found.values())
    assert not breaks_too_often(broken, DRAWS, LOOSE)


def test_a_rare_label_costs_the_frequent_ones_nothing() -> None:
    world = _calibrated(6.0)
    rng = np.random.default_rng(4)
    fitting = [*world.draw(150, rng, label="ham"), *world.draw(3, rng, label="spam")]
    held_out = [*world.draw(150, rng, label="ham"), *world.draw(3, rng, label="spam")]
    found = find_bounds_by_label(fitting, held_out, LOOSE)
    assert found["ham"].guarantee == LOOSE
    assert found["ham"].threshold is not None
    assert found["spam"].threshold is None
    assert "more held-out labels" in found["spam"].summary


def _cases(rng: Generator, n: int, error: float, *, each: int = 4) -> list[Outcome]:
    """Cases of several decisions, which are right or wrong together."""
    right = rng.random(n) >= error
    return [
        Outcome(confidence=0.9, correct=bool(ok), case=f"{side}")
        for side, ok in enumerate(right)
        for _ in range(each)
    ]


def test_decisions_about_one_case_are_bounded_by_case() -> None:
    rng = np.random.default_rng(5)
    broken = {True: 0, False: 0}
    for _ in range(DRAWS):
        held_out = _cases(rng, 30, LOOSE.risk * 1.001)
        for told in broken:
            some = held_out if told else [replace(o, case=None) for o in held_out]
            broken[told] += find_bound_among((0.5,), some, LOOSE).threshold is not None
    assert not breaks_too_often(broken[True], DRAWS, LOOSE)
    assert breaks_too_often(broken[False], DRAWS, LOOSE)


def test_one_case_of_two_decisions_costs_the_others_nothing() -> None:
    alone = _cases(np.random.default_rng(6), 59, 0.0, each=1)
    bound = find_bound_among((0.5,), [*alone, alone[0]], PROMISE)
    assert bound.accepted == 60
    assert bound.upper == upper_bound(0, 59, PROMISE.confidence)


def test_many_decisions_of_few_cases_that_are_wrong_are_not_drowned_by_the_cases() -> None:
    rng = np.random.default_rng(6)
    few = [replace(o, case=f"long {o.case}") for o in _cases(rng, 2, 1.0, each=30)]
    assert (
        find_bound_among((0.5,), [*_cases(rng, 300, 0.0, each=1), *few], PROMISE).threshold is None
    )


def test_a_case_on_both_sides_is_refused() -> None:
    one = [Outcome(confidence=0.9, correct=True, case="ticket 7")]
    with pytest.raises(InputError, match="ticket 7"):
        find_bound(one, one, PROMISE)


def test_what_is_missing_is_counted_by_case() -> None:
    rng = np.random.default_rng(6)
    few = find_bound_among((0.5,), _cases(rng, 30, 0.0), PROMISE)
    assert "with 30 held-out cases" in few.summary
    assert "takes at least 59 cases accepted without an error" in few.summary
    assert few.more_labels is not None
    assert few.more_labels >= 4 * (59 - 30)
    enough = _cases(rng, 59, 0.0)
    assert find_bound_among((0.5,), enough, PROMISE).accepted == 4 * 59
    assert find_bound_among((0.5,), enough[4:], PROMISE).threshold is None


@pytest.mark.parametrize(
    ("spread", "n", "least"),
    [
        pytest.param(9.0, 128, 0.55, id="very sure"),
        pytest.param(5.0, 256, 0.5, id="sure"),
        pytest.param(5.0, 512, 0.65, id="sure, more labels"),
    ],
)
def test_coverage_comes_near_to_that_of_the_true_threshold(
    spread: float, n: int, least: float
) -> None:
    world = _calibrated(spread)
    rng = np.random.default_rng(7)
    reached: list[float] = []
    for _ in range(30):
        bound = find_bound(world.draw(n, rng), world.draw(n, rng), PROMISE)
        reached.append(0.0 if bound.threshold is None else world.coverage(bound.threshold))
    assert np.mean(reached) >= least


def test_thresholds_accept_as_many_as_may_have_one_error_more() -> None:
    held_out = [n / 300 for n in range(300)]
    fitting = [Outcome(confidence=n / 100, correct=n > 85) for n in range(100)]
    thresholds = choose_thresholds(fitting, held_out, PROMISE)
    accepted = [sum(c >= threshold for c in held_out) for threshold in thresholds]
    assert accepted[:4] == [PROMISE.count_needed(errors) for errors in (0, 1, 2, 3)]
    assert accepted[-1] == 300


def test_thresholds_start_with_more_where_more_could_be_accepted() -> None:
    held_out = [n / 300 for n in range(300)]
    right = [Outcome(confidence=n / 100, correct=True) for n in range(100)]
    for fitting, errors in ((right, 2), ([], 1)):
        first = choose_thresholds(fitting, held_out, PROMISE)[0]
        assert sum(c >= first for c in held_out) == PROMISE.count_needed(errors)


@pytest.mark.parametrize(("errors", "needed"), [(0, 59), (1, 93), (3, 153), (6, 234)])
def test_the_labels_needed_are_those_of_the_exact_binomial(errors: int, needed: int) -> None:
    assert PROMISE.count_needed(errors) == needed
    assert tail(errors, needed, 0.05) <= 0.05 < tail(errors, needed - 1, 0.05)
    allowed = allowed_errors(needed, risk=0.05, failure=PROMISE.failure)
    assert allowed[needed] == errors
    assert allowed[needed - 1] == errors - 1


@given(st.integers(0, 40), st.integers(1, 40), st.integers(1, 99))
def test_the_tail_is_the_sum_of_the_binomial(errors: int, n: int, hundredths: int) -> None:
    risk = Fraction(hundredths, 100)
    exact = sum(comb(n, k) * risk**k * (1 - risk) ** (n - k) for k in range(min(errors, n) + 1))
    assert tail(errors, n, float(risk)) == pytest.approx(float(exact), rel=1e-9)


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0.5, 0.99))
def test_the_upper_bound_is_where_the_tail_meets_the_failure(
    errors: int, n: int, confidence: float
) -> None:
    upper = upper_bound(errors, n, confidence)
    if errors >= n:
        assert upper == 1.0
    else:
        assert tail(errors, n, upper) == pytest.approx(1 - confidence, rel=1e-6)
        assert min_decisions(errors, risk=upper + 1e-6, failure=1 - confidence) <= n


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 0.7, 0.9, 1.0]), st.booleans()), max_size=60),
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60),
)
def test_a_bound_counts_what_it_accepts_and_keeps_its_risk(
    fitting: list[tuple[float, bool]], held_out: list[tuple[float, bool]]
) -> None:
    known, new = ([Outcome(confidence=c, correct=ok) for c, ok in s] for s in (fitting, held_out))
    bound = find_bound(known, new, LOOSE)
    taken = [o for o in new if bound.accepts(o.confidence)]
    assert len(taken) == bound.accepted
    assert sum(not o.correct for o in taken) == bound.errors
    assert bound.threshold is None or bound.upper <= LOOSE.risk
    assert Bound.model_validate_json(bound.model_dump_json()) == bound


@pytest.mark.parametrize("n", [0, 40])
def test_below_the_labels_needed_nothing_is_accepted_and_the_rest_is_told(n: int) -> None:
    right = [Outcome(confidence=0.99, correct=True)] * n
    bound = find_bound(right, right, PROMISE)
    assert bound.threshold is None
    assert not bound.accepts(1.0)
    assert (f"with {n} held-out labels" if n else "too few rows to hold any out") in bound.summary
    assert "at least 59 " in bound.summary
    assert "accepted without an error" in bound.summary
    assert f"about {bound.more_labels} more held-out labels" in bound.summary


def test_the_labels_said_to_be_missing_are_about_enough() -> None:
    world = _calibrated(5.0)
    rng = np.random.default_rng(8)
    told = find_bound(world.draw(40, rng), world.draw(40, rng), PROMISE)
    assert told.more_labels is not None
    n = 40 + told.more_labels
    found = [find_bound(world.draw(n, rng), world.draw(n, rng), PROMISE) for _ in range(40)]
    assert sum(bound.threshold is not None for bound in found) >= 20


def test_a_scorer_that_more_labels_cannot_help_is_told_so() -> None:
    rng = np.random.default_rng(9)
    world = _even(np.full(50, 0.3))
    bound = find_bound(world.draw(200, rng), world.draw(200, rng), PROMISE)
    assert bound.more_labels is None
    assert "a better scorer" in bound.summary


def test_few_labels_are_not_taken_for_a_bad_scorer() -> None:
    mixed = [Outcome(confidence=c / 20, correct=c not in (1, 4, 17)) for c in range(20)]
    bound = find_bound(mixed, mixed, PROMISE)
    assert bound.more_labels == 59 - 20
    assert "can't be told yet" in bound.summary


@pytest.mark.parametrize("wrong", [float("nan"), -0.1, 1.1])
def test_a_confidence_outside_of_0_and_1_is_refused(wrong: float) -> None:
    outcomes = [Outcome(confidence=wrong, correct=True)]
    with pytest.raises(InputError):
        find_bound(outcomes, outcomes, PROMISE)


@pytest.mark.parametrize(("risk", "confidence"), [(0.0, 0.9), (0.1, 1.0), (5, 0.95)])
def test_a_promise_that_cannot_be_is_refused(risk: float, confidence: float) -> None:
    with pytest.raises(ConfigError):
        Guarantee(risk, confidence)


def test_shares_are_written_with_the_digits_that_tell() -> None:
    shares = (0.05, 0.9875, 0.996, 0.0496, 0.0, 1.0)
    assert [percent(s) for s in shares] == ["5 %", "98.8 %", "99.6 %", "5 %", "0 %", "100 %"]
