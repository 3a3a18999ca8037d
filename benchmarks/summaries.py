"""What `summarize` saves, and what it loses: `python benchmarks/summaries.py --data DIR`.

It writes its section of docs/benchmarks.md, on rows that took no part in choosing its constants.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from moa.agents.prompts import without_tags
from moa.core.context import RunContext
from moa.documents.sentences import sentences
from moa.documents.summarize import Original, Summarize
from moa.endpoints import Completion, Embeddings, Prompt
from moa.endpoints.tokens import approximate_tokens
from moa.evals.metrics import rouge_l
from moa.local.encoders import SentenceEncoder, sentence_tokenizer
from moa.testing import SimulatedEndpoint
from report import table, write

SECTION = "summaries"
CHOSEN_ON = 100
"""Rows that the constants were chosen on, the first ones."""
KEEPS = (0.2, 0.3, 0.4, 0.5)
DEFAULT = 0.3
_WORD = re.compile(r"\w+")
TEXT = """
## Summaries

`summarize` on {n} abstracts of SciTLDR with summaries of one line, one to several for each; the
constants were chosen on {chosen} other rows. What the large model reads is counted in the run's
usage, in tokens of a BERT tokenizer and with all of its prompt; its place is taken by a double
that counts and writes a fixed sentence, since no large model was at hand. **So nothing is said
here of the summaries that a large model would write**, only of what it would be given. Recall is
the part of the words of a summary, in their order, that the text given holds (ROUGE-L, the best
of the references): what is not in there can't be copied. These texts are short; the prompt's own
words weigh more here than they do on longer ones. They were measured when short texts were cut to
`keep` too; today a text of up to `read_tokens` is read whole, so `keep` tells what is left of
longer ones.

{given}

Without a large model the summary is a sentence of the text. ROUGE-L as F1, against the best of the
references, and against the first one alone:

{extracts}
"""


class Row(NamedTuple):
    original: Original
    summaries: Sequence[str]


class Given(NamedTuple):
    """What a design gave the large model for one text."""

    tokens: int
    text: str


@dataclass
class Counter(SimulatedEndpoint):
    """Stands for a large model: counts what it reads, and writes a fixed sentence."""

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        self.tokens = (sum(count(message.content) for message in prompt.messages), 1)
        return await super().complete(prompt, context)


class Remembering(SentenceEncoder):
    """Encodes each sentence once over all designs."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, tuple[float, ...]] = {}

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = await super().embed(new, context)
        self._known |= dict(zip(new, found.vectors, strict=True))
        return Embeddings(
            vectors=tuple(self._known[text] for text in texts),
            endpoint=found.endpoint,
            model=found.model,
            amount=found.amount,
        )


def count(text: str) -> int:
    return len(_tokenizer().encode(text, add_special_tokens=False).ids)


@cache
def _tokenizer() -> Any:
    tokenizer: Any = sentence_tokenizer()
    tokenizer.no_truncation()
    return tokenizer


def read(data: Path) -> list[Row]:
    lines = (data / "summarise_scitldr" / "dev.jsonl").read_text(encoding="utf-8").splitlines()
    rows = map(json.loads, lines)
    return [Row(Original(text=row["source"], title=row["title"]), row["summaries"]) for row in rows]


def best(metric: Callable[[str, str], float], text: str, references: Sequence[str]) -> float:
    return max(metric(text, reference) for reference in references)


def recall(text: str, reference: str) -> float:
    """Part of the reference that the text holds, worked out from F1 and the two lengths."""
    given, wanted = len(_WORD.findall(text)), len(_WORD.findall(reference))
    return rouge_l(text, reference) * (given + wanted) / (2 * wanted)


async def read_by_llm(row: Row, keep: float, encoder: SentenceEncoder) -> Given:
    """Run the graph, and look at what the large model was given."""
    llm = Counter(name="counter", tier="llm", rule=_fixed)
    longer = max(1, approximate_tokens(row.original.text) - 1)  # else it is read whole
    graph = Summarize(llm=llm, sentences=1, keep=keep, read_tokens=longer, encoder=encoder)
    result = await graph.run(row.original)
    (prompt,) = llm.prompts
    text = without_tags(prompt.messages[-1].content)
    return Given(result.usage.by_tier()["llm"].input_tokens, text)


def _fixed(prompt: str) -> str:
    """Write a sentence; of several parts, in the form that is asked for."""
    numbered = '{"sentences": [{"text": "A sentence.", "parts": [1]}]}'
    return numbered if "\n[2] " in prompt else "A sentence."


