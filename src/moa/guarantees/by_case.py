"""By case: what is shown of an error rate where decisions about one case are wrong together.

A case is one bet against the hypothesis that the risk is passed, and the product of all bets is
evidence; see `moa.guarantees.bounds`.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache

from moa.decisions.arrays import Floats, Ints, np

_STAKES = (1.0, 0.7, 0.5, 0.35, 0.2, 0.1)
"""Parts of the largest bet that can't be lost altogether; the evidence is the mean over them."""
_ALMOST = 1.0 - 1e-9
_HALVINGS = 60
_MOST_CASES = 10**9


def evidence(accepted: Ints, wrong: Ints, *, risk: float, most: int) -> Floats:
    """Give the logarithm of the evidence that each threshold keeps the risk.

    Args:
        accepted: Decisions that are accepted of each case, by each threshold: cases, thresholds.
        wrong: Wrong ones among them.
        risk: Share of wrong ones.
        most: Most decisions about one case.
    """
    excess = wrong - risk * accepted
    largest = _ALMOST / ((1.0 - risk) * most)
    logs = np.stack([np.log1p(-stake * largest * excess).sum(0) for stake in _STAKES])
    return np.logaddexp.reduce(logs, 0) - np.log(len(_STAKES))


def upper_risk(accepted: Ints, wrong: Ints, *, most: int, failure: float) -> float:
    """Find the largest risk that the cases leave possible: the evidence only rises with the risk.

    Args:
        accepted: Decisions that are accepted of each case.
        wrong: Wrong ones among them.
        most: Most decisions about one case.
        failure: Probability that the risk is larger nevertheless.
    """
    low, high = float(wrong.sum()) / max(1, int(accepted.sum())), 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if float(evidence(accepted, wrong, risk=middle, most=most)) < -np.log(failure):
            low = middle
        else:
            high = middle
    return high


@lru_cache(maxsize=1024)
def fewest_cases(*, risk: float, failure: float) -> int:
    """Find the fewest cases, all right, that show a risk."""
    won = np.log1p(np.array(_STAKES) * _ALMOST * risk / (1.0 - risk))

    def shown(cases: int) -> float:
        return float(np.logaddexp.reduce(cases * won) - np.log(len(_STAKES)))

    return 1 + bisect_left(range(1, _MOST_CASES), -np.log(failure), key=shown)
