"""What a job holds, and what becomes of its rows."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from disks import room

import moa.adapters.sqlite
import moa.rows.jobs
from moa import Agent, Budget, Reply, Result, RunContext
from moa.core.batch import Item, JobStatus, MalformedLine, Row, Status
from moa.core.errors import (
    ConfigError,
    EndpointRejected,
    EndpointUnavailable,
    MoaError,
    StoreError,
)
from moa.core.journal import Journal
from moa.graphs import Graph
from moa.rows import work_through as rows_worked
from moa.rows.jobs import Job
from moa.testing import ScriptedEndpoint

REFUSED = EndpointUnavailable("refused", endpoint="model")


def texts(*values: str) -> list[Row]:
    return [Row(number=n, id=n, value=value) for n, value in enumerate(values, start=1)]


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "job")
    return f"{request.getfixturevalue('postgres')}#nightly"


def shouting() -> Any:
    def shout(text: str) -> str:
        return text.upper()

    g = Graph("shout", str)
    return g.build(g.add(shout, g.input))


def outputs(job: Job) -> list[object]:
    return [line.get("output") for line in job.lines()]


def damage(job: Job, sql: str) -> None:
    job._rows(sql)  # pyright: ignore[reportPrivateUsage]


async def work_through(store: str, rows: Sequence[Row | MalformedLine], node: Any) -> JobStatus:
    with Job(store, graph="g") as job:
        job.add(rows)
        return await job.run(node)


async def test_rows_are_done_once_and_exported_in_their_order(store: str, tmp_path: Path) -> None:
    with Job(store, graph="shout") as job:
        job.add(texts("a", "b", "b"))
        assert (await job.run(shouting())).rows == {"done": 3}
        assert job.export(tmp_path / "out.jsonl") == 3
        assert outputs(job) == ["A", "B", "B"]
        again = [row async for row in job.left(RunContext())]
    assert again == []
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8").count("\n") == 3


async def test_rows_that_are_added_again_stay_and_those_that_are_gone_are_left_out(
    store: str,
) -> None:
    with Job(store, graph="shout") as job:
        job.add(texts("a", "b"))
        await job.run(shouting())
        job.add(texts("a", "c"))
        assert job.status().rows == {"done": 1, "due": 1}
        await job.run(shouting())
        assert outputs(job) == ["A", "C"]
        job.add(texts("a", "b"))
        assert outputs(job) == ["A", "B"]


class Held:
    """A node whose rows wait until they are let go."""

    name = "held"
    input_type = str

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cut: list[str] = []
        self.let_go = asyncio.Event()

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        assert context is not None
        self.begun.append(request)
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cut.append(request)
            raise
        return Result(output=request, usage=context.usage)

    async def until_begun(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.begun) < count:  # noqa: ASYNC110  what is waited for has no event
                await asyncio.sleep(0.01)


async def test_a_job_cancelled_by_another_process_begins_no_further_row(store: str) -> None:
    held = Held()
    with Job(store, graph="held") as job, Job(store) as other:
        job.add(texts(*map(str, range(20))))
        running = asyncio.ensure_future(job.run(held, max_concurrency=4))
        await held.until_begun(4)
        other.cancel()
        held.let_go.set()
        status = await running
        assert len(held.begun) == 4
        assert status.is_cancelled
        assert status.rows["done"] == 4 - len(held.cut)


async def test_rows_in_work_are_cut_where_another_process_cancels_the_job(store: str) -> None:
    held = Held()
    with Job(store, graph="held") as job:
        job.add(texts(*map(str, range(20))))
        with Job(store) as other:
            running = asyncio.ensure_future(job.run(held, max_concurrency=4))
            await held.until_begun(4)
            other.cancel()
            async with asyncio.timeout(30):
                await running
    assert sorted(held.cut) == sorted(held.begun)
    held.let_go.set()
    with Job(store) as job:
        assert (await job.run(held)).rows == {"due": 20}
        job.retry()
        assert (await job.run(held)).rows == {"done": 20}


@pytest.mark.usefixtures("hurried")
async def test_a_row_that_fails_is_tried_again_until_it_is_dead(store: str) -> None:
    tried: list[str] = []

    async def fail(text: str) -> str:
        tried.append(text)
        raise REFUSED

    g = Graph("g", str)
    status = await work_through(store, texts("a"), g.build(g.add(fail, g.input)))
    assert (tried, status.rows) == (["a"] * 3, {"dead": 1})
    assert status.causes == {"EndpointUnavailable": 1}
    with Job(store) as job:
        assert next(job.lines("dead"))["error"] == "EndpointUnavailable: model: refused"
        assert job.retry() == 1
        assert job.status().left == 1


async def test_a_row_that_is_malformed_or_asks_people_is_dead_at_once(tmp_path: Path) -> None:
    from langgraph.types import interrupt

    def ask(text: str) -> str:
        return interrupt(text)

    g = Graph("g", str)
    bad = MalformedLine(number=1, error="no JSON object", raw="{")
    status = await work_through(str(tmp_path), [bad, *texts("a")], g.build(g.add(ask, g.input)))
    assert status.rows == {"dead": 2}
    assert status.causes == {"MalformedRow": 1, "NotResumable": 1}


@pytest.mark.parametrize("above", [False, True])
async def test_rows_that_a_budget_ends_are_due_and_done_with_a_larger_one(
    above: bool, store: str
) -> None:
    model = ScriptedEndpoint(["Fine."] * 3)
    context = RunContext(budget=Budget(calls=2))
    with Job(store, graph="answer") as job:
        job.add(texts("a", "b", "c"))
        agent = Agent(model, "Answer.")
        within = context.nested() if above else context
        status = await job.run(agent, within, max_concurrency=1)
        assert status.rows == {"done": 2, "due": 1}
        status = await job.run(agent)
        assert (status.rows, status.calls) == ({"done": 3}, 3)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try rows that failed again at once."""
    monkeypatch.setattr(moa.rows.jobs, "_RETRY_S", 0.0)
    monkeypatch.setattr(moa.rows.jobs, "_WAIT_S", 0.01)


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no process say again that it is at work, as where all are asleep."""

    def stay(job: Job) -> None:
        """Say nothing."""

    monkeypatch.setattr(Job, "_keep_renewing", stay)


@pytest.mark.usefixtures("stopped")
async def test_leases_of_a_process_that_is_gone_run_out(store: str) -> None:
    with Job(store, graph="shout") as first:
        first.lease_s = 0.2
        first.worker = "elsewhere|1|0"
        first.add(texts("a"))
        left = first.left(RunContext())
        await anext(left)
        await left.aclose()  # which gives nothing back
        with Job(store, graph="shout") as second:
            assert (await second.run(shouting())).rows == {"done": 1}


def test_a_job_of_another_graph_is_refused(store: str) -> None:
    with Job(store, graph="support"):
        pass
    with pytest.raises(ConfigError, match="'support'"):
        Job(store, graph="summarize").__enter__()


def test_there_is_no_job_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Job(tmp_path / "none").__enter__()
    assert not (tmp_path / "none").exists()


async def test_a_graph_runs_a_job_by_itself_and_goes_on_with_it(tmp_path: Path) -> None:
    for inputs in (["a"], ["a", "b"]):
        status = await shouting().run_job(inputs, store=tmp_path)
    assert status.rows == {"done": 2}
    with Job(tmp_path) as job:
        assert outputs(job) == ["A", "B"]


async def held(job: Job) -> Row | MalformedLine:
    """Lease a row, and renew nothing."""
    async with aclosing(job.left(RunContext())) as left:
        return await anext(left)


def item(row: Row | MalformedLine, status: Status, error: MoaError | None = None) -> Item[Any]:
    return Item(number=1, id=1, input="a", key=row.key, status=status, error=error)


@pytest.mark.usefixtures("stopped")
async def test_a_late_failure_does_not_undo_what_another_process_has_done(store: str) -> None:
    with Job(store, graph="shout") as late, Job(store, graph="shout") as other:
        late.lease_s = 0.01
        late.add(texts("a"))
        row = await held(late)
        await asyncio.sleep(0.05)
        await other.run(shouting())
        await late.take(item(row, "failed", REFUSED), RunContext())
        assert (late.status().rows, outputs(late)) == ({"done": 1}, ["A"])


@pytest.mark.usefixtures("stopped")
async def test_a_late_result_counts_where_the_row_is_not_done_yet(store: str) -> None:
    with Job(store, graph="shout") as late, Job(store, graph="shout") as other:
        late.lease_s = 0.01
        late.add(texts("a"))
        row = await held(late)
        await asyncio.sleep(0.05)
        await held(other)
        await late.take(item(row, "answered"), RunContext())
        await other.take(item(row, "failed", REFUSED), RunContext())
        assert late.status().rows == {"done": 1}


@pytest.mark.usefixtures("stopped")
async def test_a_process_does_not_take_its_own_row_again_when_its_lease_runs_out(
    store: str,
) -> None:
    with Job(store, graph="shout") as job:
        job.lease_s = 0.01
        job.add(texts("a"))
        async with aclosing(job.left(RunContext())) as left:
            await anext(left)
            time.sleep(0.05)  # noqa: ASYNC251  as where the machine was asleep
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await anext(left)


async def test_a_job_that_was_cancelled_is_run_again_by_the_same_one(store: str) -> None:
    async def hang(text: str) -> str:
        await asyncio.sleep(60)
        return text

    g = Graph("g", str)
    with Job(store, graph="g") as job:
        job.add(texts("a", "b"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await job.run(g.build(g.add(hang, g.input)))
        async with asyncio.timeout(20):
            assert (await job.run(shouting())).rows == {"done": 2}


def die(job: Job) -> None:
    """Let it be of a process of this machine that is no longer there."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    machine, _, token = job.worker.split("|")
    job.worker = f"{machine}|{gone.pid}|{token}"


