"""Says how far a benchmark is, a line for each thing that is read."""

from __future__ import annotations

import time


class Said:
    """Prints where a member has begun and where it has ended: a line for each."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started: dict[str, float] = {}

    def __call__(self, member: str, done: int, total: int) -> None:
        if member not in self._started:
            self._started[member] = time.perf_counter()
            print(f"{self._name}: reads {member}", flush=True)
        if done == total:
            seconds = time.perf_counter() - self._started[member]
            print(f"{self._name}: read {member}, {total} texts in {seconds:.0f} s", flush=True)
