"""Intervals: how far a mean, or a difference on the same cases, may be from what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

from moa.calibration.binomial import tail
from moa.decisions.arrays import Floats, np

_Z = NormalDist().inv_cdf(0.975)


class Interval(NamedTuple):
    """A figure, and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float


def mean_of(scores: Sequence[float] | Floats) -> Interval:
    """Give the mean of the scores of cases, which are independent.

    Where each is 0 or 1 the interval is Wilson's (1927, JASA 22), which stays inside 0 to 1 and
    has a width at 0 and 1 too. Scores between are adjusted as in `difference`.

    Args:
        scores: From 0 to 1; none at all leave every mean possible.
    """
    values = np.asarray(scores, float)
    if not np.isin(values, (0.0, 1.0)).all():
        return _adjusted(values, (0.0, 1.0))
    n, total = len(values), float(values.sum())
    share = total / max(1, n)
    middle = (total + _Z**2 / 2) / (n + _Z**2)
    reach = _Z * sqrt(n * share * (1 - share) + _Z**2 / 4) / (n + _Z**2)
    return Interval(share, max(0.0, middle - reach), min(1.0, middle + reach))


def difference(
    first: Sequence[float] | Floats, second: Sequence[float] | Floats, *, together: int = 1
) -> Interval:
    """Give how much better the first is on average than the second, on the same cases.

    The interval is the adjusted Wald interval for paired proportions (Bonett and Price 2012,
    Journal of Educational and Behavioral Statistics 37): one case more that only the first gets
    right and one that only the second does, so that a few cases without a difference leave room
    for one. Scores between 0 and 1 are taken in the same way.

    Args:
        first: Scores from 0 to 1; none at all leave every difference possible.
        second: On the same cases, in their order.
        together: How many such differences shall all lie in their intervals with 95 % confidence
            (Bonferroni).
    """
    apart = np.asarray(first, float) - np.asarray(second, float)
    return _adjusted(apart, (-1.0, 1.0), together)


def _adjusted(values: Floats, ends: tuple[float, float], together: int = 1) -> Interval:
    """Take a Wald interval of values and, once more each, of the ends of their range."""
    known = np.append(values, ends)
    middle = float(known.mean())
    reach = NormalDist().inv_cdf(1 - 0.025 / together) * float(known.std()) / sqrt(len(known))
    value = float(values.mean()) if values.size else middle
    return Interval(value, max(ends[0], middle - reach), min(ends[1], middle + reach))


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
