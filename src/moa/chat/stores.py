"""Stores: storage of the threads by LangGraph's savers, with a lock for each thread.

Connections are closed after use, so nothing has to be closed at the end. While a model writes, only
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

from moa.chat.messages import is_file
from moa.core._async import time_limit
from moa.core._files import make_private
from moa.core.context import RunContext
from moa.core.errors import ConfigError, MoaError, StoreError, require_package

_POLL_S = 0.02
Saver = BaseCheckpointSaver[str]


class PlainJson:
    """Serializes checkpoints as JSON, and reads nothing else.

    LangGraph's own serializer can instantiate classes that a checkpoint names.
    """

    def dumps_typed(self, obj: object) -> tuple[str, bytes]:
        """Serialize a JSON value."""
        return "json", json.dumps(obj).encode()

    def loads_typed(self, data: tuple[str, bytes]) -> object:
        """Deserialize a JSON value; raise `ValueError` if it has another format."""
        kind, text = data
        if kind != "json":
            raise ValueError(f"a checkpoint of kind {kind!r}, and only JSON is read")
        try:
            return json.loads(text)
        except RecursionError as error:
            raise ValueError("a checkpoint that is nested too deep") from error


Locks = Callable[[str | None], AbstractAsyncContextManager[object]]
"""Function that makes the lock of a thread, or of the setup (`None`)."""


@dataclass
class Store:
    """Opens savers, and lets one writer at a time into a thread.

    Errors of a saver become a `StoreError`.
    """

    shown: str
    """Its name in messages, without secrets."""
    advice: str
    """Advice for when it can't be read or written."""
    connect: Callable[[], AbstractAsyncContextManager[Saver]]
    is_set_up: bool = False
    """True once its tables exist; a given saver must have them."""
    file: Path | None = None
    _locks: Locks | None = field(default=None, init=False, repr=False)

    @contextmanager
    def _errors(self) -> Generator[None]:
        """Turn errors of a saver into a `StoreError`."""
        try:
            yield
        except MoaError:
            raise
        except Exception as error:  # savers and drivers raise all kinds of errors
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
                    # Two at once would both create the tables, and SQLite doesn't wait then.
                    async with (await _locks_of(saver))(None):
                        await getattr(saver, "setup")()  # noqa: B009  not of the base class
                    self.is_set_up = True
                yield saver

    @asynccontextmanager
    async def lock(self, thread: str, context: RunContext) -> AsyncGenerator[None]:
        """Lock a thread against other processes. The lock of a process that dies is released.

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
    """Explain why a turn wasn't begun in time."""
    return f"{context.node}: thread {thread!r} was written to by {writer} until the time was up"


def store_of(store: str | Path | SecretStr | Saver) -> Store:
    """Return the store for the `store` of a `Chat`.

    Raises:
        ConfigError: the URL is invalid or not one of Postgres, or the saver has no asynchronous
            methods.
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
    return _postgres_store(SecretStr(f"{scheme.lower()}://{rest}"))  # libpq needs lower case


def _saver_store(saver: Saver) -> Store:
    for name in ("aput", "aget_tuple", "alist", "adelete_thread"):
        if getattr(type(saver), name) is getattr(BaseCheckpointSaver, name):  # it only raises
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
    """Return the store of a database. libpq looks up a missing password in `~/.pgpass`."""
    description = _describe_url(url)
    package, purpose = "langgraph-checkpoint-postgres", "to keep conversations in Postgres"
    with require_package(package, extra="postgres", purpose=purpose):
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    def connect() -> AbstractAsyncContextManager[Saver]:
        return AsyncPostgresSaver.from_conn_string(url.get_secret_value(), serde=PlainJson())

    advice = "Look whether the server runs, and whether the address and the rights are right"
    return Store(description, advice, connect)


def _describe_url(url: SecretStr) -> str:
    """Return the address of a database without the password; raise if its URL is invalid."""
    try:
        parts = urlsplit(url.get_secret_value())
    except ValueError:
        parts = None
    if parts is None or "@" in parts.path + parts.fragment:
        raise ConfigError(
            "the URL of the Postgres database can't be read. In a user name and a password, "
            "characters such as : / ? # [ ] @ are written with a percent sign: %2F for /"
        )  # nothing is quoted or chained: Python's own message may contain the password
    return f"postgres at {parts.hostname or 'this machine'}{parts.path}"


async def _locks_of(saver: Saver) -> Locks:
    """Choose the locks of threads. Other kinds of savers belong to one process, and need none."""
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
    """Make the lock of a thread in a SQLite file, or of its setup, the same for all its paths."""
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
    """Hold a Postgres advisory lock, which ends with its connection.

    It is polled. A waiting statement would block the indexes that LangGraph builds concurrently,
    and the holder of the lock may be waiting for these:
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
