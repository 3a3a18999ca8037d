"""Naming: names that tell several apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def told_apart(names: Sequence[str]) -> list[str]:
    """Number the names that several have, as `sample 1` and `sample 2`."""
    several = {name for name, count in Counter(names).items() if count > 1}
    seen: Counter[str] = Counter()
    told: list[str] = []
    for name in names:
        seen[name] += 1
        told.append(f"{name} {seen[name]}" if name in several else name)
    return told
