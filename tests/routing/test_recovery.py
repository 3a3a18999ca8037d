"""APGR and CPT, against cases computed by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.core.errors import InputError
from moa.routing.evaluation import RANDOM, evaluate_routing, recovery

WEAK = [True, False, False, True]
STRONG = [True, True, True, False]
"""Gains 0, 1, 1, -1: the weak model is right on half, the strong one on three quarters."""


def test_the_curve_goes_from_the_weak_model_to_the_strong_one() -> None:
    line = recovery([0.1, 0.9, 0.8, 0.0], WEAK, STRONG)
    assert line.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert line.qualities.tolist() == [0.5, 0.75, 1.0, 1.0, 0.75]
    assert (line.weak, line.strong) == (0.5, 0.75)


def test_apgr_is_the_area_over_the_weak_model_as_part_of_the_gap() -> None:
    # Trapezoids of 0.25 each: (0.125 + 0.375 + 0.5 + 0.375) * 0.25 = 0.34375, over a gap of 0.25.
    assert recovery([0.1, 0.9, 0.8, 0.0], WEAK, STRONG).apgr == pytest.approx(1.375)


def test_cpt_is_the_share_where_the_curve_first_reaches_the_part_of_the_gap() -> None:
    line = recovery([0.1, 0.9, 0.8, 0.0], WEAK, STRONG)
    # Half of the gap is a quality of 0.625, half way up the first step.
    assert line.share_for(0.5) == pytest.approx(0.125)
    assert line.share_for(0.8) == pytest.approx(0.2)
    worst = recovery([0.8, 0.1, 0.2, 0.9], WEAK, STRONG)
    # Down to 0.25, flat, up to 0.5, up to 0.75: half of the gap half way up the last step.
    assert worst.qualities.tolist() == [0.5, 0.25, 0.25, 0.5, 0.75]
    assert worst.share_for(0.5) == pytest.approx(0.875)
    assert worst.share_for(0) == 0.0


def test_all_scores_tied_are_chance() -> None:
    line = recovery([3.0] * 4, WEAK, STRONG)
    assert (line.apgr, line.share_for(0.5), line.share_for(0.8)) == pytest.approx((0.5, 0.5, 0.8))
    assert RANDOM.apgr == 0.5


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), min_size=1, max_size=5
    ).filter(lambda rows: sum(s - w for _, w, s in rows) > 0)
)
def test_ties_count_as_the_mean_over_their_orders(rows: Sequence[tuple[int, bool, bool]]) -> None:
    orders = [
        order
        for order in itertools.permutations(range(len(rows)))
        if all(rows[a][0] >= rows[b][0] for a, b in itertools.pairwise(order))
    ]
    untied: list[float] = []
    for order in orders:
        ranked = [rows[place] for place in order]
        scores = list(range(len(ranked), 0, -1))
        apgr = recovery(scores, [w for _, w, _ in ranked], [s for _, _, s in ranked]).apgr
        assert apgr is not None
        untied.append(apgr)
    scores, weak, strong = zip(*rows, strict=True)
    assert recovery(scores, weak, strong).apgr == pytest.approx(np.mean(untied))


def test_without_a_better_strong_model_there_is_nothing_to_recover() -> None:
    report = evaluate_routing([1.0, 2.0], [True, False], [True, False])
    assert (report.apgr, report.cpt50, report.apgr_interval) == (None, None, None)
    assert report.verdict.startswith("Not shown to pay: on 2 rows")
    worse = evaluate_routing([1.0] * 40, [True] * 40, [False] * 40)
    assert worse.verdict.startswith("Routing doesn't pay here: the strong model is worse")


def test_the_oracle_asks_the_strong_model_where_it_alone_is_right() -> None:
    report = evaluate_routing([0.0, 0.0, 0.0, 0.0], WEAK, STRONG)
    assert report.oracle.apgr == pytest.approx(1.375)
    assert report.curve == ((0.0, 0.5), (1.0, 0.75))


def test_a_ranking_that_may_be_chance_is_not_recommended() -> None:
    scores, weak, strong = [1, 2, 1, 2] * 20, WEAK * 20, [True] * 80
    assert "not told from chance" in evaluate_routing(scores, weak, strong).verdict


def test_a_strong_model_that_is_as_good_is_hardly_ever_told_to_be_better() -> None:
    """With a ranking that knows where each is right, it seems to be in about half of all runs."""
    rng = np.random.default_rng(2)
    told = 0
    for _ in range(100):
        weak, strong = rng.random((2, 100)) < 0.8
        ranking = strong.astype(float) - weak
        told += evaluate_routing(ranking, weak.tolist(), strong.tolist()).verdict.startswith("Bett")
    assert told <= 7


def test_a_ranking_that_pays_says_how_many_strong_calls_it_takes() -> None:
    weak, strong = [False] * 30 + [True] * 70, [True] * 100
    report = evaluate_routing(list(range(100, 0, -1)), weak, strong)
    assert report.verdict.startswith(
        "Better than chance: on these rows 24% strong calls recover 80 %"
    )
    assert report.apgr_interval is not None
    assert report.apgr_interval[0] > 0.5


@pytest.mark.parametrize(
    ("scores", "weak", "strong"),
    [
        pytest.param([], [], [], id="none"),
        pytest.param([1.0], [True, False], [True, True], id="not as many"),
        pytest.param([float("nan")], [False], [True], id="no number"),
    ],
)
def test_scores_that_fit_no_answers_are_refused(
    scores: list[float], weak: list[bool], strong: list[bool]
) -> None:
    with pytest.raises(InputError):
        recovery(scores, weak, strong)


def test_a_part_of_the_gap_is_from_0_to_1() -> None:
    with pytest.raises(InputError):
        recovery([1.0], [False], [True]).share_for(80)
