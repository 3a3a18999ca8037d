"""Stores: where LangGraph's checkpoints are kept, a SQLite file, Postgres or memory.

Each use opens a connection of its own and closes it, so nothing has to be closed at the end, and
nothing stays open while a model writes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from filelock import AsyncFileLock
from langgraph.checkpoint.base import BaseCheckpointSaver
from pydantic import SecretStr

from moa._async import in_time
from moa._files import make_private
from moa.chat.messages import is_file
from moa.context import RunContext
from moa.errors import ConfigError, MoaError, StoreError, needed

if TYPE_CHECKING:
    from psycopg import AsyncConnection

_POLL_S = 0.02
Saver = BaseCheckpointSaver[Any]


class PlainJson:
    """Writes checkpoints as JSON, and revives nothing but JSON from them.

    LangGraph's own serializer can revive classes that a checkpoint names.
    """

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Write a value that is JSON already."""
        return "json", json.dumps(obj).encode()

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Read it back, or raise a `ValueError` where it was written otherwise."""
        kind, written = data
        if kind != "json":
            raise ValueError(f"a checkpoint of kind {kind!r}, and only JSON is read")
        try:
            return json.loads(written)
        except RecursionError as error:
            raise ValueError("a checkpoint that is nested too deep") from error


class Store(ABC):
    """Opens a saver of checkpoints, and lets one writer at a time into a thread.

    What fails is a `StoreError`, and `DeadlineExceeded` where a thread isn't free in time.
    """

    shown: str
    """What it is, in words without a secret."""
    faults: tuple[type[Exception], ...]
    """What its saver raises where the conversations can't be read or written."""
    advice: str
    """What to look at then."""

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[Saver]:
        """Open a saver."""

    @abstractmethod
    def held(self, thread: str, context: RunContext) -> AbstractAsyncContextManager[None]:
        """Wait until no other process writes into a thread, and keep the others out.

        A process that dies lets go of it.
        """

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except MoaError:
            raise
        except self.faults as error:
            raise StoreError(
                f"{self.shown}: the conversations in it can't be read or written: "
                f"{type(error).__name__}: {error}. {self.advice}"
            ) from error


class GivenStore(Store):
    """A saver of the user's own, or memory.

    Other processes are kept out of a thread where the saver is LangGraph's own for SQLite or
    Postgres, by the locks of `SqliteStore` and `PostgresStore`; out of any other they are not.

    Raises:
        ConfigError: it has no asynchronous methods.
    """

    faults = (Exception,)  # a saver of anybody's raises what it likes
    advice = "Look whether it is open and asynchronous"

    def __init__(self, saver: Saver | None = None) -> None:
        if saver is None:
            from langgraph.checkpoint.memory import InMemorySaver

            saver = InMemorySaver(serde=PlainJson())
        asked = ("aput", "aget_tuple", "alist", "adelete_thread")
        base = BaseCheckpointSaver[Any]  # whose own methods raise
        missing = [name for name in asked if getattr(type(saver), name) is getattr(base, name)]
        if missing:
            raise ConfigError(
                f"a {type(saver).__name__} has no {missing[0]}, and a chat keeps its conversations "
                "with asynchronous methods. Take the asynchronous saver of that package"
            )
        self._saver = saver
        self.shown = f"the {type(saver).__name__}"

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Saver]:
        """Give the saver."""
        with self._told():
            yield self._saver

    @asynccontextmanager
    async def held(self, thread: str, context: RunContext) -> AsyncGenerator[None]:
        """Hold the lock of a thread, where the saver is one that other processes may have too."""
        async with AsyncExitStack() as held:
            with self._told():
                connection: Any = getattr(self._saver, "conn", None)
                if hasattr(connection, "execute_fetchall"):  # of aiosqlite
                    files = await connection.execute_fetchall("pragma database_list")
                    file = next((file for _, name, file in files if name == "main"), "")
                    if file:
                        lock = _file_lock(Path(file), thread)
                        await wait_for(lock.acquire(poll_interval=_POLL_S), thread, context)
                        held.push_async_callback(lock.release)
                elif hasattr(connection, "pgconn") or hasattr(connection, "getconn"):  # of psycopg
                    other = await held.enter_async_context(_another(connection))
                    key = f"moa.chat/{thread}"
                    await wait_for(_locked(other, key), thread, context)
            yield


class SqliteStore(Store):
    """A SQLite file, made where it isn't there, with lock files in a folder beside it.

    Raises:
        MissingDependency: `langgraph-checkpoint-sqlite` is not installed.
    """

    faults = (sqlite3.Error, OSError, ValueError, TypeError)  # any type may be in any column
    advice = "It has to be a SQLite file that moa chat made, in a folder that can be written"

    def __init__(self, file: Path) -> None:
        package, why = "langgraph-checkpoint-sqlite", "to keep conversations in a file"
        with needed(package, extra="local", purpose=why):
            from langgraph.checkpoint.sqlite import aio
        self.file = file
        self.shown = str(file)
        self._savers = aio.AsyncSqliteSaver
        self._is_set_up = False

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Saver]:
        """Connect to the file."""
        with self._told():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            make_private(self.file)
            async with self._savers.from_conn_string(str(self.file)) as saver:
                saver.serde = PlainJson()
                if not self._is_set_up:
                    # SQLite waits for nobody where it changes how a file is written.
                    async with _file_lock(self.file, None):
                        await saver.setup()
                    self._is_set_up = True
                yield saver

    @asynccontextmanager
    async def held(self, thread: str, context: RunContext) -> AsyncGenerator[None]:
        """Hold the lock file of a thread, which the system frees when its process ends."""
        with self._told():
            lock = _file_lock(self.file, thread)
            await wait_for(lock.acquire(poll_interval=_POLL_S), thread, context)
        try:
            yield
        finally:
            await lock.release()


