"""Index: the passages of files, kept on disk; only what has changed is read again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moa.agents.boundary import require
from moa.context import RunContext
from moa.documents import Document, Passage
from moa.documents.chunking import MAX_TOKENS, passages_of
from moa.documents.loading import Progress, Sources, Telling, Unread, bytes_of, listed
from moa.documents.reading import digest_of, document_of
from moa.documents.retrieval import searched
from moa.documents.store import Store
from moa.endpoints import Endpoint
from moa.errors import InputError

_FORM = 1
"""Counts up when files are read or split otherwise than before, so that all are read again."""
BATCH = 16
"""Passages that are embedded in one call, and kept at once."""
_WRITE_EVERY_S = 2.0


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

    Several processes may use one index at once.

    Args:
        folder: Where it is kept; made where it isn't there. `None` keeps it in memory.
        max_tokens: Most tokens of a passage. Where it changes, all files are split again.
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
            progress: Told of each file before it is read, and of each page of a PDF.

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
        writer = _Writer(self._store, form, self.max_tokens)
        for done, file in enumerate(files):
            tell = Telling(progress, file.id, done, len(files))
            tell()
            known = before.get(file.id)
            try:
                data = bytes_of(file)
                if known is not None and known == (digest_of(data), form):
                    found["kept"].append(file.id)
                    continue
                document = document_of(file.id, data, progress=tell)
            except InputError as error:
                unread.append(Unread(file.id, str(error)))
                continue
            writer.add(document)
            notes += [f"{file.id}: {note}" for note in document.notes]
            found["added" if known is None else "changed"].append(file.id)
        writer.flush()
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
        """Give all passages, in the order of files and within them. It blocks.

        Raises:
            ConfigError: the index is broken, by another version, or can't be opened.
        """
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
            EndpointError: a request failed. What was made before is kept.
            BudgetExceeded: a limit would be passed; likewise.
            DeadlineExceeded: the run's time is up; likewise.
            ConfigError: the index is broken, or can't be written.
        """
        require(endpoint, "embed", agent="index")
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


class _Writer:
    """Splits what was read, and writes it now and then."""

    def __init__(self, store: Store, form: str, max_tokens: int) -> None:
        self._store = store
        self._form = form
        self._max_tokens = max_tokens
        self._read: list[tuple[Document, list[Passage]]] = []
        self._written = time.monotonic()

    def add(self, document: Document) -> None:
        self._read.append((document, passages_of(document, max_tokens=self._max_tokens)))
        if time.monotonic() - self._written > _WRITE_EVERY_S:
            self.flush()

    def flush(self) -> None:
        self._store.put(self._read, form=self._form)
        self._read = []
        self._written = time.monotonic()
