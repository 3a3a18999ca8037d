"""A request that is sent again, with the same Idempotency-Key, is paid for once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from moa import Agent
from moa.errors import EndpointUnavailable
from moa.serving.app import serve
from moa.serving.idempotency import Answers, StoredAnswer
from moa.serving.ledger import Ledger
from moa.testing import ScriptedEndpoint

from .harness import add_key, listening


@asynccontextmanager
async def served(
    node: Agent[Any, Any], *, keys: str | None = None
) -> AsyncGenerator[aiohttp.ClientSession]:
    """Serve a node on a socket, and give a client."""
    async with listening(serve(node, keys=keys)) as url, aiohttp.ClientSession(url) as client:
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


async def test_a_key_that_is_empty_or_too_long_is_refused() -> None:
    node, endpoint = greeter()
    async with served(node) as client:
        came = [await ask(client, key) for key in ("", "x" * 256)]
    assert [status for status, *_ in came] == [400, 400]
    assert not endpoint.prompts


async def test_one_that_was_cut_short_with_its_process_is_begun_anew(tmp_path: Path) -> None:
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
        assert await answers.begin("one", "alice", "request") == "begun"


async def test_an_answer_is_kept_for_a_day(tmp_path: Path) -> None:
    now = [1000.0]
    with Ledger(tmp_path / "ledger.sqlite", clock=lambda: now[0]) as ledger:
        answers, kept = Answers(ledger), StoredAnswer(200, [(b"x-moa-cost", b"0")], b"{}", True)
        await answers.begin("one", "alice", "request")
        await answers.keep("one", "alice", kept)
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
