"""Variants: choose the examples that a model is shown with a text.

Examples are labelled texts, or texts that the model is sure of once its bias is removed. A text is
read after two sets of them, which stabilises the answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from moa.core.questions import Question
from moa.decisions import PromptVariant
from moa.decisions.arrays import Floats, np
from moa.endpoints import Example

_STAND_INS = Path(__file__).with_name("stand_ins.txt")
_MOST_PER_OPTION = 4
_MOST_SHOWN = 24
_LONG = 600
"""Characters above which a text is shown only for an option without shorter ones."""


@cache
def stand_in_texts() -> tuple[str, ...]:
    """Load the shipped texts, for tasks without unlabelled texts.

    Twelve are positive, twelve negative and twelve neutral: letters, reviews, notes, questions,
    news and advertisements. An answer that a model gives to all of them is its bias.
    """
    return tuple(_STAND_INS.read_text(encoding="utf-8").splitlines())


def choose_halves(labelled: Sequence[Example], question: Question) -> list[PromptVariant]:
    """Choose two disjoint sets of labelled texts, with equal numbers for each option.

    Options with a single text go alternately into the first and the second set.
    """
    sets: tuple[list[Example], list[Example]] = ([], [])
    limit = _per_option(len(question.options)) or 1
    for index, option in enumerate(question.options):
        examples = [e for e in labelled if e.labels.get(question.name) == option.name]
        ordered = sorted(_shuffle(examples), key=lambda e: len(e.text) > _LONG)
        for half, selection in enumerate(sets):
            selection += ordered[(half + index) % 2 :: 2][:limit]
    return [tuple(_shuffle(selection)) for selection in sets if selection]


def choose_confident(texts: Sequence[str], fair: Floats, question: Question) -> list[PromptVariant]:
    """Choose two sets of unlabelled texts that the model is surest of, with its bias removed.

    With more than 24 options there are none, since too many texts would have to be shown.
    """
    sets: tuple[list[Example], list[Example]] = ([], [])
    best = fair.argmax(1)
    ranked = np.sort(fair, 1)
    lead = (ranked[:, -1] - ranked[:, -2]).tolist()
    limit = _per_option(len(question.options))
    for index, option in enumerate(question.options):
        candidates = [(lead[row], text) for row, text in enumerate(texts) if best[row] == index]
        surest = [text for _, text in sorted(candidates, reverse=True)[: 2 * limit]]
        for half, selection in enumerate(sets):
            selection += [Example(text, {question.name: option.name}) for text in surest[half::2]]
    return [tuple(_shuffle(selection)) for selection in sets if selection]


def _per_option(options: int) -> int:
    return min(_MOST_PER_OPTION, _MOST_SHOWN // options)


def _shuffle(examples: Sequence[Example]) -> list[Example]:
    """Shuffle repeatably, so that the order says nothing about the labels."""
    mixed = list(examples)
    random.Random(len(mixed)).shuffle(mixed)
    return mixed
