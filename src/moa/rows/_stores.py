"""Stores: the database of a job, on this machine or shared by several."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from math import ceil, inf
from typing import TYPE_CHECKING, Protocol, TypeVar

from moa.adapters.sqlite import SQLRow
from moa.core.errors import ConfigError, StoreBusy, StoreError, require_package

if TYPE_CHECKING:
    from psycopg import Connection

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Store(Protocol):
    """A database. In its statements `?` stands for a value."""

    job: str
    where: str
    """Its place, in words."""
    skip_locked: str
    is_new: bool
    """True if it holds nothing of an earlier run."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def now(self) -> float:
        """Return the database's own time, in seconds, which all processes share."""
        ...

    def run(self, sql: str, *values: object) -> list[SQLRow]: ...
    def execute_many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        """Run one statement for each of some values, which follow `job`; all of them or none."""
        ...

    def atomically(self, work: Callable[[], T]) -> T:
        """Run a function in one transaction, which is stored whole or not at all.

        It may be called again if the connection is lost. SQLite locks out all other writers;
        Postgres locks only the rows that the function has written.
        """
        ...

    def within(self, wait_s: float, work: Callable[[], T]) -> T:
        """Call a function that waits at most so long for others who hold what it needs.

        Raises:
            StoreBusy: they held it for longer, or the database is away.
        """
        ...

    def iterate(self, sql: str, *values: object) -> Generator[SQLRow]:
        """Run a statement, and yield its rows."""
        ...

    async def offload(self, work: Callable[[], T]) -> T:
        """Call a function without blocking the event loop for long."""
        ...

    async def when_free(self, work: Callable[[], T]) -> T:
        """Do the same, and wait for whoever holds the store, without blocking the event loop.

        SQLite may call it again, if it found the store held: what it had done by then is kept.
        """
        ...


_LOCK_S, _SHORTEST_LOCK_S = 1.0, 0.02
"""Seconds that one statement waits for the locks of others. All threads share a connection, so that
who waits for a lock holds up those who need another row."""
_AWAY_S = 1.0
"""Seconds for which a database that was away isn't looked for again."""
_SILENT_S = 120.0
"""Seconds after which a statement without an answer is given up, and its connection closed."""
_LATE_S = 5.0
"""The same within `Postgres.within`, in addition to its own time."""


