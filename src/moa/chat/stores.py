"""Stores: where LangGraph's savers keep the threads, and who may write into one.

Connections are closed after use: nothing has to be closed at the end, and while a model writes only
the lock of its thread is held.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import AsyncFileLock
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import SecretStr

from moa._async import time_limit
from moa._files import make_private
from moa.chat.messages import is_file
from moa.context import RunContext
from moa.errors import ConfigError, MoaError, StoreError, require_package

_POLL_S = 0.02
Saver = BaseCheckpointSaver[str]


class PlainJson:
    """Writes checkpoints as JSON, and revives nothing but JSON from them.

    LangGraph's own serializer can revive classes that a checkpoint names.
    """

    def dumps_typed(self, obj: object) -> tuple[str, bytes]:
        """Write a value that is JSON already."""
        return "json", json.dumps(obj).encode()

    def loads_typed(self, data: tuple[str, bytes]) -> object:
        """Read it back, or raise a `ValueError` if it was written otherwise."""
        kind, text = data
        if kind != "json":
            raise ValueError(f"a checkpoint of kind {kind!r}, and only JSON is read")
        try:
            return json.loads(text)
        except RecursionError as error:
            raise ValueError("a checkpoint that is nested too deep") from error


Locks = Callable[[str | None], AbstractAsyncContextManager[object]]
"""Makes the lock of a thread, or of the setup (`None`)."""


@dataclass
class Store:
    """Opens savers, and lets one writer at a time into a thread.

    What a saver raises becomes a `StoreError`.
    """

    shown: str
    """Its name in messages, without a secret."""
    advice: str
    """Advice for when it can't be read or written."""
    connect: Callable[[], AbstractAsyncContextManager[Saver]]
    is_set_up: bool = False
    """True once its tables exist, as for a saver that is given."""
    file: Path | None = None
    _locks: Locks | None = field(default=None, init=False, repr=False)

    @contextmanager
    def _errors(self) -> Generator[None]:
        """Raise a `StoreError` for whatever a saver raises."""
        try:
            yield
        except MoaError:
            raise
        except Exception as error:  # savers and drivers raise what they like
            raise StoreError(
                f"{self.shown}: the conversations in it can't be read or written: "
                f"{type(error).__name__}: {error}. {self.advice}"
            ) from error

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Saver]:
        """Open a saver, and set it up the first time."""
        with self._errors():
            async with self.connect() as saver:
                if not self.is_set_up:
                    # Two at once would each make the tables; SQLite waits for nobody then.
                    async with (await _locks_of(saver))(None):
                        await getattr(saver, "setup")()  # noqa: B009  not of the base class
                    self.is_set_up = True
                yield saver

    @asynccontextmanager
    async def lock(self, thread: str, context: RunContext) -> AsyncGenerator[None]:
        """Keep other processes out of a thread; one that dies lets go of it.

        Raises:
            DeadlineExceeded: the thread isn't free in time.
        """
        message = describe_delay(thread, "another process", context)
        async with AsyncExitStack() as stack:
            with self._errors():
                if self._locks is None:
                    async with self.connect() as saver:
                        self._locks = await _locks_of(saver)
                async with time_limit(context.remaining_s(), message):
                    await stack.enter_async_context(self._locks(thread))
            yield


def describe_delay(thread: str, writer: str, context: RunContext) -> str:
    """Write why a turn was not begun in time."""
    return f"{context.node}: thread {thread!r} was written to by {writer} until the time was up"


def store_of(store: str | Path | SecretStr | Saver) -> Store:
    """Choose the store of what `Chat` is given.

    Raises:
        ConfigError: it is a URL of something else, or one that can't be read; or the saver has no
            asynchronous methods.
        MissingDependency: the package for it is not installed.
    """
    if isinstance(store, BaseCheckpointSaver):
        return _saver_store(store)
    text = store.get_secret_value() if isinstance(store, SecretStr) else str(store)
    if is_file(text):
        return _sqlite_store(Path(text))
    if "://" not in text:
        return _saver_store(InMemorySaver(serde=PlainJson()))
    scheme, rest = text.split("://", 1)
    return _postgres_store(SecretStr(f"{scheme.lower()}://{rest}"))  # libpq reads no capitals


