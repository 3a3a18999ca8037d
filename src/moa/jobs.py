"""Jobs: rows that are worked on until each is done, over days, restarts and several processes.

A job is a ledger in a database: SQLite in a folder, or Postgres. It holds the rows by their id and
content, who works on which, what became of each, and the finished calls of rows that aren't done.
A process that dies leaves nothing behind but leases, which run out.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import (
    AsyncGenerator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar, cast

import psutil

from moa._async import cancel
from moa._files import dumped
from moa.batch import Item, Malformed, Progress, Row, map_rows
from moa.context import RunContext
from moa.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    InputError,
    MissingDependency,
    NotResumable,
    StoreError,
)
from moa.journal import Journal
from moa.node import Node
from moa.rows import digest_of, exported, line

T = TypeVar("T")
State = Literal["due", "leased", "done", "failed", "dead"]
"""A row that `failed` is tried again; one that is `dead` is not."""
TRIES = 3
"""Times that a row may fail."""
LEASE_S = 60.0
"""Seconds after which the rows of a process that has died, or lost its network, go to others; one
that lives renews its leases three times as often."""
_RETRY_S = 5.0
"""Seconds until a row that failed is tried again; doubled each time."""
_MAX_DEATHS = 20
"""Times that a process may die with a row in its hands; then it is taken to be the row's fault."""
_WAIT_S = 0.5
_CLOCK_S = 5.0
"""Seconds by which the start of a process may seem to differ."""
_BUSY_S = 60.0
"""Seconds that a process waits for others that write the same file."""
_BATCH = 1000
"""Rows that are added in one transaction."""
_TABLES = """
create table if not exists moa_jobs (job text primary key, graph text not null);
create table if not exists moa_rows (
    job text not null, key text not null, place bigint not null, given text not null,
    state text not null default 'due', gone int not null default 0,
    failures int not null default 0, deaths int not null default 0,
    worker text, until double precision not null default 0,
    line text, cause text, calls bigint not null default 0,
    cost double precision not null default 0, llm int not null default 0,
    primary key (job, key));
create index if not exists moa_rows_next on moa_rows (job, gone, state, place);
create index if not exists moa_rows_worker on moa_rows (job, worker);
create table if not exists moa_calls (
    job text not null, key text not null, call text not null, record text not null,
    primary key (job, key, call))
"""
_DUE = (
    "state = 'due'",
    "state in ('failed', 'leased') and until < ? and coalesce(worker, '') <> ?",
)
"""What is leased: the latter where there is none of the former. With an `or`, a million rows would
be sorted each time."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How far a job is."""

    rows: Mapping[State, int]
    """Rows by their state."""
    calls: int
    """Calls of the rows that were worked on."""
    cost: float
    """US dollars; of endpoints without a price, nothing."""
    needed_llm: int
    """Rows for which a large model was asked."""
    causes: Mapping[str, int]
    """Rows that failed or are dead, by the kind of their error."""

    @property
    def total(self) -> int:
        """Rows in all."""
        return sum(self.rows.values())

    @property
    def left(self) -> int:
        """Rows that are still worked on, or will be."""
        return sum(self.rows.get(state, 0) for state in ("due", "leased", "failed"))


