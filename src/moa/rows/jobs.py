"""Jobs: rows processed until all are done, over days, restarts and several processes.

A job is stored in a database: SQLite in a folder, or Postgres. It holds the rows by id and content,
the process that works on each, its result, and the finished calls of unfinished rows. A process
that dies leaves only leases, which expire.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import aclosing, closing, suppress
from functools import cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil

from moa.adapters.sqlite import SQLite, SQLRow
from moa.core._async import cancel
from moa.core._files import dump_json
from moa.core.batch import Item, JobStatus, MalformedLine, Progress, Row, RowState
from moa.core.context import RunContext
from moa.core.errors import ConfigError, ProcessDied, StoreError
from moa.core.node import Node
from moa.rows._stores import Postgres, Store, is_address
from moa.rows.index import RowIndex
from moa.rows.loop import CALLS, Calls, Fate, RowJournal, fate_of, work_through
from moa.rows.records import damaged_line, format_row, line, name_of, read_line, read_row
from moa.rows.tables import export_lines
from moa.rows.where import Where

T = TypeVar("T")
TRIES = 3
"""Number of failures after which a row is dead."""
_RETRY_S = 5.0
"""Seconds until a failed row is tried again, doubled each time."""
_MAX_DEATHS = 20
"""Number of processes that may die while working on a row; then the row is blamed."""
_WAIT_S = 0.5
_MADE_S = 2.0
"""Seconds within which a process that creates a job's file must have written to it."""
_BATCH = 1000
"""Rows added in one transaction."""
_TABLES = """
create table if not exists moa_jobs (job text primary key, graph text not null);
create table if not exists moa_workers (
    job text not null, worker text not null, until double precision not null,
    steady double precision not null, primary key (job, worker));
create table if not exists moa_rows (
    job text not null, key text not null, place bigint not null, given text not null,
    state text not null default 'due', gone int not null default 0,
    failures int not null default 0, deaths int not null default 0,
    worker text, until double precision not null default 0,
    line text, cause text, calls bigint not null default 0,
    cost double precision not null default 0, llm int not null default 0,
    primary key (job, key));
create table if not exists moa_cancelled (job text primary key);
create index if not exists moa_rows_due on moa_rows (job, place) where state = 'due' and gone = 0;
create index if not exists moa_rows_leased on moa_rows (job, worker) where state = 'leased';
create index if not exists moa_rows_failed on moa_rows (job, until)
    where state = 'failed' and gone = 0
"""
_DUE = ("state = 'due'", "state = 'failed' and (until < ? or until > ?)")
"""Conditions of the rows to lease: the second applies if no row meets the first. An `or` would use
no index."""


_ended_workers: set[str] = set()
"""Workers of this process that have ended. With a full disk they can't record it."""


