"""SQLite: private database files, which processes share; damage is reported."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import finalize

from moa.core._files import make_private
from moa.core._json import JSONValue
from moa.core.errors import ConfigError, StoreBusy, StoreError

T = TypeVar("T")
SQLRow = tuple[Any, ...]
"""A row of a database; the statement determines its types."""
BUSY_S = 60.0
"""Seconds to wait for other processes that write the same file."""
_SMALLEST = 512
"""Bytes of the smallest page of SQLite."""
_FIRST_LOOK_S, _LAST_LOOK_S = 0.001, 0.05
"""Seconds until a file that others hold is tried again, doubled each time."""
_CACHE_S = 5.0
"""The same for a cache; shorter, since a model can be asked instead."""
_HELD = "Another program holds it: wait for that, or end it"
_READ_ONLY = "Copy it to where it can be written"
_ADVICE: Mapping[int, str] = {
    sqlite3.SQLITE_FULL: "Free the disk, and start it again: what is done is kept",
    sqlite3.SQLITE_IOERR: "The disk fails, or limits how long a file may be: what is done is kept",
    sqlite3.SQLITE_NOMEM: "Free memory, and start it again: what is done is kept",
    sqlite3.SQLITE_BUSY: _HELD,
    sqlite3.SQLITE_LOCKED: _HELD,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_CORRUPT: "{mend}",
    sqlite3.SQLITE_NOTADB: "{mend}",
    sqlite3.SQLITE_ERROR: "{mend}",  # it lacks a table or a column
}
"""What to do about each kind of error. `{mend}` is a file's own advice for when it is damaged."""
_PASSING = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
)
_logger = logging.getLogger(__name__)


class WouldWait(Exception):
    """Something is to be done at once, but another thread or process holds the file."""


