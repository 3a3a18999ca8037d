"""The embedded model on sentiments: written once, six times in five ways, and decided once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from labels import label_of
from moa import Agent, Classifier, EmbeddedEndpoint, Reply
from moa.agents.proposer import Proposer
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.node import Node, Result
from moa.endpoints import Endpoint
from moa.evals import compare
from moa.evals.comparison import Comparison
from moa.graphs.mixing.answer_extraction import format_answer
from moa.graphs.mixture import Mixture
from moa.graphs.self_consistency import SelfConsistency
from moa.recipes.best_of_n import BestOfN
from moa.recipes.choose_best import ChooseBest
from moa.recipes.judges import Listwise
from report import table, write
from saying import Said

SECTION = "mixing"
SET, LABELS = "sentiment2_movie", ("negative", "positive")
SIX = Budget(calls=6)
"""What each design may spend on a text."""
TOKENS, TEMPERATURE = 16, 0.7
SAY = "Is the review positive or negative? Answer with one of these two words."
FEEL = "What does the writer of the review feel? End with one word: positive or negative."
TEXT = f"""
## Choosing and mixing, with the embedded model

The first {{n}} texts of `{SET}`, each design with at most 6 calls a text, all of them to
SmolLM2-135M, which writes up to {TOKENS} tokens at a temperature of {TEMPERATURE}. The label is the
one that the text names last; a text that names none is wrong. `choose_best` has one model under two
prompts, since there is one built in. `decided` is that model too, asked once for the probabilities
of both labels, without an example. The intervals hold at 95 %.

{{table}}

{{verdict}}"""


@dataclass(frozen=True)
class Named:
    """A node of which only the label that it names is kept."""

    node: Node[Any, Any]

    @property
    def name(self) -> str:
        return self.node.name

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[Reply]:
        context = context or RunContext()
        result = await self.node.run(request, context)
        label = label_of(LABELS)(result.output)
        return Result(
            output=Reply(text="none" if label is None else format_answer(label)),
            usage=result.usage,
            trace=result.trace,
            seconds=result.seconds,
        )


def designs_of(model: Endpoint) -> dict[str, Node[Any, Any]]:
    """Give the designs by name; each has six calls a text."""

    def writer(name: str, say: str = SAY) -> Agent[str | BaseModel, Reply]:
        return Agent(model, say, name=name, max_tokens=TOKENS, temperature=TEMPERATURE, repairs=0)

    key = label_of(LABELS)
    proposer = Proposer(model, SAY, max_tokens=TOKENS, temperature=TEMPERATURE, repairs=0)
    found: dict[str, Node[Any, Any]] = {
        "one call": writer("one"),
        "self_consistency, 6": SelfConsistency(node=writer("one"), samples=6, key=key, budget=SIX),
        "choose_best, 2 x 3": ChooseBest(
            nodes=[writer("say"), writer("feel", FEEL)], samples=3, key=key, budget=SIX
        ),
        "mixture, 5 and 1": Mixture(
            proposers=[proposer] * 5, aggregator=proposer, straggler_timeout_s=None, budget=SIX
        ),
        "best_of_n, 4 and 2": BestOfN(
            node=writer("one"), judge=Listwise(model), samples=4, key=key, budget=SIX
        ),
    }
    named: dict[str, Node[Any, Any]] = {name: Named(node) for name, node in found.items()}
    return {**named, "decided": Decided(model)}


class Decided:
    """The label that the model gives the higher probability."""

    name = "decided"

    def __init__(self, model: Endpoint) -> None:
        self.classifier = Classifier(model, list(LABELS), task=SAY, none=False)

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[Reply]:
        result = await self.classifier.run(request, context)
        return Result(
            output=Reply(text=str(result.output.label)), usage=result.usage, seconds=result.seconds
        )


def run(data: Path, rows: int, *, write: bool) -> None:
    """Compare on the first rows of the set, and write or print the section."""
    lines = (data / SET / "dev.jsonl").read_text(encoding="utf-8").splitlines()[:rows]
    texts = [json.loads(line) for line in lines]
    found = asyncio.run(_compared(texts))
    _tell(found, rows, write=write)


async def _compared(texts: Sequence[dict[str, str]]) -> Comparison:
    model, said = EmbeddedEndpoint("embedded"), Said(SET)
    try:
        return await compare(
            [{"text": text["text"], "reference": text["label"]} for text in texts],
            designs_of(model),
            metric="exact",
            reference="one call",
            concurrency=1,
            progress=said,
        )
    finally:
        await model.close()


def _tell(found: Comparison, rows: int, *, write: bool) -> None:
    body = TEXT.format(n=rows, table=table_of(found), verdict=_verdict(found))
    if write:
        report("python benchmarks/mixing.py --steps embedded", body)
    else:
        print(body)


def table_of(found: Comparison) -> str:
    """Show the designs, and what each took."""
    head = ("design", "answered", "accuracy", "interval", "tokens a text", "seconds a text")
    body = [
        (
            design.name,
            f"{design.answered}",
            f"{design.quality.value:.3f}",
            f"{design.quality.low:.3f} to {design.quality.high:.3f}",
            f"{design.tokens:.0f}",
            f"{design.seconds_mean:.2f}",
        )
        for design in found.designs
    ]
    return table(head, body)


def _verdict(found: Comparison) -> str:
    sampled = [d for d in found.designs if d.name not in ("one call", "decided")]
    best = max(sampled, key=lambda design: design.quality.value)
    decided = found.design("decided")
    pays = "pays" if best.quality.low > decided.quality.high else "doesn't pay"
    return (
        f"On a label, sampling **{pays}** here: the best of the sampled designs, "
        f"`{best.name}`, reaches {best.quality.value:.3f} with "
        f"{best.tokens / decided.tokens:.1f} times the tokens, and the same model asked once for "
        f"probabilities {decided.quality.value:.3f}."
    )


def report(command: str, body: str) -> None:
    """Write the section of the page."""
    write(SECTION, command, body)
