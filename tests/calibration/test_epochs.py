"""The construction of a learning cascade: sides, looks, and what they can guarantee."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.decisions.arrays import Bools, Floats
from moa.decisions.guarantee import tail
from moa.learning.epochs import (
    _NEAR,  # pyright: ignore[reportPrivateUsage]
    LOOKS,
    RISK,
    THRESHOLDS,
    Coin,
    HeldOutRows,
    count_due,
    find_distinct,
    judge_head,
    level_of,
    propose,
)

COIN = Coin(b"k" * 32)
texts = st.text(min_size=1, max_size=30)
seeds = st.integers(0, 10_000)


def drawn(seed: int) -> HeldOutRows:
    """Draw held-out rows: copies, missing labels and near-copies among them."""
    draw = np.random.default_rng(seed)
    n = int(draw.integers(1, 400))
    labelled = draw.random(n) > draw.choice([0, 0.01, 0.2])
    return HeldOutRows(
        [str(key) for key in draw.integers(0, draw.choice([50, 10_000]), n)],
        draw.random(n),
        (draw.random(n) > draw.choice([0, 0.02, 0.1])) & labelled,
        labelled,
        draw.random(n) > draw.choice([0, 0.1]),
    )


def right(n: int, wrong: int = 0) -> HeldOutRows:
    """Texts that are all accepted, the last of them wrong."""
    same = np.arange(n) < n - wrong
    everything = np.ones(n, bool)
    return HeldOutRows([str(i) for i in range(n)], np.ones(n), same, everything, everything)


@given(texts, st.integers(0, 2))
def test_a_text_has_the_same_side_however_it_is_written_and_whoever_asks(
    text: str, looks: int
) -> None:
    other = Coin(b"k" * 32).toss(f"  {text} ")
    assert COIN.toss(text) == other
    assert COIN.toss(text).is_held_out(looks) == other.is_held_out(looks)


@given(texts)
def test_what_stays_held_out_after_a_look_was_held_out_before(text: str) -> None:
    side = COIN.toss(text)
    assert side.is_held_out(0) or not side.is_held_out(1)


def test_the_coin_holds_out_half_then_two_in_a_hundred_and_another_key_holds_out_others() -> None:
    sides = [COIN.toss(f"text {i}") for i in range(4000)]
    assert sum(side.is_held_out(0) for side in sides) / 4000 == pytest.approx(0.5, abs=0.03)
    assert sum(side.is_held_out(1) for side in sides) / 4000 == pytest.approx(0.02, abs=0.01)
    held = [side for side in sides if side.is_held_out(0)]
    assert sum(side.is_asked_twice for side in held) / len(held) == pytest.approx(0.1, abs=0.03)
    other = [Coin(b"other" * 8).toss(f"text {i}") for i in range(4000)]
    both = zip(sides, other, strict=True)
    assert sum(a.is_held_out(0) == b.is_held_out(0) for a, b in both) < 2200


@given(texts, texts)
def test_texts_of_one_case_are_on_one_side(first: str, second: str) -> None:
    assert COIN.toss(first, "case 1") == COIN.toss(second, "case 1")


def test_all_looks_together_spend_no_more_than_one_in_twenty() -> None:
    ways = 1
    spent = 0.0
    for number in range(len(LOOKS)):
        spent += ways * level_of(number)
        ways *= THRESHOLDS + 1  # what a look may say: none passes, or which is the last
    assert spent <= 0.05 + 1e-12
    assert len(LOOKS) <= 3


@settings(max_examples=60)
@given(seeds, st.sampled_from([0, 1, 2]))
def test_whatever_passes_is_shown_by_an_exact_test_of_texts_that_count_once(
    seed: int, number: int
) -> None:
    data, level = drawn(seed), level_of(number)
    said = judge_head([1 - i / 12 for i in range(12)], data, level)
    assert said.passed <= THRESHOLDS
    if said.threshold is not None:
        assert said.accepted <= len(set(data.keys))
        assert tail(said.differ, said.accepted, RISK) <= level
        takes = data.sure >= said.threshold
        assert (takes & ~data.same & data.labelled).sum() <= RISK * takes.sum()


@given(st.integers(0, 300), st.integers(0, 20))
def test_a_further_difference_never_lets_more_pass(n: int, wrong: int) -> None:
    wrong = min(wrong, n)
    more = judge_head([0.5], right(n + 1, wrong + 1), 0.03)
    assert more.passed <= judge_head([0.5], right(n + 1, wrong), 0.03).passed


def test_a_label_that_is_missing_counts_as_a_difference() -> None:
    n = 80
    everything = np.ones(n, bool)
    labelled = np.arange(n) >= 2
    keys = [str(i) for i in range(n)]
    assert judge_head([0.5], right(n), 0.03).passed == 1
    missing = HeldOutRows(keys, np.ones(n), labelled, labelled, everything)
    assert judge_head([0.5], missing, 0.03).passed == 0


def test_a_row_that_was_forgotten_counts_as_accepted_and_different() -> None:
    data = right(80, wrong=2)
    forgotten = HeldOutRows(
        data.keys, np.where(data.same, 0.9, np.inf), data.same, data.labelled, data.apart
    )
    assert judge_head([0.95], forgotten, 0.03).passed == 0
    assert judge_head([0.5], forgotten, 0.03).passed == 0


def test_a_text_that_was_answered_at_last_is_not_missing() -> None:
    data = right(80)
    keys = ["0", *data.keys]
    labelled = np.r_[False, data.labelled]
    again = HeldOutRows(keys, np.ones(81), labelled, labelled, np.ones(81, bool))
    assert judge_head([0.5], again, 0.03).accepted == 80


def test_copies_of_a_text_show_no_more_than_one() -> None:
    n = 80
    everything = np.ones(n, bool)
    copies = HeldOutRows(["same"] * n, np.ones(n), everything, everything, everything)
    said = judge_head([0.5], copies, 0.03)
    assert (said.passed, said.held_out) == (0, 1)


def test_near_copies_show_no_more_than_one() -> None:
    data = right(80)
    near = HeldOutRows(data.keys, data.sure, data.same, data.labelled, np.arange(80) < 40)
    assert judge_head([0.5], near, 0.03).passed == 0


def test_testing_stops_at_the_first_threshold_that_fails() -> None:
    n = 200
    sure = np.r_[np.full(100, 0.9), np.full(100, 0.5)]
    same = np.r_[np.arange(100) >= 20, np.ones(100, bool)]  # wrong where it is surest
    everything = np.ones(n, bool)
    data = HeldOutRows([str(i) for i in range(n)], sure, same, everything, everything)
    assert judge_head([0.8, 0.4], data, 0.03).passed == 0


@settings(max_examples=30)
@given(seeds, st.integers(1, 400))
def test_thresholds_are_of_the_fit_side_and_the_strictest_stands_first(
    seed: int, texts_held_out: int
) -> None:
    data = drawn(seed)
    sure, same = np.round(data.sure, 2), data.same
    made = propose(sure, same, texts_held_out, level_of(0))
    assert len(made.thresholds) <= THRESHOLDS
    assert list(made.thresholds) == sorted(made.thresholds, reverse=True)
    assert set(made.thresholds) <= set(sure.tolist())


def test_a_head_that_is_good_is_worth_a_look_and_one_that_guesses_is_not() -> None:
    sure = np.linspace(0.5, 1, 200)
    assert propose(sure, np.ones(200, bool), 200, level_of(0)).is_worth_it(0.0)
    guesses = np.arange(200) % 3 > 0
    assert not propose(sure, guesses, 200, level_of(0)).is_worth_it(0.0)


def test_a_head_that_accepts_no_more_than_the_one_in_use_is_not_worth_a_look() -> None:
    made = propose(np.linspace(0.5, 1, 200), np.ones(200, bool), 200, level_of(0))
    assert made.share > 0.95
    assert not made.is_worth_it(0.99)


@given(st.integers(1, 2000), st.integers(0, 20_000))
def test_the_count_of_a_look_follows_from_how_many_there_are(first: int, there: int) -> None:
    count = count_due(first, there)
    assert count is None if there < first else count is not None and first <= count <= there


def test_near_copies_are_told_by_their_vectors() -> None:
    draw = np.random.default_rng(0)
    known, fresh = draw.normal(size=(50, 16)), draw.normal(size=(30, 16))
    copies = known[:10] + 0.01 * draw.normal(size=(10, 16))
    again = fresh[:5] + 0.01 * draw.normal(size=(5, 16))
    found = find_distinct(np.concatenate([fresh, copies, again]), known)
    assert found[:30].all()
    assert not found[30:].any()


def distinct_by_one_table(vectors: Floats, known: Floats) -> Bools:
    """Compare all pairs at once, which takes memory by the square of their number."""
    everything = np.concatenate([known, vectors]) - np.concatenate([known, vectors]).mean(0)
    squares, start = (everything**2).sum(1), len(known)
    distances = squares[start:, None] + squares - 2 * everything[start:] @ everything.T
    sample = distances[:: 1 + len(distances) // 100, :: 1 + distances.shape[1] // 1000]
    is_earlier = np.arange(len(everything)) < (start + np.arange(len(vectors)))[:, None]
    found: Bools = ~((distances < _NEAR**2 * np.median(sample)) & is_earlier).any(1)
    return found


@pytest.mark.parametrize(("known", "count"), [(0, 1), (0, 7), (30, 90), (0, 700), (900, 1500)])
def test_near_copies_are_the_same_in_blocks_as_in_one_table(known: int, count: int) -> None:
    draw = np.random.default_rng(known + count)
    vectors = draw.normal(size=(known + count, 24))
    copies = draw.integers(0, known + count, (known + count) // 3)
    apart = draw.choice([0.01, 0.2, 0.3, 0.4], len(copies))[:, None]
    places = draw.permutation(known + count)[: len(copies)]
    vectors[places] = vectors[copies] + apart * draw.normal(size=(len(copies), 24))
    found = find_distinct(vectors[known:], vectors[:known])
    assert found.tolist() == distinct_by_one_table(vectors[known:], vectors[:known]).tolist()
    assert count < 50 or 0 < found.sum() < count


def test_the_memory_of_a_look_grows_with_its_texts_and_not_with_their_square() -> None:
    def peak(count: int) -> int:
        vectors = np.random.default_rng(0).normal(size=(count, 16))
        tracemalloc.start()
        find_distinct(vectors, vectors[:0])
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(4000) < 2.2 * peak(2000)
    assert peak(4000) < 40_000_000


def test_a_head_just_above_the_risk_passes_no_more_often_than_the_level() -> None:
    draw = np.random.default_rng(1)
    passed = 0
    for _ in range(500):
        same = draw.random(200) > RISK + 1e-9
        everything = np.ones(200, bool)
        data = HeldOutRows(
            [str(i) for i in range(200)], draw.random(200), same, everything, everything
        )
        passed += judge_head([0.5, 0.4, 0.3, 0.2, 0.1, 0.0], data, 0.03).passed > 0
    assert tail(passed - 1, 500, 0.03) < 0.99999  # not refuted that it is at most 3 %
