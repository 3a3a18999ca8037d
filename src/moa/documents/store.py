"""Store: the file that an index is kept in. Each write happens whole or not at all."""

from __future__ import annotations

import sqlite3
import threading
from array import array
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from moa._files import make_private
from moa.agents.base import said
from moa.documents import Document, Passage
from moa.errors import ConfigError

NAME = "documents.sqlite"
_VERSION = 1
_WAIT_S = 60.0
"""Seconds to wait while another process writes, which takes it a moment."""
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


class Kept(NamedTuple):
    """What is known of a file that is in the store."""

    digest: str
    form: str
    """How it was split, so that it is split again where that changes."""


class Store:
    """Files, their passages, and vectors of these, in one SQLite file.

    Several processes may read and write at once: readers see each file whole, as it was before a
    write or after it. Every method blocks, and raises a `ConfigError` where the index is broken, by
    another version, or can't be opened or written.

    Args:
        folder: Where the file is; made where it isn't there. `None` keeps all in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else folder / NAME
        self._lock = threading.Lock()
        self._memory: sqlite3.Connection | None = None

    def files(self) -> dict[str, Kept]:
        """Give what is known of each file, by its id."""
        with self._open() as connection:
            rows = connection.execute("select id, digest, form from files").fetchall()
        with self._sound():
            return {_text(file): Kept(digest, form) for file, digest, form in rows}

    def passages(self) -> tuple[Passage, ...]:
        """Give all passages, in the order of files and within them."""
        with self._open() as connection:
            rows = connection.execute(
                "select document, title, start, page, text from passages "
                "join files on files.id = document order by document, start"
            ).fetchall()
        with self._sound():
            return tuple(
                Passage(document=document, title=title, start=start, page=page, text=text)
                for document, title, start, page, text in rows
            )

    def vectors(self, model: str) -> dict[str, array[float]]:
        """Give the vectors that a model made, by the id of their passage."""
        with self._open() as connection:
            rows = connection.execute(
                "select document, start, vector from vectors where model = ?", (model,)
            ).fetchall()
        with self._sound():
            found = {f"{document}#{start}": array("f", vector) for document, start, vector in rows}
            if len({len(vector) for vector in found.values()}) > 1:
                raise ValueError("vectors of one model are of one length")
            return found

    def put(self, read: Iterable[tuple[Document, Sequence[Passage]]], *, form: str) -> None:
        """Write files in the place of what was there of them, all at once."""
        with self._open() as connection:
            for document, passages in read:
                _remove(connection, document.id)
                connection.execute(
                    "insert into files values (?, ?, ?, ?, ?)",
                    (document.id, document.digest, form, document.title, "\n".join(document.notes)),
                )
                connection.executemany(
                    "insert into passages values (?, ?, ?, ?)",
                    [(each.document, each.start, each.page, each.text) for each in passages],
                )

    def remove(self, files: Iterable[str]) -> None:
        """Take files out, all at once."""
        with self._open() as connection:
            for file in files:
                _remove(connection, file)

    def put_vectors(self, model: str, vectors: Sequence[tuple[Passage, Sequence[float]]]) -> None:
        """Write vectors of passages; of a passage that has changed since then, none."""
        with self._open() as connection:
            connection.executemany(
                "insert or replace into vectors select ?, document, start, ? from passages "
                "where document = ? and start = ? and text = ?",
                [
                    (model, array("f", vector).tobytes(), each.document, each.start, each.text)
                    for each, vector in vectors
                ],
            )

    @contextmanager
    def _sound(self) -> Generator[None, None, None]:
        """Refuse rows that hold what no index does: SQLite keeps any type in any column."""
        try:
            yield
        except (TypeError, ValueError) as error:
            raise ConfigError(_broken(self.path, said(error))) from error

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection, None, None]:
        """Open the file for one transaction."""
        if self.path is None:
            with self._lock:
                self._memory = self._memory or self._connected(":memory:")
                with self._memory:
                    yield self._memory
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            make_private(self.path)
            connection = self._connected(str(self.path))
            try:
                with connection:
                    yield connection
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(_said(self.path, error)) from error

    def _connected(self, path: str) -> sqlite3.Connection:
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


def _remove(connection: sqlite3.Connection, file: str) -> None:
    connection.execute("delete from files where id = ?", (file,))
    connection.execute("delete from passages where document = ?", (file,))
    connection.execute("delete from vectors where document = ?", (file,))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the name of a file is no {type(value).__name__}")
    return value


def _broken(path: Path | None, why: object) -> str:
    return f"the index {path} is broken ({why}): delete it, and it is built again"


def _said(path: Path, error: sqlite3.Error | OSError) -> str:
    if isinstance(error, OSError):
        return f"the index {path} can't be kept there: {error.strerror or error}"
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # the latter: it is no index
    if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
        return (
            f"the index {path} can't be used now: {error}. Free some space, let whoever writes to "
            "it finish, or name another folder"
        )
    return _broken(path, error)
