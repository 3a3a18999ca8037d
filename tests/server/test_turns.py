"""Turns: whoever has many requests waits for these, and others for one of them."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from moa.core._async import off_loop
from moa.serving import chat_turns, parsing
from moa.serving.parsing import in_turn

from .harness import Ledger, SomeKeys, client_of, greeter, server_with, until


class Noted:
    """`in_turn`, with the names that came."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def __call__(self, name: str, work: Any, **further: Any) -> Any:
        self.names.append(name)
        return await in_turn(name, work, **further)


async def order_of(*names: str) -> list[str]:
    """Let callers come while the thread is busy, and give the order in which they are served."""
    served: list[str] = []
    over = threading.Event()
    first = asyncio.ensure_future(in_turn("first", over.wait))
    await asyncio.sleep(0)
    waiting = [
        asyncio.ensure_future(in_turn(name, lambda n=name: served.append(n))) for name in names
    ]
    await asyncio.sleep(0)
    over.set()
    await asyncio.gather(first, *waiting)
    return served


async def test_a_caller_waits_for_one_turn_of_another_that_has_many() -> None:
    served = await order_of(*["ann"] * 50, "bob", "bob", "eve")
    assert served[:5] == ["ann", "bob", "eve", "ann", "bob"]
    assert served[5:] == ["ann"] * 48


async def test_the_work_of_one_caller_is_done_in_the_order_of_its_coming() -> None:
    served: list[int] = []
    await asyncio.gather(*(in_turn("", lambda n=n: served.append(n)) for n in range(50)))
    assert served == [*range(50)]


async def test_who_leaves_gives_the_turn_to_others_and_what_has_begun_keeps_it() -> None:
    over, working, most = threading.Event(), list[int](), list[int]()

    def work() -> None:
        working.append(1)
        most.append(len(working))
        over.wait()
        working.pop()

    tasks = [asyncio.ensure_future(in_turn("ann", work)) for _ in range(9)]
    await until(lambda: working)
    for task in tasks[:8]:
        task.cancel()
    await asyncio.sleep(0.05)
    assert (len(most), tasks[8].done()) == (1, False)
    over.set()
    await tasks[8]
    assert most == [1, 1]
    assert await in_turn("bob", lambda: 7) == 7


async def test_who_is_cancelled_as_the_turn_comes_passes_it_on() -> None:
    over = threading.Event()
    tasks = [asyncio.ensure_future(in_turn("ann", over.wait)) for _ in range(3)]
    tasks[0].add_done_callback(lambda _: [task.cancel() for task in tasks])
    await asyncio.sleep(0)
    over.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(10):
        assert await in_turn("bob", lambda: 7) == 7


async def test_a_turn_may_take_longer_than_its_work() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    await in_turn("ann", lambda: None, least_s=0.5)
    await in_turn("ann", lambda: None)
    assert loop.time() >= start + 0.2


async def test_an_error_of_the_work_is_raised_and_the_turn_goes_on() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await in_turn("ann", fail)
    assert await in_turn("ann", lambda: 7) == 7


@pytest.mark.parametrize("numbers", [2000, 200_000])
async def test_bodies_of_one_key_make_another_key_wait_for_a_few_of_them(
    monkeypatch: pytest.MonkeyPatch, numbers: int
) -> None:
    noted, over, answered = Noted(), threading.Event(), list[str]()
    monkeypatch.setattr(parsing, "in_turn", noted)
    monkeypatch.setattr(parsing, "_PACE", 1 << 40)
    keys = SomeKeys(Ledger("ann"), Ledger("bob"))
    _, app = server_with(greeter(), keys=keys, values=1000)  # so each is refused
    body = json.dumps([0] * numbers)

    async def ask(name: str) -> None:
        headers = {"content-type": "application/json", "authorization": f"Bearer {name}"}
        answer = await client.post("/run/greeter", content=body, headers=headers)
        assert answer.status_code == 400
        answered.append(name)

    async with client_of(app) as client, asyncio.TaskGroup() as group:
        group.create_task(in_turn("ann", over.wait))
        for name in ["ann"] * 20 + ["bob"]:
            group.create_task(ask(name))
        await until(lambda: len(noted.names) == 21)
        await asyncio.sleep(0)
        over.set()
    assert answered.index("bob") <= 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_schema_and_what_is_held_to_it_take_turns_by_key(
    monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    noted = Noted()
    monkeypatch.setattr(chat_turns, "in_turn", noted)
    _, app = server_with(greeter('{"a": 1}'), keys=SomeKeys(Ledger("ann")))
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"required": ["a"]}}}
    body = {"model": "greeter", "messages": [{"role": "user", "content": "Hi"}]}
    async with client_of(app, headers={"authorization": "Bearer ann"}) as client:
        body |= {"response_format": form, "stream": stream}
        answer = await client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200
    assert noted.names == ["ann", "ann"]


async def test_owners_whose_long_texts_wait_take_turns() -> None:
    served, over = list[str](), threading.Event()
    first = asyncio.ensure_future(off_loop(over.wait, None, size=1 << 20))
    await asyncio.sleep(0)
    waiting = [
        asyncio.ensure_future(
            off_loop(lambda o=owner: served.append(o), None, size=1 << 20, owner=owner)
        )
        for owner in [*["ann"] * 20, "bob"]
    ]
    await asyncio.sleep(0)
    over.set()
    await asyncio.gather(first, *waiting)
    assert served[:3] == ["ann", "bob", "ann"]