async def test_any_id_may_name_a_row_and_one_of_another_type_is_another(store: str) -> None:
    odd = ["a\0b", "x" * 100_000, "\ud800", "/", "😀", 1, "1"]
    rows = [Row(number=n, id=one, value="a") for n, one in enumerate(odd)]
    assert (await work_through(store, rows, shouting())).rows == {"done": len(odd)}


async def test_a_connection_that_is_lost_is_made_again(postgres: str) -> None:
    import psycopg

    with Job(f"{postgres}#nightly", graph="shout") as job:
        job.add(texts("a"))
        row = await held(job)
        with psycopg.connect(postgres, autocommit=True) as other:
            other.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where pid <> pg_backend_pid() and datname = 'postgres'"
            )
        await job.take(item(row, "answered"), RunContext())
        assert job.status().rows == {"done": 1}


async def test_rows_of_a_map_within_a_run_that_is_kept_are_kept_with_it() -> None:
    kept: list[str] = []

    async def keep(key: str, record: str) -> None:
        del record
        kept.append(key)

    context = RunContext()
    context.journal = Journal(write=keep).root
    items = Agent(ScriptedEndpoint(["Fine."]), "Answer.").map(texts("a"), context)
    assert [one.status async for one in items] == ["answered"]
    assert len(kept) == 1


