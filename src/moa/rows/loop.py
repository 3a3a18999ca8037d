"""Loop: works through the due rows, and stores their finished calls, so that none is paid twice.

`RowFile` keeps lines in a file, `moa.rows.jobs.Job` rows in a database. Either gives the rows
that are due, each with the finished calls of an earlier try, and takes what became of them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Literal, Never, Protocol, TypeVar

from moa.core.batch import (
    Item,
    MalformedLine,
    Progress,
    Row,
    enumerate_inputs,
    map_rows,
    refusal_of,
)
from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    InputError,
    NotResumable,
    RequestRefused,
    StoreError,
)
from moa.core.journal import Journal, Key, list_causes
from moa.core.node import Node
from moa.rows._stores import Store

Out = TypeVar("Out")
Fate = Literal["done", "due", "failed", "dead"]
"""State of a row after a try. A `dead` row fails at every try."""
CALLS = """
create table if not exists moa_calls (
    job text not null, key text not null, call text not null, record text not null,
    primary key (job, key, call))
"""
"""The table that `Calls` needs."""
_OF_THE_RUN = (BudgetExceeded, DeadlineExceeded, RequestRefused, StoreError)
"""Errors that may have ended the whole run: the last two, if the key that pays can't be used."""
_logger = logging.getLogger(__name__)
_LATE_S = 0.05
"""Flush interval: a finished call is written after this delay, or before the row's next call."""


class Ledger(Protocol):
    """Stores the results of rows."""

    async def take(self, item: Item[object], context: RunContext, /) -> None:
        """Store the result: it is on disk when this returns."""
        ...


async def work_through(
    ledger: Ledger | None,
    node: Node[Never, Out],
    rows: Iterable[Row | MalformedLine] | AsyncIterable[Row | MalformedLine],
    context: RunContext,
    *,
    max_concurrency: int = 8,
    progress: Progress = False,
) -> AsyncGenerator[Item[Out]]:
    """Work on the due rows, and yield the result of each once it is stored.

    Once `context.ended_by` is set no more rows are taken; rows that made no call stay due.

    Args:
        ledger: The file or the job that gave the rows; `None`: nothing is stored.
        node, rows, context, max_concurrency, progress: See `moa.core.batch.map_rows`.

    Raises:
        MoaError: results can't be stored; earlier ones stay.
    """
    due = _take_until_end(rows, context)
    mapped = map_rows(node, due, context, max_concurrency=max_concurrency, progress=progress)
    async with aclosing(mapped) as items:
        async for item in items:
            if item.error is not None and item.error is context.ended_by:
                continue
            if ledger is not None:
                await ledger.take(item, context)
            yield item


async def _take_until_end(
    rows: Iterable[Row | MalformedLine] | AsyncIterable[Row | MalformedLine], context: RunContext
) -> AsyncGenerator[Row | MalformedLine]:
    """Yield rows until the run ends."""
    async with aclosing(enumerate_inputs(rows)) as numbered_rows:
        async for _, row in numbered_rows:
            yield row
            if context.ended_by is not None:
                return


def fate_of(item: Item[object], context: RunContext) -> Fate:
    """Return a row's state: due if the limit of the whole run ended it."""
    error = item.error
    if error is None:
        return "done"
    ended = any(isinstance(cause, _OF_THE_RUN) for cause in list_causes(error))
    ended = ended or (context.ended_by is not None and refusal_of(error) is not None)
    if ended and context.is_used_up:
        return "due"
    return "dead" if isinstance(error, InputError | NotResumable) else "failed"


def _retrieve(writing: asyncio.Task[None]) -> None:
    """Retrieve an error that nobody asks for any more, since `close` has written the same calls."""
    if not writing.cancelled():
        writing.exception()


class RowJournal(Journal):
    """Stored calls of one row. A run is charged for them only when they are made."""

    charges_all = False

    def __init__(self, name: str, kept: Mapping[str, str], calls: Calls) -> None:
        self._calls = calls
        super().__init__(name, kept)
        self.unwritten: dict[Key | str, Callable[[], str]] = {}
        self.is_written = bool(kept)
        """True if some of them may be on disk."""

    def lose(self, key: str, fault: Exception, *, may_repeat: bool = True) -> None:
        """Drop an unreadable record, so that the call is made again, and replaces it."""
        if not may_repeat:
            super().lose(key, fault, may_repeat=False)
        self.kept.pop(key, None)
        self._calls.count_lost(fault)

    async def keep(self, key: str, record: str) -> None:
        """Store a record: it is on disk before the next call is made, or a little later."""
        self.unwritten[key] = lambda: record
        self._calls.write_later(self)

    async def keep_call(self, key: Key, record: Callable[[], str]) -> None:
        """Store a finished call, as `keep` does."""
        self.unwritten[key] = record
        self._calls.write_later(self)

    async def flush(self) -> None:
        """Write the unwritten records."""
        if self.unwritten:
            await self._calls.write([self])


