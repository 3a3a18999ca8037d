"""Exact bounds on an error rate, from the errors among a number of independent decisions.

The interval is that of Clopper and Pearson, "The use of confidence or fiducial limits illustrated
in the case of the binomial", Biometrika 26 (1934), one-sided.
"""

from __future__ import annotations

import math
from functools import lru_cache

_NEGLIGIBLE = 1e-18
_HALVINGS = 60


def tail(errors: int, n: int, risk: float) -> float:
    """Probability of at most `errors` errors among `n` decisions that are wrong with `risk`."""
    if errors < 0:
        return 0.0
    if errors >= n:
        return 1.0
    if errors > n * risk:  # the other side, whose terms fall from its first one on
        return 1.0 - tail(n - errors - 1, n, 1.0 - risk)
    choose = math.lgamma(n + 1) - math.lgamma(errors + 1) - math.lgamma(n - errors + 1)
    term = math.exp(choose + errors * math.log(risk) + (n - errors) * math.log1p(-risk))
    total = 0.0
    for k in range(errors, -1, -1):
        total += term
        if term <= _NEGLIGIBLE * total:
            break
        term *= k / (n - k + 1) * (1.0 - risk) / risk
    return min(1.0, total)


def upper_bound(errors: int, n: int, confidence: float) -> float:
    """Find the largest error rate that `errors` among `n` leave possible, with `confidence`."""
    if errors >= n:
        return 1.0
    low, high = errors / n, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if tail(errors, n, middle) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return high


@lru_cache(maxsize=1024)
def fewest(errors: int, *, risk: float, failure: float) -> int:
    """Find the fewest decisions that show an error rate of at most `risk` with `errors` in them.

    `failure` is the largest probability of showing it where it isn't so.
    """
    high = max(1, errors)
    while tail(errors, high, risk) > failure:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if tail(errors, middle, risk) > failure:
            low = middle
        else:
            high = middle
    return high


@lru_cache(maxsize=64)
def allowed_errors(most: int, *, risk: float, failure: float) -> tuple[int, ...]:
    """Find how many errors 0 to `most` decisions may have and still show `risk`; -1 for none."""
    allowed: list[int] = []
    errors = -1
    for n in range(most + 1):
        if n and tail(errors + 1, n, risk) <= failure:
            errors += 1
        allowed.append(errors)
    return tuple(allowed)