@pytest.mark.usefixtures("hurried")
async def test_a_row_that_is_tried_again_pays_for_no_finished_call_again(store: str) -> None:
    first = ScriptedEndpoint(["A draft."])
    second = ScriptedEndpoint([EndpointRejected("busy", endpoint="second"), "Fine."])
    g = Graph("g", str)
    draft = g.add(Agent(first, "Draft.", name="draft"), g.input)
    graph: Any = g.build(g.add(Agent(second, "Mend.", name="mend"), draft))
    context = RunContext(budget=Budget(calls=3))
    with Job(store, graph="g") as job:
        job.add(texts("a"))
        assert (await job.run(graph, context)).rows == {"done": 1}
        assert (context.usage.calls, job.status().calls) == (3, 2)
    assert (len(first.prompts), len(second.prompts)) == (1, 2)


async def test_a_failure_while_another_program_holds_the_store_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.rows.jobs._RETRY_S", 0.01)
    model = ScriptedEndpoint([REFUSED] * 9)
    monkeypatch.setattr("moa.rows.jobs.TRIES", 2)
    with Job(tmp_path, graph="agent") as job:
        job.add(texts("a"))
        other = sqlite3.connect(tmp_path / "job.sqlite", isolation_level=None)

        def hold() -> None:
            if len(model.prompts) != 1:
                asyncio.get_running_loop().call_soon(hold)
                return
            other.execute("begin immediate")
            asyncio.get_running_loop().call_later(0.3, other.execute, "rollback")

        asyncio.get_running_loop().call_soon(hold)
        status = await job.run(Agent(model, "Answer.", name="agent"))
        other.close()
    assert status.rows == {"dead": 1}
    assert len(model.prompts) == 2


