"""What a client is told whose key is spent, or has too much at once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from moa.core.context import RunContext
from moa.core.errors import KeySpent, QuorumNotMet
from moa.core.node import Node, Result
from moa.core.usage import Usage
from moa.serving.app import serve
from moa.serving.faults import fault_of

from .harness import Slow, add_key, client_of, greeter


@pytest.fixture
def keys(tmp_path: Path) -> str:
    return str(tmp_path / "keys.toml")


def app(node: Node[Any, Any], keys: str) -> Starlette:
    return serve(node, keys=keys)


async def test_a_spent_key_is_told_what_is_left_and_when_it_renews(keys: str) -> None:
    who = add_key(keys, calls_per_day=1, calls_per_month=5)
    async with client_of(app(greeter(), keys), headers=who) as client:
        assert (await client.post("/run/greeter", json="Hi")).status_code == 200
        spent = await client.post("/run/greeter", json="Hi")
    error = spent.json()["error"]
    assert (spent.status_code, error["type"]) == (402, "insufficient_quota")
    assert error["left"] == {"calls_per_day": 0, "calls_per_month": 4}
    assert error["renews_at"].endswith("T00:00:00Z")
    assert spent.headers["x-should-retry"] == "false"
    assert 0 < int(spent.headers["retry-after"]) <= 86400


async def test_a_key_that_is_spent_within_a_run_is_told_the_same(keys: str) -> None:
    class Thrice:
        name = "thrice"
        input_type = str

        async def run(self, request: str, context: RunContext | None = None, /) -> Result[Any]:
            results = [await node.run(request, context) for _ in range(3)]
            return results[-1]

    node = greeter()
    who = add_key(keys, calls_per_day=2)
    async with client_of(app(Thrice(), keys), headers=who) as client:
        spent = await client.post("/run/thrice", json="Hi")
    assert (spent.status_code, spent.json()["error"]["left"]) == (402, {"calls_per_day": 0})


def test_models_that_are_all_refused_by_a_key_are_no_fault_of_the_server() -> None:
    left, renews_at = {"calls_per_day": 0}, datetime(2026, 12, 1, tzinfo=UTC)
    spent = KeySpent("spent", spent=Usage(), left=left, renews_at=renews_at)
    fault = fault_of(QuorumNotMet("none of 2 answered", causes={"a": spent, "b": spent}))
    assert (fault.status, fault.body["error"]) == (402, fault_of(spent).body["error"])


async def test_too_many_runs_at_once_may_be_asked_for_again(keys: str) -> None:
    who, slow = add_key(keys, parallel=1), Slow()
    async with client_of(app(slow, keys), headers=who) as client:
        first = asyncio.ensure_future(client.post("/run/slow", json="Hi"))
        await slow.begun.wait()
        second = await client.post("/run/slow", json="Hi")
        first.cancel()
    assert second.status_code == 429
    assert second.json()["error"]["type"] == "rate_limit_error"
    assert (second.headers["retry-after"], second.headers["x-should-retry"]) == ("1", "true")


async def test_a_key_is_told_of_no_graph_that_it_may_not_run(keys: str) -> None:
    who = add_key(keys, graphs=["other"])
    async with client_of(app(greeter(), keys), headers=who) as client:
        refused = await client.post("/run/greeter", json="Hi")
        anyone = await client.post("/run/greeter", json="Hi", headers={"authorization": ""})
    assert (refused.status_code, anyone.status_code) == (404, 401)


async def test_a_stream_that_spends_a_key_says_so_at_its_end(keys: str) -> None:
    who = add_key(keys, calls_per_day=1)
    headers = {**who, "accept": "text/event-stream"}
    async with client_of(app(greeter(), keys), headers=headers) as client:
        first = await client.post("/run/greeter", json="Hi")
        spent = await client.post("/run/greeter", json="Hi")
    assert "event: result" in first.text
    assert (spent.status_code, spent.json()["error"]["code"]) == (402, "insufficient_quota")
