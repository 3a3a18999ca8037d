"""Bodies of many values, and of many faults: they are refused before they cost anybody time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel

from moa import Node, RunContext
from moa.agents.base import TypedNode
from moa.core.node import Reply
from moa.serving import parsing
from moa.serving.server import Settings

from .harness import client_of, greeter, server_with

JSON = {"content-type": "application/json"}
HI: Any = {"role": "user", "content": "Hi"}


class Numbers(BaseModel):
    numbers: list[int]


class Sum(TypedNode[Numbers, Reply]):
    name = "sum"

    async def answer(self, request: Numbers, context: RunContext) -> Reply:
        return Reply(text=str(sum(request.numbers)))


async def asked(path: str, body: object, *nodes: Node[Any, Any], **settings: Any) -> Any:
    """Send a body, and give the answer."""
    _, app = server_with(*(nodes or (greeter(),)), **settings)
    async with client_of(app) as client:
        return await client.post(path, content=json.dumps(body), headers=JSON)


def choice(count: int, name: str = "q") -> object:
    wrong = {f"option {index}": 0 for index in range(count)}
    return {"state": "a", "questions": {name: {"type": "choice", "criteria": wrong}}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {f"field{index}": 0 for index in range(900)}),
        ("/v1/chat/completions", {"messages": [HI | {"content": [{}] * 900}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user"}] * 900}),
        ("/v1/chat/completions", {"messages": [HI | {"content": 0}] * 300}),
        ("/v1/systemone", choice(100)),
        ("/v1/systemone", choice(300)),
        ("/v1/systemone", {"state": "a", "questions": {f"q{n}": 0 for n in range(900)}}),
        ("/run/sum", {"numbers": ["x"] * 900}),
        ("/run/sum", {"numbers": ["x"] * 90_000}),
    ],
)
async def test_of_many_faults_a_few_are_told(path: str, body: object) -> None:
    answer = await asked(path, body, greeter(), Sum())
    assert answer.status_code in (400, 422)
    assert len(answer.content) < 10_000
    assert len(answer.json()["detail"]) <= 21


async def test_how_many_faults_are_not_told_is_said() -> None:
    wrong = {"numbers": ["x"] * 50}
    assert "30 faults aren't told" in (await asked("/run/sum", wrong, Sum())).text
    wrong = {f"field{index}": 0 for index in range(50)}
    answer = (await asked("/v1/chat/completions", wrong)).json()
    assert "32 faults aren't told" in answer["error"]["message"]  # model and messages lack, too
    assert len(answer["detail"]) == 21


async def test_more_values_than_may_be_are_refused_before_they_are_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[int] = []
    whole = parsing.from_json

    def parse(body: bytes, **further: Any) -> object:
        parsed.append(len(body))
        return whole(body, **further)

    monkeypatch.setattr(parsing, "from_json", parse)
    bodies: list[object] = [[0] * 300, [[[0]]] * 100, {f"field{n}": 0 for n in range(300)}]
    for body in bodies:
        answer = await asked("/run/greeter", body, values=200, depth=8)
        assert answer.json()["error"]["code"] == "too_many_values"
    assert parsed == []


@pytest.mark.parametrize(
    "text", ["a,b," * 999, '[{"a": "\\",\\\\"}, ' * 999, "\\" * 999 + ",," * 999]
)
async def test_a_text_may_hold_as_many_commas_as_it_likes(text: str) -> None:
    answer = await asked("/run/greeter", text, values=5)
    assert answer.json()["output"] == {"text": "Hello!"}


async def test_a_name_that_each_fault_would_repeat_is_refused() -> None:
    answer = await asked("/v1/systemone", choice(9, name="q" * 5000))
    assert (answer.status_code, len(answer.content) < 1000) == (422, True)


async def test_a_body_of_many_values_is_read_beside_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beside: list[object] = []
    in_turn = parsing.in_turn

    async def noted(name: str, work: Any, **further: Any) -> Any:
        beside.append(work)
        return await in_turn(name, work, **further)

    monkeypatch.setattr(parsing, "in_turn", noted)
    for count in (9, 9000):
        answer = await asked("/run/sum", {"numbers": [1] * count}, Sum())
        assert answer.json()["output"]["text"] == str(count)
    assert len(beside) == 1
    assert Settings().values > 9000


async def test_large_bodies_follow_each_other_and_small_ones_do_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parsing, "_PACE", 1 << 18)
    _, app = server_with(greeter())
    answered: list[str] = []

    async def ask(name: str, text: str) -> None:
        answer = await client.post("/run/greeter", content=json.dumps(text), headers=JSON)
        assert answer.status_code == 200
        answered.append(name)

    async with client_of(app) as client, asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(ask("large", "x" * (300 << 10)))
        await asyncio.sleep(0)
        await ask("small", "x")
        assert len(answered) < 3
    assert len(answered) == 4


async def test_a_body_of_mcp_has_fewer_values_since_the_sdk_reads_them_on_the_loop() -> None:
    params = {"name": "greeter", "arguments": {"text": "Hi"}, "_meta": {"a": [0] * 20_000}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    answer = await asked("/mcp", call)
    assert answer.json()["error"]["code"] == "too_many_values"
