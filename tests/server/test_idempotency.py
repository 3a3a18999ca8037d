"""A request that is sent again, with the same Idempotency-Key, is paid for once."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from disks import room
from pydantic import BaseModel

from moa import Agent, RunContext
from moa.adapters.sqlite import SQLite, SQLRow
from moa.core.errors import EndpointUnavailable, RequestRefused, StoreBusy
from moa.core.node import Node, Result
from moa.serving.app import serve
from moa.serving.idempotency import Answers, StoredAnswer
from moa.serving.keys import KeyFile
from moa.serving.ledger import Ledger
from moa.serving.server import Settings
from moa.testing import ScriptedEndpoint

from .harness import add_key, listening, until


@asynccontextmanager
async def served(
    node: Node[Any, Any], *, keys: str | None = None, **settings: Any
) -> AsyncGenerator[aiohttp.ClientSession]:
    """Serve a node on a socket, and give a client."""
    app = serve(node, keys=keys, settings=Settings(**settings))
    async with listening(app) as url, aiohttp.ClientSession(url) as client:
        yield client


def greeter(*answers: Any, **settings: Any) -> tuple[Agent[Any, Any], ScriptedEndpoint]:
    endpoint = ScriptedEndpoint(answers or [f"Answer {n}." for n in range(9)], **settings)
    return Agent(endpoint, "Greet.", name="greeter"), endpoint


async def ask(
    client: aiohttp.ClientSession, key: str, body: object = "Hi", **headers: str
) -> tuple[int, dict[str, Any], aiohttp.ClientResponse]:
    named = {"idempotency-key": key, **headers}
    async with client.post("/run/greeter", json=body, headers=named) as answer:
        return answer.status, json.loads(await answer.text()), answer


@pytest.fixture(params=["nobody", "file", "postgres"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    if request.param == "postgres":
        return f"{request.getfixturevalue('postgres')}#shop"
    return str(tmp_path / "keys.toml") if request.param == "file" else None


async def test_what_is_sent_again_gets_the_first_answer_and_is_not_asked_again(
    keys: str | None,
) -> None:
    node, endpoint = greeter()
    who = add_key(keys, calls_per_day=2) if keys else {}
    async with served(node, keys=keys) as client:
        _, first, sent = await ask(client, "one", **who)
        status, again, replayed = await ask(client, "one", **who)
        _, other, _ = await ask(client, "two", **who)
    assert (status, again) == (200, first)
    assert first["output"] != other["output"]
    assert len(endpoint.prompts) == 2
    assert replayed.headers["idempotent-replayed"] == "true"
    assert replayed.headers["x-moa-trace"] == sent.headers["x-moa-trace"]


async def test_the_same_key_with_another_body_is_refused() -> None:
    node, endpoint = greeter()
    async with served(node) as client:
        await ask(client, "one")
        status, body, _ = await ask(client, "one", "Another text")
    assert (status, body["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(endpoint.prompts) == 1


async def test_a_key_is_its_callers_own(tmp_path: Path) -> None:
    keys = str(tmp_path / "keys.toml")
    alice, bob = add_key(keys), add_key(keys, "bob")
    node, endpoint = greeter()
    async with served(node, keys=keys) as client:
        _, first, _ = await ask(client, "one", **alice)
        _, other, _ = await ask(client, "one", **bob)
    assert first["output"] != other["output"]
    assert len(endpoint.prompts) == 2


async def test_what_is_sent_while_the_first_is_worked_on_waits_for_its_answer() -> None:
    node, endpoint = greeter(latency_s=0.3)
    async with served(node) as client:
        came = await asyncio.gather(*(ask(client, "one") for _ in range(5)))
    assert {status for status, *_ in came} == {200}
    assert len({str(body) for _, body, _ in came}) == 1
    assert len(endpoint.prompts) == 1


async def test_it_is_finished_when_its_client_goes_away_and_is_there_for_the_next() -> None:
    node, endpoint = greeter(latency_s=0.3)
    async with served(node) as client:
        hurried = aiohttp.ClientTimeout(total=0.1)
        headers = {"idempotency-key": "one"}
        with pytest.raises(TimeoutError):
            await client.post("/run/greeter", json="Hi", headers=headers, timeout=hurried)
        status, _, replayed = await ask(client, "one")
    assert (status, len(endpoint.prompts)) == (200, 1)
    assert "idempotent-replayed" in replayed.headers


async def test_what_failed_is_worked_on_again() -> None:
    down = EndpointUnavailable("connection refused", endpoint="large")
    node, _ = greeter(down, "Here I am.")
    async with served(node) as client:
        failed, _, _ = await ask(client, "one")
        status, body, _ = await ask(client, "one")
    assert (failed, status) == (503, 200)
    assert body["output"]["text"] == "Here I am."


async def test_a_stream_is_kept_whole_and_one_that_failed_is_not() -> None:
    accept = "text/event-stream"
    down = EndpointUnavailable("connection refused", endpoint="large")
    node, endpoint = greeter(down, "Here I am.")
    said = list[str]()
    async with served(node) as client:
        for _ in range(3):
            headers = {"idempotency-key": "one", "accept": accept}
            async with client.post("/run/greeter", json="Hi", headers=headers) as answer:
                said.append(await answer.text())
                assert answer.content_type == accept
    assert "event: error" in said[0]
    assert "event: result" in said[1]
    assert said[1] == said[2]
    assert len(endpoint.prompts) == 2


class Colour(BaseModel):
    colour: str


async def test_a_stream_whose_answer_does_not_fit_its_schema_is_worked_on_again() -> None:
    endpoint = ScriptedEndpoint(['{"colour": "red"}'] * 2)
    node = Agent(endpoint, "Name a colour.", output=Colour, name="greeter")
    schema = {"properties": {"colour": {"const": "blue"}}, "required": ["colour"]}
    body = {
        "model": "greeter",
        "stream": True,
        "messages": [{"role": "user", "content": "Hi"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    }
    async with served(node) as client:
        for _ in range(2):
            headers = {"idempotency-key": "one"}
            async with client.post("/v1/chat/completions", json=body, headers=headers) as answer:
                assert "doesn't follow the schema" in await answer.text()
                assert "idempotent-replayed" not in answer.headers
    assert len(endpoint.prompts) == 2


async def test_a_key_that_is_empty_or_too_long_is_refused() -> None:
    node, endpoint = greeter()
    async with served(node) as client:
        came = [await ask(client, key) for key in ("", "x" * 256)]
    assert [status for status, *_ in came] == [400, 400]
    assert not endpoint.prompts


async def test_one_that_was_cut_short_with_its_process_is_not_paid_for_again(
    tmp_path: Path,
) -> None:
    now = [1000.0]
    path = tmp_path / "ledger.sqlite"
    dead = Ledger(path, clock=lambda: now[0])
    dead.open()
    dead.renew()
    assert await Answers(dead).begin("one", "alice", "request") == "begun"
    dead.store.close()
    with Ledger(path, clock=lambda: now[0]) as ledger:
        answers = Answers(ledger)
        assert await answers.begin("one", "alice", "request") == "running"
        now[0] += 31
        assert await answers.begin("one", "alice", "request") == "interrupted"
        assert await answers.begin("one", "alice", "another") == "other"
        now[0] += 86_400
        assert await answers.begin("one", "alice", "request") == "begun"


async def test_whoever_repeats_a_request_whose_server_died_is_told_so(tmp_path: Path) -> None:
    keys = str(tmp_path / "keys.toml")
    who = add_key(keys)
    node, endpoint = greeter()
    async with served(node, keys=keys) as client:
        await ask(client, "one", **who)
        with Ledger(KeyFile(Path(keys)).ledger) as ledger:
            stored = "select 1 from moa_key_answers where status is not null"
            await until(lambda: ledger.store.run(stored))
            ledger.store.run("update moa_key_answers set worker = 'dead', status = null")
        status, body, answer = await ask(client, "one", **who)
        again, _, _ = await ask(client, "two", **who)
    assert (status, body["error"]["code"], again) == (409, "idempotency_interrupted", 200)
    assert answer.headers["x-should-retry"] == "false"
    assert len(endpoint.prompts) == 2


async def test_an_answer_is_kept_for_a_day(tmp_path: Path) -> None:
    now = [1000.0]
    with Ledger(tmp_path / "ledger.sqlite", clock=lambda: now[0]) as ledger:
        answers, kept = Answers(ledger), StoredAnswer(200, [(b"x-moa-cost", b"0")], b"{}", True)
        await answers.begin("one", "alice", "request")
        await answers.end("one", "alice", "request", kept)
        now[0] += 86_000
        assert await answers.begin("one", "alice", "request") == kept
        now[0] += 1000
        assert await answers.begin("one", "alice", "request") == "begun"


async def test_of_an_answer_that_is_too_large_it_is_kept_that_there_was_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moa.serving.idempotency._LARGEST", 10)
    node, endpoint = greeter()
    async with served(node) as client:
        await ask(client, "one")
        status, body, _ = await ask(client, "one")
    assert (status, body["error"]["code"]) == (409, "idempotency_answer_too_large")
    assert len(endpoint.prompts) == 1


# What answers cost that are stored already.

READ = Path("/proc/self/io")


def bytes_read() -> int:
    """Count the bytes that this process has read so far."""
    return int(READ.read_text().partition("rchar: ")[2].split()[0])


@pytest.mark.skipif(not READ.exists(), reason="only Linux counts what a process reads")
async def test_no_stored_answer_is_read_when_another_one_is_stored() -> None:
    node, _ = greeter(*["x" * 1_000_000] * 20)
    async with served(node) as client:
        for number in range(19):
            await ask(client, f"key {number}")
        before = bytes_read()
        await ask(client, "another")
        await ask(client, "another")  # once it is stored
        assert bytes_read() - before < 6_000_000


async def test_answers_are_stored_and_looked_up_in_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = set[tuple[str, bool]]()
    run, loop = SQLite.run, threading.get_ident()

    def watched(self: SQLite, sql: str, *values: object) -> list[SQLRow]:
        if "moa_key_answers" in sql:
            used.add((sql.split()[0], threading.get_ident() == loop))
        return run(self, sql, *values)

    monkeypatch.setattr(SQLite, "run", watched)
    node, _ = greeter()
    async with served(node) as client:
        await ask(client, "one")
        await ask(client, "one")
    assert used == {(verb, False) for verb in ("delete", "insert", "select", "update")}


OF_VERSION_0_1 = """
create table moa_key_answers (
    job text not null, name text not null, caller text not null, request text not null,
    worker text not null, until double precision not null, status int, headers text, body bytea,
    size bigint not null default 0, primary key (job, name));