class Job:
    """A ledger of rows, from which one process works, or many.

        with Job("nightly", graph="support") as job:
            job.add(rows.read("inbox.jsonl"))
            await job.run(graph)
            job.export(Path("done.jsonl"))

    Args:
        store: A folder, in which `job.sqlite` is kept; or `postgresql://USER@HOST/DATABASE#NAME`,
            the address of a database and the name of the job in it.
        graph: Name of what runs; `None`: what the job was begun with.
        tries: Times that a row may fail; then it is dead.
        lease_s: Seconds after which the rows of a process that is gone go to others.

    Raises:
        ConfigError: a number is out of range; or, when it is entered: there is no such job and no
            `graph`, it was begun with another one, or the store can't be used.
        MissingDependency: the store is Postgres, and its client isn't installed.
    """

    def __init__(
        self,
        store: str | Path,
        *,
        graph: str | None = None,
        tries: int = TRIES,
        lease_s: float = LEASE_S,
    ) -> None:
        if tries < 1 or lease_s <= 0:
            raise ConfigError(f"{tries=} must be at least 1, and {lease_s=} more than 0 seconds")
        self._store: _Store
        self._store = _Postgres(str(store)) if _is_address(store) else _SQLite(Path(store), graph)
        self._graph = graph
        self._tries = tries
        self._lease_s = lease_s
        began = psutil.Process().create_time()
        self.worker = f"{socket.gethostname()}|{os.getpid()}|{began}|{secrets.token_hex(4)}"
        """Who this is: its machine, its process and since when, and which of its uses."""
        self._failures: dict[str, int] = {}
        """How often each row in the hands of this process has failed."""

    @property
    def where(self) -> str:
        """Where it is kept, in words: the address of a database may hold a password."""
        return self._store.where

    def __enter__(self) -> Self:
        self._store.open()
        try:
            known = self._rows("select graph from moa_jobs where job = ?")
            if known and self._graph not in (None, known[0][0]):
                raise ConfigError(
                    f"the job in {self._store.where} was begun with the graph {known[0][0]!r}, and "
                    f"not with {self._graph!r}: run that one, or name another job"
                )
            if not known:
                if self._graph is None:
                    raise ConfigError(f"there is no job in {self._store.where}")
                add = "insert into moa_jobs (job, graph) values (?, ?) on conflict do nothing"
                self._rows(add, self._graph)
        except BaseException:
            self._store.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give back what isn't done, and close the store."""
        try:
            self._rows(
                "update moa_rows set state = 'due', worker = null where job = ? and worker = ? "
                "and state = 'leased'",
                self.worker,
            )
        finally:
            self._store.close()

    def add(self, found: Iterable[Row | Malformed], *, all_rows: bool = True) -> int:
        """Add rows; those that are there already, by their id and content, stay as they are.

        Args:
            found: The rows. Of rows that are copies each counts.
            all_rows: Whether they are all that there are: others that the job holds are left out of
                it and of its export, until they are added again.

        Returns:
            How many rows were read.
        """
        insert = (
            "insert into moa_rows (job, key, place, given) values (?, ?, ?, ?) "
            "on conflict (job, key) do update set place = excluded.place, gone = 0"
        )
        count, batch = 0, list[tuple[object, ...]]()
        with closing(_Seen()) as seen:
            for count, row in enumerate(found, start=1):
                batch.append((seen.key(row), count, _written(row)))
                if len(batch) == _BATCH:
                    self._store.many(insert, batch)
                    batch.clear()
            self._store.many(insert, batch)
            if all_rows:
                held = self._store.each("select key from moa_rows where job = ? and gone = 0")
                gone = [key for (key,) in held if key not in seen]
                out = "update moa_rows set gone = 1 where job = ? and key = ?"
                self._store.many(out, [(key,) for key in gone])
        return count

    async def run(
        self,
        node: Node[Any, Any],
        context: RunContext | None = None,
        *,
        max_concurrency: int = 8,
        progress: Progress = False,
    ) -> JobStatus:
        """Work on rows until none is left, or the budget or time of the run is used up.

        Args:
            node: What each row goes through.
            context: Budget, deadline and ledger over all rows of this process.
            max_concurrency: Maximum number of rows worked on at once.
            progress: See `moa.batch.map_rows`.

        Raises:
            StoreError: the store fails; what is done is kept.
        """
        context = context or RunContext(keep_notes=False)
        left = self.left(context, at_once=max_concurrency)
        mapped = map_rows(node, left, context, max_concurrency=max_concurrency, progress=progress)
        async with aclosing(mapped) as items:
            async for item in items:
                await self.take(item, context)
        return self.status()

    async def left(
        self, context: RunContext, *, at_once: int = 8
    ) -> AsyncGenerator[Row | Malformed]:
        """Give the rows that are to be done, leased to this process, until none is left.

        Rows that others work on are waited for: those that fail, or that a process had which died,
        are given here. What a row has paid for before is in its `journal`.

        Args:
            context: Of the run; once its budget or its time is used up, no more rows are given.
            at_once: Rows that are leased together.
        """
        self._failures.clear()
        await self._store.beside(self._free_the_dead)
        renewing = asyncio.ensure_future(self._renew())
        try:
            while not context.is_used_up:
                leased = await self._store.beside(lambda: self._leased(at_once))
                for row in leased:
                    yield row
                if not leased:
                    if not await self._store.beside(self._unfinished):
                        return
                    await asyncio.sleep(_WAIT_S)
        finally:
            await cancel([renewing])

    async def take(self, item: Item[Any], context: RunContext) -> None:
        """Keep what became of a row: it is on disk when this returns.

        One that failed is tried again later, unless the row itself is at fault. Where the limit of
        the whole run ended it, it is due.
        """
        failures = self._failures.pop(item.key, 0)
        ended = isinstance(item.error, BudgetExceeded | DeadlineExceeded)
        if ended and context.is_used_up:
            await self._store.beside(lambda: self._give_back(item.key))
            return
        state: State = "done"
        if item.error is not None:
            failures += 1
            own = isinstance(item.error, InputError | NotResumable)
            state = "dead" if own or failures >= self._tries else "failed"
        values = (
            state,
            failures,
            time.time() + _RETRY_S * 2 ** (failures - 1) if state == "failed" else 0.0,
            dumped(line(item)),
            None if item.error is None else type(item.error).__name__,
            item.usage.total.calls,
            float(item.usage.cost or 0),
            int(item.needed_llm),
        )
        await self._store.beside(lambda: self._settle(item.key, state, values))

    def _settle(self, key: str, state: State, values: Sequence[object]) -> None:
        # Where its lease ran out meanwhile the row may be another's, or done: then what failed here
        # says nothing of it, and the first that is done stays.
        self._store.run(
            "update moa_rows set worker = null, state = ?, failures = ?, until = ?, line = ?, "
            "cause = ?, calls = ?, cost = ?, llm = ? where job = ? and key = ? "
            "and (worker = ? or (cast(? as text) = 'done' and state <> 'done'))",
            (*values, self._store.job, key, self.worker, state),
        )
        if state in ("done", "dead"):
            self._rows("delete from moa_calls where job = ? and key = ?", key)

    def _give_back(self, key: str) -> None:
        self._rows(
            "update moa_rows set state = 'due', worker = null where job = ? and key = ? "
            "and worker = ?",
            *(key, self.worker),
        )

    def status(self) -> JobStatus:
        """Count the rows."""
        counted = self._rows(
            "select state, cause, count(*), sum(calls), sum(cost), sum(llm) from moa_rows "
            "where job = ? and gone = 0 group by state, cause"
        )
        rows, causes = dict[State, int](), dict[str, int]()
        for state, cause, count, *_ in counted:
            rows[state] = rows.get(state, 0) + count
            if cause is not None and state in ("failed", "dead"):
                causes[cause] = causes.get(cause, 0) + count
        calls, cost, llm = (sum(one[place] for one in counted) for place in (3, 4, 5))
        return JobStatus(rows, int(calls), float(cost), int(llm), causes)

    def retry(self) -> int:
        """Make the rows that failed or are dead due again, and count them."""
        again = (
            "update moa_rows set state = 'due', failures = 0, deaths = 0, until = 0 "
            "where job = ? and gone = 0 and state in ('failed', 'dead') returning key"
        )
        return len(self._rows(again))

    def lines(self, *states: State) -> Iterator[dict[str, Any]]:
        """Give the lines of rows as `moa run --out` writes them, in the order of the rows.

        Args:
            states: Of those alone; none: of all that were worked on.
        """
        some = f" and state in ({', '.join('?' * len(states))})" if states else ""
        query = (
            "select line from moa_rows where job = ? and gone = 0 and line is not null"
            f"{some} order by place"
        )
        for (written,) in self._store.each(query, *states):
            yield json.loads(written)

    def export(self, path: Path) -> int:
        """Write the lines of all rows that were worked on to a file, whole or not at all.

        Args:
            path: Its name ends in `.jsonl`, `.csv` or `.parquet`, and then in `.gz` where it is to
                be compressed. A table has the columns `id`, `status`, `error`, `input` and
                `output`; the last two are JSON.

        Returns:
            How many they are.

        Raises:
            ConfigError: the file can't be written, or its name ends otherwise.
            MissingDependency: it is Parquet, and `pyarrow` isn't installed.
        """
        return exported(self.lines(), path)

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self._store.run(sql, (self._store.job, *values))

    def _leased(self, most: int) -> list[Row | Malformed]:
        """Lease rows: those that are due, and those whose lease or whose wait has run out."""
        now = time.time()
        leased = list[tuple[Any, ...]]()
        for which, values in zip(_DUE, ((), (now, self.worker)), strict=True):
            leased = leased or self._store.run(
                "update moa_rows set state = 'leased', worker = ?, until = ?, "
                "deaths = deaths + case when state = 'leased' then 1 else 0 end "
                "where job = ? and key in (select key from moa_rows where job = ? and gone = 0 "
                f"and {which} and deaths < ? "
                f"order by state, place limit ?{self._store.skip_locked}) "
                "returning key, given, failures",
                (
                    *(self.worker, now + self._lease_s, self._store.job, self._store.job),
                    *(*values, _MAX_DEATHS, most),
                ),
            )
        found = list[Row | Malformed]()
        for key, given, failures in leased:
            self._failures[key] = failures
            found.append(_read(given, key, self._journal(key)))
        return sorted(found, key=lambda row: row.number)

    def _journal(self, key: str) -> Journal:
        store = self._store

        async def keep(call: str, record: str) -> None:
            insert = (
                "insert into moa_calls (job, key, call, record) values (?, ?, ?, ?) "
                "on conflict do nothing"
            )
            await store.beside(lambda: store.run(insert, (store.job, key, call, record)))

        kept = self._rows("select call, record from moa_calls where job = ? and key = ?", key)
        return Journal(key, dict(cast("list[tuple[str, str]]", kept)), write=keep)

    def _unfinished(self) -> bool:
        # Those of an earlier run of this job, and those whose lease was told to nobody, since the
        # connection was lost then.
        held = "select key from moa_rows where job = ? and worker = ? and state = 'leased'"
        for (key,) in self._rows(held, self.worker):
            if key not in self._failures:
                self._give_back(key)
        self._free_the_dead()
        hopeless = (
            "update moa_rows set state = 'dead', cause = 'ProcessDied', worker = null "
            "where job = ? and (state = 'due' or (state = 'leased' and until < ?)) and deaths >= ?"
        )
        self._rows(hopeless, time.time(), _MAX_DEATHS)
        left = "job = ? and gone = 0 and state in ('due', 'leased', 'failed')"
        return bool(self._rows(f"select 1 from moa_rows where {left} limit 1"))

    def _free_the_dead(self) -> None:
        """Free what processes of this machine held that are gone: nobody need wait for that."""
        held = "select distinct worker from moa_rows where job = ? and state = 'leased'"
        for (worker,) in self._rows(held):
            host, pid, began, _ = worker.split("|")
            if host != socket.gethostname():
                continue
            with suppress(psutil.Error):
                # It is reckoned from when the machine started, which moves as its clock is set.
                if abs(psutil.Process(int(pid)).create_time() - float(began)) < _CLOCK_S:
                    continue
            free = (
                "update moa_rows set state = 'due', worker = null, deaths = deaths + 1 "
                "where job = ? and worker = ? and state = 'leased'"
            )
            self._rows(free, worker)

    async def _renew(self) -> None:
        renew = "update moa_rows set until = ? where job = ? and worker = ? and state = 'leased'"
        while True:
            await asyncio.sleep(self._lease_s / 3)
            values = (time.time() + self._lease_s, self._store.job, self.worker)
            with suppress(StoreError):  # what is done next says so too, unless it has passed
                await self._store.beside(lambda: self._store.run(renew, values))  # noqa: B023