async def test_calls_that_wait_for_a_held_store_are_kept_if_the_run_is_cancelled(
    tmp_path: Path,
) -> None:
    first = ScriptedEndpoint(["A draft.", "Another."])
    hangs = True

    async def mend(text: Reply) -> str:
        await asyncio.sleep(60 if hangs else 0)
        return text.text

    g = Graph("g", str)
    graph: Any = g.build(g.add(mend, g.add(Agent(first, "Draft.", name="draft"), g.input)))
    with Job(tmp_path, graph="g") as job:
        job.add(texts("a"))
        other = sqlite3.connect(tmp_path / "job.sqlite", isolation_level=None)
        running = asyncio.ensure_future(job.run(graph))
        while not first.prompts:  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.01)
        other.execute("begin immediate")
        await asyncio.sleep(0.2)  # in which the call is about to be written
        other.execute("rollback")
        other.close()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    hangs = False
    with Job(tmp_path, graph="g") as job:
        assert (await job.run(graph)).rows == {"done": 1}
    assert len(first.prompts) == 1


def test_the_password_of_a_database_is_not_said() -> None:
    assert "secret" not in Job("postgresql://me:secret@host/jobs#nightly", graph="g").where


def test_a_process_that_makes_the_job_at_the_same_moment_is_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "job.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("begin immediate")
    other.execute("create table made (at int)")
    threading.Timer(0.2, lambda: other.execute("commit")).start()
    with Job(tmp_path, graph="g") as job:
        assert job.status().total == 0
    other.close()


@pytest.mark.parametrize("graph", ["g", None])
def test_a_job_whose_file_is_empty_is_not_begun_anew(
    graph: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moa.rows.jobs, "_MADE_S", 0.05)
    (tmp_path / "job.sqlite").touch()
    with pytest.raises(ConfigError):
        Job(tmp_path, graph=graph).__enter__()
    assert (tmp_path / "job.sqlite").read_bytes() == b""


async def test_a_line_that_is_damaged_is_told_and_the_others_are_exported(
    store: str, tmp_path: Path
) -> None:
    await work_through(store, texts("a", "b"), shouting())
    with Job(store) as job:
        damage(job, 'update moa_rows set line = \'{"id": 1, "inp\' where job = ? and place = 1')
        assert job.export(tmp_path / "done.jsonl") == 2
        damaged, whole = job.lines()
        assert (damaged["id"], damaged["input"], whole["output"]) == (1, "a", "B")
        assert "damaged" in damaged["error"]
        assert job.retry() == 1
    assert (await work_through(store, texts("a", "b"), shouting())).rows == {"done": 2}


async def test_a_row_that_is_damaged_fails_by_itself_until_it_is_given_again(store: str) -> None:
    with Job(store, graph="g") as job:
        job.add(texts("a", "b"))
        damage(job, "update moa_rows set given = '{\"num' where job = ? and place = 1")
        assert (await job.run(shouting())).rows == {"done": 1, "dead": 1}
        job.add(texts("a", "b"))
        job.retry()
        assert (await job.run(shouting())).rows == {"done": 2}


async def test_a_call_that_is_kept_damaged_is_made_again_and_kept_anew(store: str) -> None:
    first = ScriptedEndpoint(["A draft.", "A draft."])
    second = ScriptedEndpoint([EndpointRejected("busy", endpoint="second")] * 2 + ["Fine."])
    g = Graph("g", str)
    draft = g.add(Agent(first, "Draft.", name="draft"), g.input)
    graph: Any = g.build(g.add(Agent(second, "Mend.", name="mend"), draft))
    damaged: set[int] = set()
    with Job(store, graph="g") as job:
        job.add(texts("a"))
        async with aclosing(rows_worked(job, graph, job.left(RunContext()), RunContext())) as items:
            async for one in items:
                if one.error is not None and not damaged:
                    damage(job, "update moa_calls set record = '{' where job = ?")
                    damaged.add(one.number)
        assert job.status().rows == {"done": 1}
        assert job.lost > 0
    assert (len(first.prompts), len(second.prompts)) == (2, 3)


