"""A ledger that another program has locked: the event loop never waits for it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest

from moa import Agent
from moa.adapters.sqlite import SQLite, WouldWait
from moa.agents.classifier import Classifier
from moa.core.context import RunContext
from moa.core.errors import StoreBusy
from moa.core.node import Result
from moa.core.usage import FREE
from moa.endpoints.wrappers import Cached
from moa.graphs.cascade import Cascade
from moa.serving.app import serve
from moa.serving.keys import KeyFile, StoredKeys
from moa.serving.ledger import Ledger
from moa.serving.limits import Limits
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

from .harness import SPENT, add_key, greeter, listening, server_with, until


class Held:
    """Another program's connection to a ledger, which locks it."""

    def __init__(self, path: Path) -> None:
        self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.close = self._file.close

    def lock(self, how: str = "exclusive") -> None:
        self._file.execute(f"begin {how}")

    def free(self) -> None:
        if self._file.in_transaction:
            self._file.execute("rollback")


@pytest.fixture
def keys(tmp_path: Path) -> str:
    return str(tmp_path / "keys.toml")


@pytest.fixture
def other(keys: str) -> Iterator[Held]:
    add_key(keys, "bob")
    path = Path(KeyFile(Path(keys)).ledger)
    with Ledger(path):
        held = Held(path)
    yield held
    held.free()
    held.close()