create index moa_key_answers_until on moa_key_answers (job, until);
create index moa_key_answers_of on moa_key_answers (job, caller);
insert into moa_key_answers values ('job', 'one', 'alice', 'request', '1-7611be8d70276e3d', 87400.0,
    200, '[["x-moa-cost", "0"]]', x'7b7d', 2);
"""
"""The answers in a ledger of an older version."""


async def test_answers_of_an_older_version_are_there_and_none_is_read_for_its_size(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(OF_VERSION_0_1)
    kept = StoredAnswer(200, [(b"x-moa-cost", b"0")], b"{}", True)
    with Ledger(path, clock=lambda: 1000.0) as ledger:
        assert await Answers(ledger).begin("one", "alice", "request") == kept
        assert sums_of(ledger) == {"alice": (1, 2)}
        plan = ledger.store.run(
            "explain query plan select job, caller, count(*), sum(size) from "
            "moa_key_answers group by job, caller"
        )
        assert "COVERING INDEX" in plan[0][3]


def sums_of(ledger: Ledger) -> dict[str, tuple[int, int]]:
    """Give the sums that are kept, which are those of the rows."""
    kept, counted = (
        {caller: (number, size) for caller, number, size in ledger.store.run(query)}
        for query in (
            "select caller, number, size from moa_key_answer_sums where number > 0",
            "select caller, count(*), sum(size) from moa_key_answers group by caller",
        )
    )
    assert kept == counted
    return kept


async def test_the_sums_of_answers_follow_them_however_they_end(
    monkeypatch: pytest.MonkeyPatch, keys: str | None, tmp_path: Path
) -> None:
    monkeypatch.setattr("moa.serving.idempotency._MOST", 100)
    monkeypatch.setattr("moa.serving.idempotency._MOST_ANSWERS", 5)
    now = [1000.0]
    store = keys if keys and "://" in keys else tmp_path / "ledger"
    with Ledger(store, clock=lambda: now[0]) as ledger:
        answers = Answers(ledger)

        async def answer(name: str, size: int | None, caller: str = "alice") -> None:
            assert await answers.begin(name, caller, "request") == "begun"
            stored = None if size is None else StoredAnswer(200, [], b"x" * size, True)
            for _ in range(2):  # as if it were not known whether the first has come
                await answers.end(name, caller, "request", stored)

        for name, size in (("a", 40), ("b", None), ("c", 50), ("d", 60)):
            await answer(name, size)
        await answer("e", 60, "bob")
        assert sums_of(ledger) == {"alice": (3, 90), "bob": (1, 60)}, "d has no room"
        for name in "fgh":
            await answer(name, 0)
        assert sums_of(ledger)["bob"] == (1, 60)
        assert sums_of(ledger).get("alice", (0, 0))[0] <= 5
        now[0] += 90_000
        await answer("i", 7)
        assert sums_of(ledger) == {"alice": (1, 7)}


async def test_a_caller_has_so_many_answers_and_the_oldest_of_them_are_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("moa.serving.idempotency._MOST_ANSWERS", 40)
    now = [1000.0]
    with Ledger(tmp_path / "ledger", clock=lambda: now[0]) as ledger:
        answers = Answers(ledger)
        await answers.begin("running", "alice", "request")
        for number in range(100):
            now[0] += 1
            await answers.begin(f"{number}", "alice", "request")
            await answers.end(f"{number}", "alice", "request", StoredAnswer(200, [], b"", True))
        (count, _) = sums_of(ledger)["alice"]
        assert 20 <= count <= 40
        for name in ("running", "99", "80"):
            assert await answers.begin(name, "alice", "request") != "begun"
        assert await answers.begin("0", "alice", "request") == "begun"


async def test_old_answers_are_dropped_a_few_at_a_time_and_none_of_them_is_sent(
    tmp_path: Path,
) -> None:
    now = [1000.0]
    with Ledger(tmp_path / "ledger.sqlite", clock=lambda: now[0]) as ledger:
        answers = Answers(ledger)
        for number in range(40):
            await answers.begin(f"{number}", "alice", "request")
            await answers.end(f"{number}", "alice", "request", StoredAnswer(200, [], b"", True))
        now[0] += 90_000
        assert await answers.begin("39", "alice", "request") == "begun"
        (left,) = ledger.store.run("select count(*) from moa_key_answers")[0]
        assert 20 <= left < 40


# A disk that is full for a moment.


class OnFullDisk:
    """A node that fills the disk, and then answers or fails; the disk is free after `free`."""

    name = "greeter"
    input_type = str

    def __init__(self, *answers: str | Exception) -> None:
        self.left = [*answers]
        self._full = ExitStack()
        self.free = self._full.close

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        del request, context
        answer = self.left.pop(0)
        self._full.enter_context(room(0))
        if isinstance(answer, Exception):
            raise answer
        return Result(output=answer)


async def test_an_answer_that_the_disk_has_no_room_for_is_sent_again_and_stored_later(
    tmp_path: Path,
) -> None:
    keys, node = str(tmp_path / "keys.toml"), OnFullDisk("Good day.")
    who = add_key(keys)
    app = serve(node, keys=keys)
    async with listening(app) as url, aiohttp.ClientSession(url) as client:
        try:
            _, first, _ = await ask(client, "one", **who)
            status, again, _ = await ask(client, "one", **who)
        finally:
            node.free()
        assert (status, again, node.left) == (200, first, [])
        ledger: Ledger = app.state.server.keys.ledger
        await asyncio.to_thread(ledger.renew)
        assert not ledger.late
        rows = ledger.store.run("select status from moa_key_answers")
        assert rows == [(200,)]
        assert ledger.usage_of("alice").runs == 0
        _, stored, replayed = await ask(client, "one", **who)
    assert (stored, replayed.headers["idempotent-replayed"]) == (first, "true")


async def test_a_key_is_free_again_after_a_request_that_failed_on_a_full_disk() -> None:
    down = EndpointUnavailable("connection refused", endpoint="large")
    node = OnFullDisk(down, "Here I am.")
    async with served(node, timeout_s=2) as client:
        try:
            failed, _, _ = await ask(client, "one")
            node.free()
            status, body, _ = await ask(client, "one")
        finally:
            node.free()
    assert (failed, status) == (503, 200)
    assert body["output"] == "Here I am."


@pytest.mark.parametrize("is_away", [False, True], ids=["back", "away"])
async def test_what_was_begun_as_the_connection_was_lost_is_worked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_away: bool
) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        answers, store = Answers(ledger), ledger.store
        atomically, losses = store.atomically, 1

        def lose(work: Callable[[], Any]) -> Any:
            nonlocal losses
            done = atomically(work)
            if losses:  # it is stored, but nobody is told
                losses -= 1
                if is_away:
                    raise StoreBusy("the database is away")
                return atomically(work)
            return done

        monkeypatch.setattr(store, "atomically", lose)
        if is_away:
            with pytest.raises(RequestRefused):
                await answers.begin("one", "alice", "hi")
        assert await answers.begin("one", "alice", "hi") == "begun"
        assert await answers.begin("one", "alice", "hi") == "running"
        assert sums_of(ledger)["alice"] == (1, 0)
        await answers.end("one", "alice", "hi", None)
        assert await answers.begin("one", "alice", "hi") == "begun"


async def test_of_answers_that_can_not_be_stored_only_so_many_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.serving.idempotency._MOST_LATE", 10)
    whole = StoredAnswer(200, [], b"Good day.", True)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        answers = Answers(ledger)
        for name in ("one", "two"):
            await answers.begin(name, "alice", "request")
        with room(0):
            for name in ("one", "two"):
                await answers.end(name, "alice", "request", whole)
        assert await answers.begin("one", "alice", "request") == whole
        assert await answers.begin("two", "alice", "request") == whole._replace(
            body=b"", is_whole=False
        )


# What fails over MCP has the status 200.


async def test_a_failure_over_mcp_is_not_sent_again_and_an_answer_is() -> None:
    down = EndpointUnavailable("connection refused", endpoint="large")
    node, endpoint = greeter(down, "Here I am.", "No more.")
    headers = {
        "idempotency-key": "one",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2025-06-18",
    }
    call = {"name": "greeter", "arguments": {"text": "Hi"}}
    said = list[str]()
    async with served(node) as client:
        for _ in range(3):
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
            async with client.post("/mcp", json=body, headers=headers) as answer:
                assert answer.status == 200
                said.append(await answer.text())
    assert '"isError":true' in said[0]
    assert "Here I am." in said[1]
    assert said[2] == said[1]
    assert len(endpoint.prompts) == 2


async def test_what_can_not_cost_anything_over_mcp_is_not_stored() -> None:
    app = serve(greeter()[0])
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2025-06-18",
    }
    async with listening(app) as url, aiohttp.ClientSession(url) as client:
        for method in ("tools/list", "ping"):
            body: Any = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}
            named = {"idempotency-key": method, **headers}
            async with client.post("/mcp", json=body, headers=named) as answer:
                assert '"result"' in await answer.text()
        await until(lambda: sums_of(app.state.server.keys.ledger) == {})


async def test_an_error_of_the_protocol_of_mcp_is_not_sent_again() -> None:
    node, _ = greeter()
    headers = {
        "idempotency-key": "one",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2025-06-18",
    }
    call = {"name": "nobody", "arguments": {"text": "Hi"}}
    async with served(node) as client:
        for _ in range(2):
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
            async with client.post("/mcp", json=body, headers=headers) as answer:
                assert '"error"' in await answer.text()
                assert "idempotent-replayed" not in answer.headers
