"""LangChain retrievers as nodes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Unpack

from moa.agents.base import Limits
from moa.core._json import object_of
from moa.core.context import RunContext
from moa.core.errors import NodeError
from moa.core.node import Text
from moa.documents import Passage, Passages
from moa.documents.retrieval import TOP_K, Retriever

if TYPE_CHECKING:
    from langchain_core.documents import Document as LangChainDocument
    from langchain_core.retrievers import BaseRetriever


class FromLangChain(Retriever):
    """A LangChain retriever as a node of a graph.

    It reads a document's metadata `source`, `title`, `page` (which LangChain counts from 0) and
    `start_index`, if present.

    Args:
        retriever: A `BaseRetriever`.
        top_k: Maximum number of passages to return.
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
        """Call the retriever, within the run's deadline.

        Raises:
            NodeError: the retriever raised an error.
            DeadlineExceeded: the run's time is up.
        """
        try:
            async with asyncio.timeout(context.remaining_s()):
                documents = await self.retriever.ainvoke(str(request))
        except Exception as error:
            context.remaining_s()
            raise NodeError(self.name, error) from error
        return Passages(passages=tuple(map(_passage, documents[: self.top_k])))


def _passage(document: LangChainDocument) -> Passage:
    metadata = object_of(document.metadata)
    source = str(metadata.get("source") or document.id or "")
    page, start = metadata.get("page"), metadata.get("start_index")
    return Passage(
        document=source,
        title=str(metadata.get("title") or source),
        text=document.page_content,
        start=start if isinstance(start, int) else 0,
        page=page + 1 if isinstance(page, int) else None,
    )