@pytest.fixture
def loop_waits(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """How long statements on the event loop of this thread would wait for a lock, in ms."""
    loop, waits = threading.get_ident(), set[int]()

    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if threading.get_ident() == loop and not sql.startswith("pragma"):
                waits.update(super().execute("pragma busy_timeout").fetchone())
            return super().execute(sql, *values)

    monkeypatch.setattr("sqlite3.connect", partial(sqlite3.connect, factory=Watched))
    return waits


class Calling:
    """A node that makes a call for each input, up to so many before it holds them."""

    name = "calling"
    input_type = str

    def __init__(self, *, most: int | None = None) -> None:
        self.rows: list[str] = []
        self.most = most

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        context = context or RunContext()
        await until(lambda: self.most is None or len(self.rows) < self.most, seconds=3600)
        with await context.reserve("large", "llm", SPENT, price=FREE) as call:
            call.settle(FREE.charge(SPENT))
        self.rows.append(request)
        return Result(output=request, usage=context.usage)


async def _begin(client: aiohttp.ClientSession, rows: list[str]) -> str:
    async with client.post("/jobs", json={"model": "calling", "rows": rows}) as answer:
        assert answer.status == 202
        return (await answer.json())["id"]


async def _ended(client: aiohttp.ClientSession, id: str) -> None:
    async with asyncio.timeout(30):
        while True:
            async with client.get(f"/jobs/{id}") as answer:
                if (await answer.json())["phase"] == "done":
                    return
            await asyncio.sleep(0.02)


async def test_no_statement_on_the_loop_waits_for_a_lock(keys: str, loop_waits: set[int]) -> None:
    who = add_key(keys, calls_per_day=9)
    async with listening(serve(greeter(), keys=keys)) as url, aiohttp.ClientSession(url) as client:
        for headers in (who, {**who, "idempotency-key": "one"}):
            async with client.post("/run/greeter", json="Hi", headers=headers) as answer:
                assert answer.status == 200
    assert loop_waits == {0}


async def test_no_statement_of_a_job_on_the_loop_waits_for_a_lock(
    keys: str, tmp_path: Path, loop_waits: set[int]
) -> None:
    who = add_key(keys)
    _, app = server_with(Calling(), keys=StoredKeys(keys), jobs=tmp_path / "jobs")
    async with listening(app) as url, aiohttp.ClientSession(url, headers=who) as one:
        id = await _begin(one, [str(number) for number in range(20)])
        await _ended(one, id)
        for path in (f"/jobs/{id}", "/jobs", f"/jobs/{id}/lines"):
            async with one.get(path) as answer:
                assert answer.status == 200
        for way in ("cancel", "resume"):
            async with one.post(f"/jobs/{id}/{way}", json={}) as answer:
                assert answer.status == 200
        await _ended(one, id)
    assert loop_waits == {0}


async def test_a_job_whose_store_is_locked_waits_and_the_server_answers_others_meanwhile(
    keys: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.serving.jobs.BUSY_S", 0.2)
    who, other_key = add_key(keys), add_key(keys, "carol")
    node = Calling(most=3)
    _, app = server_with(node, keys=StoredKeys(keys), jobs=tmp_path / "jobs")
    async with listening(app) as url, aiohttp.ClientSession(url, headers=who) as client:
        id = await _begin(client, [str(number) for number in range(20)])
        await until(lambda: len(node.rows) == 3)
        store = Held(tmp_path / "jobs" / id / "job.sqlite")
        store.lock("immediate")
        node.most = None
        freeing = threading.Timer(20, store.free)  # or a loop that waits for it could not end
        freeing.start()
        try:
            for path in ("/health", "/jobs", f"/jobs/{id}"):
                async with client.get(path) as answer:
                    assert answer.status == 200
            async with client.post("/run/calling", json="Hi", headers=other_key) as answer:
                assert answer.status == 200
            refused = await asyncio.gather(
                *(client.post(f"/jobs/{id}/cancel", json={}) for _ in range(8))
            )
            for answer in refused:
                assert (await answer.json())["error"]["code"] == "store_busy"
            assert freeing.is_alive(), "all were answered while it was locked"
        finally:
            freeing.cancel()
            freeing.join()
            store.free()
            store.close()
        await _ended(client, id)
    assert sorted(node.rows) == sorted([*map(str, range(20)), "Hi"])


async def test_a_request_waits_for_a_lock_and_the_server_answers_others_meanwhile(
    keys: str, other: Held
) -> None:
    who, node = add_key(keys, calls_per_day=9), greeter()
    async with listening(serve(node, keys=keys)) as url, aiohttp.ClientSession(url) as client:
        other.lock()
        asking = asyncio.ensure_future(client.post("/run/greeter", json="Hi", headers=who))
        await asyncio.sleep(0.1)
        for path in ("/health", "/v1/models"):
            async with client.get(path, headers=who) as answer:
                assert answer.status == 200
        assert not asking.done()
        other.free()
        assert (await asking).status == 200


async def test_what_waits_for_a_thread_of_this_process_holds_up_nobody_else(keys: str) -> None:
    who, busy, over = add_key(keys, calls_per_day=9), threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        over.wait()

    app = serve(greeter(), keys=keys)
    async with listening(app) as url, aiohttp.ClientSession(url) as client:
        store = app.state.server.keys.ledger.store
        holding = asyncio.ensure_future(asyncio.to_thread(store.atomically, hold))
        try:
            await asyncio.to_thread(busy.wait)
            asking = asyncio.ensure_future(client.post("/run/greeter", json="Hi", headers=who))
            async with client.get("/health") as answer:
                assert answer.status == 200
            assert not asking.done()
        finally:
            over.set()
        await holding
        assert (await asking).status == 200


async def test_the_ledger_waits_for_no_thread_that_others_use(keys: str) -> None:
    who, over = add_key(keys, calls_per_day=9), threading.Event()
    headers = {**who, "idempotency-key": "one"}
    loop, app = asyncio.get_running_loop(), serve(greeter(), keys=keys)
    async with listening(app) as url, aiohttp.ClientSession(url) as client:
        loop.set_default_executor(ThreadPoolExecutor(1))
        holding = loop.run_in_executor(None, over.wait)
        try:
            async with asyncio.timeout(20):
                async with client.post("/run/greeter", json="Hi", headers=headers) as answer:
                    assert answer.status == 200
        finally:
            over.set()
        await holding


async def test_what_waits_behind_work_of_this_process_still_has_its_whole_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.serving.ledger.BUSY_S", 0.2)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        _, waits = await asyncio.gather(
            ledger.run(lambda: time.sleep(0.4), is_long=True),
            ledger.run(lambda: ledger.store.run("pragma busy_timeout"), is_long=True),
        )
    assert waits == [(200,)]


async def test_what_waits_behind_a_wait_for_another_program_does_not_wait_as_long_again(
    keys: str, other: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.serving.ledger.BUSY_S", 0.3)
    waits = list[int]()

    def look() -> None:
        waits.extend(ledger.store.run("pragma busy_timeout")[0])
        ledger.begin("alice", Limits(), "one")

    with Ledger(KeyFile(Path(keys)).ledger) as ledger:
        other.lock()
        asked = (ledger.run(look, is_long=True) for _ in range(3))
        found = await asyncio.gather(*asked, return_exceptions=True)
        other.free()
    assert all(isinstance(error, StoreBusy) for error in found)
    assert waits[0] == 300
    assert max(waits[1:]) < 100


@pytest.mark.parametrize("further", [{}, {"idempotency-key": "one"}])
async def test_a_ledger_that_stays_locked_refuses_a_request_before_anything_is_paid(
    keys: str, other: Held, further: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.serving.ledger.BUSY_S", 0.2)
    who, node = add_key(keys, calls_per_day=1), greeter()
    headers, app = {**who, **further}, serve(node, keys=keys)
    async with listening(app) as url, aiohttp.ClientSession(url) as client:
        other.lock()
        came = await asyncio.gather(
            *(client.post("/run/greeter", json="Hi", headers=headers) for _ in range(3))
        )
        for refused in came:
            error = (await refused.json())["error"]
            assert (refused.status, error["code"]) == (503, "store_busy")
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["x-should-retry"] == "true"
        other.free()
        async with client.post("/run/greeter", json="Hi", headers=headers) as answer:
            assert answer.status == 200
        usage = app.state.server.keys.ledger.usage_of("alice")
    assert (usage.day.calls, usage.runs) == (1, 0)


class Locking:
    """A node that makes a call, and has the ledger locked before it answers."""

    name = "locking"
    input_type = str

    def __init__(self, held: Held, *, asks_again: bool = False) -> None:
        self._held = held
        self._asks_again = asks_again

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        context = context or RunContext()
        for is_locked in (False, True) if self._asks_again else (False,):
            if is_locked:
                self._held.lock()
            with await context.reserve("large", "llm", SPENT, price=FREE) as call:
                call.settle(FREE.charge(SPENT))
        if not self._asks_again:
            self._held.lock()
        return Result(output=request, usage=context.usage)


async def test_a_run_that_ends_while_the_ledger_is_locked_is_answered_and_charged_once(
    keys: str, other: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.serving.ledger.BUSY_S", 0.2)
    who, app = add_key(keys, calls_per_day=9), serve(Locking(other), keys=keys)
    headers = {**who, "idempotency-key": "one"}
    async with listening(app) as url, aiohttp.ClientSession(url) as client:
        ledger: Ledger = app.state.server.keys.ledger
        async with client.post("/run/locking", json="Hi", headers=headers) as answer:
            assert answer.status == 200
        async with client.post("/run/locking", json="Hi", headers=headers) as answer:
            assert answer.status == 200
            assert "idempotent-replayed" in answer.headers
        other.free()
        for _ in range(2):
            await asyncio.to_thread(ledger.renew)
        usage = ledger.usage_of("alice")
        assert ledger.store.run("select status from moa_key_answers") == [(200,)]
    assert (usage.day.calls, usage.runs) == (1, 0)


async def test_a_run_that_needs_more_from_a_locked_ledger_fails_and_says_not_to_repeat_it(
    keys: str, other: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.serving.ledger.BUSY_S", 0.2)
    who = add_key(keys, calls_per_day=9)
    app = serve(Locking(other, asks_again=True), keys=keys)
    async with listening(app) as url, aiohttp.ClientSession(url) as client:
        async with client.post("/run/locking", json="Hi", headers=who) as failed:
            error = (await failed.json())["error"]
            assert (failed.status, error["code"]) == (503, "store_busy")
            assert failed.headers["x-should-retry"] == "false", "a call is paid"
            assert int(failed.headers["retry-after"]) >= 1
        other.free()
        ledger: Ledger = app.state.server.keys.ledger
        await asyncio.to_thread(ledger.renew)
        usage = ledger.usage_of("alice")
    assert (usage.day.calls, usage.runs) == (1, 0)


def test_synchronous_code_on_the_loop_waits_a_moment_only(
    keys: str, other: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.serving.ledger._ON_LOOP_S", 0.01)
    waits = list[int]()

    async def ask(ledger: Ledger) -> None:
        def look() -> None:
            waits.extend(ledger.store.run("pragma busy_timeout")[0])
            ledger.begin("alice", Limits(), "one")

        with pytest.raises(StoreBusy):
            ledger.run_now(look)

    with Ledger(KeyFile(Path(keys)).ledger) as ledger:
        other.lock()
        asyncio.run(ask(ledger))
    assert waits == [10]


def test_what_is_done_at_once_leaves_the_file_as_it_was(keys: str, other: Held) -> None:
    with Ledger(KeyFile(Path(keys)).ledger) as ledger:
        store = ledger.store
        assert isinstance(store, SQLite)
        other.lock()
        with pytest.raises(WouldWait):
            store.at_once(lambda: ledger.begin("alice", Limits(), "one"))
        other.free()
        ledger.begin("alice", Limits(), "one")
        assert ledger.store.run("pragma busy_timeout") == [(60_000,)]
        assert ledger.usage_of("alice").runs == 1


def test_nobody_is_taken_to_be_dead_as_soon_as_a_long_lock_is_over(tmp_path: Path) -> None:
    now = [1000.0]
    path = tmp_path / "ledger.sqlite"
    first, second = (Ledger(path, clock=lambda: now[0]) for _ in range(2))
    with first, second:
        for ledger in (first, second):
            ledger.renew()
        second.begin("alice", Limits(), "one")
        now[0] += 40  # in which nobody could report
        first.renew()
        second.renew()
        assert second.usage_of("alice").runs == 1
        for _ in range(3):
            now[0] += 20
            first.renew()
        assert first.usage_of("alice").runs == 0, "it has died after all"


class Watched(sqlite3.Connection):
    """Notes how long statements of the thread of the loop would wait for a lock."""

    loop = 0
    """The thread; 0: nothing is noted."""
    waits: ClassVar[set[int]] = set()

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if threading.get_ident() == self.loop and not sql.startswith("pragma busy"):
            self.waits.update(super().execute("pragma busy_timeout").fetchone())
        return super().execute(sql, *values)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    monkeypatch.setattr(Watched, "loop", 0)
    monkeypatch.setattr(Watched, "waits", set[int]())
    monkeypatch.setattr("sqlite3.connect", partial(sqlite3.connect, factory=Watched))
    return Watched


def learning(path: Path) -> Cascade[Any, Any]:
    """A cascade that learns, whose models answer with a label each."""

    def rule(_: str) -> dict[str, dict[str, float]]:
        return {"topic": {"card": 0.9}}

    small = SimulatedEndpoint(name="small", rule=rule)
    large = SimulatedEndpoint(name="large", tier="llm", rule=rule)
    first, last = (Classifier(one, ["card", "app"], question="topic") for one in (small, large))
    return Cascade(small=first, large=last, learn=path, name="topic")


def caching(path: Path) -> Agent[Any, Any]:
    """An agent whose answers are cached in a file."""
    return Agent(Cached(ScriptedEndpoint(["Hello!"] * 9), file=path), "Greet.", name="topic")


@pytest.mark.parametrize("begin", ["begin immediate", "begin exclusive"])
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("make", [learning, caching])
async def test_no_store_that_another_program_holds_is_waited_for_on_the_loop(
    make: Any, is_first: bool, begin: str, tmp_path: Path, watched: type[Watched]
) -> None:
    path = tmp_path / "stored.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        app = serve(make(path))
        async with listening(app) as url, aiohttp.ClientSession(url) as client:
            if not is_first:
                async with client.post("/run/topic", json="my card") as answer:
                    assert answer.status == 200
            other.execute(begin)
            watched.loop = threading.get_ident()
            asking = asyncio.ensure_future(client.post("/run/topic", json="my other card"))
            async with client.get("/health") as health:
                assert health.status == 200
            await asyncio.wait([asking], timeout=1)
            watched.loop = 0
            other.execute("rollback")
            assert (await asking).status == 200
    assert watched.waits <= {0}
