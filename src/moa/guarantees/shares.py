"""Shares: whether a label has become more or less frequent than it was in a reference.

The counts of a label are compared by Fisher's exact test (Fisher 1935, "The logic of inductive
inference", Journal of the Royal Statistical Society 98), whose rate of false alarms holds however
few there are. `Drift` may be asked after every input, and keeps its promise for a whole run; where
whole windows are compared, that takes far more items than this test does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

Counts = Mapping[str, Mapping[str, int]]
"""How often each label came, by the name of the question."""


class Moved(BaseModel):
    """A label whose share is no longer what it was."""

    model_config = ConfigDict(frozen=True)

    question: str
    label: str
    reference: float
    """Its share in the reference, from 0 to 1."""
    now: float
    """Its share in the latest windows."""
    windows: int
    """How many of them that is."""
    p: float
    """Probability of a difference as large, or larger, where nothing has changed."""


def moved(reference: Counts, windows: Sequence[Counts], *, alpha: float) -> tuple[Moved, ...]:
    """Find the labels whose share has moved, in the latest window, or in all of them together.

    Where nothing has changed, and items don't depend on each other, something is found with a
    probability of at most `alpha`: it is shared among the questions, the labels and the two looks.

    Args:
        reference: What is normal.
        windows: What came since, the latest window last.
        alpha: Rate of false alarms, for each time that it is asked.
    """
    looks = {1, len(windows)} - {0}
    found: dict[tuple[str, str], Moved] = {}
    for look in sorted(looks):
        latest = added(windows[-look:])
        both = added([reference, latest])
        for question, known in both.items():
            level = alpha / (len(looks) * len(both) * _free(known))
            for label in known:
                change = _compared(reference, latest, question, label, windows=look)
                if change.p <= level:
                    found.setdefault((question, label), change)
    return tuple(found.values())


def added(counts: Sequence[Counts]) -> dict[str, dict[str, int]]:
    """Add counts up."""
    total: dict[str, dict[str, int]] = {}
    for one in counts:
        for question, known in one.items():
            sums = total.setdefault(question, {})
            for label, count in known.items():
                sums[label] = sums.get(label, 0) + count
    return total


def share_of(known: Mapping[str, int], label: str) -> float:
    """Share of a label among those of its question; 0 where there are none."""
    return known.get(label, 0) / max(1, sum(known.values()))


def p_value(count: int, total: int, reference_count: int, reference_total: int) -> float:
    """Fisher's exact test, two-sided: twice the smaller of both tails, at most 1.

    Args:
        count: Items with the label now.
        total: All items now.
        reference_count: Items with the label in the reference.
        reference_total: All items in the reference.
    """
    with_label, everything = count + reference_count, total + reference_total
    least, most = max(0, with_label - reference_total), min(total, with_label)
    scale = _choices(everything, total)

    def weight(k: int) -> float:
        return math.exp(
            _choices(with_label, k) + _choices(everything - with_label, total - k) - scale
        )

    below = sum(weight(k) for k in range(least, count + 1))
    above = sum(weight(k) for k in range(count, most + 1))
    return min(1.0, 2.0 * below, 2.0 * above)


def _compared(
    reference: Counts, latest: Counts, question: str, label: str, *, windows: int
) -> Moved:
    before, now = reference.get(question, {}), latest.get(question, {})
    return Moved(
        question=question,
        label=label,
        reference=share_of(before, label),
        now=share_of(now, label),
        windows=windows,
        p=p_value(now.get(label, 0), sum(now.values()), before.get(label, 0), sum(before.values())),
    )


def _free(known: Mapping[str, int]) -> int:
    """How many labels can move by themselves: of two, what one gains the other loses."""
    return 1 if len(known) == 2 else len(known)


def _choices(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
