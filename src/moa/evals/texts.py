"""Text metrics: how near a reply comes to a reference, from 0 to 1."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction

from moa.calibration.arithmetic import numbers
from moa.calibration.reply_signs import final_answer

_WORD = re.compile(r"\w+")


def exact_match(reply: str, reference: str) -> float:
    """Whether both have the same words, in small letters and without punctuation."""
    return float(_words(reply) == _words(reference))


def numeric_match(reply: str, reference: str) -> float:
    """Whether the final number of both is the same: the one behind a mark, else the last."""
    wanted = _number(reference)
    return float(wanted is not None and _number(reply) == wanted)


def rouge_l(reply: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, "ROUGE", ACL workshop).

    Words are compared in small letters and not stemmed.
    """
    given, wanted = _words(reply), _words(reference)
    if not given or not wanted:
        return float(given == wanted)
    lengths = [0] * (len(wanted) + 1)
    for word in given:
        diagonal = 0
        for place, other in enumerate(wanted, start=1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == other else max(above, lengths[place - 1])
            diagonal = above
    return 2 * lengths[-1] / (len(given) + len(wanted))


TEXT_METRICS: Mapping[str, Callable[[str, str], float]] = {
    "exact": exact_match,
    "numeric": numeric_match,
    "rouge-l": rouge_l,
}
"""By the name that the command line knows them by; a reply and a reference in, 0 to 1 out."""


def metric_for(references: list[str]) -> str:
    """Choose a metric by what is expected: numbers, a few words, or texts."""
    ending = [_number(reference) is not None for reference in references]
    short = [len(_words(reference)) <= 4 for reference in references]
    marked = ["####" in reference for reference in references]
    if all(ending) and all(s or m for s, m in zip(short, marked, strict=True)):
        return "numeric"
    return "exact" if all(short) else "rouge-l"


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _number(text: str) -> Fraction | None:
    found = final_answer(text).number
    if found is not None:
        return found
    return next(reversed(numbers(text)), None)
