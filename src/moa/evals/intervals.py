"""Intervals: how far a mean, or a difference on the same cases, may be from what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from moa.decisions.arrays import Floats, np
from moa.guarantees.binomial import tail

_DRAWS = 2000
_TAIL = 0.025


class Interval(NamedTuple):
    """A figure, and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float


def mean_of(scores: Sequence[float] | Floats) -> Interval:
    """Give the mean of the scores of cases, by bootstrap over the cases (Efron 1979).

    Args:
        scores: At least one.
    """
    values = np.asarray(scores, float)
    rng = np.random.default_rng(0)
    drawn = values[rng.integers(0, len(values), (_DRAWS, len(values)))].mean(1)
    low, high = np.quantile(drawn, [_TAIL, 1 - _TAIL]).tolist()
    return Interval(float(values.mean()), low, high)


def difference(first: Sequence[float] | Floats, second: Sequence[float] | Floats) -> Interval:
    """Give how much better the first is on average than the second, on the same cases.

    The bootstrap is paired: it draws cases, so that what makes a case hard for both falls out.
    """
    return mean_of(np.asarray(first, float) - np.asarray(second, float))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Give the probability of a difference as large where both are as good: McNemar's exact test.

    Args:
        first: Whether the first was right on each case.
        second: Whether the second was, on the same cases.
    """
    pairs = list(zip(first, second, strict=True))
    only_first = sum(one and not other for one, other in pairs)
    only_second = sum(other and not one for one, other in pairs)
    apart = only_first + only_second
    if not apart:
        return 1.0
    return min(1.0, 2 * tail(min(only_first, only_second), apart, 0.5))
