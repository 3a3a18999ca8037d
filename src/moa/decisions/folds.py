"""Folds: parts of labelled texts, with whatever belongs together in one part."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from moa.decisions.arrays import Bools, Ints


def folds(cases: Sequence[str], labels: Ints, parts: int, *, seed: int = 0) -> Ints:
    """Deal texts out to parts, so that each has about as many of every label.

    Args:
        cases: What each text belongs to; texts of one case come into one part.
        labels: Of each text.
        parts: How many.
        seed: Another one deals otherwise.
    """
    groups: dict[int, list[str]] = {}
    first: dict[str, int] = {}
    for case, label in zip(cases, labels.tolist(), strict=True):
        first.setdefault(case, label)
    for case, label in first.items():
        groups.setdefault(label, []).append(case)
    dealer = random.Random(seed)
    part: dict[str, int] = {}
    dealt = 0
    for label in sorted(groups):
        mixed = groups[label]
        dealer.shuffle(mixed)
        for case in mixed:
            part[case] = dealt % parts
            dealt += 1
    return np.array([part[case] for case in cases], dtype=np.intp)


def split(cases: Sequence[str], share: float, *, seed: int = 0) -> Bools:
    """Tell which texts are held out: those of `share` of the cases, drawn at random.

    No label is looked at: bounds are proven for texts that are held out whatever their label is.
    """
    known = sorted(set(cases))
    held = set(random.Random(seed).sample(known, round(share * len(known))))
    return np.array([case in held for case in cases], bool)
