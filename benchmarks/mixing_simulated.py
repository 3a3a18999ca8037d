"""Simulated models, whose accuracies are drawn at random: what choosing gains at one budget."""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from pydantic import BaseModel

from moa import Agent, Reply
from moa.agents.proposer import Proposer
from moa.core.budget import Budget
from moa.core.node import Node
from moa.core.usage import Tier
from moa.evals import compare
from moa.evals.comparison import Comparison
from moa.graphs.mixture import Mixture
from moa.graphs.self_consistency import SelfConsistency
from moa.recipes.best_of_n import BestOfN
from moa.recipes.choose_best import ChooseBest
from moa.recipes.debate import Debate, Debater
from moa.recipes.judges import Best, Listwise
from moa.testing import SimulatedEndpoint, Step
from report import table, write

SECTION = "mixing, simulated"
SEEDS = range(5)
SMALL, LARGE = (0.45, 0.70), (0.70, 0.90)
"""From where to where accuracies are drawn."""
SIX = Budget(calls=6)
SPREAD, SHARED, TRAP, FOLLOWS = 2.5, 0.5, 0.4, 0.5
TEXT = f"""
## Choosing and mixing, simulated

**No real model was asked.** {len(SEEDS)} draws (seeds 0 to {len(SEEDS) - 1}) of three small models
and a large one, on {{n}} problems each with a number as the answer. What was assumed:

* Accuracies are drawn evenly, of the small ones from {SMALL[0]:.0%} to {SMALL[1]:.0%}, of the large
  one from {LARGE[0]:.0%} to {LARGE[1]:.0%}. How likely a model is right differs between problems:
  the log odds have a standard deviation of {SPREAD}, and models share {SHARED:.0%} of the variance.
* A wrong answer is, in {TRAP:.0%} of the cases, one that all models fall for, else one of ten.
* A model that reads answers takes over the most frequent one in {FOLLOWS:.0%} of the cases, and
  else keeps to its own. A judge picks the reply that says what it would answer, else the first.

Every design has at most 6 calls of small models a problem; the large model's one call is priced as
six of a small one. Alone stands the best of the three small models; all three debate and propose.

{{table}}

This shows what follows from these assumptions, and no more: how real models share mistakes is what
decides, and only a run on your own rows with your own models tells that."""


@dataclass
class Model:
    """A simulated model: how likely it is right on each problem, and what it has been asked."""

    name: str
    accuracy: float
    right: Sequence[float]
    truth: Sequence[int]
    seed: int
    asked: Counter[int] = field(default_factory=Counter[int])

    def rule(self, prompt: str) -> Step:
        """Answer, judge, or answer having read others, as the prompt asks."""
        problem = int(re.findall(r"Problem (\d+)", prompt)[0])
        self.asked[problem] += 1
        chance = random.Random(f"{self.seed} {self.name} {problem} {self.asked[problem]}")
        own = self._own(problem, chance)
        replies = re.findall(
            r"(?:Reply|answer|Answer|Draft)[^\n]*:\n<data>\nThe answer is (\d+)", prompt
        )
        if "Reply 1:" in prompt:
            places = [n for n, reply in enumerate(replies, start=1) if int(reply) == own]
            return Best(best=places[0] if places else 1)
        if replies and chance.random() < FOLLOWS:
            own = int(Counter(replies).most_common(1)[0][0])
        return f"The answer is {own}."

    def _own(self, problem: int, chance: random.Random) -> int:
        if chance.random() < self.right[problem]:
            return self.truth[problem]
        wrong = 0 if chance.random() < TRAP else chance.randint(1, 10)
        return self.truth[problem] + 1 + wrong

    def endpoint(self, tier: Tier = "slm") -> SimulatedEndpoint:
        """Give the endpoint that answers so."""
        return SimulatedEndpoint(name=self.name, tier=tier, rule=self.rule)


def models_of(seed: int, problems: int) -> tuple[list[Model], Model]:
    """Draw three small models, the best first, and a large one."""
    chance = random.Random(seed)
    truth = [chance.randint(10, 99) * 20 for _ in range(problems)]
    hard = [chance.gauss(0, 1) for _ in range(problems)]

    def drawn(name: str, between: tuple[float, float]) -> Model:
        accuracy = chance.uniform(*between)
        own = [
            SPREAD * (math.sqrt(SHARED) * h + math.sqrt(1 - SHARED) * chance.gauss(0, 1))
            for h in hard
        ]
        middle = _middle(accuracy)
        right = [1 / (1 + math.exp(-(middle + odds))) for odds in own]
        return Model(name, accuracy, right, truth, seed)

    small = [drawn(f"small {n}", SMALL) for n in range(3)]
    return sorted(small, key=lambda m: -m.accuracy), drawn("large", LARGE)


