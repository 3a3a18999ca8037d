"""What is found in documents, and cited: `python benchmarks/documents.py --data DIR`.

Each step writes its section of docs/benchmarks.md; with `--rows` it is a trial that only prints.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import report
from moa.context import RunContext
from moa.documents import Passage, Passages
from moa.documents.retrieval import BM25, Dense, Hybrid, searched
from moa.endpoints import Embeddings
from moa.endpoints.embedded import EmbeddedEndpoint
from moa.endpoints.encoders import SentenceEncoder
from moa.errors import MoaError
from moa.graphs.rag import Answerer, Extractive, NotInDocuments, Rag, Sourced
from moa.node import Node, Text
from moa.usage import Amount

WRITTEN = 30
"""Questions that the built-in model answers; it writes for seconds."""
HEAD = ["answer", "questions", "cites", "citation holds", "text holds", "not in them", "failed"]
Finder = Node[Text | str, Passages]


@dataclass(frozen=True)
class Question:
    text: str
    answers: tuple[str, ...]
    pid: str


class Remembering(SentenceEncoder):
    """Encodes each text once, since sentences of the same passages are compared again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, tuple[float, ...]] = {}

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        fresh = list(dict.fromkeys(text for text in texts if text not in self.known))
        amount = Amount()
        if fresh:
            made = await super().embed(fresh, context)
            amount = made.amount
            self.known |= dict(zip(fresh, made.vectors, strict=True))
        vectors = tuple(self.known[text] for text in texts)
        return Embeddings(vectors=vectors, endpoint=self.name, model=self.model, amount=amount)


def read(folder: Path) -> tuple[list[Passage], list[Question]]:
    def rows(name: str) -> list[dict[str, str]]:
        lines = (folder / "rag_xquad" / name).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    passages = [
        Passage(document=row["pid"], title=row["title"].replace("_", " "), text=row["text"])
        for row in rows("corpus_dev.jsonl")
    ]
    questions = [
        Question(row["question"], tuple(row["answers"]), row["pid"]) for row in rows("dev.jsonl")
    ]
    return passages, questions


async def finders(passages: list[Passage], encoder: SentenceEncoder) -> dict[str, Finder]:
    embedded = await encoder.embed([searched(each) for each in passages], RunContext())
    vectors = embedded.vectors

    def both(top_k: int) -> list[Finder]:
        return [BM25(passages, top_k=top_k), Dense(passages, vectors, encoder, top_k=top_k)]

    words, meaning = both(5)
    return {"words (BM25)": words, "meaning (MiniLM)": meaning, "both": Hybrid(both(20), top_k=5)}


def holds(text: str, answers: Sequence[str]) -> bool:
    """Whether a text holds one of the answers, whatever the case, blanks and marks."""

    def plain(words: str) -> str:
        return " ".join(["", *re.findall(r"\w+", words.casefold()), ""])

    return any(plain(answer) in plain(text) for answer in answers)


async def recall(finder: Finder, questions: list[Question]) -> list[str]:
    ranks: list[int | None] = []
    for question in questions:
        found = (await finder.run(question.text)).output.passages
        pids = [passage.document for passage in found]
        ranks.append(pids.index(question.pid) if question.pid in pids else None)
    shares = [sum(rank is not None and rank < k for rank in ranks) / len(ranks) for k in (1, 3, 5)]
    return [f"{share:.3f}" for share in shares]


async def answered(graph: Rag, questions: list[Question]) -> list[str]:
    cites = right = in_text = absent = failed = 0
    for question in questions:
        try:
            output = (await graph.run(question.text)).output
        except MoaError as error:
            failed += 1
            print(f"failed: {error}")
            continue
        if isinstance(output, NotInDocuments):
            absent += 1
            continue
        assert isinstance(output, Sourced), "one of the two"
        cites += bool(output.citations)
        right += any(holds(each.passage.text, question.answers) for each in output.citations)
        in_text += holds(output.text, question.answers)
    return [
        str(len(questions)),
        *(f"{count / len(questions):.3f}" for count in (cites, right, in_text, absent)),
        str(failed),
    ]


