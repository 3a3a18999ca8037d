"""Tally: what many items came to, in bounded memory."""

from __future__ import annotations

import random
import time
from collections import Counter

from moa.advisor.bench import percentile
from moa.cli.worth import Worth
from moa.rows import Item
from moa.usage import Usage

_KEPT = 10_000
"""Seconds of so many items are kept; of more, a random sample of as many."""


class Tally:
    """Adds items up."""

    def __init__(self) -> None:
        self.start()
        self.statuses: Counter[str] = Counter()
        self.needed_llm = 0
        self.worth = Worth()
        self.usage = Usage()
        self.before = Usage()
        """What was used before the first item, such as to fit an agent to its task."""
        self._seconds: list[float] = []
        self._dice = random.Random(0)

    def start(self) -> None:
        """Start the clock again."""
        self.started = time.monotonic()

    @property
    def spent(self) -> Usage:
        """What was used in all."""
        return self.before + self.usage

    @property
    def items(self) -> int:
        """Items so far."""
        return self.statuses.total()

    @property
    def failed(self) -> bool:
        """Whether one of them failed."""
        return self.statuses["failed"] > 0

    @property
    def llm_share(self) -> float:
        """Share of the items for which a large model was asked."""
        return self.needed_llm / self.items if self.items else 0.0

    @property
    def items_per_second(self) -> float:
        """Items a second of wall time."""
        return self.items / max(time.monotonic() - self.started, 1e-9)

    def add(self, item: Item) -> None:
        """Count an item in."""
        self.statuses[item.status] += 1
        self.needed_llm += item.needed_llm
        self.worth.add(item)
        self.usage += item.usage
        if item.seconds:
            self._sample(item.seconds)

    @property
    def mean(self) -> float:
        """Mean of the seconds that an item took."""
        return sum(self._seconds) / len(self._seconds) if self._seconds else 0.0

    def percentile(self, share: float) -> float:
        """Seconds within which `share` of the items were done, from 0 to 1."""
        return percentile(self._seconds, share)

    def _sample(self, seconds: float) -> None:
        if len(self._seconds) < _KEPT:
            self._seconds.append(seconds)
        elif (place := self._dice.randrange(self.items)) < _KEPT:
            self._seconds[place] = seconds
