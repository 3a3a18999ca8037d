"""Shortfall: why nothing can be accepted yet, and how many labels it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from moa.decisions.binomial import fewest, tail, upper_bound
from moa.decisions.guarantees import Guarantee, percent

_LIKELY = 0.8
"""Chance of success that the estimate of missing labels aims at."""
_ERRORS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55)
_STEPS = 20
_FEWEST = 20


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
    wanted, surest = _wanted(outcomes, guarantee)
    if labels < needed:
        best = upper_bound(0, labels, guarantee.confidence) if labels else 1.0
        why = (
            f"with {labels} held-out labels the best that can be shown is at most {percent(best)} "
            f"wrong, and {percent(guarantee.risk)} takes at least {needed} accepted without an "
            f"error (confidence {percent(guarantee.confidence)})"
        )
        more = max(wanted or 0, needed) - labels
        help_ = wanted is not None or len(outcomes) < _FEWEST
    else:
        why = (
            f"no threshold was shown to keep {percent(guarantee.risk)} on {labels} held-out "
            f"labels (confidence {percent(guarantee.confidence)})"
        )
        more = max((wanted or 0) - labels, needed // 2)
        help_ = wanted is not None
    if not help_:
        return None, (
            f"accepts nothing: {why}. Even among the surest decisions about {percent(surest)} are "
            "wrong, so more labels alone won't help: it takes a better scorer, or a larger risk"
        )
    return more, f"accepts nothing: {why}. It takes about {more} more held-out labels"


def _wanted(
    outcomes: Sequence[tuple[float, bool]], guarantee: Guarantee
) -> tuple[int | None, float]:
    """Held-out labels with which some threshold would likely pass, and the lowest error rate."""
    ranked = sorted(outcomes, key=lambda outcome: -outcome[0])
    n = len(ranked)
    best: int | None = None
    lowest = 1.0
    sizes = [fewest(k, risk=guarantee.risk, failure=guarantee.failure) for k in _ERRORS]
    for step in range(1, _STEPS + 1):
        accepted = math.ceil(n * step / _STEPS)
        if accepted < min(n, _FEWEST):
            continue
        wrong = sum(not correct for _, correct in ranked[:accepted])
        rate = (wrong + 0.5) / (accepted + 1)
        lowest = min(lowest, rate)
        if rate >= guarantee.risk or not accepted:
            continue
        enough = (m for k, m in zip(_ERRORS, sizes, strict=True) if tail(k, m, rate) >= _LIKELY)
        size = next(enough, None)
        if size is not None:
            labels = math.ceil(size * n / accepted)
            best = labels if best is None else min(best, labels)
    return best, lowest