def _middle(accuracy: float) -> float:
    """Find the middle of the log odds at which a model is right so often."""
    low, high = -10.0, 10.0
    steps = [SPREAD * n / 10 for n in range(-40, 41)]
    weights = [math.exp(-((n / 10) ** 2) / 2) for n in range(-40, 41)]
    while high - low > 1e-6:
        middle = (low + high) / 2
        shares = (w / (1 + math.exp(-(middle + s))) for s, w in zip(steps, weights, strict=True))
        low, high = (low, middle) if sum(shares) / sum(weights) > accuracy else (middle, high)
    return low


def designs_of(small: Sequence[Model], large: Model) -> dict[str, Node[Any, Any]]:
    """Give the designs by name, all within six calls of small models."""
    best = small[0].endpoint()

    def writer(model: Model, tier: Tier = "slm") -> Agent[str | BaseModel, Reply]:
        return Agent(model.endpoint(tier), "Solve it.", name=model.name, temperature=0.7)

    return {
        "one call": writer(small[0]),
        "one call of the large model": writer(large, "llm"),
        "self_consistency, 6": SelfConsistency(node=writer(small[0]), samples=6, budget=SIX),
        "choose_best, 3 x 2": ChooseBest(
            nodes=[*map(writer, small)],
            samples=2,
            accuracy={model.name: model.accuracy for model in small},
            budget=SIX,
        ),
        "choose_best, 2 x 3": ChooseBest(
            nodes=[*map(writer, small[:2])],
            samples=3,
            accuracy={model.name: model.accuracy for model in small[:2]},
            budget=SIX,
        ),
        "mixture, 5 and 1": Mixture(
            proposers=[Proposer(small[n % 3].endpoint(), name=f"proposer {n}") for n in range(5)],
            aggregator=Proposer(best, name="aggregator"),
            straggler_timeout_s=None,
            budget=SIX,
        ),
        "best_of_n, 4 and 2": BestOfN(
            node=writer(small[0]), judge=Listwise(best), samples=4, budget=SIX
        ),
        "debate, 3 x 2": Debate(
            debaters=[Debater(model.endpoint(), name=model.name) for model in small],
            rounds=1,
            budget=SIX,
        ),
    }


def run(rows: int, *, write: bool) -> None:
    """Compare on each draw, and write or print the section."""
    found = [asyncio.run(_compared(seed, rows)) for seed in SEEDS]
    body = TEXT.format(n=rows, table=table_of(found))
    if write:
        report("python benchmarks/mixing.py --steps simulated", body)
    else:
        print(body)


async def _compared(seed: int, problems: int) -> Comparison:
    small, large = models_of(seed, problems)
    rows: list[Mapping[str, str]] = [
        {"question": f"Problem {n}", "answer": str(truth)} for n, truth in enumerate(large.truth)
    ]
    return await compare(rows, designs_of(small, large), metric="numeric", reference="one call")


def table_of(found: Sequence[Comparison]) -> str:
    """Show each design: its accuracy over the draws, and in how many of them it leads."""
    head = ("design", "accuracy", "lowest", "highest", "calls", "over one call", "over the large")
    body: list[tuple[str, ...]] = []
    for design in found[0].designs:
        each = [draw.design(design.name).quality.value for draw in found]
        calls = fmean(draw.design(design.name).tokens for draw in found) / 15
        body.append(
            (
                design.name,
                f"{fmean(each):.3f}",
                f"{min(each):.3f}",
                f"{max(each):.3f}",
                f"{calls:.1f}",
                _leads(found, each, "one call"),
                _leads(found, each, "one call of the large model"),
            )
        )
    return table(head, body)


def _leads(found: Sequence[Comparison], each: Sequence[float], other: str) -> str:
    theirs = [draw.design(other).quality.value for draw in found]
    return f"{sum(a > b for a, b in zip(each, theirs, strict=True))} of {len(each)}"


def report(command: str, body: str) -> None:
    """Write the section of the page."""
    write(SECTION, command, body)
