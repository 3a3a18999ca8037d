"""Clients that send much, or slowly: they harm nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from moa.serving.app import serve
from moa.serving.server import Settings
from moa.studio.app import studio_app
from moa.studio.sources import View, find_source

from .harness import (
    Ledger,
    Slow,
    SomeKeys,
    add_key,
    client_of,
    greeter,
    server_with,
)

JSON = {"content-type": "application/json", "host": "localhost"}
RUNS = ["/run/greeter", "/v1/chat/completions", "/v1/systemone", "/v1/embeddings"]


class Sender:
    """A client of an application that sends without end, and counts what is read of it."""

    def __init__(self, app: ASGIApp, *, piece: bytes = b"x" * 1000, wait_s: float = 0) -> None:
        self.read = 0
        self.status = 0
        self._app = app
        self._piece = piece
        self._wait_s = wait_s

    async def post(self, path: str, headers: dict[str, str]) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(a.encode(), b.encode()) for a, b in {**JSON, **headers}.items()],
        }
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> Any:
        await asyncio.sleep(self._wait_s)
        self.read += len(self._piece)
        more = self.read < 10_000_000  # an end, so that a server that reads all of it ends too
        return {"type": "http.request", "body": self._piece, "more_body": more}

    async def _send(self, message: Any) -> None:
        self.status = message.get("status", self.status)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/health", {}, 405),
        ("/ready", {}, 405),
        ("/run/greeter", {}, 401),
        ("/nowhere", {}, 401),
        ("/nowhere", {"authorization": "Bearer ann"}, 404),
    ],
)
@pytest.mark.parametrize("repeats", [False, True])
async def test_no_more_of_a_body_is_read_than_a_request_may_have(
    path: str, headers: dict[str, str], status: int, repeats: bool
) -> None:
    _, app = server_with(greeter(), keys=SomeKeys(Ledger("ann")), body_bytes=50_000)
    client = Sender(app)
    known = "authorization" in headers
    async with app.router.lifespan_context(app):
        await client.post(path, {**headers, **({"idempotency-key": "one"} if repeats else {})})
    assert client.status == (413 if known and repeats else status)
    assert client.read <= (51_000 if known else 0)


async def test_a_body_is_counted_by_the_page_of_runs_too() -> None:
    settings = Settings(body_bytes=50_000)
    client = Sender(studio_app(View(find_source(None)), settings=settings))
    await client.post("/api/labels", {})
    assert (client.status, client.read) == (413, 51_000)


@pytest.mark.parametrize("path", RUNS)
async def test_nothing_is_read_of_a_key_that_is_spent(tmp_path: Path, path: str) -> None:
    keys = str(tmp_path / "keys.toml")
    who = add_key(keys, calls_per_day=0)
    client = Sender(app := serve(greeter(), keys=keys))
    async with app.router.lifespan_context(app):
        await client.post(path, who)
    assert (client.status, client.read) == (402, 0)


@pytest.mark.parametrize("limit", ["requests_per_minute", "parallel"])
async def test_nothing_is_read_of_a_key_that_has_too_much_at_once(
    tmp_path: Path, limit: str
) -> None:
    keys, slow = str(tmp_path / "keys.toml"), Slow()
    limits: dict[str, Any] = {limit: 1}
    who = add_key(keys, **limits)
    client = Sender(app := serve(slow, keys=keys))
    async with client_of(app, headers=who) as other, asyncio.TaskGroup() as group:
        first = group.create_task(other.post("/run/slow", json="Hi"))
        await slow.begun.wait()
        await client.post("/run/slow", who)
        first.cancel()
    assert (client.status, client.read) == (429, 0)


async def test_a_spent_key_is_given_the_answer_that_it_has_paid_for(tmp_path: Path) -> None:
    keys = str(tmp_path / "keys.toml")
    who = {**add_key(keys, calls_per_day=1), "idempotency-key": "one"}
    app = serve(greeter(), keys=keys)
    async with client_of(app, headers=who) as client:
        answers = [await client.post("/run/greeter", json="Hi") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]


async def test_one_key_has_half_of_the_slots_and_the_others_are_answered() -> None:
    slow = Slow()
    keys = SomeKeys(Ledger("ann"), Ledger("bob"))
    _, app = server_with(slow, greeter(), keys=keys, concurrency=4)
    ann, bob = ({"authorization": f"Bearer {name}"} for name in ("ann", "bob"))
    async with client_of(app) as client, asyncio.TaskGroup() as group:
        busy: list[asyncio.Task[Any]] = []
        busy.append(group.create_task(client.post("/run/slow", json="Hi", headers=ann)))
        busy.append(group.create_task(Sender(app, wait_s=3600).post("/run/slow", ann)))
        await slow.begun.wait()
        refused = await client.post("/run/greeter", json="Hi", headers=ann)
        answered = await client.post("/run/greeter", json="Hi", headers=bob)
        for task in busy:
            task.cancel()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_parallel")
    assert refused.headers["x-should-retry"] == "true"
    assert answered.status_code == 200


@pytest.mark.parametrize("path", ["/run/greeter", "/v1/chat/completions"])
async def test_a_body_that_trickles_has_a_short_time(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.serving.http._FIRST_S", 0.2)
    client = Sender(app := serve(greeter()), piece=b" ", wait_s=0.01)
    async with app.router.lifespan_context(app):
        await client.post(path, {})
    assert client.status == 408
    assert client.read < 100


async def test_a_body_that_comes_at_a_pace_is_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moa.serving.http._FIRST_S", 1)
    _, app = server_with(greeter(), body_bytes=5_000_000)

    async def pieces() -> AsyncGenerator[bytes]:
        yield b'"'
        for _ in range(6):
            yield b"x" * 500_000
            await asyncio.sleep(0.25)
        yield b'"'

    async with client_of(app) as client:
        answer = await client.post("/run/greeter", content=pieces(), headers=JSON)
    assert answer.status_code == 200
