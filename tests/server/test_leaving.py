"""Clients that go away, read slowly, or are there when the server is told to end."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from moa import Result, RunContext
from moa.core.trace import TextDelta

from .harness import Ledger, Slow, SomeKeys, client_of, listening, server_with, until

STREAM = {"accept": "text/event-stream"}


async def connected(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection without sending anything."""
    return await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize("headers", [{}, STREAM], ids=["whole", "streamed"])
async def test_a_client_that_goes_away_cancels_its_run_and_what_was_paid_is_settled(
    headers: dict[str, str],
) -> None:
    slow, ann = Slow(), Ledger("ann")
    server, app = server_with(slow, keys=SomeKeys(ann))
    async with listening(app) as address:
        headers = {**headers, "authorization": "Bearer ann"}
        async with httpx2.AsyncClient(base_url=address, headers=headers) as client:
            asking = asyncio.ensure_future(client.post("/run/slow", json="Hi"))
            await slow.begun.wait()
            asking.cancel()
        await until(slow.cancelled.is_set)
        await until(lambda: not server.runs.active)
    assert [usage.calls for usage in ann.settled] == [1]


async def test_a_client_that_leaves_before_its_request_has_come_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, app = server_with(Slow())
    async with listening(app) as address:
        _, writer = await connected(address)
        head = b"POST /run/slow HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(head + b'Content-Length: 100\r\n\r\n"Hi')
        await writer.drain()
        await asyncio.sleep(0.1)
        await close(writer)
    assert not caplog.records


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: local"])
async def test_a_client_whose_headers_do_not_come_is_not_waited_for(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.serving.listening.HEAD_S", 0.1)
    _, app = server_with(Slow())
    async with listening(app) as address:
        reader, writer = await connected(address)
        writer.write(sent)
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        await close(writer)


async def test_a_client_whose_headers_have_no_end_is_cut_off() -> None:
    _, app = server_with(Slow())
    async with listening(app) as address:
        reader, writer = await connected(address)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ")
        with suppress(ConnectionError):
            for _ in range(1000):  # far more than the buffers of two sockets
                writer.write(b"x" * 65536)
                await writer.drain()
            raise AssertionError("it takes all of them")
        said = b""
        with suppress(ConnectionError):
            said = await reader.read()
        assert not said or said.split()[1] in (b"400", b"431")
        await close(writer)


async def test_a_connection_that_waits_for_its_answer_is_left_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moa.serving.listening.HEAD_S", 0.5)
    _, app = server_with(Slow(0.8))
    async with (
        listening(app) as address,
        httpx2.AsyncClient(base_url=address) as client,
    ):
        for _ in range(2):
            assert (await client.post("/run/slow", json="Hi")).status_code == 200


async def test_a_stream_without_news_says_that_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa.serving.runs.PING_S", 0.05)
    _, app = server_with(Slow(0.5))
    async with client_of(app) as client:
        answer = await client.post("/run/slow", json="Hi", headers=STREAM)
    assert "\r\n\r\n: ping\r\n\r\n" in f"\r\n\r\n{answer.text}"
    assert "event: result\r\ndata: {" in answer.text


class Talker:
    """A node that writes without end."""

    name = "talker"

    def __init__(self) -> None:
        self.pieces = 0
        self.ended = False

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        assert context is not None
        try:
            while True:
                self.pieces += 1
                context.emit(TextDelta("talker", "word " * 200))
                await asyncio.sleep(0)
        finally:
            self.ended = True


async def test_a_reader_that_is_too_slow_ends_its_run_and_fills_no_memory() -> None:
    talker = Talker()
    _, app = server_with(talker, waiting=50)
    sent: list[bytes] = []

    async with client_of(app):
        body = iter([{"type": "http.request", "body": b'"Hi"'}])
        reads = asyncio.Event()

        async def receive() -> Any:
            if (message := next(body, None)) is not None:
                return message
            await asyncio.sleep(3600)

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))
            if sent[1:] and not reads.is_set():
                await reads.wait()  # what a socket does whose buffer is full

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "method": "POST",
            "path": "/run/talker",
            "query_string": b"",
            "headers": [
                (b"host", b"localhost"),
                (b"content-type", b"application/json"),
                (b"accept", b"text/event-stream"),
            ],
        }
        answering = asyncio.ensure_future(app(scope, receive, send))
        await until(lambda: talker.ended or talker.pieces > 2000)
        assert talker.ended  # while nobody reads
        reads.set()
        await answering
    assert b"reader_too_slow" in b"".join(sent)