def _is_address(store: str | Path) -> bool:
    return str(store).startswith(("postgresql://", "postgres://"))


def _written(row: Row | Malformed) -> str:
    if isinstance(row, Malformed):
        return dumped({"number": row.number, "error": row.error, "raw": row.raw})
    return dumped({"number": row.number, "id": row.id, "value": row.value})


def _read(given: str, key: str, journal: Journal) -> Row | Malformed:
    values = json.loads(given)
    if "error" in values:
        return Malformed(**values, key=key)
    return Row(**values, key=key, journal=journal)


class _Seen:
    """Keys of the rows that were read, in a file: a million would take 100 MB of memory."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None)
        self._file.execute("create table seen (key text primary key, count int) without rowid")
        self._file.execute("begin")

    def key(self, row: Row | Malformed) -> str:
        """Give the key of a row: its id, its content, and which of its copies it is."""
        found = f"{digest_of(row.id).hex()}/{digest_of(row.input).hex()}"
        add = (
            "insert into seen values (?, 1) on conflict do update set count = count + 1 "
            "returning count"
        )
        ((count,),) = self._file.execute(add, (found,)).fetchall()
        return f"{found}/{count}"

    def __contains__(self, key: object) -> bool:
        found, _, copy = str(key).rpartition("/")
        there = self._file.execute("select count from seen where key = ?", (found,)).fetchone()
        return there is not None and int(copy) <= there[0]

    def close(self) -> None:
        """Drop the file."""
        self._file.close()


class _Store(Protocol):
    """A database. `?` stands for a value, and the first is the job where `_rows` asks."""

    job: str
    where: str
    skip_locked: str

    def open(self) -> None: ...
    def close(self) -> None: ...
    def run(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]: ...
    def many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        """Run one statement for each of some values, which follow the job."""
        ...

    def each(self, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """Read rows one by one; the job is the first value."""
        ...

    async def beside(self, work: Callable[[], T]) -> T:
        """Do something with it without holding up the event loop for long."""
        ...


class _SQLite:
    """A file in a folder of this machine. Each statement takes some 50 µs, so it is not awaited."""

    job, skip_locked = "job", ""

    def __init__(self, folder: Path, graph: str | None) -> None:
        self.where = str(folder)
        self._folder = folder
        self._makes = graph is not None
        self._lock = threading.RLock()

    def open(self) -> None:
        path = self._folder / "job.sqlite"
        if not self._makes and not path.exists():
            raise ConfigError(f"there is no job in {self._folder}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(
                path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            path.chmod(0o600)
            self._use_wal()
            self._file.execute("pragma synchronous = normal")
            for table in _TABLES.split(";"):
                self._file.execute(table)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"the job in {self._folder} can't be opened: {error}") from error

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

    def run(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
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
            raise StoreError(
                f"the job in {self._folder} can't be written or read: {error}. Free the disk, and "
                "start it again: what is done is kept"
            ) from error


class _Postgres:
    """A database that many machines share. One that is away for a while is waited for."""

    skip_locked = " for update skip locked"

    def __init__(self, address: str) -> None:
        self._address, _, name = address.partition("#")
        self.job = name or "job"
        self.where = f"the database, called {self.job!r}"  # an address may hold a password
        self._lock = threading.RLock()

    def open(self) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise MissingDependency(
                "psycopg", extra="postgres", purpose="to keep a job in Postgres"
            ) from error
        try:
            self._connect()
            with self._file.transaction():
                # Two that make the tables at the same moment would fail by each other.
                self._file.execute("select pg_advisory_xact_lock(7012023)")
                for table in _TABLES.split(";"):
                    self._file.execute(cast("Any", table))
        except psycopg.Error as error:
            raise ConfigError(f"the database of the job can't be used: {error}") from error

    def _connect(self) -> None:
        import psycopg

        self._file: psycopg.Connection[Any]
        self._file = psycopg.connect(self._address, autocommit=True, connect_timeout=10)

    def close(self) -> None:
        self._file.close()

    def run(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        return self._again(lambda: self._run(sql, values))

    def _run(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        cursor = self._file.execute(cast("Any", sql.replace("?", "%s")), values)
        return cursor.fetchall() if cursor.description else []

    def many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        rows = [(self.job, *one) for one in values]

        def work() -> None:
            with self._file.transaction(), self._file.cursor() as cursor:
                cursor.executemany(cast("Any", sql.replace("?", "%s")), rows)

        self._again(work)

    def each(self, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
        import psycopg

        with (
            self._lock,
            self._told(psycopg.Error),
            self._file.transaction(),
            self._file.cursor(name=f"moa_{secrets.token_hex(4)}") as cursor,
        ):
            cursor.execute(cast("Any", sql.replace("?", "%s")), (self.job, *values))
            yield from cursor

    async def beside(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)

    def _again(self, work: Callable[[], T]) -> T:
        """Do it, and again where the connection was lost: what is written is so by its key."""
        import psycopg

        with self._lock, self._told(psycopg.Error):
            for tried in range(6):
                try:
                    return work()
                except psycopg.OperationalError as error:
                    if tried == 5:
                        raise StoreError(f"the database of the job is away: {error}") from error
                    time.sleep(min(2.0**tried, 10.0))
                    with suppress(psycopg.Error):
                        self._connect()
        raise AssertionError("it returns or raises")

    @contextmanager
    def _told(self, kind: type[Exception]) -> Generator[None]:
        try:
            yield
        except kind as error:
            raise StoreError(f"the database of the job can't be used: {error}") from error
