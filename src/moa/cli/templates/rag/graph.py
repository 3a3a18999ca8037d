"""Answers from a handbook, with their sources. Questions that it can't answer go to the office.

moa run graph.py:graph questions.jsonl
moa draw graph.py:graph
"""

from __future__ import annotations

from pydantic import BaseModel

from moa import Endpoints, Graph, Node, Text
from moa.config.loading import load_graph
from moa.documents.rag import NotInDocuments, RagOutcome, SourcedAnswer
from moa.graphs import BuiltGraph


class Answer(BaseModel):
    """The answer to a question."""

    text: str
    sources: list[str] = []
    """Pages that it is based on."""
    to_office: bool = False
    """True if a person has to answer the question."""

    def __str__(self) -> str:
        return f"{self.text} ({', '.join(self.sources)})" if self.sources else self.text


def answer_of(outcome: SourcedAnswer | NotInDocuments) -> Answer:
    """Turn the outcome into an answer. Put your own rules here."""
    if isinstance(outcome, NotInDocuments):
        return Answer(
            text="The handbook doesn't say. The office will write to you.", to_office=True
        )
    pages = [citation.passage.document for citation in outcome.citations]
    return Answer(text=outcome.text, sources=list(dict.fromkeys(pages)))


def answers(rag: Node[Text | str, RagOutcome]) -> BuiltGraph[Text, Answer]:
    """Put the built-in RAG graph in front of the rules above."""
    g = Graph("answers", Text)
    return g.build(g.add(answer_of, g.add(rag, g.input)))


def graph(endpoints: Endpoints) -> BuiltGraph[Text, Answer]:
    """Build the graph for `moa run graph.py:graph`. moa.toml says where the documents are."""
    return answers(load_graph("rag", endpoints))
