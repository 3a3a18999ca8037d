"""Index: the passages of files, kept on disk, and searched; only what has changed is read again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import NamedTuple, Unpack

from moa._async import Lock, in_time
from moa.agents.boundary import Limits, require
from moa.agents.splitting import chunks
from moa.context import RunContext
from moa.documents import Document, Passage, Passages
from moa.documents.files import Progress, Sources, Unread, each_of, listed
from moa.documents.retrieval import BM25, TOP_K, Dense, Hybrid, Retriever, searched
from moa.documents.store import Store
from moa.endpoints import Endpoint
from moa.errors import ConfigError, MissingDependency, MoaError, check_recoverable
from moa.node import Text

MAX_TOKENS = 200
"""Of a passage: what a sentence encoder reads as a whole, and a small model decides on well."""
_FORM = 1
"""Counts up when files are read or split otherwise than before, so that all are read again."""
BATCH = 16
"""Passages that are embedded in one call, and kept at once."""
_WRITE_EVERY_S = 2.0
_DEPTH = 4
"""Times `top_k` that each of two retrievers gives, so that the fusion has something to weigh."""
_SHOWN = 5
"""Maximum number of files that could not be read that each run names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What an update found."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """Files that are as they were, and were not read."""
    unread: tuple[Unread, ...] = ()
    """Files and folders that could not be read, and why. What was known of them before stays."""
    ignored: tuple[str, ...] = ()
    """Files of other kinds in the folders."""
    notes: tuple[str, ...] = ()
    """What is missing of those that were read, such as pages that are pictures."""

    @property
    def summary(self) -> str:
        """How many there are of each, in words."""
        counts = {
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "as before": self.kept,
            "could not be read": self.unread,
            "of other kinds": self.ignored,
        }
        said = [f"{len(files)} {what}" for what, files in counts.items() if files]
        return ", ".join(said) or "no files"


class Index:
    """The passages of files, and their vectors, kept in a folder and brought up to date.

    Several processes may use one index at once. One that is broken, of another version, or can't
    be opened or written is a `ConfigError`.

    Args:
        folder: Where it is kept; made where it isn't there. `None` keeps it in memory.
        max_tokens: Maximum number of tokens of a passage. Where it changes, all files are split
            again.
    """

    def __init__(self, folder: Path | str | None = None, *, max_tokens: int = MAX_TOKENS) -> None:
        self.max_tokens = max_tokens
        self._store = Store(None if folder is None else Path(folder))

    @property
    def path(self) -> Path | None:
        """The file that it is kept in; `None` in memory."""
        return self._store.path

    def update(self, sources: Sources, *, progress: Progress | None = None) -> Changes:
        """Read what was added or changed since the last time, and forget what was removed.

        Files are told apart by their SHA-256. What is read is kept every two seconds, so an update
        that is broken off goes on where it was. It blocks; where an event loop runs, call it by
        `asyncio.to_thread`.

        Args:
            sources: All files and folders that the index is of. What was read of others before
                is removed.
            progress: Told of each file before it is read.

        Raises:
            ConfigError: a file or folder isn't there, two files would have the same id, or the
                index is broken or can't be written.
            MissingDependency: what reads a kind of file is not installed.
        """
        files, ignored, unlisted = listed(sources)
        before = self._store.files()
        form = f"{_FORM}:{self.max_tokens}"
        found: dict[str, list[str]] = {"added": [], "changed": [], "kept": []}
        unread = list(unlisted)
        notes: list[str] = []
        known = {file: kept.digest for file, kept in before.items() if kept.form == form}
        waiting: list[tuple[Document, list[Passage]]] = []
        written = time.monotonic()
        for file, read in each_of(files, known, progress=progress):
            if isinstance(read, Unread):
                unread.append(read)
            elif read is None:
                found["kept"].append(file.id)
            else:
                waiting.append((read, passages_of(read, max_tokens=self.max_tokens)))
                if time.monotonic() - written > _WRITE_EVERY_S:
                    self._store.put(waiting, form=form)
                    waiting, written = [], time.monotonic()
                notes += [f"{file.id}: {note}" for note in read.notes]
                found["changed" if file.id in before else "added"].append(file.id)
        self._store.put(waiting, form=form)
        hidden = tuple(it.file for it in unlisted if not it.file or it.file.endswith("/"))
        gone = set(before).difference(file.id for file in files)
        removed = sorted(file for file in gone if not file.startswith(hidden))
        self._store.remove(removed)
        return Changes(
            added=tuple(found["added"]),
            changed=tuple(found["changed"]),
            removed=tuple(removed),
            kept=tuple(found["kept"]),
            unread=tuple(unread),
            ignored=ignored,
            notes=tuple(notes),
        )

    def passages(self) -> tuple[Passage, ...]:
        """Give all passages, in the order of files and within them. It blocks."""
        return self._store.passages()

    async def vectors(
        self,
        passages: Sequence[Passage],
        endpoint: Endpoint,
        context: RunContext | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Sequence[float]]:
        """Give the vector of each passage; those that the index has not yet are made and kept.

        Args:
            passages: Of this index.
            endpoint: Who makes them. Each model has its own.
            context: Budget, deadline and ledger; `None` starts one without limits.
            progress: Told the passages that have one, and all there are.

        Raises:
            CapabilityError: the endpoint can't embed.
            MoaError: a request failed, or a limit is passed. What was made before is kept.
        """
        endpoint = require(endpoint, "embed", agent="index")
        context = context or RunContext()
        known: dict[str, Sequence[float]] = {}
        known |= await asyncio.to_thread(self._store.vectors, endpoint.model)
        lacking = [passage for passage in passages if passage.id not in known]
        for begin in range(0, len(lacking), BATCH):
            batch = lacking[begin : begin + BATCH]
            if progress is not None:
                progress(len(passages) - len(lacking) + begin, len(passages))
            made = (await endpoint.embed([searched(each) for each in batch], context)).vectors
            pairs = list(zip(batch, made, strict=True))
            await asyncio.to_thread(self._store.put_vectors, endpoint.model, pairs)
            known |= {passage.id: vector for passage, vector in pairs}
        return [known[passage.id] for passage in passages]


class _Search(NamedTuple):
    changes: Changes
    retriever: Retriever


class Indexed(Retriever):
    """Finds passages in files, by words, and by meaning where there is an endpoint that embeds.

    The index is brought up to date at the first search. A run whose time is up meanwhile fails, and
    the reading goes on for those that follow. Where vectors can't be had, such
    as when their endpoint is down, passages are found by words alone, the trace says so, and the
    next run asks for them again. The trace of each run names the files that could not be read.

    Args:
        sources: Files and folders; `None`: what the index holds already, which then stays as it is.
        index: Where it is kept; `None` keeps it in memory.
        endpoint: Who turns texts into vectors; `None`: passages are found by words alone.
        by_words: Whether to search by words beside an endpoint.
        top_k: Maximum number of passages to give.
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
        self._reading: Future[tuple[Changes, BM25]] | None = None
        self._ready: _Search | None = None
        self._lock = Lock()

    async def answer(self, request: Text | str, context: RunContext) -> Passages:
        """Search, in an index that is up to date."""
        ready = self._ready or await self._prepared(context)
        for unread in ready.changes.unread[:_SHOWN]:
            context.note("failed", f"not read: {unread}")
        if (more := len(ready.changes.unread) - _SHOWN) > 0:
            context.note("failed", f"not read: {more} more files")
        return (await ready.retriever.run(request, context)).output

    async def _prepared(self, context: RunContext) -> _Search:
        late = f"{self.name}: the time given to the run was up before its documents were read"
        async with in_time(context.remaining_s(), late):
            changes, by_words = await asyncio.wrap_future(self._read())
            async with self._lock.held(None):
                return self._ready or await self._over(changes, by_words, context)

    def _read(self) -> Future[tuple[Changes, BM25]]:
        """Give the reading that goes on or is over, or begin one; it is no run's own.

        One that failed is begun anew.
        """
        reading = self._reading
        if reading is None or (reading.done() and reading.exception() is not None):
            reading = self._reading = Future()
            reading.set_running_or_notify_cancel()  # so that a run that gives up can't cancel it
            Thread(target=self._read_into, args=(reading,)).start()
        return reading

    def _read_into(self, reading: Future[tuple[Changes, BM25]]) -> None:
        try:
            changes = Changes() if self.sources is None else self.index.update(self.sources)
            passages = self.index.passages()
            if not passages:
                raise ConfigError(self._nothing(changes))
            reading.set_result((changes, BM25(passages, top_k=self.top_k)))
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            reading.set_exception(error)

    def _nothing(self, changes: Changes) -> str:
        if self.sources is None:
            where = self.index.path or "no documents: name the files or folders to read"
            return f"{self.name}: there is nothing to search in {where}"
        given = [self.sources] if isinstance(self.sources, str | Path) else self.sources
        where = ", ".join(map(str, given)) or "no documents: name the files or folders to read"
        reasons = "; ".join(map(str, changes.unread[:_SHOWN]))
        return f"{self.name}: there is nothing to search in {where}" + (reasons and f": {reasons}")

    async def _over(self, changes: Changes, by_words: BM25, context: RunContext) -> _Search:
        """Keep what searches in what was read; without vectors it is for this run alone."""
        passages = by_words.passages
        if self.endpoint is None:
            self._ready = _Search(changes, by_words)
            return self._ready
        try:
            vectors = await self.index.vectors(passages, self.endpoint, context)
        except MoaError as error:
            if not isinstance(error, MissingDependency):
                check_recoverable(error)
            context.note("degraded", f"passages are found by words alone: {error}")
            return _Search(changes, by_words)
        depth = _DEPTH * self.top_k if self.by_words else self.top_k
        near = Dense(passages, vectors, self.endpoint, top_k=depth)
        both = Hybrid([BM25(passages, top_k=depth), near], top_k=self.top_k)
        self._ready = _Search(changes, both if self.by_words else near)
        return self._ready


def passages_of(document: Document, *, max_tokens: int = MAX_TOKENS) -> list[Passage]:
    """Split a document, at the ends of sections, paragraphs and sentences where that is possible.

    A passage has at most `max_tokens` tokens, by an estimate on the safe side. It may run over the
    end of a page; its `page` is that on which it begins.
    """
    return [
        Passage(
            document=document.id,
            title=document.title,
            text=text,
            start=start,
            page=document.page_at(start),
        )
        for start, text in chunks(document.text, max_tokens=max_tokens, markdown=document.markdown)
    ]
