"""Stores: the database of a job, on this machine or shared by several."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

from moa._sqlite import SQLRow
from moa.errors import ConfigError, StoreError, require_package

T = TypeVar("T")


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
        """Call a function that waits at most so long for whoever has locked the whole database.

        Postgres is never locked as a whole.

        Raises:
            StoreBusy: it was locked for longer.
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

    def open(self) -> None:
        purpose = f"to keep its {self._what} in Postgres"
        with require_package("psycopg", extra="postgres", purpose=purpose):
            import psycopg
        try:
            self._connect()
            with self._file.transaction():
                # Two that make the tables at the same moment would fail by each other.
                self._file.execute("select pg_advisory_xact_lock(7012023)")
                for table in self._tables.split(";"):
                    self._file.execute(table.encode())
        except psycopg.Error as error:
            raise ConfigError(f"the database of the {self._what} can't be used: {error}") from error

    def _connect(self) -> None:
        import psycopg

        self._file: psycopg.Connection[SQLRow]
        self._file = psycopg.connect(self._address, autocommit=True, connect_timeout=10)

    def close(self) -> None:
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
        del wait_s
        return work()

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
        return await asyncio.to_thread(work)

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
        import psycopg

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
            raise StoreError(f"the database of the {self._what} is away: {error}") from error

    @contextmanager
    def _map_errors(self) -> Generator[None]:
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise StoreError(f"the database of the {self._what} can't be used: {error}") from error


def is_address(store: object) -> bool:
    """Return True for the URL of a database, False for a path."""
    return str(store).startswith(("postgresql://", "postgres://"))


def _query(sql: str) -> bytes:
    return sql.replace("?", "%s").encode()
