"""Ledger: spending and reservations of each key, shared by several processes.

A run reserves what its calls may cost before they are sent, so no number of runs, in any number of
processes, exceeds a limit. All amounts that a run reports are totals since it began, so reporting
one twice changes nothing. A day counts what was settled in it, and what is reserved at its end.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar

from moa.adapters.sqlite import SQLite, WouldWait
from moa.core.budget import Budget
from moa.core.errors import KeySpent, MoaError, RequestRefused, StoreBusy, StoreError
from moa.core.usage import Amount
from moa.rows._stores import Postgres, Store, is_address
from moa.serving.limits import KeyUsage, Limits, Name, Sums, spent_error

T = TypeVar("T")
LEASE_S = 30.0
"""Seconds of silence after which a process is taken to be dead. A live one reports three times as
often."""
BUSY_S = 5.0
"""Seconds that a request waits for a store that another program has locked."""
_ON_LOOP_S = 0.1
"""The same in synchronous code that runs on the event loop, which stands still meanwhile."""
_MINUTE_S = 60.0
_TABLES = """
create table if not exists moa_key_sums (
    job text not null, name text not null, period text not null, calls bigint not null,
    nano bigint not null, unpriced bigint not null, primary key (job, name, period));
create table if not exists moa_key_runs (
    job text not null, run text not null, name text not null, worker text not null,
    calls bigint not null default 0, nano bigint not null default 0,
    unpriced bigint not null default 0, held_calls bigint not null default 0,
    held_nano bigint not null default 0, stuck int not null default 0, primary key (job, run));
create index if not exists moa_key_runs_of on moa_key_runs (job, name);
create table if not exists moa_key_requests (
    job text not null, name text not null, number bigint not null, at double precision not null,
    primary key (job, name, number));
create table if not exists moa_key_workers (
    job text not null, worker text not null, until double precision not null,
    primary key (job, worker));
create table if not exists moa_key_answers (
    job text not null, name text not null, caller text not null, request text not null,
    worker text not null, until double precision not null, status int, headers text, body bytea,
    size bigint not null default 0, primary key (job, name));
create index if not exists moa_key_answers_until on moa_key_answers (job, until);
drop index if exists moa_key_answers_of;
drop index if exists moa_key_answers_sizes;
create index if not exists moa_key_answers_oldest on moa_key_answers (job, caller, until, size);
create table if not exists moa_key_answer_sums (
    job text not null, caller text not null, number bigint not null, size bigint not null,
    primary key (job, caller));
insert into moa_key_answer_sums (job, caller, number, size)
    select job, caller, count(*), sum(size) from moa_key_answers
    where not exists (select 1 from moa_key_answer_sums) group by job, caller
    on conflict (job, caller) do nothing;
create table if not exists moa_keys (
    job text not null, name text not null, sha256 text not null, settings text not null,
    primary key (job, name), unique (job, sha256))
"""
_logger = logging.getLogger(__name__)


class Grant(NamedTuple):
    """The answer to a run's request for more."""

    answer: Literal["granted", "wait", "spent", "gone"]
    """`wait`: runs in flight may give back what it needs. `spent`: there won't be enough, and the
    run gets what is left. `gone`: this process was taken to be dead, and the run was charged."""
    granted: Sums
    """Total that the run may use, including its usage so far."""
    most: Sums
    """Total that the run could be granted by further requests."""
    usage: KeyUsage
    """Usage of the key, without what the run itself has reserved."""
    short: frozenset[Name] = frozenset()
    """The limits that leave too little."""


