"""Fits the corrections that the support graph ships: `python benchmarks/shop.py`.

It reads the 48 labelled messages of examples/support/fitting.jsonl, written for this, to other
shops than the inbox's, and prints what stands in `moa.graphs.shop.CORRECTIONS`, and how often each
question is answered right before and after, on these messages and by cross-validation.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np

from moa import EmbeddedEndpoint, RunContext, Sentiment
from moa.agents.deciding import DecidingAgent
from moa.decisions.arrays import Ints
from moa.decisions.fitting import Fit, class_prior, fit, matching_bias
from moa.graphs.shop import SupportSettings
from moa.graphs.support import intent_of, urgency_of

MESSAGES = Path(__file__).parent.parent / "examples" / "support" / "fitting.jsonl"
FOLDS = 8


async def main() -> None:
    rows = [json.loads(line) for line in MESSAGES.read_text().splitlines()]
    async with EmbeddedEndpoint() as slm:
        settings = SupportSettings()
        agents: list[DecidingAgent[Any]] = [
            Sentiment(slm),
            intent_of(slm, settings),
            urgency_of(slm),
        ]
        for agent in agents:
            await fitted(agent, rows)


async def fitted(agent: DecidingAgent[Any], rows: list[dict[str, str]]) -> None:
    question = agent.questions[0]
    names = [option.name for option in question.options]
    shown = agent.adaptation.views[0] if agent.adaptation else agent.examples
    logs: list[list[float]] = []
    for row in rows:
        answer = (await agent.ask(row["text"], RunContext(), shown=shown or agent.examples))[0]
        assert answer.probabilities is not None
        logs.append([float(x) for x in np.log(np.maximum(answer.probabilities, 1e-45))])
    readings = np.array(logs)[:, None]
    labels = np.array([names.index(row[question.name]) for row in rows], dtype=np.intp)
    start = np.array([1.0])

    def made(keep: Ints) -> Fit:
        bias = matching_bias(readings[keep], start, class_prior(labels[keep], len(names)))
        return fit(readings[keep], labels[keep], weights=start, bias=bias)

    everything = np.arange(len(rows))
    found = made(everything)
    unseen = [
        int(made(everything[everything % FOLDS != f])(readings[[i]]).argmax() == labels[i])
        for f in range(FOLDS)
        for i in everything[everything % FOLDS == f]
    ]
    raw = int((readings[:, 0].argmax(1) == labels).sum())
    offsets = tuple(round(float(b - found.bias.max()), 2) for b in found.bias)
    print(
        f"{question.name}: Correction({offsets}, ({round(float(found.weights[0]), 2)},)),"
        f"  # right {raw} raw, {int((found(readings).argmax(1) == labels).sum())} corrected, "
        f"{sum(unseen)} cross-validated, of {len(rows)}"
    )


if __name__ == "__main__":
    asyncio.run(main())