async def elsewhere(passages: list[Passage], questions: list[Question], near: float) -> str:
    """Ask each question of a corpus without the article that answers it."""
    encoder = Remembering()
    titles = {passage.document: passage.title for passage in passages}
    graphs: dict[str, Rag] = {}
    absent = 0
    for question in questions:
        title = titles[question.pid]
        if title not in graphs:
            others = [passage for passage in passages if passage.title != title]
            finder = (await finders(others, encoder))["both"]
            graphs[title] = Rag(retriever=finder, writer=Extractive(encoder, least=near))
        output = (await graphs[title].run(question.text)).output
        absent += isinstance(output, NotInDocuments)
    return f"{absent / len(questions):.3f}"


async def searched_and_extracted(folder: Path, rows: int | None) -> str:
    passages, questions = read(folder)
    reported = questions[1::2][:rows]
    encoder = Remembering()
    found = await finders(passages, encoder)
    retrieval = [[name, *await recall(each, questions[:rows])] for name, each in found.items()]
    extractive = Extractive(encoder)
    answers = [
        [
            "nearest sentence",
            *await answered(Rag(retriever=found["both"], writer=extractive), reported),
        ],
        [
            "nearest sentence, by words alone",
            *await answered(Rag(retriever=found["words (BM25)"], writer=Extractive()), reported),
        ],
    ]
    absent = await elsewhere(passages, reported, extractive.least)
    found_by = report.table(["search", "recall at 1", "at 3", "at 5"], retrieval)
    return f"""## Documents

English XQuAD: {len(questions[:rows])} questions on {len(passages)} passages (Artetxe et al. 2020,
CC BY-SA 4.0). Recall: the share of questions whose passage is among the first 1, 3 or 5; nothing
was chosen on these rows.

{found_by}

Answers without a model that writes, from the first five passages, on the half of the questions that
nothing was chosen on. `cites`: the share of all questions whose answer cites a passage; `citation
holds`: a passage that it cites holds the right answer; `text holds`: its own text does.

{report.table(HEAD, answers)}

Asked of the passages of all other articles, which don't answer them, the nearest sentence says
"not in the documents" for {absent} of the questions.
"""


async def written(folder: Path, rows: int | None) -> str:
    passages, questions = read(folder)
    some = questions[1::2][: min(rows or WRITTEN, WRITTEN)]
    found = await finders(passages, Remembering())
    async with EmbeddedEndpoint("embedded") as embedded:
        graph = Rag(retriever=found["both"], writer=Answerer(embedded, max_tokens=64), top_k=2)
        answers = [["written by the built-in model", *await answered(graph, some)]]
    return f"""## Documents, written by the built-in model

What `rag` gives where the built-in model of 135M parameters is made to write, from the first two
passages. It is too small for that, and by default it isn't asked; no large model was run here.

{report.table(HEAD, answers)}
"""


async def trial(folder: Path, rows: int | None, near: float) -> str:
    """Look at a threshold, on the half that nothing is reported on."""
    passages, questions = read(folder)
    chosen_on = questions[::2][:rows]
    encoder = Remembering()
    both = (await finders(passages, encoder))["both"]
    row = await answered(Rag(retriever=both, writer=Extractive(encoder, least=near)), chosen_on)
    return f"{near}: {row}, elsewhere {await elsewhere(passages, chosen_on, near)}"


STEPS = {"search": searched_and_extracted, "written": written}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("MOA_DATA"))
    parser.add_argument("--rows", type=int, help="fewer, for a trial that writes nothing")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--near", type=float, help="look at a threshold on the other half alone")
    given = parser.parse_args()
    if given.data is None:
        raise SystemExit("give the folder of the sets by --data or $MOA_DATA")
    folder = Path(given.data)
    if given.near is not None:
        print(asyncio.run(trial(folder, given.rows, given.near)))
        return
    for step in given.steps:
        body = asyncio.run(STEPS[step](folder, given.rows))
        if given.rows is None:
            section = "documents" if step == "search" else f"documents-{step}"
            command = f"python benchmarks/documents.py --data DIR --steps {step}"
            report.write(section, command, body)
        else:
            print(body)


if __name__ == "__main__":
    main()
