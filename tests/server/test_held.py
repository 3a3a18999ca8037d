"""What a server holds while a run lasts, or while nobody reads: what it needs, once."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from moa import Result, RunContext
from moa.agents.classifier import Classifier
from moa.core.errors import OutputError
from moa.core.trace import TextDelta
from moa.serving import listening as listening_module
from moa.serving.events import event_of
from moa.testing import SimulatedEndpoint

from .harness import Slow, listening, running, server_with, until
from .test_connections import connected

MANY: list[object] = [[] for _ in range(40_000)]
"""Each takes 56 bytes, in addition to its place in the list."""
LONG = "x" * 3_000_000
TALK = {"model": "slow", "messages": [{"role": "user", "content": "Hi"}]}
ASKED = {
    "model": "slow",
    "questions": {
        "any": {"type": "choice", "instructions": "?", "criteria": {"a": None, "b": None}}
    },
}


def posted(path: str, body: object, *headers: str) -> bytes:
    """A request."""
    content = json.dumps(body).encode()
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *headers,
    )
    return "\r\n".join((*lines, "", "")).encode() + content


@contextmanager
def traced() -> Generator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def bytes_in_use() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize("headers", [(), ("Idempotency-Key: one",)], ids=["", "idempotent"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**TALK, "metadata": MANY}),
        ("/v1/chat/completions", {**TALK, "prediction": {"content": MANY}, "stream": True}),
        ("/v1/chat/completions", {**TALK, "user": LONG}),
        ("/v1/systemone", {**ASKED, "state": "Hi", "further": MANY}),
        ("/v1/systemone", {**ASKED, "state": "Hi", "further": LONG}),
        ("/v1/systemone", {**ASKED, "state": MANY}),
    ],
    ids=["many", "many, streamed", "long", "many unknown", "long unknown", "many as text"],
)
async def test_a_run_holds_nothing_of_its_body_but_what_it_needs(
    path: str, body: dict[str, Any], headers: tuple[str, ...]
) -> None:
    node: Any = Slow()
    if path == "/v1/systemone":
        silent = SimulatedEndpoint(rule=lambda _: {}, latency_s=3600)
        node = Classifier(silent, ["yes", "no"], name="slow")
    server, app = server_with(node)
    request = posted(path, body, *headers)
    async with listening(app) as address:
        with traced():
            before = bytes_in_use()
            async with connected(address, request) as (_, writer):
                await writer.drain()
                await until(lambda: server.runs.active)
                held = bytes_in_use() - before
                for _ in range(50):  # what has read it ends late on a busy machine
                    if held < 1_000_000:
                        break
                    await asyncio.sleep(0.1)
                    held = bytes_in_use() - before
    assert held < 1_000_000


class Text(str):
    """A text whose end can be seen."""

    ended = 0
    __slots__ = ()

    def __del__(self) -> None:
        Text.ended += 1


class Writing:
    """A node that writes long texts, and fails when it is told to."""

    name = "writing"

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        text = Text("x" * 2_000_000)
        if "fail" in request:
            raise OutputError("no", node=self.name, text=text)
        return Result(output=text, usage=(context or RunContext()).usage)


CHAT = {"model": "writing", "stream": True}
SAID = {"role": "user", "content": "Hi"}
FAILED = {"role": "user", "content": "fail"}


@pytest.mark.parametrize(
    ("path", "body", "accept"),
    [
        ("/run/writing", "Hi", "text/event-stream"),
        ("/run/writing", "fail", "text/event-stream"),
        ("/run/writing", "Hi", "*/*"),
        ("/run/writing", "fail", "*/*"),
        ("/v1/chat/completions", {**CHAT, "messages": [SAID]}, "*/*"),
        ("/v1/chat/completions", {**CHAT, "messages": [FAILED]}, "*/*"),
    ],
)
@pytest.mark.parametrize("reads", [True, False])
async def test_the_text_of_an_answer_that_has_left_waits_for_no_garbage_collection(
    path: str, body: Any, accept: str, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening_module, "WRITE_S", 0.2)
    server, app = server_with(Writing())
    ended: list[object] = []
    server.runs.listeners.append(lambda _: ended.append(None))
    request = posted(path, body, f"Accept: {accept}", "Connection: close")
    before = Text.ended
    gc.disable()
    try:
        async with (
            running(app, buffer=4096) as (address, serving),
            connected(address, request) as (reader, _),
        ):
            if reads:
                assert (await reader.read()).startswith(b"HTTP/1.1 ")
            await until(lambda: ended)
            await until(lambda: not serving.server_state.connections, seconds=20)
            await until(lambda: Text.ended == before + 1)
    finally:
        gc.enable()


class Counted:
    """A node that writes a text, and how much of it has been asked for."""

    name = "counted"

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        return Result(output="x" * 5_000_000, usage=(context or RunContext()).usage)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/run/counted", "Hi"),
        ("/v1/chat/completions", {"model": "counted", "stream": True, "messages": [SAID]}),
    ],
)
async def test_of_an_answer_that_nobody_reads_one_copy_waits(path: str, body: Any) -> None:
    server, app = server_with(Counted())
    ended: list[object] = []
    server.runs.listeners.append(lambda _: ended.append(None))
    request = posted(path, body, "Accept: text/event-stream")
    async with running(app, buffer=4096) as (address, _):
        with traced():
            before = bytes_in_use()
            async with connected(address, request) as (reader, _):
                await reader.readuntil(b"\r\n\r\n")
                await until(lambda: ended)
                await asyncio.sleep(0.3)  # in which more would be made
                held = bytes_in_use() - before
    assert held < 7_000_000


async def test_a_client_that_is_cut_off_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listening_module, "WRITE_S", 0.2)
    _, app = server_with(Counted())
    request = posted("/run/counted", "Hi", "Accept: text/event-stream")
    caplog.clear()
    async with (
        running(app, buffer=4096) as (address, serving),
        connected(address, request),
    ):
        await until(lambda: serving.server_state.connections)
        await until(lambda: not serving.server_state.connections, seconds=20)
    assert [record.getMessage() for record in caplog.records] == [
        "a client was cut off: it did not read its answer"
    ]


class Chatty:
    """A node that has written much before anything of it is read."""

    name = "chatty"

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        context = context or RunContext()
        for number in range(900):
            context.emit(TextDelta("chatty", f"{number}" + "x" * 4000))
        return Result(output="done", usage=context.usage)


async def test_what_waits_for_a_client_that_has_left_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[str] = []

    def event(data: str, name: str = "") -> bytes:
        written.append(name)
        return event_of(data, name)

    monkeypatch.setattr("moa.serving.typed.event_of", event)
    server, app = server_with(Chatty())
    ended: list[object] = []
    server.runs.listeners.append(lambda _: ended.append(None))
    request = posted("/run/chatty", "Hi", "Accept: text/event-stream")
    async with running(app, buffer=4096) as (address, serving):
        async with connected(address, request):
            await until(lambda: ended)
        await until(lambda: not serving.server_state.connections and not server.runs.active)
    assert len(written) < 300
