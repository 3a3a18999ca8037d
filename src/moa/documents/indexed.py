"""Indexed: retrieval over an index that is brought up to date when it is first asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
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


class _Read(NamedTuple):
    changes: Changes
    passages: tuple[Passage, ...]
    by_words: BM25


class _Ready(NamedTuple):
    changes: Changes
    retriever: Retriever


class Indexed(Retriever):
    """Finds passages in files, by words, and by meaning where there is an endpoint that embeds.

    The index is brought up to date at the first search, and by `refresh`. A run whose time is up
    meanwhile fails, and the reading goes on for those that follow. Where vectors can't be had, such
    as when their endpoint is down, passages are found by words alone, the trace says so, and the
    next run asks for them again. The trace of each run names the files that could not be read.

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
        self._read: _Read | None = None
        self._ready: _Ready | None = None
        self._reading: dict[asyncio.AbstractEventLoop, asyncio.Task[_Read]] = {}
        # A lock belongs to one event loop, and a retriever to none.
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            WeakKeyDictionary()
        )

    async def answer(self, request: Text | str, context: RunContext) -> Passages:
        """Search, in an index that is up to date.

        Raises:
            DeadlineExceeded: the run's time is up, perhaps before all was read.
            ConfigError: there is nothing to read, or the index is broken.
        """
        ready = self._ready or await self._within(context, self._prepared)
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
            DeadlineExceeded: the run's time is up, perhaps before all was read.
        """
        context = context or RunContext()
        return (await self._within(context, self._refreshed)).changes

    async def _within(
        self, context: RunContext, prepare: Callable[[RunContext], Awaitable[_Ready]]
    ) -> _Ready:
        timer = asyncio.timeout(context.remaining_s())
        try:
            async with timer:
                return await prepare(context)
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise DeadlineExceeded(
                f"{self.name}: the time given to the run was up before its documents were read"
            ) from error

    async def _prepared(self, context: RunContext) -> _Ready:
        read = self._read or await asyncio.shield(self._update())
        async with self._lock:
            return self._ready or await self._over(read, context)

    async def _refreshed(self, context: RunContext) -> _Ready:
        begun = self._reading.get(asyncio.get_running_loop())
        if begun is not None:  # it may have passed by what was changed since
            await asyncio.wait([begun])
        read = await asyncio.shield(self._update())
        async with self._lock:
            return await self._over(read, context)

    @property
    def _lock(self) -> asyncio.Lock:
        return self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    def _update(self) -> asyncio.Task[_Read]:
        """Give the reading that goes on, or begin one. It is nobody's own, so it outlives a run."""
        loop = asyncio.get_running_loop()

        def over(task: asyncio.Task[_Read]) -> None:
            del self._reading[loop]
            if not task.cancelled():
                task.exception()  # seen, even where every run that waited for it is over

        if loop not in self._reading:
            self._reading[loop] = loop.create_task(self._updated())
            self._reading[loop].add_done_callback(over)
        return self._reading[loop]

    async def _updated(self) -> _Read:
        changes = Changes()
        if self.sources is not None:
            changes = await asyncio.to_thread(self.index.update, self.sources)
        passages = await asyncio.to_thread(self.index.passages)
        if not passages:
            raise ConfigError(self._nothing(changes))
        self._read = _Read(changes, passages, BM25(passages, top_k=self.top_k))
        return self._read

    def _nothing(self, changes: Changes) -> str:
        if self.sources is None:
            where = self.index.path or "no documents: name the files or folders to read"
            return f"{self.name}: there is nothing to search in {where}"
        given = [self.sources] if isinstance(self.sources, str | Path) else self.sources
        where = ", ".join(map(str, given)) or "no documents: name the files or folders to read"
        reasons = "; ".join(map(str, changes.unread[:_SHOWN]))
        return f"{self.name}: there is nothing to search in {where}" + (reasons and f": {reasons}")

    async def _over(self, read: _Read, context: RunContext) -> _Ready:
        """Keep what searches in what was read; without vectors it is for this run alone."""
        if self.endpoint is None:
            self._ready = _Ready(read.changes, read.by_words)
            return self._ready
        try:
            vectors = await self.index.vectors(read.passages, self.endpoint, context)
        except DeadlineExceeded:
            raise
        except MoaError as error:
            context.note("degraded", f"passages are found by words alone: {error}")
            self._ready = None
            return _Ready(read.changes, read.by_words)
        depth = _DEPTH * self.top_k if self.by_words else self.top_k
        near = Dense(read.passages, vectors, self.endpoint, top_k=depth)
        both = Hybrid([BM25(read.passages, top_k=depth), near], top_k=self.top_k)
        self._ready = _Ready(read.changes, both if self.by_words else near)
        return self._ready
