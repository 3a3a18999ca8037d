"""Variants: which texts a model is shown beside the one that it decides on.

Examples are labelled texts, or texts that the model is sure of once its bias is out. A text is read
behind two sets of them, which steadies the answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

from moa.decisions import PromptVariant
from moa.decisions.arrays import Floats, np
from moa.decisions.heads import FOLDER
from moa.endpoints import Example
from moa.questions import Question

_MOST_PER_OPTION = 4
_MOST_SHOWN = 24
_LONG = 600
"""A text with more characters is shown only where an option has no shorter one."""


@cache
def stand_in_texts() -> tuple[str, ...]:
    """Read the texts that ship for tasks without unlabelled texts of their own.

    Twelve are glad, twelve are not, twelve are neither; they are letters, reviews, notes,
    questions, news and advertisements. What a model answers to all of them alike is its bias.
    """
    return tuple((FOLDER / "stand_ins.txt").read_text(encoding="utf-8").splitlines())


def halves(labelled: Sequence[Example], question: Question) -> list[PromptVariant]:
    """Choose two sets of labelled texts, of each option as many, with no text in both.

    An option with one text is in the first or the second, in turn.
    """
    sets: tuple[list[Example], list[Example]] = ([], [])
    most = _per_option(len(question.options)) or 1
    for place, option in enumerate(question.options):
        examples = [e for e in labelled if e.labels.get(question.name) == option.name]
        ordered = sorted(_mix(examples), key=lambda e: len(e.text) > _LONG)
        for half, chosen in enumerate(sets):
            chosen += ordered[(half + place) % 2 :: 2][:most]
    return [tuple(_mix(chosen)) for chosen in sets if chosen]


def confident(texts: Sequence[str], fair: Floats, question: Question) -> list[PromptVariant]:
    """Choose two sets of unlabelled texts that the model is surest of, once its bias is taken out.

    A question with more than 24 options has none: too many texts would have to be shown.
    """
    sets: tuple[list[Example], list[Example]] = ([], [])
    best = fair.argmax(1)
    ranked = np.sort(fair, 1)
    lead = (ranked[:, -1] - ranked[:, -2]).tolist()
    most = _per_option(len(question.options))
    for place, option in enumerate(question.options):
        sure = [(lead[row], text) for row, text in enumerate(texts) if best[row] == place]
        surest = [text for _, text in sorted(sure, reverse=True)[: 2 * most]]
        for half, chosen in enumerate(sets):
            chosen += [Example(text, {question.name: option.name}) for text in surest[half::2]]
    return [tuple(_mix(chosen)) for chosen in sets if chosen]


def _per_option(options: int) -> int:
    return min(_MOST_PER_OPTION, _MOST_SHOWN // options)


def _mix(examples: Sequence[Example]) -> list[Example]:
    """The same order every time, which says nothing of the labels."""
    mixed = list(examples)
    random.Random(len(mixed)).shuffle(mixed)
    return mixed
