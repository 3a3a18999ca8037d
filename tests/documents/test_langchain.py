"""LangChain's retrievers as nodes, and nodes as its retrievers."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from moa.documents import Passage
from moa.documents.langchain import FromLangChain, as_langchain
from moa.documents.retrieval import BM25, Hybrid
from moa.errors import ConfigError, NodeError

FOX = Passage(document="a.pdf", title="Animals", text="Foxes jump.", start=7, page=3)


class Fixed(BaseRetriever):
    """Gives the documents that it was made with."""

    documents: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        if query == "break":
            raise RuntimeError("the database is gone")
        return self.documents


async def test_a_passage_comes_back_from_langchain_as_it_went() -> None:
    there = as_langchain(BM25([FOX]))
    (document,) = await there.ainvoke("foxes")
    assert document.metadata["page"] == 2  # LangChain counts from 0
    assert (await FromLangChain(there).run("foxes")).output.passages == (FOX,)


def test_a_node_is_invoked_where_no_loop_runs() -> None:
    assert as_langchain(BM25([FOX])).invoke("foxes")[0].page_content == "Foxes jump."


async def test_a_node_that_is_invoked_where_a_loop_runs_is_refused() -> None:
    with pytest.raises(ConfigError, match="ainvoke"):
        as_langchain(BM25([FOX])).invoke("foxes")


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
    with pytest.raises(NodeError, match="RuntimeError: the database is gone"):
        await FromLangChain(Fixed(documents=[])).run("break")
