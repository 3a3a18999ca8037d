"""Relevance: whether a text meets a criterion in words, without any label.

A text is near a criterion, or not, as an encoder has it; how near is measured against ordinary
texts, and corrected by what is known of a few hundred other criteria with texts that meet them and
texts that nearly do. It is fitted by `benchmarks/heads.py relevance`, and applied with numpy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moa.context import RunContext
from moa.decisions.arrays import Floats, Ints
from moa.decisions.heads import Head, Kernel
from moa.endpoints.encoders import MultilingualEncoder
from moa.questions import NONE_OF_THESE, Question
from moa.usage import FREE

PHRASE = "This text is {criterion}."
"""What is encoded of a criterion."""
FITS = 0.8
"""How much better than any criterion an option fits, where it isn't "none of these"."""
USUAL = 0.3
"""How much of a text's mean score for all known criteria is taken from its score for one."""
_FILE = Path(__file__).parent / "heads" / "relevance.npz"
_NOT = re.compile(
    r"^(?:not|no|neither)\s+|^(?:about|on|concerning)\s+(?:something\s+else\s+than"
    r"|anything\s+(?:else\s+than|but)|something\s+other\s+than)\s+",
    re.IGNORECASE,
)
_IS = re.compile(r"^is (?:this|the) (?:text|message|review|e-?mail|post|comment) (.*?)\??$", re.I)


class _Fitted(NamedTuple):
    kernel: Kernel
    of: Ints
    """The criterion of each landmark."""
    duals: Floats
    middle: Floats
    directions: Floats
    """Of the criteria."""
    ordinary: Floats
    sharpness: float
    slope: float
    likeness: Floats
    """Of the ordinary texts to the landmarks, and these themselves."""


@cache
def _fitted() -> _Fitted:
    with np.load(_FILE) as file:
        part = file["centre"].astype(float)
        kernel = Kernel(
            centre=np.r_[part, np.zeros(len(part))],
            scale=np.r_[np.ones(len(part)), np.full(len(part), np.inf)],  # the whole text alone
            landmarks=np.pad(
                file["landmarks"].astype(float) * file["step"], ((0, 0), (0, len(part)))
            ),
            gamma=float(file["like_texts"]) / 2,
            unit=True,
        )
        ordinary = file["ordinary"].astype(float)
        plain = np.hstack([ordinary + part, np.zeros_like(ordinary)])
        return _Fitted(
            kernel=kernel,
            of=file["of"].astype(np.intp),
            duals=file["duals"].astype(float),
            middle=file["middle"].astype(float),
            directions=file["directions"].astype(float),
            ordinary=ordinary,
            sharpness=float(file["like_criteria"]),
            slope=float(file["slope"]),
            likeness=kernel(plain),
        )


def criterion_of(question: Question) -> str | None:
    """Say what a yes-or-no question asks of a text; `None` where it is none of that form."""
    if question.kind != "predicate":
        return None
    yes = question.options[0]
    if yes.description:
        return yes.description
    found = _IS.match(question.text.strip())
    return found[1] if found else None


def option_words(question: Question) -> list[str]:
    """Say what each option of a choice means: its description, else its name in words."""
    about = "about " if "about" in question.text.lower() else ""
    return [o.description or about + o.name.replace("_", " ") for o in question.options]


def speaks(question: Question) -> bool:
    """Whether a question's words say what is asked; those of levels mean nothing alone."""
    return question.kind == "choice" or criterion_of(question) is not None


async def relevance_head(question: Question, context: RunContext) -> Head | None:
    """Make a head of a question's own words.

    Args:
        question: A yes-or-no question whose criterion is known, or a choice of labels.
        context: Budget, deadline and ledger; a few words are encoded.

    Returns:
        `None` for questions of other forms, such as levels, whose names mean nothing alone.

    Raises:
        MissingDependency: the encoder is not installed.
        BudgetExceeded: a limit would be passed.
        DeadlineExceeded: the run's time is up.
    """
    if not speaks(question):
        return None
    criterion = criterion_of(question)
    if criterion is not None:
        turned = _NOT.match(criterion)
        weights, bias = await _scores([criterion[turned.end() :] if turned else criterion], context)
        usual, middle = _any_criterion()  # of short texts, all scores are low
        weights = weights - USUAL * usual[:, None]
        bias = bias - USUAL * (middle - FITS)
        sign = -1.0 if turned else 1.0
        return _head(np.hstack([sign * weights, 0 * weights]), np.r_[sign * bias, 0 * bias])
    weights, bias = await _scores(option_words(question), context)
    for place, option in enumerate(question.options):
        if option.name == NONE_OF_THESE:
            weights[:, place], bias[place] = _any_criterion()
    return _head(weights, bias)


async def _scores(words: Sequence[str], context: RunContext) -> tuple[Floats, Floats]:
    """Weights and biases of criteria, so that ordinary texts score 0 on the mean."""
    encoder = MultilingualEncoder(price=FREE, passage=True)
    phrases = [PHRASE.format(criterion=word) for word in words]
    return _weights(np.array((await encoder.embed(phrases, context)).vectors))


def _weights(found: Floats) -> tuple[Floats, Floats]:
    f = _fitted()
    moved = found - f.middle
    directions = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    alike = np.exp(f.sharpness * (directions @ f.directions.T - 1))
    correction = (alike[:, f.of] * f.duals).T
    usual = f.ordinary @ found.T
    near = found.T / usual.std(0)
    weights = f.slope * np.vstack([correction, near, np.zeros_like(near)])
    return weights, -(f.likeness @ weights).mean(0)


@cache
def _any_criterion() -> tuple[Floats, float]:
    """Score a text for criteria in general: an option that fits has to be well above that."""
    f = _fitted()
    weights, bias = _weights(f.directions + f.middle)
    return weights.mean(1), float(bias.mean()) + FITS


def _head(weights: Floats, bias: Floats) -> Head:
    return Head(weights, bias, _fitted().kernel)
