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
    outcomes: Sequence[tuple[float, bool]], guarantee: Guarantee, *, labels: int, cases: int
) -> tuple[int | None, str]:
    """Estimate how many held-out labels are missing, and say why nothing is accepted.

    Args:
        outcomes: Confidence and correctness of decisions whose right answer is known: of all, or
            of one of each case, where several are about one.
        guarantee: What is promised.
        labels: Number of held-out decisions.
        cases: Number of cases that they are about.

    Returns:
        About how many more held-out labels it takes, `None` where labels alone won't help; and
        the sentence.
    """
    what = "labels" if cases == labels else "cases"
    needed = guarantee.needed()
    seen = _look(outcomes, guarantee)
    why = _why(guarantee, cases, needed, what)
    if seen.labels is not None:
        more = max(seen.labels - cases, needed - cases, needed // 2)
        said = f"It takes about {more} more held-out {what}"
    elif not seen.hopeless:
        more = max(needed - cases, cases)
        said = (
            f"It takes at least about {more} more held-out {what}, if the scorer is good enough at "
            "all, which can't be told yet"
        )
    else:
        return None, (
            f"accepts nothing: {why}. Even among the surest decisions about "
            f"{percent(seen.lowest)} are wrong, so more labels alone won't help: it takes a better "
            "scorer, or a larger risk"
        )
    each = labels / cases if cases else 1.0
    return math.ceil(more * each), f"accepts nothing: {why}. {said}"


def _why(guarantee: Guarantee, cases: int, needed: int, what: str) -> str:
    confidence = f"(confidence {percent(guarantee.confidence)})"
    if cases >= needed:
        return (
            f"no threshold was shown to keep {percent(guarantee.risk)} on {cases} held-out {what} "
            f"{confidence}"
        )
    named = "" if what == "labels" else f"{what} "
    best = percent(upper_bound(0, cases, 1.0 - guarantee.failure))
    return (
        f"with {cases} held-out {what} the best that can be shown is at most {best} wrong, and "
        f"{percent(guarantee.risk)} takes at least {needed} {named}accepted without an error "
        f"{confidence}"
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
