"""Agreement: which of several answers say the same, and when enough of them do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from moa.calibration.acceptance import text_of
from moa.errors import ConfigError
from moa.mixing.answer_extraction import Key, stated

_WORD = re.compile(r"\w+")
_RUN = 3
"""Words in a row that are compared: enough that word order counts."""


def agree(least: int, *, key: Key = stated) -> Callable[[Sequence[Any]], bool]:
    """Give the test that ends a fan-out once enough answers are the same.

    Args:
        least: How many must be.
        key: What of an answer is compared; by default its label or final number, or its words
            without case and punctuation. What answers nothing agrees with nothing.

    Raises:
        ConfigError: one answer is to agree with itself.
    """
    if least < 2:
        raise ConfigError(f"{least} answers can't agree: it takes at least 2")

    def enough(answers: Sequence[Any]) -> bool:
        found = Counter(key(answer) for answer in answers)
        found.pop(None, None)
        return max(found.values(), default=0) >= least

    return enough


def most_agreed(answers: Sequence[Any], *, key: Key = stated) -> int:
    """Give the place of the first answer of the largest group that says the same.

    Where all differ, it is the one whose words the others use most.
    """
    found = [key(answer) for answer in answers]
    counts = Counter(answer for answer in found if answer is not None)
    most = max(counts.values(), default=0)
    if most > 1:
        return next(place for place, answer in enumerate(found) if counts[answer] == most)
    runs = [_runs(text_of(answer)) for answer in answers]
    shared = [sum(_overlap(mine, others) for others in runs) for mine in runs]
    return shared.index(max(shared))


def likeness(one: str, other: str) -> float:
    """Say how alike two texts are, between 0 and 1: the share of runs of three words they share.

    Source: Broder 1997, "On the resemblance and containment of documents", resemblance.
    """
    return _overlap(_runs(one), _runs(other))


def _overlap(mine: set[tuple[str, ...]], others: set[tuple[str, ...]]) -> float:
    together = mine | others
    return len(mine & others) / len(together) if together else 1.0


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    if len(words) < _RUN:
        return {tuple(words)} if words else set()
    return {tuple(words[i : i + _RUN]) for i in range(len(words) - _RUN + 1)}