def _saver_store(saver: Saver) -> Store:
    for name in ("aput", "aget_tuple", "alist", "adelete_thread"):
        if getattr(type(saver), name) is getattr(BaseCheckpointSaver, name):  # which raises
            raise ConfigError(
                f"a {type(saver).__name__} has no {name}, and a chat keeps its conversations "
                "with asynchronous methods. Take the asynchronous saver of that package"
            )
    advice = "Look whether it is open and asynchronous"
    return Store(f"the {type(saver).__name__}", advice, lambda: nullcontext(saver), is_set_up=True)


def _sqlite_store(file: Path) -> Store:
    package, purpose = "langgraph-checkpoint-sqlite", "to keep conversations in a file"
    with require_package(package, extra="local", purpose=purpose):
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    @asynccontextmanager
    async def connect() -> AsyncGenerator[Saver]:
        file.parent.mkdir(parents=True, exist_ok=True)
        make_private(file)
        async with AsyncSqliteSaver.from_conn_string(str(file)) as saver:
            saver.serde = PlainJson()
            yield saver

    advice = "It has to be a SQLite file that moa chat made, in a folder that can be written"
    return Store(str(file), advice, connect, file=file)


def _postgres_store(url: SecretStr) -> Store:
    """Take a database. For a password that the URL lacks, libpq looks in `~/.pgpass`."""
    description = _describe_url(url)
    package, purpose = "langgraph-checkpoint-postgres", "to keep conversations in Postgres"
    with require_package(package, extra="postgres", purpose=purpose):
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    def connect() -> AbstractAsyncContextManager[Saver]:
        return AsyncPostgresSaver.from_conn_string(url.get_secret_value(), serde=PlainJson())

    advice = "Look whether the server runs, and whether the address and the rights are right"
    return Store(description, advice, connect)


def _describe_url(url: SecretStr) -> str:
    """Return where a database is, without the password, or raise if its URL can't be read."""
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


async def _locks_of(saver: Saver) -> Locks:
    """Choose the locks of the threads; other kinds of savers belong to one process."""
    connection: Any = getattr(saver, "conn", None)
    if hasattr(connection, "execute_fetchall"):  # of aiosqlite
        files = await connection.execute_fetchall("pragma database_list")
        file = next((file for _, name, file in files if name == "main"), "")
        if file:
            return partial(_file_lock, Path(file))
    if hasattr(connection, "pgconn") or hasattr(connection, "getconn"):  # of psycopg, or its pool
        async with AsyncExitStack() as stack:
            if hasattr(connection, "getconn"):
                connection = await stack.enter_async_context(connection.connection())
            info = connection.info
            return partial(_advisory_lock, info.dsn, SecretStr(info.password))
    return lambda _: nullcontext()


def _file_lock(file: Path, thread: str | None) -> AsyncFileLock:
    """Make the lock of a thread in a SQLite file, or of the file, whatever path leads to it."""
    name = "setup"
    if thread is not None:
        name = hashlib.sha256(thread.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    file = file.resolve()
    folder = file.with_name(f"{file.name}.locks")
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f"{name}.lock"
    return AsyncFileLock(lock, thread_local=False, run_in_executor=False, poll_interval=_POLL_S)


@asynccontextmanager
async def _advisory_lock(
    database: str, password: SecretStr, thread: str | None
) -> AsyncGenerator[None]:
    """Hold a lock of Postgres, which ends with its connection.

    It is polled. A statement that waits would hold up the indexes that
    LangGraph builds concurrently, for which whoever holds the lock may wait in turn:
    https://www.postgresql.org/docs/current/sql-createindex.html.
    """
    import psycopg

    ask = "SELECT 1 WHERE pg_try_advisory_lock(hashtextextended(%s, 0))"
    key = "moa.chat" if thread is None else f"moa.chat/{thread}"
    connect, secret = psycopg.AsyncConnection.connect, password.get_secret_value()
    async with await connect(database, password=secret, autocommit=True) as connection:
        while True:
            if await (await connection.execute(ask, (key,))).fetchone() is not None:
                break
            await asyncio.sleep(_POLL_S)
        yield