class Ledger:
    """Spending and reservations of keys, in an SQLite file or in Postgres.

    A process reports that it is alive from its own thread. The reservations of a dead process are
    charged, since nobody knows what was billed.

    Args:
        address: A file, or `postgresql://USER@HOST/DATABASE#NAME`.
        lease_s: Seconds of silence after which a process is taken to be dead.
        clock: Returns the seconds since 1970; `None`: the clock of the store, which all processes
            share.

    Raises:
        ConfigError: on opening: the store can't be used.
        StoreError: the store fails later.
    """

    def __init__(
        self,
        address: str | Path,
        *,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.store: Store
        if is_address(address):
            self.store = Postgres(str(address), _TABLES, what="keys")
        else:
            self.store = SQLite(Path(address), _TABLES, what=f"the ledger {address}")
        self._lease_s = lease_s
        self.now = clock or self.store.now
        """Returns the time in seconds since 1970."""
        self.worker = f"{os.getpid()}-{secrets.token_hex(8)}"
        """Id of this process."""
        self._alive_at = 0.0
        self._judges_at = 0.0
        """Time from which other processes may be taken to be dead."""
        self.late: dict[str, Callable[[], object]] = {}
        """What the store has to be told, by an id, until that has succeeded."""
        self.answering = set[str]()
        """Names of the requests with an `Idempotency-Key` that this process works on."""
        self._catching_up = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "moa-ledger-store")
        """Nothing else is done there, so nothing of the store waits for anything else."""
        self._held_since = math.inf
        """When another program was first found to hold the store, by `time.monotonic`."""
        self._pending = set[asyncio.Future[Any]]()
        self._over = threading.Event()
        self._heartbeat: threading.Thread | None = None

    def open(self) -> None:
        """Open the store."""
        self.store.open()

    def start_heartbeat(self) -> None:
        """Start to renew the lease of this process, and to charge what dead ones reserved."""
        self.renew()
        self._heartbeat = threading.Thread(target=self._beat, name="moa-ledger", daemon=True)
        self._heartbeat.start()

    def close(self) -> None:
        """Charge what this process still reserves, and close the store."""
        self._over.set()
        if self._heartbeat is not None:
            self._heartbeat.join()
            try:
                self.store.within(BUSY_S, self._leave)
            except MoaError as error:
                _logger.warning("the ledger of the keys could not be closed: %s", error)
        self.store.close()

    def _leave(self) -> None:
        self.catch_up()
        self._alive_at = 0.0
        self._run("delete from moa_key_workers where job = ? and worker = ?", self.worker)
        self.charge_the_dead()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def run(self, work: Callable[[], T], *, is_long: bool = False) -> T:
        """Call a function on the store: at once if it is free, else in a thread.

        Calls are made in order, and finish even if the waiting task is cancelled. A call that finds
        the store locked is made again, so whatever it has done by then has to be safe to repeat.

        Args:
            work: Function that uses the store.
            is_long: True if it reads or writes much, so that it is always called in a thread.

        Raises:
            StoreBusy: another program had locked the store for `BUSY_S`.
        """
        if isinstance(self.store, SQLite) and not is_long and not self._pending:
            with suppress(WouldWait):
                return self.store.at_once(work)  # faster than a thread
        came_at = time.monotonic()
        working = asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: self._run_within(work, came_at)
        )
        self._pending.add(working)
        working.add_done_callback(self._discard)
        return await asyncio.shield(working)

    def _run_within(self, work: Callable[[], T], came_at: float) -> T:
        """Call a function on the store in the ledger's thread."""
        begins_at, held_since = time.monotonic(), self._held_since
        # What has waited for others that waited for the store doesn't wait as long again.
        waited_s = max(begins_at - max(came_at, held_since), 0.0)
        self._held_since = math.inf
        try:
            return self.store.within(max(BUSY_S - waited_s, 0.0), work)
        except StoreBusy:
            self._held_since = min(held_since, begins_at)
            raise

    async def run_surely(
        self, id: str, work: Callable[[], object], *, is_long: bool = False
    ) -> None:
        """Do the same; if it fails, it is done again later, as long as this process lives.

        Args:
            id: Id under which it is in `late` until then.
            work, is_long: See `run`.
        """
        self.late[id] = work
        try:
            await self.run(lambda: self.do_late(id), is_long=is_long)
        except StoreError as error:
            _logger.warning("the ledger of the keys is told later: %s", error)

    def run_now(self, work: Callable[[], T]) -> T:
        """Call a function on the store from synchronous code; see `run`."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self.store.within(BUSY_S, work)
        return self.store.within(_ON_LOOP_S, work)

    def _discard(self, working: asyncio.Future[Any]) -> None:
        self._pending.discard(working)
        if not working.cancelled():
            working.exception()  # retrieve it, or asyncio reports it if nobody waits

    async def finish(self) -> None:
        """Wait for pending calls."""
        await asyncio.gather(*self._pending, return_exceptions=True)

    def is_alive(self, worker: str) -> bool:
        """Return True if a process has recently reported that it is alive."""
        query = "select 1 from moa_key_workers where job = ? and worker = ? and until > ?"
        return worker == self.worker or bool(self._run(query, worker, self.now()))

    def begin(self, name: str, limits: Limits, run: str) -> KeyUsage:
        """Begin a run if the key may; return the key's usage.

        Raises:
            KeySpent: a limit of the key is used up.
            RequestRefused: it has too many runs in a minute, or at once (429).
        """
        return self._retry_without_the_dead(
            name, lambda: self.store.atomically(lambda: self._begin(name, limits, run))
        )

    def check(self, name: str, limits: Limits) -> None:
        """Refuse a key that may begin no run at the moment. It only reads; `begin` decides.

        Raises:
            KeySpent: a limit of the key is used up.
            RequestRefused: it has too many runs in a minute, or at once (429).
        """
        self._retry_without_the_dead(name, lambda: self._check(name, limits))

    def _retry_without_the_dead(self, name: str, work: Callable[[], T]) -> T:
        """Try again what was refused, if dead processes had reserved something of the key."""
        try:
            return work()
        except (KeySpent, RequestRefused):
            if not self.charge_the_dead(name):
                raise
            return work()

    def reserve(
        self,
        run: str,
        name: str,
        limits: Limits,
        *,
        spent: Amount,
        granted: Budget,
        budget: Budget,
        may_settle: bool,
    ) -> Grant:
        """Reserve what a run needs, or tell why that fails.

        Args:
            run: Id of a run that was begun.
            name: Name of its key.
            limits: Current limits of the key.
            spent: Its usage so far.
            granted: Total granted so far, including its usage.
            budget: Total that it asks for.
            may_settle: True if one of its own calls may give something back meanwhile.
        """

        def work() -> Grant:
            return self._reserve(run, name, limits, spent, granted, budget, may_settle)

        grant = self.store.atomically(work)
        if grant.answer in ("wait", "spent") and self.charge_the_dead(name):
            grant = self.store.atomically(work)
        return grant

    def settle(self, run: str, spent: Amount) -> None:
        """End a run: charge its usage, and release the rest."""
        self.store.atomically(lambda: self._settle(run, Sums.of(spent)))

    def usage_of(self, name: str) -> KeyUsage:
        """Return the usage of a key."""
        return self.store.atomically(lambda: self._usage_of(name))

    def charge_the_dead(self, name: str | None = None) -> int:
        """Charge what dead processes reserved, for one key or all; return the number of runs.

        If this process itself could not report for so long, perhaps none could. Then the others
        have time to do so first.
        """
        now = self.now()
        if self._alive_at and now > self._alive_at + self._lease_s:
            self._renew_lease(now)
        if now < self._judges_at:
            return 0
        condition, value = ("", ()) if name is None else (" and one.name = ?", (name,))
        dead_runs = self._run(
            "select distinct one.run, one.name from moa_key_runs one where one.job = ? and "
            "not exists (select 1 from moa_key_workers w where w.job = one.job "
            f"and w.worker = one.worker and w.until > ?){condition}",
            *(now, *value),
        )
        for run, _ in dead_runs:
            self.store.atomically(lambda run=run: self._settle(run, None))
        if dead_runs:
            names = ", ".join(sorted({key for _, key in dead_runs}))
            message = (
                "a process died with %d runs in its hands: what they had set aside is charged: %s"
            )
            _logger.warning(message, len(dead_runs), names)
        return len(dead_runs)

    # The following methods run within a transaction.

    def _begin(self, name: str, limits: Limits, run: str) -> KeyUsage:
        self._lock(name)
        if self._run("select 1 from moa_key_runs where job = ? and run = ?", run):
            return self._usage_of(name)  # it was written, but then the connection was lost
        usage = self._check(name, limits)
        now = usage.at.timestamp()
        if limits.requests_per_minute is not None:
            self._count_request(name, limits.requests_per_minute, now)
        if now > self._alive_at + self._lease_s / 2:
            self._renew_lease(now)
        statement = "insert into moa_key_runs (job, run, name, worker) values (?, ?, ?, ?)"
        self._run(statement, run, name, self.worker)
        return usage

    def _check(self, name: str, limits: Limits) -> KeyUsage:
        """Check whether a key may begin a run, and return its usage."""
        usage = self._usage_of(name)
        # Reserved calls are made; reserved dollars may come back.
        used_up = usage.short_limits(limits, Sums(1, 1), Sums(usage.held.calls))
        if used_up:
            raise spent_error(name, limits, usage, used_up)
        if limits.requests_per_minute is not None:
            self._check_rate(name, limits.requests_per_minute, usage.at.timestamp())
        if limits.parallel is not None and usage.runs >= limits.parallel:
            raise RequestRefused(
                f"the key {name!r} has {usage.runs} runs in flight, and may have "
                f"{limits.parallel}: wait until one has ended",
                status=429,
                code="too_many_parallel",
                retry_after_s=1,
            )
        return usage

    def _last_request(self, name: str) -> int:
        """Return the number of the last request of a key; 0 if there was none."""
        query = "select coalesce(max(number), 0) from moa_key_requests where job = ? and name = ?"
        return int(self._run(query, name)[0][0])

    def _check_rate(self, name: str, limit: int, now: float) -> None:
        """Refuse a request if `limit` requests came within the last minute."""
        query = "select at from moa_key_requests where job = ? and name = ? and number = ?"
        rows = self._run(query, name, self._last_request(name) - limit + 1)
        wait_s = rows[0][0] + _MINUTE_S - now if rows else 0.0
        if 0 < wait_s <= _MINUTE_S:  # a clock that was set back delays nobody longer
            raise RequestRefused(
                f"the key {name!r} has sent the {limit} requests that it may in a minute: wait "
                f"{wait_s:.0f} seconds",
                status=429,
                code="rate_limit_exceeded",
                retry_after_s=wait_s,
            )

    def _count_request(self, name: str, limit: int, now: float) -> None:
        """Count a request, and forget those of which no limit asks any longer."""
        number = self._last_request(name) + 1
        statement = "insert into moa_key_requests (job, name, number, at) values (?, ?, ?, ?)"
        self._run(statement, name, number, now)
        statement = "delete from moa_key_requests where job = ? and name = ? and number <= ?"
        self._run(statement, name, number - limit)

    def _reserve(
        self,
        run: str,
        name: str,
        limits: Limits,
        spent: Amount,
        granted: Budget,
        budget: Budget,
        may_settle: bool,
    ) -> Grant:
        self._lock(name)
        rows = self._run(
            "select calls, nano, unpriced from moa_key_runs where job = ? and run = ?", run
        )
        sums = Sums.of(spent)
        if rows:
            self._book(name, sums.minus(Sums(*rows[0])))
        usage = self._usage_of(name, but=run)
        if not rows:
            return Grant("gone", Sums(), Sums(), usage)
        want, old_hold = Sums.of_budget(budget).minus(sums), Sums.of_budget(granted).minus(sums)
        short, free = usage.short_limits(limits, want, usage.held), usage.free(limits)
        answer, hold = "granted", want
        if short:
            # Reserved calls are made; reserved dollars may come back, but not from waiting runs.
            fixed_sums = Sums(usage.held.calls, usage.waiting.nano)
            can_wait = usage.working and not usage.short_limits(limits, want, fixed_sums)
            answer = "wait" if can_wait else "spent"
            rest = free if answer == "spent" else Sums()
            hold = Sums(
                max(old_hold.calls, min(want.calls, rest.calls)),
                max(old_hold.nano, min(want.nano, rest.nano)),
            )
        hold = Sums(max(hold.calls, 0), max(hold.nano, 0))
        self._run(
            "update moa_key_runs set calls = ?, nano = ?, unpriced = ?, held_calls = ?, "
            "held_nano = ?, stuck = ? where job = ? and run = ?",
            *(*sums, hold.calls, hold.nano, int(answer == "wait" and not may_settle)),
            *(self.store.job, run),
            job_first=False,
        )
        return Grant(answer, sums.plus(hold), sums.plus(free), usage, frozenset(short))

    def _settle(self, run: str, sums: Sums | None) -> None:
        """End a run. With `None`, all that it has reserved counts as used."""
        names = self._run("select name from moa_key_runs where job = ? and run = ?", run)
        if not names:
            return
        name = str(names[0][0])
        self._lock(name)
        rows = self._run(
            "delete from moa_key_runs where job = ? and run = ? "
            "returning calls, nano, unpriced, held_calls, held_nano",
            run,
        )
        for calls, nano, unpriced, held_calls, held_nano in rows:
            booked_sums = Sums(calls, nano, unpriced)
            self._book(
                name, Sums(held_calls, held_nano) if sums is None else sums.minus(booked_sums)
            )

    def _lock(self, name: str) -> None:
        """Lock a key for this transaction; SQLite locks the whole file anyway."""
        if not isinstance(self.store, SQLite):
            lock_name = f"moa.keys/{self.store.job}/{name}"
            self.store.run("select pg_advisory_xact_lock(hashtextextended(?, 0))", lock_name)

    def _book(self, name: str, sums: Sums) -> None:
        """Add to a key's spending of this day and this month."""
        if sums == Sums():
            return
        day, month = _periods(self.now())
        self._run(
            "insert into moa_key_sums (job, name, period, calls, nano, unpriced) "
            "values (?, ?, ?, ?, ?, ?), (?, ?, ?, ?, ?, ?) "
            "on conflict (job, name, period) do update set "
            "calls = moa_key_sums.calls + excluded.calls, "
            "nano = moa_key_sums.nano + excluded.nano, "
            "unpriced = moa_key_sums.unpriced + excluded.unpriced",
            *(name, day, *sums, self.store.job, name, month, *sums),
        )

    def _usage_of(self, name: str, *, but: str = "") -> KeyUsage:
        """Return the usage of a key, without the reservations of the run `but`."""
        now = self.now()
        day, month = _periods(now)
        sums = {
            period: Sums(*sums)
            for period, *sums in self._run(
                "select period, calls, nano, unpriced from moa_key_sums where job = ? "
                "and name = ? and period in (?, ?)",
                *(name, day, month),
            )
        }
        calls, nano, runs, waiting, working = map(
            int,
            self._run(
                "select coalesce(sum(held_calls), 0), coalesce(sum(held_nano), 0), count(*), "
                "coalesce(sum(stuck * held_nano), 0), "
                "coalesce(sum(case when stuck = 0 and held_nano > 0 then 1 else 0 end), 0) "
                "from moa_key_runs where job = ? and name = ? and run <> ?",
                *(name, but),
            )[0],
        )
        held_sums, waiting_sums = Sums(calls, nano), Sums(0, waiting)
        day_sums, month_sums = sums.get(day, Sums()), sums.get(month, Sums())
        moment = datetime.fromtimestamp(now, UTC)
        return KeyUsage(moment, day_sums, month_sums, held_sums, waiting_sums, runs, working)

    def _renew_lease(self, now: float) -> None:
        self._run(
            "insert into moa_key_workers (job, worker, until) values (?, ?, ?) "
            "on conflict (job, worker) do update set until = excluded.until",
            *(self.worker, now + self._lease_s),
        )
        if self._alive_at and now > self._alive_at + self._lease_s:
            self._judges_at = now + self._lease_s
        self._alive_at = now

    def _run(self, sql: str, *values: object, job_first: bool = True) -> list[tuple[Any, ...]]:
        first = (self.store.job,) if job_first else ()
        return self.store.run(sql, *first, *values)

    # The following methods run in the heartbeat thread.

    def _beat(self) -> None:
        while not self._over.wait(self._lease_s / 3):
            try:
                self.store.within(BUSY_S, self.renew)
            except MoaError as error:
                _logger.warning("the ledger of the keys: %s", error)

    def renew(self) -> None:
        """Renew the lease of this process, do what is late, and charge dead processes."""
        self._renew_lease(self.now())
        self.catch_up()
        self.charge_the_dead()
        self._run(
            "delete from moa_key_workers where job = ? and until < ? and not exists (select 1 "
            "from moa_key_runs r where r.job = moa_key_workers.job "
            "and r.worker = moa_key_workers.worker)",
            self.now() - self._lease_s,
        )

    def catch_up(self) -> None:
        """Do all that is late.

        Raises:
            StoreError: some of it failed again.
        """
        failures: list[StoreError] = []
        for id in [*self.late]:
            try:
                self.do_late(id)
            except StoreBusy:
                raise  # each of them would wait
            except StoreError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def do_late(self, id: str) -> None:
        """Do what is late under an id, if anything is.

        Raises:
            StoreError: it failed again.
        """
        with self._catching_up:
            if work := self.late.get(id):
                work()
                del self.late[id]


def busy_refusal(error: StoreBusy) -> RequestRefused:
    """Make the refusal (503) of a request that has paid nothing yet, and may be sent again."""
    _logger.error("a request was refused: %s", error)
    return RequestRefused(
        "the ledger of this server is locked by another program, or away: try again",
        status=503,
        code="store_busy",
        retry_after_s=BUSY_S,
    )


def _periods(seconds: float) -> tuple[str, str]:
    """Return the names of the day and the month of a time."""
    return _name_periods(int(seconds // 86400))


@lru_cache(maxsize=4)
def _name_periods(days: int) -> tuple[str, str]:
    day = datetime.fromtimestamp(days * 86400, UTC)
    return f"{day:%Y-%m-%d}", f"{day:%Y-%m}"