async def extracted(row: Row, encoder: SentenceEncoder) -> str:
    """Run the graph with a model that is too small to write."""
    model = "SmolLM2-135M-Instruct.Q4_1"
    tiny = SimulatedEndpoint(name="tiny", model=model)
    graph = Summarize(llm=tiny, sentences=1, encoder=encoder)
    return (await graph.run(row.original)).output.text


def untitled(rows: Sequence[Row]) -> list[Row]:
    return [Row(Original(text=row.original.text), row.summaries) for row in rows]


async def given_table(rows: Sequence[Row], encoder: SentenceEncoder) -> str:
    async def over(some: Sequence[Row], keep: float) -> list[Given]:
        return [await read_by_llm(row, keep, encoder) for row in some]

    everything = await over(rows, 1.0)
    designs = [("everything", everything)]
    for keep in KEEPS:
        mark = ", the default" if keep == DEFAULT else ""
        designs.append((f"`keep = {keep}`{mark}", await over(rows, keep)))
    plain = await over(untitled(rows), DEFAULT)
    designs.append((f"`keep = {DEFAULT}`, without titles", plain))
    designs.append(
        ("the first sentences, as many", [_first(r, g) for r, g in zip(rows, plain, strict=True)])
    )
    total = fmean(each.tokens for each in everything)
    body = [
        (
            name,
            f"{fmean(each.tokens for each in found):.0f}",
            f"{fmean(each.tokens for each in found) / total:.0%}",
            _mean(recall, found, rows),
            _mean(rouge_l, found, rows),
        )
        for name, found in designs
    ]
    return table(("the large model reads", "tokens", "share", "recall", "F1"), body)


def _mean(metric: Callable[[str, str], float], found: Sequence[Given], rows: Sequence[Row]) -> str:
    pairs = zip(found, rows, strict=True)
    return f"{fmean(best(metric, each.text, row.summaries) for each, row in pairs):.3f}"


def _first(row: Row, like: Given) -> Given:
    """The first sentences of a text, as many tokens as a design gave or just over."""
    wanted = count(like.text)
    taken: list[str] = []
    for _, sentence in sentences(row.original.text):
        taken.append(sentence)
        if count(" ".join(taken)) >= wanted:
            break
    text = " ".join(taken)
    return Given(like.tokens - wanted + count(text), text)


async def extract_table(rows: Sequence[Row], encoder: SentenceEncoder) -> str:
    async def none(row: Row) -> str:
        return sentences(row.original.text)[0][1]

    async def last(row: Row) -> str:
        return sentences(row.original.text)[-1][1]

    async def titled(row: Row) -> str:
        return await extracted(row, encoder)

    async def plain(row: Row) -> str:
        return await extracted(untitled([row])[0], encoder)

    async def whole(row: Row) -> str:
        return row.original.text

    async def oracle(row: Row) -> str:
        found = [text for _, text in sentences(row.original.text)]
        return max(found, key=lambda text: best(rouge_l, text, row.summaries))

    designs: dict[str, Callable[[Row], Awaitable[str]]] = {
        "`summarize`, with the title": titled,
        "`summarize`, without it": plain,
        "the first sentence": none,
        "the last sentence": last,
        "everything": whole,
        "the best sentence there is, by the references": oracle,
    }
    body: list[tuple[str, str, str]] = []
    for name, design in designs.items():
        texts = [await design(row) for row in rows]
        pairs = list(zip(texts, rows, strict=True))
        of_best = fmean(best(rouge_l, text, row.summaries) for text, row in pairs)
        of_first = fmean(rouge_l(text, row.summaries[0]) for text, row in pairs)
        body.append((name, f"{of_best:.3f}", f"{of_first:.3f}"))
    return table(("the summary is", "best of the references", "first"), body)


async def measured(rows: Sequence[Row]) -> str:
    encoder = Remembering()
    return TEXT.format(
        n=len(rows),
        chosen=CHOSEN_ON,
        given=await given_table(rows, encoder),
        extracts=await extract_table(rows, encoder),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOA_DATA"))
    parser.add_argument("--limit", type=int, help="rows to look at; prints, and writes no section")
    parser.add_argument("--choosing", action="store_true", help="the rows constants are chosen on")
    given = parser.parse_args()
    if given.data is None:
        raise SystemExit("give the folder of the sets by --data or $MOA_DATA")
    rows = read(Path(given.data))
    rows = rows[:CHOSEN_ON] if given.choosing else rows[CHOSEN_ON:]
    body = asyncio.run(measured(rows[: given.limit]))
    if given.limit or given.choosing:
        print(body)
    else:
        write(SECTION, "python benchmarks/summaries.py --data DIR", body)


if __name__ == "__main__":
    main()
