"""Bounds: what is accepted of simulated scores, and how many promises are broken."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from moa.decisions.bounds import Outcome, find_bound
from moa.decisions.guarantee import Guarantee
from report import table, write

SECTION = "bounds"
SIZES = (128, 256, 512)
DRAWS, POPULATION = 200, 100_000
PROMISE = Guarantee(0.05, 0.95)


class Kind(NamedTuple):
    """Scores of two options: log-odds of this mean and spread, and a share of flipped labels."""

    mean: float
    spread: float
    flipped: float

    def draw(self, n: int, rng: Generator) -> list[Outcome]:
        odds = np.abs(rng.normal(self.mean, self.spread, n))
        sure = 1 / (1 + np.exp(-odds))
        right = rng.random(n) < sure * (1 - self.flipped)
        return [
            Outcome(confidence=float(c), correct=bool(r)) for c, r in zip(sure, right, strict=True)
        ]


KINDS = (
    Kind(0, 2.5, 0),
    Kind(0, 4, 0),
    Kind(1, 2.5, 0.02),
    Kind(0, 4, 0.02),
    Kind(2, 3, 0.01),
    Kind(4, 1, 0.01),
    Kind(0, 6, 0.03),
    Kind(5, 2, 0.01),
    Kind(3.5, 1, 0),
)
TEXT = f"""## Bounds

What a bound accepts of simulated scores, at 5 % risk and 95 % confidence, with as many labels to
fit to as are held out: the mean share over {DRAWS} draws, and in brackets the share of draws in
which more than 5 % of what it accepts is wrong. `possible` is what somebody accepts who knows the
risk of every threshold. A kind is the mean and the spread of the log-odds, and the share of labels
that are flipped whatever the score; none of them was left out."""


def run() -> None:
    """Simulate, and write the section."""
    rows: list[list[str]] = []
    for number, kind in enumerate(KINDS):
        population = kind.draw(POPULATION, np.random.default_rng(1000 + number))
        confidences = np.array([o.confidence for o in population])
        order = np.argsort(-confidences)
        wrong = np.array([not o.correct for o in population])[order]
        risks = np.cumsum(wrong) / np.arange(1, POPULATION + 1)
        cells = [_cell(kind, n, confidences[order], risks, number) for n in SIZES]
        fair = np.flatnonzero(risks[1000:] <= PROMISE.risk)
        possible = (fair[-1] + 1001) / POPULATION if len(fair) else 0.0
        name = f"{kind.mean:g} ± {kind.spread:g}, {kind.flipped:.0%}"
        rows.append([name, *cells, f"{possible:.2f}"])
    head = ("scores", *(f"{n} labels" for n in SIZES), "possible")
    body = "\n\n".join((TEXT, table(head, rows)))
    write(SECTION, "python benchmarks/trust.py --steps bounds", body)


def _cell(kind: Kind, n: int, sorted_down: np.ndarray, risks: np.ndarray, seed: int) -> str:
    rng = np.random.default_rng(seed)
    coverage: list[float] = []
    broken = 0
    for _ in range(DRAWS):
        bound = find_bound(kind.draw(n, rng), kind.draw(n, rng), PROMISE)
        if bound.threshold is None:
            coverage.append(0.0)
            continue
        taken = int(np.searchsorted(-sorted_down, -bound.threshold, side="right"))
        coverage.append(taken / len(sorted_down))
        broken += bool(taken and risks[taken - 1] > PROMISE.risk)
    return f"{np.mean(coverage):.2f} ({broken / DRAWS:.1%})"
