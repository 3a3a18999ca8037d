"""Indexed: retrieval over an index that is brought up to date when it is first asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Unpack
from weakref import WeakKeyDictionary

from moa.agents.boundary import Limits, require
from moa.context import RunContext
from moa.documents import Passage, Passages
from moa.documents.bm25 import BM25
from moa.documents.dense import Dense
from moa.documents.index import Changes, Index
from moa.documents.loading import Sources
from moa.documents.retrieval import TOP_K, Hybrid, Retriever
from moa.endpoints import Endpoint
from moa.errors import ConfigError, DeadlineExceeded, MoaError
from moa.handoffs import Text

_DEPTH = 4
"""Times `top_k` that each of two retrievers gives, so that the fusion has something to weigh."""
_SHOWN = 5
"""Most files that could not be read that each run names."""


class _Ready(NamedTuple):
    changes: Changes
    retriever: Retriever


class Indexed(Retriever):
    """Finds passages in files, by words, and by meaning where there is an endpoint that embeds.

    The index is brought up to date at the first search, and by `refresh`. Where vectors can't be
    had, such as when their endpoint is down, passages are found by words alone, and the trace says
    so. The trace of each run names the files that could not be read.

    Args:
        sources: Files and folders; `None`: what the index holds already, which then stays as it is.
        index: Where it is kept; `None` keeps it in memory.
        endpoint: Who turns texts into vectors; `None`: passages are found by words alone.
        by_words: Whether to search by words beside an endpoint.
        top_k: Most passages to give.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't embed.
        ConfigError: `top_k` is less than 1.
    """

    def __init__(
        self,
        sources: Sources | None,
        index: Index | None = None,
        *,
        endpoint: Endpoint | None = None,
        by_words: bool = True,
        top_k: int = TOP_K,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(top_k=top_k, **limits)
        self.sources = sources
        self.index = index or Index()
        self.endpoint = None if endpoint is None else require(endpoint, "embed", agent=self.name)
        self.by_words = by_words or endpoint is None
        self._ready: _Ready | None = None
        # A lock belongs to one event loop, and a retriever to none.
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            WeakKeyDictionary()
        )

    async def answer(self, request: Text | str, context: RunContext) -> Passages:
        """Search, in an index that is up to date.

        Raises:
            ConfigError: there is nothing to read, or the index is broken.
        """
        async with self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            ready = self._ready or await self._refreshed(context)
        for unread in ready.changes.unread[:_SHOWN]:
            context.note("failed", f"not read: {unread}")
        if (more := len(ready.changes.unread) - _SHOWN) > 0:
            context.note("failed", f"not read: {more} more files")
        return (await ready.retriever.run(request, context)).output

    async def refresh(self, context: RunContext | None = None) -> Changes:
        """Bring the index up to date, and search in that from now on.

        Args:
            context: Budget, deadline and ledger for making vectors; `None` starts one.

        Raises:
            ConfigError: there is nothing to read, or the index is broken.
        """
        async with self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            return (await self._refreshed(context or RunContext())).changes

    async def _refreshed(self, context: RunContext) -> _Ready:
        changes = Changes()
        if self.sources is not None:
            changes = await asyncio.to_thread(self.index.update, self.sources)
        passages = await asyncio.to_thread(self.index.passages)
        if not passages:
            raise ConfigError(self._nothing(changes))
        retriever = await self._over(passages, context)
        ready = _Ready(changes, retriever)
        # Without its vectors it is for this run alone, and the next one tries again.
        whole = self.endpoint is None or not isinstance(retriever, BM25)
        self._ready = ready if whole else None
        return ready

    def _nothing(self, changes: Changes) -> str:
        if self.sources is None:
            where = self.index.path or "no documents: name the files or folders to read"
            return f"{self.name}: there is nothing to search in {where}"
        given = [self.sources] if isinstance(self.sources, str | Path) else self.sources
        where = ", ".join(map(str, given)) or "no documents: name the files or folders to read"
        reasons = "; ".join(map(str, changes.unread[:_SHOWN]))
        return f"{self.name}: there is nothing to search in {where}" + (reasons and f": {reasons}")

    async def _over(self, passages: Sequence[Passage], context: RunContext) -> Retriever:
        if self.endpoint is None:
            return BM25(passages, top_k=self.top_k)
        try:
            vectors = await self.index.vectors(passages, self.endpoint, context)
        except DeadlineExceeded:
            raise
        except MoaError as error:
            context.note("degraded", f"passages are found by words alone: {error}")
            return BM25(passages, top_k=self.top_k)
        if not self.by_words:
            return Dense(passages, vectors, self.endpoint, top_k=self.top_k)
        depth = _DEPTH * self.top_k
        both = [
            BM25(passages, top_k=depth),
            Dense(passages, vectors, self.endpoint, top_k=depth),
        ]
        return Hybrid(both, top_k=self.top_k)