class PostgresStore(Store):
    """A Postgres database, whose advisory locks keep other processes out of a thread.

    What its address leaves out, such as the password, Postgres' own client looks for in its
    variables and in `~/.pgpass`.

    Raises:
        ConfigError: the address can't be read.
        MissingDependency: `langgraph-checkpoint-postgres` is not installed.
    """

    advice = "Look whether the server runs, and whether the address and the rights are right"

    def __init__(self, url: SecretStr) -> None:
        self.shown = _without_secrets(url)
        package, why = "langgraph-checkpoint-postgres", "to keep conversations in Postgres"
        with needed(package, extra="postgres", purpose=why):
            import psycopg
            from langgraph.checkpoint.postgres import aio
        self.faults = (psycopg.Error, OSError, ValueError)
        self._url = url
        self._connect = psycopg.AsyncConnection.connect
        self._savers = aio.AsyncPostgresSaver
        self._made = False

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Saver]:
        """Connect to the database, and make its tables where they aren't there."""
        with self._told():
            url = self._url.get_secret_value()
            async with self._savers.from_conn_string(url, serde=PlainJson()) as saver:
                if not self._made:
                    # Two processes at once would each try to make the tables.
                    async with await self._connected() as connection:
                        await _locked(connection, "moa.chat")
                        await saver.setup()
                    self._made = True
                yield saver

    @asynccontextmanager
    async def held(self, thread: str, context: RunContext) -> AsyncGenerator[None]:
        """Hold the advisory lock of a thread, which Postgres frees when the connection ends."""
        key = f"moa.chat/{thread}"
        with self._told():
            connection = await self._connected()
        async with connection:
            with self._told():
                await wait_for(_locked(connection, key), thread, context)
            yield

    async def _connected(self) -> AsyncConnection[Any]:
        return await self._connect(self._url.get_secret_value(), autocommit=True)


def store_of(given: str | Path | SecretStr | Saver) -> Store:
    """Choose the store of what `Chat` is given.

    Raises:
        ConfigError: it is a URL of something else, or one that can't be read; or the saver has no
            asynchronous methods.
        MissingDependency: the package for it is not installed.
    """
    if isinstance(given, BaseCheckpointSaver):
        return GivenStore(given)
    text = given.get_secret_value() if isinstance(given, SecretStr) else str(given)
    if is_file(text):
        return SqliteStore(Path(text))
    if "://" not in text:
        return GivenStore()
    scheme, rest = text.split("://", 1)
    return PostgresStore(SecretStr(f"{scheme.lower()}://{rest}"))  # libpq reads no capitals


def _without_secrets(url: SecretStr) -> str:
    """Say where a database is, or that its URL can't be read."""
    try:
        parts = urlsplit(url.get_secret_value())
    except ValueError:
        parts = None
    if parts is None or "@" in parts.path + parts.fragment:
        raise ConfigError(
            "the URL of the Postgres database can't be read. In a user name and a password, "
            "characters such as : / ? # [ ] @ are written with a percent sign: %2F for /"
        )  # nothing is quoted or chained: what Python says of it may hold the password
    return f"postgres at {parts.hostname or 'this machine'}{parts.path}"


def _file_lock(file: Path, thread: str | None) -> AsyncFileLock:
    """Give the lock of a thread in a SQLite file, or of the file, whatever path leads to it."""
    name = "setup"
    if thread is not None:
        name = hashlib.sha256(thread.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    file = file.resolve()
    folder = file.with_name(f"{file.name}.locks")
    folder.mkdir(parents=True, exist_ok=True)
    return AsyncFileLock(folder / f"{name}.lock", thread_local=False, run_in_executor=False)


@asynccontextmanager
async def _another(connection: Any) -> AsyncGenerator[AsyncConnection[Any]]:
    """Connect once more to the database of a connection or a pool: a lock takes one for itself."""
    import psycopg

    async with AsyncExitStack() as opened:
        if hasattr(connection, "getconn"):
            connection = await opened.enter_async_context(connection.connection())
        info = connection.info
    again = psycopg.AsyncConnection.connect
    async with await again(info.dsn, password=info.password, autocommit=True) as other:
        yield other


async def _locked(connection: AsyncConnection[Any], key: str) -> None:
    """Take an advisory lock, by asking again and again.

    A statement that waits would hold up the indexes that LangGraph builds concurrently, for which
    whoever holds the lock may wait in turn: https://www.postgresql.org/docs/current/sql-createindex.html.
    """
    while True:
        asked = await connection.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (key,)
        )
        row = await asked.fetchone()
        if row is not None and row[0]:
            return
        await asyncio.sleep(_POLL_S)


async def wait_for(
    waiting: Awaitable[object], thread: str, context: RunContext, *, by: str = "another process"
) -> None:
    """Wait for a thread that somebody else writes into, until the deadline of the run."""
    late = f"{context.node}: thread {thread!r} was written to by {by} until the time was up"
    async with in_time(context.remaining_s(), late):
        await waiting
