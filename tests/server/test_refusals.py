"""What a server doesn't take, and what it says to do instead."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from command import told
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.routing import Mount

from moa import Agent
from moa.core import errors
from moa.core._json import at
from moa.core.usage import Usage
from moa.serving.faults import fault_of
from moa.serving.served import ServedNode
from moa.serving.server import Settings
from moa.testing import ScriptedEndpoint

from .harness import Slow, client_of, greeter, server_with

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("api.example.org", 200),
        ("evil.example.com", 421),
        ("localhost.evil.example.com", 421),
        ("", 421),
        ("[", 421),
    ],
)
async def test_a_name_that_was_bound_to_this_address_is_not_answered(
    host: str, status: int
) -> None:
    _, app = server_with(greeter(), hosts=("api.example.org",))
    async with client_of(app) as client:
        answer = await client.post("/run/greeter", json="Hi", headers={"host": host})
        assert answer.status_code == status
        health = await client.get("/health", headers={"host": host})
        assert health.status_code == status
        two = [("host", host), ("host", "127.0.0.1")]
        assert (await client.get("/health", headers=two)).status_code == 421


@pytest.mark.parametrize(
    ("length", "status"), [("4", 200), ("0" * 5000 + "4", 200), ("9" * 20, 413), ("9" * 5000, 413)]
)
async def test_a_stated_length_of_any_number_of_digits_is_compared(
    length: str, status: int
) -> None:
    _, app = server_with(greeter())
    async with client_of(app) as client:
        headers = JSON | {"content-length": length}
        answer = await client.post("/run/greeter", content=b'"Hi"', headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
async def test_what_a_page_could_send_unasked_is_refused(kind: str) -> None:
    _, app = server_with(greeter())
    async with client_of(app) as client:
        answer = await client.post("/run/greeter", content=b'"Hi"', headers={"content-type": kind})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]["message"]


async def test_no_page_may_ask_unless_its_origin_is_named() -> None:
    asked = {"origin": "https://app.example.org", "access-control-request-method": "POST"}
    for origins, allowed in (((), None), (("https://app.example.org",), asked["origin"])):
        _, app = server_with(greeter(), origins=origins)
        async with client_of(app) as client:
            before = await client.options("/run/greeter", headers=asked)
            answer = await client.post(
                "/run/greeter", json="Hi", headers={"origin": asked["origin"]}
            )
        for one in (before, answer):
            assert one.headers.get("access-control-allow-origin") == allowed


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "no_json"),
        (b"{", 400, "no_json"),
        (b'"\xff"', 400, "no_json"),
        (b'"\\ud800"', 400, "no_json"),
        (b"NaN", 400, "no_json"),
        (b"[" * 20 + b"]" * 20, 400, "too_deep"),
        (b"[" * 90_000, 400, "no_json"),
        (b"5", 400, "invalid_input"),
        (b'"' + b"x" * 200_000 + b'"', 413, "request_too_large"),
    ],
)
async def test_a_body_that_is_no_request_is_told_why(body: bytes, status: int, code: str) -> None:
    _, app = server_with(greeter(), depth=8, body_bytes=150_000)
    async with client_of(app) as client:
        answer = await client.post("/run/greeter", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_body_without_a_length_is_counted_as_it_comes() -> None:
    sent = 0

    async def endless() -> AsyncGenerator[bytes]:
        nonlocal sent
        yield b'"'
        for _ in range(1000):
            sent += 1
            yield b"x" * 1000

    _, app = server_with(greeter(), body_bytes=10_000)
    async with client_of(app) as client:
        answer = await client.post("/run/greeter", content=endless(), headers=JSON)
    assert answer.status_code == 413
    assert sent < 1000


async def test_a_body_that_does_not_come_is_waited_for_no_longer_than_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def slowly() -> AsyncGenerator[bytes]:
        yield b'"'
        await asyncio.sleep(60)

    monkeypatch.setattr("moa.serving.http._BODY_S", 0.05)
    _, app = server_with(greeter())
    async with client_of(app) as client:
        answer = await client.post("/run/greeter", content=slowly(), headers=JSON)
    assert answer.status_code == 408


async def test_more_requests_than_are_worked_on_at_once_are_told_to_come_again() -> None:
    slow = Slow()
    _, app = server_with(slow, greeter(), concurrency=1)
    async with client_of(app) as client, asyncio.TaskGroup() as group:
        first = group.create_task(client.post("/run/slow", json="Hi"))
        await slow.begun.wait()
        second = await client.post("/run/greeter", json="Hi")
        assert second.status_code == 503
        assert second.headers["retry-after"] == "1"
        assert second.headers["x-should-retry"] == "true"
        assert (await client.get("/health")).status_code == 200
        first.cancel()


@pytest.mark.parametrize("heeds", [True, False])
async def test_a_run_ends_with_its_time(heeds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa.serving.runs._LATE_S", 0.05)
    slow = Slow()
    _, app = server_with(slow, timeout_s=0.05)
    accept = {} if heeds else {"accept": "text/event-stream"}
    async with client_of(app) as client:
        answer = await client.post("/run/slow", json="Hi", headers=accept)
    assert slow.cancelled.is_set()
    assert "deadline_exceeded" in answer.text
    if heeds:
        assert answer.status_code == 504
        assert answer.headers["x-moa-cost"] == "0"  # what was paid by then


@pytest.mark.parametrize(
    "words",
    [
        ["sentiment", "--host", "0.0.0.0"],
        ["sentiment", "--host", "::"],
        ["sentiment", "--host", "example.org"],
        ["no such graph"],
        ["sentiment", "sentiment"],
    ],
)
def test_a_server_that_is_set_up_wrong_is_not_started(words: list[str]) -> None:
    assert told("serve", *words, leaves=2).err.startswith("moa: ")


def test_a_port_that_is_taken_is_told(no_encoder: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert port in told("serve", "sentiment", "--port", port, leaves=2).err


async def test_a_server_that_is_mounted_without_its_lifespan_says_what_is_missing() -> None:
    _, app = server_with(greeter())
    outer = Starlette(routes=[Mount("/moa", app)])
    async with client_of(outer) as client:
        refused = await client.post("/moa/run/greeter", json="Hi")
    assert refused.status_code == 503
    assert "lifespan" in refused.json()["error"]["message"]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with app.router.lifespan_context(app):
            yield

    outer = Starlette(routes=[Mount("/moa", app)], lifespan=lifespan)
    async with client_of(outer) as client:
        assert (await client.get("/moa/health")).status_code == 200
        answer = await client.post("/moa/run/greeter", json="Hi")
    assert answer.json()["output"]["text"] == "Hello!"


FAULTS: list[tuple[errors.MoaError, int, bool]] = [
    (errors.InputError("the text is empty"), 400, False),
    (errors.NotResumable("asks people"), 501, False),
    (errors.BudgetExceeded("calls=2 of 1", spent=Usage()), 402, False),
    (errors.DeadlineExceeded("the time is up"), 504, False),
    (errors.EndpointTimeout("late", endpoint="large"), 504, False),
    (errors.EndpointUnavailable("refused", endpoint="large"), 503, True),
    (errors.EndpointUnavailable("cut", endpoint="large", begun=True), 503, False),
    (errors.InvalidResponse("html", endpoint="large"), 502, False),
    (errors.EndpointRejected("too long", endpoint="large", status=400), 400, False),
    (errors.EndpointRejected("no such model", endpoint="large", status=404), 502, False),
    (errors.EndpointUnauthorized("sk-secret", endpoint="large", status=401), 502, False),
    (errors.QuotaExceeded("sk-secret", endpoint="large", status=402), 502, False),
    (errors.OutputError("no JSON", node="writer", text="{"), 502, False),
    (errors.Unanswered("spam", status="refused"), 502, False),
    (errors.QuorumNotMet("one of three", causes={}), 502, False),
    (errors.GuardFailed("pii could not look"), 503, False),
    (errors.ConfigError("/etc/moa.toml"), 500, False),
    (errors.PriceUnknown("sk-secret"), 501, False),
    (errors.StoreError("disk full"), 500, False),
    (errors.NodeError("mine", ValueError("sk-secret")), 500, False),
]


@pytest.mark.parametrize(("error", "status", "again"), FAULTS, ids=lambda one: type(one).__name__)
def test_an_error_has_a_status_a_word_for_programs_and_says_whether_to_ask_again(
    error: errors.MoaError, status: int, again: bool
) -> None:
    fault = fault_of(error)
    response = fault.response()
    body: Any = fault.body
    assert fault.status == status
    assert response.headers["x-should-retry"] == str(again).lower()
    assert {*body["error"]} == {"message", "type", "param", "code"}
    assert "sk-secret" not in fault.message
    assert "/etc/" not in fault.message


@pytest.mark.parametrize("origin", ["*", "https://*.example.org", "app.example.org", "null"])
def test_an_origin_that_stands_for_many_is_refused(origin: str) -> None:
    with pytest.raises(errors.ConfigError, match="origin"):
        Settings(origins=(origin,))


@pytest.mark.parametrize("name", ["timeout_s", "body_bytes", "concurrency", "kept_s", "waiting"])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(errors.ConfigError, match=name):
        Settings(**cast("Any", {name: 0}))


def test_a_schema_says_that_a_number_is_taken_for_a_text_where_it_is() -> None:
    class Ticket(BaseModel):
        model_config = ConfigDict(coerce_numbers_to_str=True)
        id: str

    asked = Agent(ScriptedEndpoint(), "Answer.", input=Ticket)
    schema = ServedNode(asked).input_schema
    assert at(schema, "properties", "id", "type") == ["string", "number"]
    assert ServedNode(asked).parse({"id": 7}) == Ticket(id="7")