class Job:
    """Rows that one or more processes work on until all are done.

        with Job("nightly", graph="support") as job:
            job.add(rows.read("inbox.jsonl"))
            await job.run(graph)
            job.export(Path("done.jsonl"))

    Args:
        store: A folder, which holds `job.sqlite`; or `postgresql://USER@HOST/DATABASE#NAME`, the
            address of a database and the name of the job in it.
        graph: Name of the graph to run; `None`: the one that the job was begun with.

    Raises:
        ConfigError: on entering: there is no such job and no `graph`, it was begun with another
            graph, or the store can't be used.
        MissingDependency: the store is Postgres, and its client isn't installed.
    """

    lease_s = 60.0
    """Seconds after which the rows of a process that died or lost its network go to others. A live
    process renews its leases three times as often."""

    def __init__(self, store: str | Path, *, graph: str | None = None) -> None:
        self._folder = None if is_address(store) else Path(store)
        self._store: Store
        if self._folder is None:
            self._store = Postgres(str(store), f"{_TABLES};{CALLS}")
        else:
            path, description = self._folder / "job.sqlite", f"the job in {store}"
            tables, may_only_read = f"{_TABLES};{CALLS}", graph is None
            self._store = SQLite(path, tables, what=description, may_only_read=may_only_read)
        self._calls = Calls(self._store)
        self._graph = graph
        self.worker = f"{_machine()}|{os.getpid()}|{secrets.token_hex(4)}"
        """Identifies this worker: its machine, its process, and a random part."""
        self.not_given = 0
        """Number of rows that the last `add` lacked, but that stay since other processes work on
        the job."""
        self._failures: dict[str, int] = {}
        """Number of failures of each row leased to this process."""
        self._turn = threading.Lock()
        """Held while a thread uses the database, so that memory and disk agree."""
        self._renewing: threading.Thread | None = None
        """Thread that renews the leases of this process."""
        self._over = threading.Event()

    @property
    def lost(self) -> int:
        """Number of damaged finished calls, which are made again."""
        return self._calls.lost

    @property
    def where(self) -> str:
        """Location of the store, for messages, without the password of a database URL."""
        return self._store.where

    def __enter__(self) -> Self:
        if self._folder:
            _check_file(self._folder / "job.sqlite", is_begun=self._graph is None)
        self._store.open()
        try:
            jobs = self._rows("select graph from moa_jobs where job = ?")
            if jobs and self._graph not in (None, jobs[0][0]):
                raise ConfigError(
                    f"the job in {self.where} was begun with the graph {jobs[0][0]!r}, and "
                    f"not with {self._graph!r}: run that one, or name another job"
                )
            if not jobs:
                if self._graph is None:
                    raise ConfigError(f"there is no job in {self.where}")
                insert = "insert into moa_jobs (job, graph) values (?, ?) on conflict do nothing"
                self._rows(insert, self._graph)
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
        """Release unfinished rows, and close the database."""
        self._over.set()
        try:
            if self._renewing is not None:
                _ended_workers.add(self.worker)
                self._renewing.join()
                self._release()
                self._rows("delete from moa_workers where job = ? and worker = ?", self.worker)
        finally:
            self._store.close()

    def add(self, inputs: Iterable[Row | MalformedLine], *, all_rows: bool = True) -> int:
        """Add rows. Rows already there, with the same id and content, stay as they are.

        If another process works on the job, rows that are missing here stay in it even with
        `all_rows`, since they may be that process's input.

        Args:
            inputs: The rows. Each copy of a row counts.
            all_rows: True if these are all the rows. Other rows of the job are then left out of it
                and of its export until they are added again.

        Returns:
            Number of rows read.

        Raises:
            StoreError: the store, or the folder of temporary files, can't be written.
        """
        insert = (
            "insert into moa_rows (job, key, place, given) values (?, ?, ?, ?) "
            "on conflict (job, key) do update set "
            "place = excluded.place, given = excluded.given, gone = 0 "
            "where moa_rows.place <> excluded.place or moa_rows.gone <> 0 "
            "or moa_rows.given <> excluded.given"  # that is so if it was damaged
        )
        self._start_renewing()
        iterator, count = iter(inputs), 0
        with closing(RowIndex()) as seen:
            while batch := list(islice(iterator, _BATCH)):
                numbered = enumerate(batch, start=count + 1)
                rows = [
                    (seen.add(name_of(row.id, row.input)), number, format_row(row))
                    for number, row in numbered
                ]
                self._store.execute_many(insert, rows)
                count += len(batch)
            if all_rows:
                self._leave_out(seen)
        return count

    def _leave_out(self, seen: RowIndex) -> None:
        """Drop rows that were not seen, unless other processes work on the job."""
        self._free_the_dead()
        query = (
            "select key from moa_rows where job = ? and gone = 0 and key > ? order by key limit ?"
        )
        update = "update moa_rows set gone = 1 where job = ? and key = ?"
        last, self.not_given = "", 0
        other_workers = self._list_others()
        while keys := [key for (key,) in self._rows(query, last, _BATCH)]:
            last = keys[-1]
            lacking = [(key,) for key in keys if key not in seen]
            if other_workers:
                self.not_given += len(lacking)
            elif lacking:
                self._store.execute_many(update, lacking)

    async def run(
        self,
        node: Node[Any, object],
        context: RunContext | None = None,
        *,
        max_concurrency: int = 8,
        progress: Progress = False,
    ) -> JobStatus:
        """Process rows until none is left, the job is cancelled, or a limit of the run is reached.

        Args:
            node: Node to run on each row.
            context: Budget, deadline and ledger for all rows of this process.
            max_concurrency: Maximum number of rows processed at once.
            progress: See `moa.core.batch.map_rows`.

        Raises:
            StoreError: the store fails; finished rows are kept.
        """
        context = context or RunContext(keep_notes=False)
        left = self.left(context, at_once=max_concurrency)
        work = work_through(
            self, node, left, context, max_concurrency=max_concurrency, progress=progress
        )

        async def work_on() -> None:
            async with aclosing(work) as items:
                async for _ in items:
                    pass

        tasks = [asyncio.ensure_future(work_on()), asyncio.ensure_future(self._until_cancelled())]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel(tasks)
        for task in ended:
            task.result()
        await self._run_locked(self._release)  # of a cancelled job
        return await self._run_locked(self.status)

    async def _until_cancelled(self) -> None:
        while not await self._run_locked(self._is_cancelled):  # noqa: ASYNC110  another process's
            await asyncio.sleep(_WAIT_S)

    async def left(
        self, context: RunContext, *, at_once: int = 8
    ) -> AsyncGenerator[Row | MalformedLine]:
        """Lease rows to this process and yield them, until none is left or the job is cancelled.

        It waits for rows that other processes work on: if one fails, or its process dies, the row
        is yielded here. A row's `journal` has the calls already paid for.

        Args:
            context: Context of the run. Once its budget or time is used up, no more rows are
                yielded.
            at_once: Number of rows leased together.
        """
        self._failures.clear()
        await self._run_locked(self._begin)
        while not context.is_used_up:
            leased = await self._run_locked(lambda: self._lease(at_once))
            for row in leased:
                if await self._run_locked(self._is_cancelled):
                    return
                yield row
            if not leased:
                if not await self._run_locked(self._may_go_on):
                    return
                await asyncio.sleep(_WAIT_S)

    async def take(self, item: Item[object], context: RunContext) -> None:
        """Store the result of a row. It is on disk when this returns.

        A failed row is tried again later, unless the row itself is at fault. If a limit of the
        whole run ended it, it is due again.
        """
        fate = fate_of(item, context)
        await self._run_locked(lambda: self._settle(item, fate))

    def _settle(self, item: Item[object], fate: Fate) -> None:
        failures = self._failures.get(item.key, 0)
        if fate == "failed":
            failures += 1
            fate = "dead" if failures >= TRIES else "failed"
        if fate == "due":
            self._give_back(item.key)
        else:
            wait_s = _RETRY_S * 2 ** (failures - 1)
            # If its lease expired meanwhile, the row may be another's, or done. Then a failure
            # here says nothing about it, and the first result stays.
            self._store.run(
                "update moa_rows set worker = null, state = ?, failures = ?, until = ?, line = ?, "
                "cause = ?, calls = ?, cost = ?, llm = ? where job = ? and key = ? "
                "and (worker = ? or (cast(? as text) = 'done' and state <> 'done'))",
                *(fate, failures, self._store.now() + wait_s if fate == "failed" else 0.0),
                *(dump_json(line(item)), item.error and type(item.error).__name__),
                *(item.usage.total.calls, float(item.usage.cost or 0), int(item.needed_llm)),
                *(self._store.job, item.key, self.worker, fate),
            )
        self._calls.settle(item.key, fate)
        self._failures.pop(item.key, None)  # last, since this is called again if the store was held

    def _release(self) -> None:
        """Write the finished calls of unfinished rows, and release these."""
        self._calls.close()
        self._give_back()

    def _give_back(self, key: str | None = None) -> None:
        """Release a row that this process has leased, or all of them."""
        update = (
            "update moa_rows set state = 'due', worker = null where job = ? and worker = ? "
            "and state = 'leased'"
        )
        if key is None:
            self._rows(update, self.worker)
        else:
            self._rows(f"{update} and key = ?", self.worker, key)

    def status(self) -> JobStatus:
        """Return the progress of the job."""
        groups = self._rows(
            "select state, cause, count(*), sum(calls), sum(cost), sum(llm) from moa_rows "
            "where job = ? and gone = 0 group by state, cause"
        )
        rows, causes = dict[RowState, int](), dict[str, int]()
        for state, cause, count, *_ in groups:
            rows[state] = rows.get(state, 0) + count
            if cause is not None and state in ("failed", "dead"):
                causes[cause] = causes.get(cause, 0) + count
        calls, cost, llm = (sum(group[column] for group in groups) for column in (3, 4, 5))
        return JobStatus(rows, int(calls), float(cost), int(llm), causes, self._is_cancelled())

    def cancel(self) -> None:
        """Stop the job in all processes that work on it, until `retry`.

        None begins another row. Rows in work are ended within a second where `run` works on them;
        finished calls are kept. Finished rows stay.
        """
        self._rows("insert into moa_cancelled (job) values (?) on conflict do nothing")

    def retry(self) -> int:
        """Make failed, dead and damaged rows due again, also of a cancelled job.

        Returns:
            Number of rows that are due again.
        """
        self._rows("delete from moa_cancelled where job = ?")
        query = "select key, line from moa_rows where job = ? and gone = 0 and line is not null"
        damaged = [
            key
            for key, line_json in self._store.iterate(query, self._store.job)
            if read_line(line_json) is None
        ]
        mark_dead = (
            "update moa_rows set state = 'dead' where job = ? and key = ? and state = 'done'"
        )
        self._store.execute_many(mark_dead, [(key,) for key in damaged])
        mark_due = (
            "update moa_rows set state = 'due', failures = 0, deaths = 0, until = 0 "
            "where job = ? and gone = 0 and state in ('failed', 'dead') returning key"
        )
        return len(self._rows(mark_due))

    def within(self, wait_s: float, work: Callable[[], T]) -> T:
        """Call a function that uses the job, and wait at most so long for who holds its store.

        Raises:
            StoreBusy: another program held it for longer.
        """
        return self._store.within(wait_s, work)

    def lines(self, *states: RowState) -> Generator[dict[str, Any]]:
        """Yield the lines of rows in input order, as `moa run --out` writes them.

        A damaged line is replaced by one with an `error`. Close it where you leave it early.

        Args:
            states: States of the rows to return; none: all rows processed so far.
        """
        clause = f" and state in ({', '.join('?' * len(states))})" if states else ""
        query = (
            "select line, given, place from moa_rows where job = ? and gone = 0 "
            f"and line is not null{clause} order by place"
        )
        with closing(self._store.iterate(query, self._store.job, *states)) as rows:
            for line_json, row_json, number in rows:
                yield read_line(line_json) or damaged_line(row_json, number)

    def export(self, path: Path, *, where: Iterable[str] = ()) -> int:
        """Write the lines of all processed rows to a file, completely or not at all.

        Args:
            path: A name that ends in `.jsonl`, `.csv`, `.parquet` or `.xlsx`, plus `.gz` to
                compress it. A table has the columns of the input, then those of the output. Nested
                values are JSON.
            where: Conditions on the lines, such as `kept` or `label=spam`; see `moa.rows.where`.

        Returns:
            Number of lines written.

        Raises:
            ConfigError: the file can't be written, its name has another ending, or `where` has an
                invalid condition.
            MissingDependency: the package for Parquet or Excel isn't installed.
        """
        conditions = Where.of(where)
        return export_lines(lambda: filter(conditions.matches, self.lines()), path)

    async def _run_locked(self, work: Callable[[], T]) -> T:
        def in_turn() -> T:
            with self._turn:
                return work()

        return await self._store.when_free(in_turn)

    def _rows(self, sql: str, *values: object) -> list[SQLRow]:
        """Run a statement whose first parameter is the job."""
        return self._store.run(sql, self._store.job, *values)

    def _lease(self, limit: int) -> list[Row | MalformedLine]:
        """Lease due rows, or else failed rows whose wait is over."""
        now = self._store.now()
        longest = now + _RETRY_S * 2**TRIES  # beyond it, the clock was set back
        leased = list[SQLRow]()
        for clause, values in zip(_DUE, ((), (now, longest)), strict=True):
            leased = leased or self._store.run(
                "update moa_rows set state = 'leased', worker = ? where job = ? and key in ("
                f"select key from moa_rows where job = ? and gone = 0 and {clause} and deaths < ? "
                f"order by place limit ?{self._store.skip_locked}) "
                "returning key, given, failures, place",
                *(self.worker, self._store.job, self._store.job, *values, _MAX_DEATHS, limit),
            )
        if not leased:
            return []
        journals = self._calls.journals([key for key, *_ in leased])
        self._failures |= {key: failures for key, _, failures, _ in leased}
        rows = [
            read_row(row_json, number, journal)
            for (_, row_json, _, number), journal in zip(leased, journals, strict=True)
        ]
        return sorted(rows, key=lambda row: row.number)

    def _begin(self) -> None:
        self._start_renewing()
        self._release()  # rows leased by an earlier run of this job
        self._rows(  # a process may have died after a row was done, before its calls were deleted
            "delete from moa_calls where job = ? and exists (select 1 from moa_rows where "
            "moa_rows.job = moa_calls.job and moa_rows.key = moa_calls.key and state = 'done')"
        )
        self._free_the_dead()

    def _is_cancelled(self) -> bool:
        return bool(self._rows("select 1 from moa_cancelled where job = ?"))

    def _may_go_on(self) -> bool:
        """Return True if rows are unfinished, and the job isn't cancelled."""
        # Release rows whose lease was never reported here, since the connection was lost.
        query = "select key from moa_rows where job = ? and worker = ? and state = 'leased'"
        for (key,) in self._rows(query, self.worker):
            if key not in self._failures:
                self._give_back(key)
        self._free_the_dead()
        unfinished = "select 1 from moa_rows where job = ? and gone = 0 and state = ? limit 1"
        return not self._is_cancelled() and any(
            self._rows(unfinished, state) for state in ("due", "leased", "failed")
        )

    def _start_renewing(self) -> None:
        """Record that this process is at work, now and while the job is open."""
        self._renew()
        if self._renewing is None:
            self._renewing = threading.Thread(
                target=self._keep_renewing, daemon=True, name="moa-job"
            )
            self._renewing.start()

    def _keep_renewing(self) -> None:
        while not self._over.wait(self.lease_s / 3):
            with suppress(StoreError):  # the next operation reports it, unless it has passed
                self._renew()

    def _renew(self) -> None:
        self._rows(
            "insert into moa_workers (job, worker, until, steady) values (?, ?, ?, ?) "
            "on conflict (job, worker) do update set until = excluded.until, "
            "steady = excluded.steady",
            *(self.worker, self._store.now() + self.lease_s, time.monotonic() + self.lease_s),
        )

    def _list_others(self) -> list[tuple[str, float, float]]:
        query = "select worker, until, steady from moa_workers where job = ? and worker <> ?"
        return [(worker, until, steady) for worker, until, steady in self._rows(query, self.worker)]

    def _free_the_dead(self) -> None:
        """Free the rows of dead processes. A row that too many processes died on becomes dead."""
        now = self._store.now()
        for worker, until, steady in self._list_others():
            machine, pid, _ = worker.split("|")
            is_local = machine == _machine()  # clocks may be reset, processes looked up
            is_late = steady < time.monotonic() if is_local else until < now
            if is_late or worker in _ended_workers or (is_local and not _is_alive(int(pid))):
                self._rows("delete from moa_workers where job = ? and worker = ?", worker)
        self._rows(
            "update moa_rows set state = 'due', worker = null, deaths = deaths + 1 "
            "where job = ? and state = 'leased' and worker <> ? "
            "and worker not in (select worker from moa_workers where job = ?)",
            *(self.worker, self._store.job),
        )
        query = (
            "select key, given, place from moa_rows where job = ? and state = 'due' and deaths >= ?"
        )
        for key, row_json, number in self._rows(query, _MAX_DEATHS):
            row = read_row(row_json, number, RowJournal(key, {}, self._calls))
            error = ProcessDied(f"{_MAX_DEATHS} processes died while they worked on it")
            item = Item[object](
                number=row.number, id=row.id, input=row.input, status="failed", error=error
            )
            self._store.run(
                "update moa_rows set state = 'dead', cause = ?, line = ? where job = ? "
                "and key = ? and state = 'due'",
                *(type(error).__name__, dump_json(line(item)), self._store.job, key),
            )


@cache
def _machine() -> str:
    """Return an id of this machine, its boot and its process namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # only Linux has them
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "/".join(parts)


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _check_file(path: Path, *, is_begun: bool) -> None:
    """Check that the file of a begun job exists, and that an existing file isn't empty."""
    if is_begun and not path.exists():
        raise ConfigError(f"there is no job in {path.parent}")
    give_up = time.monotonic() + _MADE_S
    while path.is_file() and not path.stat().st_size:  # it may be being written right now
        if time.monotonic() > give_up:
            raise ConfigError(
                f"{path} is empty (0 bytes): what was done in this job is lost, and would be paid "
                "for again. Bring the file back from a copy, or remove it to begin anew"
            )
        time.sleep(0.02)
