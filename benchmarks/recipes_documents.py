"""Recipes that answer from documents: `rag` and `research`, where some passages are hidden."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from moa import RunContext
from moa.config.loading import load_graph
from moa.documents.claims import number_passages
from moa.documents.rag import ABSENT, NotInDocuments, Rag, is_absent
from moa.documents.retrieval import Retriever
from moa.endpoints import Prompt
from recipes_shared import (
    Answer,
    Item,
    Models,
    Plain,
    Recipe,
    Run,
    Scores,
    cites,
    holds,
    rows_of,
    unrepeated,
)

_FROM_PASSAGES = (
    "You answer questions from numbered passages and from nothing else. Look for the passage that "
    "holds the answer. Answer in one or two short sentences, and behind each write the number of "
    "the passage it rests on, as in [2]. If no passage holds the answer, write only: " + ABSENT
)
HELD_OUT = 40
"""Passages that are in no corpus, so that their questions have no answer there."""


def _corpus(data: Path) -> tuple[dict[str, str], set[str]]:
    """The passages that can be found, by their ids, and the ids of those that can't."""
    rows = rows_of(data / "rag_xquad" / "corpus_dev.jsonl")
    some = min(HELD_OUT, len(rows) // 3)
    hidden = {row["pid"] for row in random.Random(0).sample(rows, some)}
    return {row["pid"]: row["text"] for row in rows if row["pid"] not in hidden}, hidden


def _questions(data: Path) -> list[Item]:
    """Of three questions one has its passage hidden; each knows the passages with its answer."""
    corpus, hidden = _corpus(data)
    rows = rows_of(data / "rag_xquad" / "dev.jsonl")
    random.Random(0).shuffle(rows)
    there = [row for row in rows if row["pid"] not in hidden]
    absent = [row for row in rows if row["pid"] in hidden]
    found: list[Item] = []
    for one, other, without in zip(there[::2], there[1::2], absent, strict=False):
        found += [{**row, "holding": _holding(row, corpus)} for row in (one, other)]
        found.append({**without, "holding": []})
    return found


def _holding(row: Item, corpus: Mapping[str, str]) -> list[str]:
    return [p for p, text in corpus.items() if p == row["pid"] or holds(text, row["answers"])]


def _pairs(data: Path) -> list[Item]:
    """Two questions on different passages, as one."""
    there = [row for row in _questions(data) if row["holding"]]
    middle = len(there) // 2
    return [
        {
            "id": f"{one['id']}+{other['id']}",
            "question": f"{one['question'].strip()} {other['question'].strip()}",
            "parts": [one, other],
        }
        for one, other in zip(there[:middle], there[middle:], strict=False)
        if one["pid"] != other["pid"]
    ]


def _documents(models: Models) -> Path:
    """The passages in a folder, a file each, as somebody's documents."""
    folder = models.folder / "documents"
    if not folder.exists():
        folder.mkdir()
        for pid, text in _corpus(models.data)[0].items():
            (folder / f"{pid}.txt").write_text(text, encoding="utf-8")
    return folder


@cache
def _retriever(models: Models) -> Retriever:
    """What the ready graphs search with."""
    graph = load_graph("rag", models, options={"documents": _documents(models)})
    assert isinstance(graph, Rag)
    assert isinstance(graph.finder, Retriever)
    return graph.finder


def _sourced(outcome: Any) -> Answer:
    """The text of an answer, and its passages by the numbers that it cites them by."""
    if isinstance(outcome, NotInDocuments):
        return {"text": ABSENT, "sources": {}}
    sources = {str(one.number): Path(one.passage.document).stem for one in outcome.citations}
    verdicts = [claim.verdict for claim in outcome.claims]
    doubted = bool(verdicts) and all(each == "unsupported" for each in verdicts)
    return {"text": outcome.text, "sources": sources, "doubted": doubted}


def _from_documents(name: str) -> Any:
    async def graph(models: Models) -> Run:
        node = load_graph(name, models, options={"documents": _documents(models)})

        async def run(item: Item, context: RunContext) -> Answer:
            return _sourced((await node.run(item["question"], context)).output)

        return run

    return graph


async def _from_passages(models: Models, item: Item, ask: Plain) -> Answer:
    """One call with the passages that the graph's own retriever finds."""
    passages = (await _retriever(models).run(item["question"])).output.passages
    user = f"Passages:\n\n{number_passages(passages)}\n\nQuestion: {item['question']}"
    text = await ask(Prompt.of(user, system=_FROM_PASSAGES, max_tokens=512, temperature=0.0))
    sources = {str(n): Path(one.document).stem for n, one in enumerate(passages, 1)}
    return {"text": text, "sources": sources}


def answered(item: Item, answer: Answer) -> Scores:
    """Whether the answer is there and cited; of a hidden passage, whether there is none."""
    refused, doubted = is_absent(answer["text"]), answer.get("doubted", False)
    if not item["holding"]:
        return {
            "right": float(refused),
            "refused where it should": float(refused),
            "refused or doubted where it should": float(refused or doubted),
        }
    right = not refused and holds(answer["text"], item["answers"])
    cited = right and cites(answer["text"], answer["sources"], item["holding"])
    return {
        "right": float(right),
        "holds the answer": float(right),
        "cites it": float(cited),
        "answers where it can": float(not refused),
        **({"doubted though right": float(doubted)} if right else {}),
    }


def reported(item: Item, answer: Answer) -> Scores:
    parts = [answered(part, answer) for part in item["parts"]]
    return {
        "holds the answers": fmean(part["right"] for part in parts),
        "cites them": fmean(part["cites it"] for part in parts),
        "cites anything": float(bool(answer["sources"]) and "[" in answer["text"]),
        "nothing twice": unrepeated(answer["text"]),
        "at most 200 words": float(len(answer["text"].split()) <= 200),
    }


RECIPES = (
    Recipe(
        name="rag",
        measures=(
            "right",
            "holds the answer",
            "cites it",
            "answers where it can",
            "refused where it should",
            "refused or doubted where it should",
            "doubted though right",
        ),
        items=_questions,
        graph=_from_documents("rag"),
        plain=_from_passages,
        grade=answered,
        warms=True,
    ),
    Recipe(
        name="research",
        measures=(
            "holds the answers",
            "cites them",
            "cites anything",
            "nothing twice",
            "at most 200 words",
        ),
        items=_pairs,
        graph=_from_documents("research"),
        plain=_from_passages,
        grade=reported,
        warms=True,
        read=True,
    ),
)
