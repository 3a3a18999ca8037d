"""Choosing: which texts are shown to a model as examples of a question."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from moa.decisions import View
from moa.decisions.arrays import Floats
from moa.endpoints import Example
from moa.questions import Question

_MOST_PER_OPTION = 4
_MOST_SHOWN = 24
_LONG = 600
"""A text with more characters is shown only where an option has no shorter one."""


def halves(labelled: Sequence[Example], questions: Sequence[Question]) -> list[View]:
    """Choose two sets of labelled texts, of each option as many, with no text in both.

    An option with one text is in the first or the second, in turn.
    """
    views: tuple[list[Example], list[Example]] = ([], [])
    for question in questions:
        by_option = [
            [e for e in labelled if e.labels.get(question.name) == option.name]
            for option in question.options
        ]
        most = _per_option(len(question.options)) or 1
        for place, examples in enumerate(by_option):
            ordered = sorted(_mixed(examples), key=lambda e: len(e.text) > _LONG)
            for half, view in enumerate(views):
                view += ordered[(half + place) % 2 :: 2][:most]
    return [tuple(_mixed(view)) for view in views if view]


def confident(
    texts: Sequence[str], fair: Mapping[str, Floats], questions: Sequence[Question]
) -> list[View]:
    """Choose two sets of texts that the model is surest of.

    A question with more than 24 options has none: too many texts would have to be shown.

    Args:
        texts: Unlabelled.
        fair: Log-probabilities by question, without the model's lean: texts, options.
        questions: What is asked.
    """
    views: tuple[list[Example], list[Example]] = ([], [])
    for question in questions:
        reading = fair[question.name]
        best = reading.argmax(1)
        most = _per_option(len(question.options))
        for place, option in enumerate(question.options):
            sure = [(_lead(reading[i]), text) for i, text in enumerate(texts) if best[i] == place]
            surest = [text for _, text in sorted(sure, reverse=True)[: 2 * most]]
            for half, view in enumerate(views):
                view += [Example(text, {question.name: option.name}) for text in surest[half::2]]
    return [tuple(_mixed(view)) for view in views if view]


def _lead(options: Floats) -> float:
    """How far the most probable option is ahead of the next."""
    second, first = sorted(float(log) for log in options)[-2:]
    return first - second


def _per_option(options: int) -> int:
    return min(_MOST_PER_OPTION, _MOST_SHOWN // options)


def _mixed(examples: Sequence[Example]) -> list[Example]:
    """The same order every time, which says nothing of the labels."""
    mixed = list(examples)
    random.Random(len(mixed)).shuffle(mixed)
    return mixed
