"""Shortfall: why nothing can be accepted yet, and how many labels it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from moa.guarantees import Guarantee, percent
from moa.guarantees.binomial import fewest, tail, upper_bound

_LIKELY = 0.8
"""Chance of success that the estimate of missing labels aims at."""
_ERRORS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55)
_STEPS = 20
_FEWEST = 5
"""Fewest surest decisions whose error rate says something."""
_SURE = 0.9


def shortfall(
    outcomes: Sequence[tuple[float, bool]], guarantee: Guarantee, *, labels: int
) -> tuple[int | None, str]:
    """Estimate how many held-out labels are missing, and say why nothing is accepted.

    Args:
        outcomes: Confidence and correctness of all decisions whose right answer is known.
        guarantee: What is promised.
        labels: Number of held-out decisions among them.

    Returns:
        About how many more held-out labels it takes, `None` where labels alone won't help; and
        the sentence.
    """
    needed = guarantee.needed()
    seen = _look(outcomes, guarantee)
    if labels < needed:
        best = upper_bound(0, labels, guarantee.confidence) if labels else 1.0
        why = (
            f"with {labels} held-out labels the best that can be shown is at most {percent(best)} "
            f"wrong, and {percent(guarantee.risk)} takes at least {needed} accepted without an "
            f"error (confidence {percent(guarantee.confidence)})"
        )
    else:
        why = (
            f"no threshold was shown to keep {percent(guarantee.risk)} on {labels} held-out "
            f"labels (confidence {percent(guarantee.confidence)})"
        )
    if seen.labels is not None:
        more = max(seen.labels - labels, needed - labels, needed // 2)
        return more, f"accepts nothing: {why}. It takes about {more} more held-out labels"
    if not seen.hopeless:
        more = max(needed - labels, labels)
        return more, (
            f"accepts nothing: {why}. It takes at least about {more} more held-out labels, if the "
            "scorer is good enough at all, which can't be told yet"
        )
    return None, (
        f"accepts nothing: {why}. Even among the surest decisions about {percent(seen.lowest)} are "
        "wrong, so more labels alone won't help: it takes a better scorer, or a larger risk"
    )


class _Look(NamedTuple):
    """What the error rates among the surest decisions, few to all of them, let expect."""

    labels: int | None
    """Held-out labels with which some threshold would likely pass."""
    lowest: float
    """The lowest error rate, as far as it can be told."""
    hopeless: bool
    """Whether all of them are above the risk, and not by chance."""


def _look(outcomes: Sequence[tuple[float, bool]], guarantee: Guarantee) -> _Look:
    ranked = sorted(outcomes, key=lambda outcome: -outcome[0])
    n = len(ranked)
    sizes = [fewest(k, risk=guarantee.risk, failure=guarantee.failure) for k in _ERRORS]
    wanted: list[int] = []
    lowest, hopeless = 1.0, n >= _FEWEST
    for step in range(1, _STEPS + 1):
        accepted = math.ceil(n * step / _STEPS)
        if accepted < _FEWEST:
            continue
        wrong = sum(not correct for _, correct in ranked[:accepted])
        rate = (wrong + 0.5) / (accepted + 1)
        lowest = min(lowest, rate)
        hopeless &= tail(wrong - 1, accepted, guarantee.risk) >= _SURE
        if rate < guarantee.risk:
            pairs = zip(_ERRORS, sizes, strict=True)
            size = next((m for k, m in pairs if tail(k, m, rate) >= _LIKELY), None)
            wanted += [] if size is None else [math.ceil(size * n / accepted)]
    return _Look(min(wanted, default=None), lowest, hopeless)
