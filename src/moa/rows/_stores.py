"""Stores: a database file of this machine, or one that many machines share, asked the same way."""

from __future__ import annotations

import asyncio
import errno
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from moa._files import make_private
from moa.errors import ConfigError, StoreError, needed

T = TypeVar("T")
_BUSY_S = 60.0
"""Seconds that a process waits for others that write the same file."""
_MEND = "It is damaged: bring it back from a copy, or remove it to begin anew"


class Store(Protocol):
    """A database. In what it is asked `?` stands for a value."""

    job: str
    where: str
    """Where it is, in words."""
    skip_locked: str
    is_new: bool
    """Whether there is nothing in it of an earlier run."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def now(self) -> float:
        """Give the time that all who use it agree on, in seconds."""
        ...

    def run(self, sql: str, *values: object) -> list[tuple[Any, ...]]: ...
    def many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        """Run one statement for each of some values, which follow `job`; all of them or none."""
        ...

    def each(self, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """Read rows one by one; `job` is the first value."""
        ...

    async def beside(self, work: Callable[[], T]) -> T:
        """Do something with it without holding up the event loop for long."""
        ...


class SQLite:
    """A file of this machine, for its owner alone. A statement takes some 50 µs: none is awaited.

    Args:
        path: Made where it isn't there.
        tables: What stands in it, as statements of SQL with `;` between two.
        what: It is called so in errors.
        alone: Whether one process uses it at a time.
        may_only_read: Whether it is opened also where it can't be written, to be looked at.
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
    ) -> None:
        self.path = path
        self.where = str(path.parent)
        self._tables = tables
        self._what = what
        self._alone = alone
        self._may_only_read = may_only_read
        self._lock = threading.RLock()

    def open(self) -> None:
        try:
            try:
                self._open_to_write()
            except (OSError, sqlite3.Error) as error:
                if not (self._may_only_read and _can_not_be_written(error)):
                    raise
                self._open_to_read()
        except (OSError, sqlite3.Error) as error:
            said = f"{self._what} can't be opened: {error}"
            raise ConfigError(f"{said}. {_MEND}" if _is_damaged(error) else said) from error

    def _open_to_write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        make_private(self.path)
        self._connect(str(self.path))
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
        except (
            sqlite3.OperationalError
        ):  # it makes files beside it, unless it is said never to change
            if self.path.with_name(f"{self.path.name}-wal").exists():
                raise sqlite3.OperationalError(
                    "it is read-only, and a process that was killed has left changes beside it. "
                    "Copy the whole folder to where it can be written"
                ) from None
            self._connect(f"{address}?mode=ro&immutable=1")

    def _connect(self, address: str) -> None:
        self._file = sqlite3.connect(
            address,
            timeout=_BUSY_S,
            isolation_level=None,
            check_same_thread=False,
            uri=address.startswith("file:"),
        )

    def _use_wal(self) -> None:
        """Let others read while one writes. SQLite's own waiting doesn't cover this change."""
        give_up = time.monotonic() + _BUSY_S
        while True:
            try:
                self._file.execute("pragma journal_mode = wal")
                return
            except sqlite3.OperationalError as error:
                locked = error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                if not locked or time.monotonic() > give_up:
                    raise
                time.sleep(0.02)

    def close(self) -> None:
        self._file.close()

    def now(self) -> float:
        return time.time()

    def run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, self._told():
            return self._file.execute(sql, values).fetchall()

    def many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        with self._lock, self._told():
            self._file.execute("begin immediate")
            try:
                self._file.executemany(sql, ((self.job, *one) for one in values))
                self._file.execute("commit")
            finally:
                if self._file.in_transaction:
                    self._file.execute("rollback")

    def each(self, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
        with self._told():
            yield from self._file.execute(sql, (self.job, *values))

    async def beside(self, work: Callable[[], T]) -> T:
        return work()

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            what_to_do = "Free the disk, and start it again: what is done is kept"
            if _can_not_be_written(error):
                what_to_do = "Copy it to where it can be written"
            elif _is_damaged(error):
                what_to_do = _MEND
            raise StoreError(
                f"{self._what} can't be written or read: {error}. {what_to_do}"
            ) from error


def _is_damaged(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _can_not_be_written(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the kind of error, without its details
    return code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


class Postgres:
    """A database that many machines share. One that is away for a while is waited for.

    Args:
        address: `postgresql://USER@HOST/DATABASE#NAME`.
        tables: What stands in it, as statements of SQL with `;` between two.
    """

    skip_locked = " for update skip locked"
    is_new = False

    def __init__(self, address: str, tables: str) -> None:
        self._address, _, name = address.partition("#")
        self._tables = tables
        self.job = name or "job"
        self.where = f"the database, called {self.job!r}"  # an address may hold a password
        self._lock = threading.RLock()

    def open(self) -> None:
        with needed("psycopg", extra="postgres", purpose="to keep a job in Postgres"):
            import psycopg
        try:
            self._connect()
            with self._file.transaction():
                # Two that make the tables at the same moment would fail by each other.
                self._file.execute("select pg_advisory_xact_lock(7012023)")
                for table in self._tables.split(";"):
                    self._file.execute(cast("Any", table))
        except psycopg.Error as error:
            raise ConfigError(f"the database of the job can't be used: {error}") from error

    def _connect(self) -> None:
        import psycopg

        self._file: psycopg.Connection[Any]
        self._file = psycopg.connect(self._address, autocommit=True, connect_timeout=10)

    def close(self) -> None:
        self._file.close()

    def now(self) -> float:
        return float(self.run("select extract(epoch from clock_timestamp())")[0][0])

    def run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        def work() -> list[tuple[Any, ...]]:
            cursor = self._file.execute(_query(sql), values)
            return cursor.fetchall() if cursor.description else []

        return self._again(work)

    def many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        rows = [(self.job, *one) for one in values]

        def work() -> None:
            with self._file.transaction(), self._file.cursor() as cursor:
                cursor.executemany(_query(sql), rows)

        self._again(work)

    def each(self, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
        with (
            self._lock,
            self._told(),
            self._file.transaction(),
            self._file.cursor(name=f"moa_{secrets.token_hex(4)}") as cursor,
        ):
            cursor.execute(_query(sql), (self.job, *values))
            yield from cursor

    async def beside(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)

    def _again(self, work: Callable[[], T]) -> T:
        """Do it, and again where the connection was lost: what is written is so by its key."""
        import psycopg

        with self._lock, self._told():
            for wait_s in (1.0, 2.0, 4.0, 8.0, 10.0):
                try:
                    return work()
                except psycopg.OperationalError:
                    time.sleep(wait_s)
                    with suppress(psycopg.Error):
                        self._connect()
            try:
                return work()
            except psycopg.OperationalError as error:
                raise StoreError(f"the database of the job is away: {error}") from error

    @contextmanager
    def _told(self) -> Generator[None]:
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise StoreError(f"the database of the job can't be used: {error}") from error


def _query(sql: str) -> Any:
    return sql.replace("?", "%s")


class Scratch:
    """A table of what would take much memory, in a temporary file that nobody else sees.

    Rows may be read in one thread, and be done in another.
    """

    def __init__(self, table: str) -> None:
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._turn = threading.Lock()
        self._file.execute(table)
        self._file.execute("begin")

    def run(self, sql: str, *values: object) -> sqlite3.Cursor:
        try:
            with self._turn:
                return self._file.execute(sql, values)
        except sqlite3.Error as error:
            raise StoreError(f"the folder of temporary files can't be used: {error}") from error

    def close(self) -> None:
        self._file.close()