class SQLite:
    """A database file that only its owner can read.

    A statement takes some 50 µs, so none is awaited where the file is free.

    Args:
        path: Path of the file; created if missing.
        tables: Its tables, as SQL statements separated by `;`.
        what: Its name in errors.
        alone: True if only one process uses it at a time.
        may_only_read: True to open it for reading if it can't be written.
        busy_s: Seconds to wait for other processes that write it.
        mend: Advice in errors if it is damaged, or no database.
    """

    job, skip_locked = "job", ""
    is_new = False

    def __init__(
        self,
        path: Path,
        tables: str,
        *,
        what: str,
        alone: bool = False,
        may_only_read: bool = False,
        busy_s: float = BUSY_S,
        mend: str = "It is damaged: remove it and what lies beside it with -wal and -shm at its "
        "end, then bring it back from a copy, or begin anew",
    ) -> None:
        self.path = path
        self.where = str(path.parent)
        self._tables = tables
        self._what = what
        self._alone = alone
        self._may_only_read = may_only_read
        self._busy_s = busy_s
        self._mend = mend
        self._lock = threading.RLock()
        self._is_at_once = False
        """True while its lock is held by `at_once`."""

    def open(self) -> None:
        """Open it, or raise a `ConfigError` that says what to do."""
        try:
            try:
                self._open_to_write()
            except (OSError, sqlite3.Error) as error:
                if not (self._may_only_read and _is_read_only(error)):
                    raise
                self._open_to_read()
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{self._what} can't be opened: {self._explain(error)}") from error

    def _open_to_write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        make_private(self.path)
        _check_size(self.path)
        self._connect(str(self.path.absolute()))  # SQLite may take `file:…` to be an address
        if self._alone:
            self._file.execute("pragma locking_mode = exclusive")
        self._use_wal()
        self._file.execute("pragma synchronous = normal")
        for table in self._tables.split(";"):
            self._file.execute(table)

    def _open_to_read(self) -> None:
        address = self.path.absolute().as_uri()
        try:
            self._connect(f"{address}?mode=ro")
            self._file.execute("select 1 from sqlite_schema")
        except sqlite3.OperationalError:
            # SQLite makes files beside it, unless it is told that the file never changes.
            if self.path.with_name(f"{self.path.name}-wal").exists():
                raise sqlite3.OperationalError(
                    "it is read-only, and a process that was killed has left changes beside it. "
                    "Copy the whole folder to where it can be written"
                ) from None
            self._connect(f"{address}?mode=ro&immutable=1")

    def _connect(self, address: str) -> None:
        self._file = sqlite3.connect(
            address,
            timeout=self._busy_s,
            isolation_level=None,
            check_same_thread=False,
            uri=address.startswith("file:"),
        )
        self._opened = self._identify()
        # Closed with its last reference, but not at exit: a thread may still be using it.
        finalize(self, self._file.close).atexit = False

    def _use_wal(self) -> None:
        """Let others read while one writes (WAL). SQLite's busy timeout doesn't cover this."""
        give_up = time.monotonic() + self._busy_s
        while True:
            try:
                self._file.execute("pragma journal_mode = wal")
                return
            except sqlite3.OperationalError as error:
                if not _is_locked(error) or time.monotonic() > give_up:
                    raise
                time.sleep(0.02)

    def check_in_place(self) -> None:
        """Raise `StoreError` if the file was removed or replaced since it was opened."""
        if self._identify() != self._opened:
            raise StoreError(
                f"{self._what} can't be written or read: the file was removed or replaced while it "
                "was open. Start the process again to go on with what is there now"
            )

    def _identify(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def close(self) -> None:
        """Close the file, once no thread is using it."""
        with self._lock:
            self._file.close()

    def now(self) -> float:
        """Return the time in seconds."""
        return time.time()

    def run(self, sql: str, *values: object) -> list[SQLRow]:
        """Run a statement, and return its rows."""
        with self._lock, self._mapped_errors():
            return self._file.execute(sql, values).fetchall()

    def execute_many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        """Run a statement for each row of values, after `job`, in one transaction."""
        rows = ((self.job, *row) for row in values)
        self.atomically(lambda: self._file.executemany(sql, rows))

    def atomically(self, work: Callable[[], T]) -> T:
        """Run `work` in a transaction: all of its changes are kept, or none."""
        with self._lock, self._mapped_errors():
            self._file.execute("begin immediate")
            try:
                result = work()
                self._file.execute("commit")
                return result
            finally:
                if self._file.in_transaction:
                    self._file.execute("rollback")

    def iterate(self, sql: str, *values: object) -> Generator[SQLRow]:
        """Run a statement, and yield its rows one by one."""
        with self._mapped_errors(), closing(self._file.execute(sql, values)) as cursor:
            yield from cursor

    async def offload(self, work: Callable[[], T]) -> T:
        """Run `work`: here if the file is free, as it is too short for a thread; else in one."""
        return work() if self._is_free() else await asyncio.to_thread(work)

    def _is_free(self) -> bool:
        """Return True if no other thread or process writes the file now."""
        if self._alone:
            return True
        try:
            self.at_once(lambda: self.atomically(lambda: None))
        except WouldWait:
            return False
        except StoreError:  # which `work` will meet, if it writes
            return True
        return True

    async def when_free(self, work: Callable[[], T]) -> T:
        """Call `work` here as soon as no other thread or process holds the file.

        The event loop goes on meanwhile, and no thread is taken. `work` may be called again, as in
        `at_once`.

        Raises:
            StoreBusy: it was held for `busy_s`.
        """
        if self._alone:
            return work()
        give_up, wait_s = time.monotonic() + self._busy_s, _FIRST_LOOK_S
        while True:
            try:
                return self.at_once(work)
            except WouldWait as error:
                if time.monotonic() > give_up:
                    raise self._busy_error() from error
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LAST_LOOK_S)

    def at_once(self, work: Callable[[], T]) -> T:
        """Call `work`, which waits for nobody.

        Raises:
            WouldWait: another thread or process holds the file. What `work` had done by then is
                kept, and it may be called again.
        """
        if not self._lock.acquire(blocking=False):
            raise WouldWait
        try:
            self._is_at_once = True
            with self._waiting(0.0):
                return work()
        finally:
            self._is_at_once = False
            self._lock.release()

    def within(self, wait_s: float, work: Callable[[], T]) -> T:
        """Call `work`, which waits at most so long for another thread or process.

        Raises:
            StoreBusy: it was held for longer.
        """
        give_up = time.monotonic() + wait_s
        if not self._lock.acquire(timeout=wait_s):
            raise self._busy_error()
        try:
            with self._waiting(max(give_up - time.monotonic(), 0.0)):
                return work()
        finally:
            self._lock.release()

    def _busy_error(self) -> StoreBusy:
        return StoreBusy(f"{self._what} can't be written or read now. {_HELD}")

    @contextmanager
    def _waiting(self, wait_s: float) -> Generator[None]:
        """Wait so long for other processes meanwhile."""
        with self._mapped_errors():
            self._file.execute(f"pragma busy_timeout = {wait_s * 1000:.0f}")
            try:
                yield
            finally:
                self._file.execute(f"pragma busy_timeout = {self._busy_s * 1000:.0f}")

    @contextmanager
    def _mapped_errors(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if self._is_at_once and _is_locked(error):
                raise WouldWait from error
            kind = StoreBusy if _is_locked(error) else StoreError
            raise kind(f"{self._what} can't be written or read: {self._explain(error)}") from error

    def _explain(self, error: Exception) -> str:
        """Return the text of an error with advice, if there is any."""
        advice = _ADVICE.get(_kind(error))
        return str(error) if advice is None else f"{error}. {advice.format(mend=self._mend)}"


def _check_size(path: Path) -> None:
    """Raise an error if a file is too short for SQLite, which would take it for empty.

    It isn't opened, as by closing it all locks of this process on it would be dropped; see
    `make_private`.
    """
    if 0 < path.stat().st_size < _SMALLEST:
        error = sqlite3.DatabaseError("file is not a database")
        error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
        raise error


def _kind(error: Exception) -> int:
    """Return the kind of an error of SQLite, without its details; -1 for any other error."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_IOERR_SHORT_READ:  # a part of the file is missing
        return sqlite3.SQLITE_CORRUPT
    return -1 if code is None else code & 0xFF


def _is_locked(error: Exception) -> bool:
    return _kind(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def may_pass(error: BaseException | None) -> bool:
    """Return True if the cause of an error may be over soon, such as a full disk, or a lock."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return isinstance(error, sqlite3.Error) and _kind(error) in _PASSING


def _is_read_only(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    return _kind(error) in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


class Scratch(SQLite):
    """A table in a private temporary file, for data that would take much memory.

    Threads may share it.
    """

    def __init__(self, table: str) -> None:
        super().__init__(Path(), table, what="the folder of temporary files")
        self._connect("")
        self._file.executescript(table)
        self._file.execute("begin")


def open_store(path: Path, *, optional: bool = False) -> ContentStore:
    """Open a store for the core, which knows this module by a door."""
    return ContentStore(path, optional=optional)


class ContentStore:
    """A cache of JSON values on disk, by key; several processes may share one file.

        with ContentStore(Path("answers.sqlite")) as store:
            found = store.get(question)
            if found is None:
                store.put(question, answer)

    It holds values and digests of keys, but no keys. Values never expire; `clear` drops them all. A
    damaged value counts as missing, with one warning.

    Args:
        path: Path of the file; a new one has mode 0600. It is created at first use, so that
            a disk that can't be written is noticed before an answer is paid for.
        optional: True to go on without it, with one warning, if it can't be used. It is then
            created at the first `put`, and may be read-only.

    Raises:
        StoreError: by `get`, `put` and `clear`, unless `optional`: the file can't be used, or is
            no SQLite database. Such a file is left unchanged.
    """

    def __init__(self, path: Path, *, optional: bool = False) -> None:
        self.path = path
        self._optional = optional
        self._lock = threading.Lock()
        self._file: SQLite | None = None
        self._has_warned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def get(self, key: str) -> JSONValue | None:
        """Return a key's value; `None` if it has none."""
        if self._optional and self._file is None and not os.path.exists(self.path):
            return None
        rows = self._run("select answer from answers where key = ?", _digest(key))
        try:
            return json.loads(rows[0][0]) if rows else None
        except (TypeError, ValueError) as error:
            self._warn(f"{self.path} holds an answer damaged ({error}): it counts as none")
            return None

    def put(self, key: str, value: JSONValue) -> None:
        """Store a value, replacing an existing one."""
        statement = "insert or replace into answers values (?, ?)"
        self._run(statement, _digest(key), json.dumps(value))

    async def offload(self, work: Callable[[], T]) -> T:
        """Call `work`, which uses this store, so that the event loop waits for nobody."""
        file = self._file
        return await (asyncio.to_thread(work) if file is None else file.offload(work))

    def clear(self) -> None:
        """Drop all values."""
        self._run("delete from answers")

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None

    def _run(self, statement: str, *values: object) -> list[SQLRow]:
        try:
            return self._open().run(statement, *values)
        except (StoreError, ConfigError) as error:
            with suppress(sqlite3.Error):
                self.close()
            if not self._optional:
                raise StoreError(str(error)) from error
            self._warn(str(error))
            return []

    def _open(self) -> SQLite:
        with self._lock:
            if self._file is None:
                file = SQLite(
                    self.path,
                    _ANSWERS,
                    what=f"the cache {self.path}",
                    may_only_read=self._optional,
                    busy_s=_CACHE_S,
                    mend="Remove it, or name another file",
                )
                file.open()
                self._file = file
            return self._file

    def _warn(self, problem: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            _logger.warning("%s", problem)


_ANSWERS = "create table if not exists answers (key blob primary key, answer text) without rowid"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def columns_of(tables: str) -> dict[str, set[str]]:
    """Return the columns of each table that SQL statements, separated by `;`, create."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(tables)
        sql = (
            "select t.name, c.name from sqlite_schema t join pragma_table_info(t.name) c "
            "where t.type = 'table'"
        )
        columns: dict[str, set[str]] = {}
        for table, column in database.execute(sql):
            columns.setdefault(table, set()).add(column)
    return columns
