"""LangChain: its retrievers as nodes, and nodes as its retrievers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Unpack

from moa.agents.boundary import Limits
from moa.context import RunContext
from moa.documents import Passage, Passages
from moa.documents.retrieval import TOP_K, Retriever
from moa.errors import ConfigError, NodeError
from moa.handoffs import Text
from moa.node import Node

if TYPE_CHECKING:
    from langchain_core.documents import Document as LangChainDocument
    from langchain_core.retrievers import BaseRetriever


class FromLangChain(Retriever):
    """A retriever of LangChain, as a node that stands in a graph as any other.

    Of a document's metadata `source`, `title`, `page` (which LangChain counts from 0) and
    `start_index` are read, where they are there.

    Args:
        retriever: Any `BaseRetriever`.
        top_k: Maximum number of passages to give; the rest of what it finds is left.
        limits: See `Limits`.

    Raises:
        ConfigError: `top_k` is less than 1.
    """

    def __init__(
        self, retriever: BaseRetriever, *, top_k: int = TOP_K, **limits: Unpack[Limits]
    ) -> None:
        super().__init__(top_k=top_k, **limits)
        self.retriever = retriever

    async def answer(self, request: Text | str, context: RunContext) -> Passages:
        """Ask it, within the time that the run has.

        Raises:
            NodeError: it raised.
            DeadlineExceeded: the run's time is up.
        """
        try:
            async with asyncio.timeout(context.remaining_s()):
                found = await self.retriever.ainvoke(str(request))
        except Exception as error:
            context.remaining_s()
            raise NodeError(self.name, error) from error
        return Passages(passages=tuple(map(_passage, found[: self.top_k])))


def as_langchain(retriever: Node[Text | str, Passages]) -> BaseRetriever:
    """Make a retriever of LangChain: its documents have the metadata that `FromLangChain` reads.

    `ainvoke` and `abatch` run it; `invoke` works where no event loop runs.
    """
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.retrievers import BaseRetriever

    class AsLangChain(BaseRetriever):
        """A node as a retriever of LangChain."""

        async def _aget_relevant_documents(
            self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
        ) -> list[LangChainDocument]:
            del run_manager
            found = (await retriever.run(query)).output
            return [_document(passage) for passage in found.passages]

        def _get_relevant_documents(
            self, query: str, *, run_manager: CallbackManagerForRetrieverRun
        ) -> list[LangChainDocument]:
            del run_manager
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                found = asyncio.run(retriever.run(query)).output
                return [_document(passage) for passage in found.passages]
            raise ConfigError(
                f"{retriever.name}: invoke was called while an event loop runs, as in a notebook "
                "or a server: use `await retriever.ainvoke(…)`"
            )

    return AsLangChain(name=retriever.name)


def _document(passage: Passage) -> LangChainDocument:
    from langchain_core.documents import Document

    metadata: dict[str, Any] = {
        "source": passage.document,
        "title": passage.title,
        "start_index": passage.start,
    }
    if passage.page is not None:
        metadata["page"] = passage.page - 1
    return Document(id=passage.id, page_content=passage.text, metadata=metadata)


def _passage(document: LangChainDocument) -> Passage:
    metadata: dict[str, Any] = dict(document.metadata)
    source = str(metadata.get("source") or document.id or "")
    page, start = metadata.get("page"), metadata.get("start_index")
    return Passage(
        document=source,
        title=str(metadata.get("title") or source),
        text=document.page_content,
        start=start if isinstance(start, int) else 0,
        page=page + 1 if isinstance(page, int) else None,
    )
