"""LangChain's retrievers as nodes."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from moa.core.errors import NodeError
from moa.documents import Passage
from moa.documents.langchain import FromLangChain
from moa.documents.retrieval import BM25, Hybrid

FOX = Passage(document="a.pdf", title="Animals", text="Foxes jump.", start=7, page=3)


class Fixed(BaseRetriever):
    """Gives the documents that it was made with."""

    documents: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        if query == "break":
            raise RuntimeError("the database is gone")
        return self.documents


async def test_a_passage_has_what_langchain_says_of_it() -> None:
    said = {"source": "a.pdf", "title": "Animals", "start_index": 7, "page": 2}  # counted from 0
    there = Fixed(documents=[Document(page_content="Foxes jump.", metadata=said)])
    assert (await FromLangChain(there).run("foxes")).output.passages == (FOX,)


async def test_any_retriever_of_langchain_stands_beside_others() -> None:
    documents = [Document(page_content=text) for text in ("Cats sleep.", "Dogs bark.")]
    hybrid = Hybrid([FromLangChain(Fixed(documents=documents)), BM25([FOX])])
    found = (await hybrid.run("foxes")).output.passages
    assert {passage.text for passage in found} == {"Cats sleep.", "Dogs bark.", "Foxes jump."}


async def test_no_more_than_top_k_are_taken_of_what_it_finds() -> None:
    documents = [Document(page_content=str(number)) for number in range(9)]
    found = await FromLangChain(Fixed(documents=documents), top_k=2).run("x")
    assert [passage.text for passage in found.output.passages] == ["0", "1"]


async def test_what_it_raises_names_the_node() -> None:
    with pytest.raises(NodeError, match="the database is gone"):
        await FromLangChain(Fixed(documents=[])).run("break")
