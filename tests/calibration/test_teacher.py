"""A large model whose labels don't depend on the texts is told of."""

from __future__ import annotations

from random import Random

import pytest

from moa.learning.answer_rows import LabelPair
from moa.learning.teacher import describe_teacher


def stream(seed: int, n: int, agreement: float, share: float = 0.5) -> list[LabelPair]:
    """Make labels of a large model that reads the texts, beside the small model's answers."""
    draw = Random(seed)
    pairs = list[LabelPair]()
    for _ in range(n):
        large, other = ("spam", "ham") if draw.random() < share else ("ham", "spam")
        pairs.append(LabelPair(large, large if draw.random() < agreement else other))
    return pairs


def by_lot(seed: int, n: int, labels: list[str]) -> list[LabelPair]:
    draw = Random(seed)
    return [LabelPair(draw.choice(labels), draw.choice(labels)) for _ in range(n)]


def share_told(streams: list[list[LabelPair]], options: int = 2) -> float:
    return sum(bool(describe_teacher(pairs, options)) for pairs in streams) / len(streams)


def test_a_large_model_that_always_says_one_label_is_told_after_sixty_texts() -> None:
    note = describe_teacher([LabelPair("spam", each) for each in ["spam", "ham"] * 30], 2)
    assert "60 of 60" in note
    assert "'spam'" in note


def test_labels_by_lot_are_told() -> None:
    assert share_told([by_lot(seed, 150, ["a", "b", "c", "d"]) for seed in range(50)], 4) >= 0.9
    assert share_told([by_lot(seed, 400, ["spam", "ham"]) for seed in range(50)]) >= 0.9


@pytest.mark.parametrize(
    ("agreement", "share"), [(0.65, 0.5), (0.7, 0.3), (0.8, 0.1), (0.92, 0.03), (0.99, 0.01)]
)
def test_a_large_model_that_reads_the_texts_is_hardly_ever_told_of(
    agreement: float, share: float
) -> None:
    assert share_told([stream(seed, 400, agreement, share) for seed in range(100)]) <= 0.02


def test_a_small_model_that_says_the_same_label_too_gives_no_note() -> None:
    assert describe_teacher([LabelPair("ham", "ham")] * 500, 2) == ""


def test_a_few_texts_tell_nothing() -> None:
    assert describe_teacher([LabelPair("spam", "ham")] * 20, 2) == ""


def test_a_large_model_that_differs_from_itself_is_named_as_the_likely_cause() -> None:
    draw, labels = Random(1), ["a", "b", "c"]
    pairs = [
        LabelPair(pair.large, pair.small, draw.choice(labels)) for pair in by_lot(2, 200, labels)
    ]
    assert "differed from itself" in describe_teacher(pairs, 3)
    firm = [pair._replace(again=pair.large) for pair in pairs]
    assert "differed from itself" not in describe_teacher(firm, 3)
