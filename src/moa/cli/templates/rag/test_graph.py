"""Tests of the answer rules, with a scripted model. No test asks a real one."""

from __future__ import annotations

from graph import Answer, answers

from moa import Rag, Text
from moa.documents import Passage
from moa.documents.retrieval import BM25
from moa.testing import ScriptedEndpoint

PAGE = Passage(document="travel.md", title="Travel", text="A hotel may cost up to 130 euros.")


def answer(question: str, written: str) -> Answer:
    """Ask about one page, with this text from the large model."""
    large = ScriptedEndpoint([written], tier="llm")
    rag = Rag(retriever=BM25([PAGE]), writer=large, near=0)
    return answers(rag).run_sync(Text(text=question)).output


def test_an_answer_names_the_page_that_it_rests_on() -> None:
    result = answer("How much may a hotel cost?", "Up to 130 euros [1].")
    assert result.sources == ["travel.md"]
    assert not result.to_office


def test_what_is_not_in_the_handbook_goes_to_the_office() -> None:
    assert answer("May my hotel have a pool?", "NOT IN THE DOCUMENTS").to_office