async def test_a_job_that_can_only_be_read_is_looked_at_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await work_through(str(tmp_path), texts("a"), shouting())

    def refused(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(moa.adapters.sqlite, "make_private", refused)
    with Job(tmp_path) as job:
        assert (job.status().rows, outputs(job)) == ({"done": 1}, ["A"])
        with pytest.raises(StoreError):
            job.retry()
    with pytest.raises(ConfigError, match="Read-only"):
        Job(tmp_path, graph="g").__enter__()


async def test_a_row_that_kills_each_process_that_has_it_is_dead_and_told_with_its_cause(
    store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(moa.rows.jobs, "_MAX_DEATHS", 1)
    with Job(store, graph="shout") as killed, Job(store, graph="shout") as job:
        job.add(texts("a"))
        die(killed)
        await held(killed)
        async with asyncio.timeout(20):
            status = await job.run(shouting())
        assert (status.rows, status.causes) == ({"dead": 1}, {"ProcessDied": 1})
        (line,) = job.lines("dead")
        assert (line["id"], line["input"], line["status"]) == (1, "a", "failed")
        assert line["error"] == "ProcessDied: 1 processes died while they worked on it"
        assert job.export(tmp_path / "out.jsonl") == 1


async def test_rows_of_another_process_that_is_at_work_stay_until_it_is_gone(store: str) -> None:
    with Job(store, graph="shout") as one:
        one.add(texts("a", "b"))
        with Job(store, graph="shout") as other:
            other.add(texts("b", "c"))
            assert (one.not_given, other.not_given, one.status().total) == (0, 2, 4)
        one.add(texts("a", "b"))
        assert (one.not_given, one.status().total) == (0, 2)


async def test_a_row_in_flight_stays_leased_where_no_more_are_given(store: str) -> None:
    context = RunContext(timeout_s=60.0)
    with Job(store, graph="g") as job, Job(store, graph="g") as other:
        job.lease_s = 0.3
        job.add(texts("in flight"))
        left = job.left(context)
        await anext(left)
        context.deadline = time.monotonic()
        assert await anext(left, None) is None
        await asyncio.sleep(0.6)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await held(other)


async def test_a_clock_that_is_set_frees_no_row_of_a_process_that_lives(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Job(store, graph="shout") as one, Job(store, graph="shout") as other:
        one.add(texts("a"))
        await held(one)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 86_400)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await held(other)


async def test_a_clock_that_is_set_back_lets_no_failed_row_wait_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Job(tmp_path, graph="shout") as job:
        job.add(texts("a"))
        await job.take(item(await held(job), "failed", REFUSED), RunContext())
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() - 86_400)
        async with asyncio.timeout(2):
            assert (await held(job)).input == "a"


@pytest.mark.parametrize("what", ["a file", "no database"])
def test_a_folder_that_can_hold_no_job_is_told(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "nightly"
    if what == "a file":
        folder.write_text("x")
    else:
        folder.mkdir()
        (folder / "job.sqlite").write_text("something else" * 99)
    with pytest.raises(ConfigError):
        Job(folder, graph="g").__enter__()


async def test_a_full_disk_stops_a_job_and_what_is_done_stays(tmp_path: Path) -> None:
    rows = texts(*("x" * 1000 + str(n) for n in range(400)))
    with suppress(StoreError), room(1_000_000), Job(tmp_path, graph="shout") as job:
        job.add(rows)
        await job.run(shouting())
    with Job(tmp_path, graph="shout") as job:
        before = job.status()
        assert before.left > 0
        job.add(rows)
        assert (await job.run(shouting())).rows == {"done": 400}
        assert len({line["id"] for line in job.lines()}) == 400


async def test_a_row_that_is_changed_while_it_is_worked_on_is_done_as_it_is_now(
    store: str,
) -> None:
    with Job(store, graph="shout") as job:
        job.add(texts("a"))
        row = await held(job)
        job.add(texts("a and more"))
        await job.take(item(row, "answered"), RunContext())
        await job.run(shouting())
        assert outputs(job) == ["A AND MORE"]