class Postgres:
    """A database that many machines share. One that is away for a while is waited for.

    Args:
        address: `postgresql://USER@HOST/DATABASE#NAME`.
        tables: Its tables, as SQL statements separated by `;`.
        what: What is kept in it, in a word, and its name if the address has none.
    """

    skip_locked = " for update skip locked"
    is_new = False

    def __init__(self, address: str, tables: str, *, what: str = "job") -> None:
        self._address, _, name = address.partition("#")
        self._tables = tables
        self._what = what
        self.job = name or what
        self.where = f"the database, called {self.job!r}"  # an address may hold a password
        self._lock = threading.RLock()
        self._is_within = False
        """True if the thread with the lock is in a transaction."""
        self._give_up: float | None = None
        """Until when the thread with the lock waits, by `time.monotonic`; `None`: see `_retry`."""
        self._away_until = 0.0
        self._watched = _Watched()
        self._thread = ThreadPoolExecutor(1, f"moa-{what}-store")
        """Who waits for this database takes no thread that others need."""

    def open(self) -> None:
        purpose = f"to keep its {self._what} in Postgres"
        with require_package("psycopg", extra="postgres", purpose=purpose):
            import psycopg
        try:
            self._connect(10)
            with self._file.transaction():
                # Two that make the tables at the same moment would fail by each other.
                self._file.execute("select pg_advisory_xact_lock(7012023)")
                for table in self._tables.split(";"):
                    self._file.execute(table.encode())
        except psycopg.Error as error:
            raise ConfigError(f"the database of the {self._what} can't be used: {error}") from error

    def _connect(self, wait_s: int) -> None:
        import psycopg

        self._file: psycopg.Connection[SQLRow]
        self._file = psycopg.connect(self._address, autocommit=True, connect_timeout=wait_s)
        with self._watched.limit(self._file, wait_s):
            self._wait_for_locks(_LOCK_S)

    def _wait_for_locks(self, seconds: float) -> None:
        self._file.execute(f"set lock_timeout = {ceil(seconds * 1000)}".encode())

    def close(self) -> None:
        self._watched.close()
        self._file.close()

    def now(self) -> float:
        return float(self.run("select extract(epoch from clock_timestamp())")[0][0])

    def run(self, sql: str, *values: object) -> list[SQLRow]:
        def work() -> list[SQLRow]:
            cursor = self._file.execute(_query(sql), values)
            return cursor.fetchall() if cursor.description else []

        return self._with_retries(work)

    def execute_many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        rows = [(self.job, *row) for row in values]

        def work() -> None:
            with self._file.cursor() as cursor:
                cursor.executemany(_query(sql), rows)

        self.atomically(work)

    def atomically(self, work: Callable[[], T]) -> T:
        def whole() -> T:
            with self._file.transaction():
                self._is_within = True
                try:
                    return work()
                finally:
                    self._is_within = False

        return self._with_retries(whole)

    def within(self, wait_s: float, work: Callable[[], T]) -> T:
        give_up = time.monotonic() + wait_s
        if not self._lock.acquire(timeout=wait_s):
            raise self._busy_error("its other statements take long")
        outer, self._give_up = self._give_up, give_up
        try:
            return work()
        finally:
            self._give_up = outer
            self._lock.release()

    def iterate(self, sql: str, *values: object) -> Generator[SQLRow]:
        with (
            self._lock,
            self._map_errors(),
            self._file.transaction(),
            self._file.cursor(name=f"moa_{secrets.token_hex(4)}") as cursor,
        ):
            cursor.execute(_query(sql), values)
            yield from cursor

    async def offload(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def when_free(self, work: Callable[[], T]) -> T:
        return await self.offload(work)

    def _with_retries(self, work: Callable[[], T]) -> T:
        """Call it, and again if the connection is lost: writes are idempotent by their key."""
        with self._lock:
            if self._is_within:  # a transaction is done again as a whole
                return work()
            with self._map_errors():
                return self._retry(work)

    def _retry(self, work: Callable[[], T]) -> T:
        """Call it until it succeeds, or the time to wait is over."""
        from psycopg import Error, OperationalError
        from psycopg.errors import LockNotAvailable

        if self._give_up is not None and time.monotonic() < self._away_until:
            raise self._busy_error("it is away")
        pauses = iter((0.05, 0.2, 1.0, 2.0, 4.0, 8.0, 10.0))
        while True:
            left_s = self._left_s
            try:
                with self._watched.limit(self._file, min(_SILENT_S, max(left_s, 0.0) + _LATE_S)):
                    if left_s >= _LOCK_S:
                        return work()
                    return self._with_shorter_locks(max(left_s, _SHORTEST_LOCK_S), work)
            except OperationalError as error:
                pause_s, is_locked = next(pauses, None), isinstance(error, LockNotAvailable)
                if is_locked and self._give_up is not None:
                    raise self._busy_error(str(error)) from error  # others wait for the connection
                if pause_s is None or pause_s > self._left_s:
                    if not is_locked:
                        self._away_until = time.monotonic() + _AWAY_S
                    raise self._busy_error(str(error)) from error
            time.sleep(pause_s)
            if not is_locked:
                with suppress(Error):
                    self._connect(10 if self._give_up is None else ceil(_AWAY_S))

    @property
    def _left_s(self) -> float:
        return inf if self._give_up is None else self._give_up - time.monotonic()

    def _with_shorter_locks(self, seconds: float, work: Callable[[], T]) -> T:
        self._wait_for_locks(seconds)
        try:
            return work()
        finally:
            if not self._file.broken:
                self._wait_for_locks(_LOCK_S)

    def _busy_error(self, reason: str) -> StoreBusy:
        return StoreBusy(f"the database of the {self._what} can't be used now: {reason}")

    @contextmanager
    def _map_errors(self) -> Generator[None]:
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise StoreError(f"the database of the {self._what} can't be used: {error}") from error


class _Watched:
    """Closes a connection whose database doesn't answer in time: nothing else would end the wait.

    A database that is stopped, or behind a network that drops all, sends no error.
    """

    def __init__(self) -> None:
        self._due: tuple[float, Connection[SQLRow]] | None = None
        self._is_closed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, connection: Connection[SQLRow], seconds: float) -> Generator[None]:
        """Close a connection unless the block ends in time."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True, name="moa-postgres")
            self._thread.start()
        self._due = time.monotonic() + seconds, connection
        try:
            yield
        finally:
            self._due = None

    def close(self) -> None:
        """End the thread."""
        self._is_closed.set()

    def _watch(self) -> None:
        from psycopg import Error

        while not self._is_closed.wait(1.0):
            due = self._due
            if due is not None and due[0] < time.monotonic():
                _logger.warning("a database doesn't answer: its connection is closed")
                self._due = None
                # Meanwhile it may be closed, which is fine.
                with (
                    suppress(OSError, Error),
                    socket.socket(fileno=os.dup(due[1].fileno())) as wire,
                ):
                    wire.shutdown(socket.SHUT_RDWR)


def is_address(store: object) -> bool:
    """Return True for the URL of a database, False for a path."""
    return str(store).startswith(("postgresql://", "postgres://"))


def _query(sql: str) -> bytes:
    return sql.replace("?", "%s").encode()
