"""Index: stores passages of files on disk and searches them. Only changed files are read again."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from array import array
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock as ThreadLock
from threading import Thread
from typing import Unpack
from weakref import finalize

from moa.agents.base import Limits, fault_in, require
from moa.agents.splitting import chunks
from moa.core._async import Lock, time_limit
from moa.core._files import make_private
from moa.core.context import RunContext
from moa.core.errors import ConfigError, MissingDependency, MoaError, check_recoverable
from moa.core.node import Text
from moa.documents import Document, Passage, Passages
from moa.documents.files import Progress, Sources, UnreadFile, files_under, read_each
from moa.documents.retrieval import BM25, TOP_K, Dense, Hybrid, Retriever, searched_text
from moa.endpoints import Endpoint

MAX_TOKENS = 200
"""Maximum tokens of a passage. A sentence encoder reads so many, and a small model decides well."""
_FORM = 1
"""Version of how files are read and split. Increase it to have all files read again."""
BATCH = 16
"""Number of passages embedded in one call and stored together."""
_WRITE_EVERY_S = 2.0
_DEPTH = 4
"""Passages from each of two retrievers, as a multiple of `top_k`, for the fusion to rank."""
_SHOWN = 5
"""Maximum number of unread files that each run names."""
_NAME = "documents.sqlite"
_VERSION = 1
_WAIT_S = 60.0
"""Seconds to wait while another process writes."""
_SCHEMA = """
create table if not exists files (
    id text primary key, digest text not null, form text not null,
    title text not null, notes text not null
) without rowid;
create table if not exists passages (
    document text not null, start integer not null, page integer, text text not null,
    primary key (document, start)
) without rowid;
create table if not exists vectors (
    model text not null, document text not null, start integer not null, vector blob not null,
    primary key (model, document, start)
) without rowid;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Result of an update."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """Unchanged files, which were not read again."""
    unread: tuple[UnreadFile, ...] = ()
    """Files and folders that could not be read, and why. Their old passages are kept."""
    ignored: tuple[str, ...] = ()
    """Files of other kinds in the folders."""
    notes: tuple[str, ...] = ()
    """Descriptions of missing parts of read files, such as pages that are pictures."""

    @property
    def summary(self) -> str:
        """Number of files of each kind, in words."""
        counts = {
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "as before": self.kept,
            "could not be read": self.unread,
            "of other kinds": self.ignored,
        }
        parts = [f"{len(files)} {kind}" for kind, files in counts.items() if files]
        return ", ".join(parts) or "no files"


class Index:
    """Passages of files and their vectors, stored in a folder and kept up to date.

    Several processes can share an index: each sees a file as it was before or after a write, never
    between. An index that is broken, of another version, or can't be opened or written raises
    `ConfigError`.

    Args:
        folder: Folder of the index, created if missing. `None` keeps it in memory.
        max_tokens: Maximum number of tokens of a passage. If it changes, all files are split
            again.
    """

    def __init__(self, folder: Path | str | None = None, *, max_tokens: int = MAX_TOKENS) -> None:
        self.max_tokens = max_tokens
        self.path = None if folder is None else Path(folder) / _NAME
        """Path of the database; `None` in memory."""
        self._lock = ThreadLock()
        self._memory: sqlite3.Connection | None = None

    def update(self, sources: Sources, *, progress: Progress | None = None) -> Changes:
        """Read new and changed files, and remove the deleted ones.

        Changes are detected by SHA-256. Progress is stored every two seconds, so an interrupted
        update resumes where it stopped. It blocks; in async code, call it with `asyncio.to_thread`.

        Args:
            sources: All files and folders of the index. Passages of other files are removed.
            progress: Called with each file before it is read.

        Raises:
            ConfigError: a file or folder is missing, two files would have the same id, or the index
                is broken or can't be written.
            MissingDependency: a package to read a kind of file is not installed.
        """
        files, ignored, unlisted = files_under(sources)
        form = f"{_FORM}:{self.max_tokens}"
        digests = self._hashes_by_id(form)
        ids_by_kind: dict[str, list[str]] = {"added": [], "changed": [], "kept": []}
        unread, notes = [*unlisted], list[str]()
        pending: list[tuple[Document, list[Passage]]] = []
        last_write = time.monotonic()
        for file, result in read_each(files, digests, progress=progress):
            if isinstance(result, UnreadFile):
                unread.append(result)
            elif result is None:
                ids_by_kind["kept"].append(file.id)
            else:
                pending.append((result, passages_of(result, max_tokens=self.max_tokens)))
                if time.monotonic() - last_write > _WRITE_EVERY_S:
                    self._replace(pending, form)
                    pending, last_write = [], time.monotonic()
                notes += [f"{file.id}: {note}" for note in result.notes]
                ids_by_kind["changed" if file.id in digests else "added"].append(file.id)
        self._replace(pending, form)
        prefixes = tuple(
            entry.file for entry in unlisted if not entry.file or entry.file.endswith("/")
        )
        missing_ids = digests.keys() - {file.id for file in files}
        removed = sorted(file for file in missing_ids if not file.startswith(prefixes))
        with self._open() as database:
            _remove(database, removed)
        return Changes(
            **{kind: tuple(ids) for kind, ids in ids_by_kind.items()},
            removed=tuple(removed),
            unread=tuple(unread),
            ignored=ignored,
            notes=tuple(notes),
        )

    def passages(self) -> tuple[Passage, ...]:
        """Return all passages, ordered by file and position. It blocks."""
        with self._open() as database:
            rows = database.execute(
                "select document, title, start, page, text from passages "
                "join files on files.id = document order by document, start"
            )
            return tuple(
                Passage(document=document, title=title, start=start, page=page, text=text)
                for document, title, start, page, text in rows
            )

    async def vectors(
        self,
        passages: Sequence[Passage],
        endpoint: Endpoint,
        context: RunContext | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Sequence[float]]:
        """Return the vector of each passage. Missing ones are computed and stored.

        Args:
            passages: Passages of this index.
            endpoint: Encoder. Vectors are stored per model.
            context: Budget, deadline and ledger; `None` starts one without limits.
            progress: Called with the number of passages that have a vector, and the total.

        Raises:
            CapabilityError: the endpoint can't embed.
            MoaError: a request failed, or a limit is passed. Vectors computed before are kept.
        """
        endpoint = require(endpoint, "embed", agent="index")
        context = context or RunContext()
        vectors_by_id = await asyncio.to_thread(self._kept_vectors, endpoint.model)
        missing = [passage for passage in passages if passage.id not in vectors_by_id]
        for begin in range(0, len(missing), BATCH):
            batch = missing[begin : begin + BATCH]
            if progress is not None:
                progress(len(passages) - len(missing) + begin, len(passages))
            batch_vectors = (
                await endpoint.embed([searched_text(passage) for passage in batch], context)
            ).vectors
            pairs = [
                (passage, array("f", v)) for passage, v in zip(batch, batch_vectors, strict=True)
            ]
            await asyncio.to_thread(self._keep_vectors, endpoint.model, pairs)
            vectors_by_id |= {passage.id: vector for passage, vector in pairs}
        return [vectors_by_id[passage.id] for passage in passages]

    def _hashes_by_id(self, form: str) -> dict[str, str]:
        """Return the SHA-256 of each file by id; empty for files that were split differently."""
        with self._open() as database:
            select = "select id, case form when ? then digest else '' end from files"
            return {_text(file): digest for file, digest in database.execute(select, (form,))}

    def _replace(self, documents: Iterable[tuple[Document, Sequence[Passage]]], form: str) -> None:
        """Replace the stored passages of files."""
        with self._open() as database:
            for document, passages in documents:
                _remove(database, [document.id])
                database.execute(
                    "insert into files values (?, ?, ?, ?, ?)",
                    (document.id, document.digest, form, document.title, "\n".join(document.notes)),
                )
                database.executemany(
                    "insert into passages values (?, ?, ?, ?)",
                    [
                        (passage.document, passage.start, passage.page, passage.text)
                        for passage in passages
                    ],
                )

    def _kept_vectors(self, model: str) -> dict[str, array[float]]:
        """Return a model's vectors, by id of the passage."""
        with self._open() as database:
            select = "select document, start, vector from vectors where model = ?"
            rows = database.execute(select, (model,))
            vectors = {
                f"{document}#{start}": array("f", vector) for document, start, vector in rows
            }
            if len({len(vector) for vector in vectors.values()}) > 1:
                raise ValueError("vectors of one model are of one length")
            return vectors

    def _keep_vectors(self, model: str, vectors: Sequence[tuple[Passage, array[float]]]) -> None:
        """Store vectors of passages; skip passages that have changed since."""
        with self._open() as database:
            database.executemany(
                "insert or replace into vectors select ?, document, start, ? from passages "
                "where document = ? and start = ? and text = ?",
                [
                    (model, vector.tobytes(), passage.document, passage.start, passage.text)
                    for passage, vector in vectors
                ],
            )

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        """Open the database for one transaction.

        SQLite stores any type in any column, so rows of wrong types are refused.
        """
        try:
            if self.path is None:
                with self._lock:
                    if self._memory is None:
                        self._memory = self._connect(":memory:")
                        finalize(self, self._memory.close).atexit = False
                    with self._memory:
                        yield self._memory
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            make_private(self.path)
            connection = self._connect(str(self.path))
            try:
                with connection:
                    yield connection
            finally:
                connection.close()
        except (sqlite3.Error, OSError, TypeError, ValueError) as error:
            raise ConfigError(f"the index {self.path} {_explain(error)}") from error

    def _connect(self, path: str) -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=_WAIT_S, check_same_thread=False)
        try:
            self._check_version(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_version(self, connection: sqlite3.Connection) -> None:
        version, tables = connection.execute(
            "select user_version, (select count(*) from sqlite_master) from pragma_user_version"
        ).fetchone()
        if version == _VERSION:
            return
        if version or tables:
            raise ConfigError(
                f"{self.path} is no index of this version of moa: delete it, and it is built again"
            )
        with connection:
            connection.executescript(f"begin immediate;{_SCHEMA}pragma user_version = {_VERSION};")


def _remove(database: sqlite3.Connection, files: Iterable[str]) -> None:
    for column in ("files where id", "passages where document", "vectors where document"):
        database.executemany(f"delete from {column} = ?", [(file,) for file in files])


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the name of a file is no {type(value).__name__}")
    return value


def _explain(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"can't be kept there: {error.strerror or error}"
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # the latter: it isn't an index
    if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
        return (
            f"can't be used now: {error}. Free some space, let whoever writes to it finish, or "
            "name another folder"
        )
    return f"is broken ({fault_in(error)}): delete it, and it is built again"


class IndexRetriever(Retriever):
    """Finds passages in files, by words, and by meaning if an endpoint embeds them.

    The first search updates the index. A run whose deadline passes meanwhile fails, but the reading
    goes on for later runs. If no vectors are available, such as when their endpoint is down,
    passages are found by words alone, the trace says so, and the next run tries again. The trace of
    each run names the files that could not be read.

    Args:
        sources: Files and folders; `None` uses the index as it is.
        index: Index to search; `None` builds one in memory.
        endpoint: Encoder of the texts; `None` searches by words alone.
        by_words: True to search by words too when there is an endpoint.
        top_k: Maximum number of passages to return.
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
        self._ready: tuple[Changes, Retriever] | None = None
        self._lock = Lock()

    async def answer(self, request: Text | str, context: RunContext) -> Passages:
        """Search an up-to-date index."""
        return (await (await self._retriever(context)).run(request, context)).output

    async def all(self, context: RunContext) -> tuple[Passage, ...] | None:
        """Return all passages of an up-to-date index."""
        return await (await self._retriever(context)).all(context)

    async def _retriever(self, context: RunContext) -> Retriever:
        changes, retriever = self._ready or await self._prepare(context)
        for unread in changes.unread[:_SHOWN]:
            context.note("failed", f"not read: {unread}")
        if (extra_count := len(changes.unread) - _SHOWN) > 0:
            context.note("failed", f"not read: {extra_count} more files")
        return retriever

    async def _prepare(self, context: RunContext) -> tuple[Changes, Retriever]:
        message = f"{self.name}: the time given to the run was up before its documents were read"
        async with time_limit(context.remaining_s(), message):
            changes, by_words = await asyncio.wrap_future(self._start_reading())
            async with self._lock.hold(None):
                return self._ready or (
                    changes,
                    await self._build_retriever(changes, by_words, context),
                )

    def _start_reading(self) -> Future[tuple[Changes, BM25]]:
        """Return the current reading. Runs share it. Start one if there is none, or it failed."""
        reading = self._reading
        if reading is None or (reading.done() and reading.exception() is not None):
            reading = self._reading = Future()
            reading.set_running_or_notify_cancel()  # a run that gives up can't cancel it
            Thread(target=self._read_into, args=(reading,)).start()
        return reading

    def _read_into(self, reading: Future[tuple[Changes, BM25]]) -> None:
        try:
            changes = Changes() if self.sources is None else self.index.update(self.sources)
            passages = self.index.passages()
            if not passages:
                raise ConfigError(self._nothing_found(changes))
            reading.set_result((changes, BM25(passages, top_k=self.top_k)))
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            reading.set_exception(error)

    def _nothing_found(self, changes: Changes) -> str:
        sources = self.sources if self.sources is not None else self.index.path or ()
        paths = [sources] if isinstance(sources, str | Path) else sources
        locations = ", ".join(map(str, paths)) or "no documents: name the files or folders to read"
        reasons = "; ".join(map(str, changes.unread[:_SHOWN]))
        return f"{self.name}: there is nothing to search in {locations}" + (
            reasons and f": {reasons}"
        )

    async def _build_retriever(
        self, changes: Changes, by_words: BM25, context: RunContext
    ) -> Retriever:
        """Build the retriever and keep it. Without vectors, it serves this run only."""
        retriever, passages = by_words, by_words.passages
        if self.endpoint is not None:
            try:
                vectors = await self.index.vectors(passages, self.endpoint, context)
            except MoaError as error:
                if not isinstance(error, MissingDependency):
                    check_recoverable(error)
                context.note("degraded", f"passages are found by words alone: {error}")
                return by_words
            depth = _DEPTH * self.top_k if self.by_words else self.top_k
            retriever = Dense(passages, vectors, self.endpoint, top_k=depth)
            if self.by_words:
                retriever = Hybrid([BM25(passages, top_k=depth), retriever], top_k=self.top_k)
        self._ready = changes, retriever
        return retriever


def passages_of(document: Document, *, max_tokens: int = MAX_TOKENS) -> list[Passage]:
    """Split a document, at ends of sections, paragraphs or sentences where possible.

    A passage has at most `max_tokens` tokens, by a conservative estimate. Its `page` is the page on
    which it starts.
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