async def test_a_stream_that_nobody_reads_is_cut_off_with_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moa.serving.runs._LATE_S", 0.1)
    server, app = server_with(Talker(), timeout_s=0.1)
    async with listening(app) as address:
        host, port = address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        asked = "POST /run/talker HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{asked}Accept: text/event-stream\r\nContent-Length: 4\r\n\r\n".encode())
        writer.write(b'"Hi"')
        await until(lambda: server.runs.active)
        await until(lambda: not server.runs.active)
        writer.close()
        del reader


SLEEPER = """
import asyncio
from moa import Result

class Sleeper:
    name = "sleeper"
    async def run(self, request: str, context=None, /) -> Result[str]:
        print("begun", flush=True)
        await asyncio.sleep(0.7)
        return Result(output=request)

node = Sleeper()
"""


def _started(tmp_path: Path, *words: str) -> tuple[subprocess.Popen[str], str]:
    (tmp_path / "own.py").write_text(SLEEPER)
    command = [sys.executable, "-m", "moa", "serve", "own.py:node", "--port", "0", *words]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    return process, process.stdout.readline().rpartition(" ")[2].strip()


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_a_server_that_is_told_to_end_lets_what_runs_come_to_its_end(
    tmp_path: Path, accept: str
) -> None:
    process, address = _started(tmp_path)
    assert process.stdout is not None
    async with httpx2.AsyncClient(base_url=address, headers={"accept": accept}) as client:
        asking = asyncio.ensure_future(client.post("/run/sleeper", json="Hi", timeout=20))
        await asyncio.to_thread(process.stdout.readline)
        process.send_signal(signal.SIGTERM)
        answer = await asking
        assert answer.status_code == 200
        assert '"output":"Hi"' in answer.text.replace(" ", "")
    assert await asyncio.to_thread(process.wait, 10) == -signal.SIGTERM
    process.stdout.close()


@pytest.mark.parametrize("headers", [{}, STREAM], ids=["whole", "streamed"])
async def test_a_client_whose_run_ends_with_the_server_is_told(headers: dict[str, str]) -> None:
    slow, ann = Slow(), Ledger("ann")
    _, app = server_with(slow, keys=SomeKeys(ann))
    headers = {**headers, "authorization": "Bearer ann"}
    async with httpx2.AsyncClient(headers=headers, timeout=20) as client:
        async with listening(app, drain_s=0.2) as address:
            asking = asyncio.ensure_future(client.post(f"{address}/run/slow", json="Hi"))
            await slow.begun.wait()
        answer = await asking
    assert "server_ends" in answer.text
    assert answer.status_code == (200 if "accept" in headers else 503)
    assert [usage.calls for usage in ann.settled] == [1]


async def test_clients_that_leave_at_any_moment_leave_no_task_and_no_run() -> None:
    ann = Ledger("ann")
    server, app = server_with(Slow(0.05), keys=SomeKeys(ann))
    dice = random.Random(0)
    async with listening(app) as address:
        host, port = address.removeprefix("http://").split(":")

        async def ask(accept: str) -> None:
            _, writer = await asyncio.open_connection(host, int(port))
            head = "POST /run/slow HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ann\r\n"
            kind = f"Content-Type: application/json\r\nAccept: {accept}\r\n"
            asked = f'{head}{kind}Content-Length: 4\r\n\r\n"Hi"'.encode()
            writer.write(asked[: dice.choice([len(asked), dice.randrange(len(asked))])])
            await asyncio.sleep(dice.random() * 0.1)
            writer.transport.abort()

        before = len(asyncio.all_tasks())
        for _ in range(5):
            async with asyncio.TaskGroup() as group:
                for accept in ["application/json", "text/event-stream"] * 10:
                    group.create_task(ask(accept))
        await until(lambda: not server.runs.active)
        await until(lambda: len(asyncio.all_tasks()) <= before)
    assert ann.settled
    assert all(usage.calls <= 1 for usage in ann.settled)