class Calls:
    """Stores the finished calls of rows that aren't done, in the table `moa_calls`.

    A row with one call is usually done before the call is written, so nothing is written for it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._in_hand: dict[str, RowJournal] = {}
        self._late: dict[str, RowJournal] = {}
        self._later: dict[str, RowJournal] = {}
        """Rows to write at the next tick of the timer, and at the one after it."""
        self._turn = threading.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self.lost = 0
        """Number of unreadable calls so far, which are made again."""

    def journals(self, keys: Sequence[str]) -> list[RowJournal]:
        """Return the journals of the next rows."""
        records = {key: dict[str, str]() for key in keys}
        if not self._store.is_new:
            placeholders = ", ".join("?" * len(keys))
            query = (
                f"select key, call, record from moa_calls where job = ? and key in ({placeholders})"
            )
            for key, call, record in self._store.run(query, self._store.job, *keys):
                records[key][call] = record
        journals = [RowJournal(key, records[key], self) for key in keys]
        self._in_hand |= zip(keys, journals, strict=True)
        return journals

    def settle(self, key: str, fate: Fate) -> None:
        """Drop the calls of a finished row, or keep them for its next try."""
        journal = self._in_hand.get(key)
        if fate in ("due", "failed"):
            if journal is not None and journal.unwritten:
                self._write([journal])
        else:
            self._drop(key, journal)
        self._in_hand.pop(key, None)  # last, since this is called again if the store was held
        self._forget(key)

    def _drop(self, key: str, journal: RowJournal | None) -> None:
        with self._turn:
            if journal is not None:
                journal.unwritten.clear()  # or what is just about to write them would do so
            if journal is None or journal.is_written:
                drop = "delete from moa_calls where job = ? and key = ?"
                self._store.run(drop, self._store.job, key)

    def count_lost(self, fault: Exception) -> None:
        """Count an unreadable call; the first time, log a warning."""
        self.lost += 1
        if self.lost == 1:
            _logger.warning(
                "what is kept of a finished call can't be read (%s): such calls are made again",
                str(fault).splitlines()[0],
            )

    def write_later(self, journal: RowJournal) -> None:
        """Write a row's finished calls within `_LATE_S`, unless the row is done by then."""
        self._check()
        if journal.name not in self._late:
            self._later[journal.name] = journal
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LATE_S, self._write_late)

    async def write(self, journals: Sequence[RowJournal]) -> None:
        """Write the finished calls of rows; raise a `StoreError` if that fails."""
        self._check()
        await self._store.when_free(lambda: self._write(journals))

    def close(self) -> None:
        """Write the finished calls of unfinished rows, for the next run."""
        if self._timer is not None:
            self._timer.cancel()
        journals, self._timer, self._writing = [*self._in_hand.values()], None, None
        self._write(journals)
        self._in_hand.clear()

    def _write_late(self) -> None:
        self._timer = None
        if self._writing is None or self._writing.done():
            journals, self._late, self._later = [*self._late.values()], self._later, {}
            if journals:
                self._check()
                self._writing = asyncio.ensure_future(self.write(journals))
                self._writing.add_done_callback(_retrieve)
        if self._late or self._later:
            self._timer = asyncio.get_running_loop().call_later(_LATE_S, self._write_late)

    def _forget(self, name: str) -> None:
        self._late.pop(name, None)
        self._later.pop(name, None)

    def _check(self) -> None:
        """Raise the error of a write in the background."""
        if self._writing is not None and self._writing.done():
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, journals: Sequence[RowJournal]) -> None:
        with self._turn:
            pending = [(journal, [*journal.unwritten.items()]) for journal in journals]
            records = [
                (journal.name, str(key), dump())
                for journal, calls in pending
                for key, dump in calls
            ]
            if not records:
                return
            for journal in journals:
                journal.is_written = True
            self._store.execute_many(
                "insert into moa_calls (job, key, call, record) values (?, ?, ?, ?) "
                "on conflict (job, key, call) do update set record = excluded.record",
                records,
            )
            for journal, calls in pending:
                for key, _ in calls:
                    journal.unwritten.pop(key, None)
                if not journal.unwritten:
                    self._forget(journal.name)
