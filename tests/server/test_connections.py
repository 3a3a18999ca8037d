"""Clients that read nothing, ask nothing, or send much ahead: they harm nobody else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
import pytest

from moa import Result, RunContext
from moa.serving import listening as listening_module

from .harness import (
    Ledger,
    Slow,
    SomeKeys,
    greeter,
    listening,
    running,
    server_with,
    until,
)

HEAD = "POST /run/{} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class Long:
    """A node that answers with a long text."""

    name = "long"

    def __init__(self, length: int) -> None:
        self._text = "x" * length

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        return Result(output=self._text, usage=(context or RunContext()).usage)


@asynccontextmanager
async def connected(
    address: str, *sent: bytes
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection with small buffers, and send something."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=client, limit=1024)
    try:
        for part in sent:
            writer.write(part)
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def refuses(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Send a piece again and again, until the connection is closed; fail if all are taken."""
    with suppress(ConnectionError):
        for _ in range(500):  # far more than the buffers of two sockets
            writer.write(piece)
            await writer.drain()
        raise AssertionError("it takes all of them")


def asked(name: str, *headers: str) -> bytes:
    """A request to run a node."""
    lines = "".join(f"{header}\r\n" for header in headers)
    return f'{HEAD.format(name)}{lines}Content-Length: 4\r\n\r\n"Hi"'.encode()


@pytest.mark.parametrize("length", [40_000, 2_000_000], ids=["fits the buffer", "is larger"])
@pytest.mark.parametrize("headers", [(), ("Connection: close",)], ids=["keep-alive", "close"])
async def test_a_client_that_reads_nothing_is_cut_off(
    length: int, headers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening_module, "WRITE_S", 0.2)
    server, app = server_with(Long(length))
    ended: list[object] = []
    server.runs.listeners.append(ended.append)
    async with (
        running(app, buffer=4096) as (address, serving),
        connected(address, asked("long", *headers)),
    ):
        await until(lambda: ended)
        await until(lambda: not serving.server_state.connections, seconds=20)


async def test_a_request_lasts_until_its_answer_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    server, app = server_with(Long(2_000_000), greeter(), concurrency=1)
    ended: list[object] = []
    server.runs.listeners.append(ended.append)
    async with (
        running(app, buffer=4096) as (address, _),
        httpx2.AsyncClient(base_url=address) as other,
    ):
        async with connected(address, asked("long")) as (reader, _):
            await until(lambda: ended)
            busy = await other.post("/run/greeter", json="Hi")
            whole = await reader.readuntil(b"\r\n\r\n")
            length = int(whole.lower().partition(b"content-length: ")[2].split()[0])
            body = await reader.readexactly(length)
        free = await other.post("/run/greeter", json="Hi")
    assert (busy.status_code, free.status_code) == (503, 200)
    assert body.count(b"x") >= 2_000_000


async def test_requests_that_are_sent_ahead_are_answered_in_turn_unless_they_are_many() -> None:
    ahead = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    _, app = server_with(slow := Slow())
    async with running(app) as (address, serving):
        async with connected(address, ahead * 10) as (reader, _):
            for _ in range(10):
                assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(b'{"status":"ok"}'))
        async with connected(address, asked("slow")) as (_, writer):
            await slow.begun.wait()
            writer.write(ahead * 1000)
            await until(lambda: not serving.server_state.connections)


async def test_a_head_that_is_sent_ahead_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening_module, "REST_BYTES", 1 << 30, raising=False)
    _, app = server_with(slow := Slow())
    async with listening(app) as address, connected(address, asked("slow")) as (_, writer):
        await slow.begun.wait()
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ")
        await refuses(writer, b"x" * 65536)


async def test_who_is_refused_early_reads_why_and_may_go_on() -> None:
    body = b"x" * 4_000_000
    _, app = server_with(greeter(), keys=SomeKeys(Ledger("ann")))
    head = f"{HEAD.format('greeter')}Content-Length: {len(body)}\r\n\r\n".encode()
    async with listening(app) as address, connected(address, head) as (reader, writer):
        assert b" 401 " in await reader.readline()
        length = (await reader.readuntil(b"\r\n\r\n")).lower().partition(b"content-length: ")[2]
        await reader.readexactly(int(length.split()[0]))
        writer.write(body)
        await writer.drain()
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in await reader.readline()


async def test_what_follows_a_refused_head_without_end_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening_module, "REST_BYTES", 200_000)
    _, app = server_with(greeter(), keys=SomeKeys(Ledger("ann")))
    head = f"{HEAD.format('greeter')}Transfer-Encoding: chunked\r\n\r\n".encode()
    async with listening(app) as address, connected(address, head) as (_, writer):
        await refuses(writer, b"10000\r\n" + b"x" * 65536 + b"\r\n")


@pytest.mark.parametrize(
    ("start", "piece"), [(b"", b"a:\r\n" * 16384), (b"a: ", b"x" * 65536)], ids=["many", "long"]
)
async def test_what_follows_the_last_chunk_of_a_body_is_counted(start: bytes, piece: bytes) -> None:
    _, app = server_with(greeter())
    head = f"{HEAD.format('greeter')}Transfer-Encoding: chunked\r\n\r\n".encode()
    body = b"2\r\n{}\r\n0\r\n" + start
    async with listening(app) as address, connected(address, head, body) as (_, writer):
        await refuses(writer, piece)


async def test_a_head_has_a_limited_number_of_headers() -> None:
    _, app = server_with(greeter())
    start = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    async with running(app) as (address, _):
        for count, status in ((100, b" 200 "), (4000, b" 431 ")):
            async with connected(address, start, b"a: b\r\n" * count, b"\r\n") as (reader, _):
                assert status in await reader.readline()


async def test_a_head_after_an_answer_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening_module, "REST_BYTES", 1 << 30, raising=False)
    _, app = server_with(greeter())
    first = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with listening(app) as address, connected(address, first) as (reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first[:-2] + b"X: ")
        await refuses(writer, b"x" * 65536)


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> int:
    """So many connections are open at most."""

    def most_connections(requests: int) -> int:
        del requests
        return 8

    monkeypatch.setattr(listening_module, "most_connections", most_connections, raising=False)
    return 8


async def test_idle_connections_make_way_for_a_new_one(eight: int) -> None:
    _, app = server_with(slow := Slow(0.5), greeter())
    async with running(app) as (address, serving), httpx2.AsyncClient(base_url=address) as client:
        busy = asyncio.ensure_future(client.post("/run/slow", json="Hi"))
        await slow.begun.wait()
        idle = [await asyncio.open_connection(*_place(address)) for _ in range(30)]
        assert (await client.post("/run/greeter", json="Hi")).status_code == 200
        assert len(serving.server_state.connections) <= eight
        assert (await busy).status_code == 200
        for _, writer in idle:
            writer.transport.abort()


async def test_a_connection_is_refused_only_if_none_waits(eight: int) -> None:
    _, app = server_with(Slow(), greeter())
    async with (
        running(app, drain_s=0.2) as (address, serving),
        httpx2.AsyncClient(base_url=address) as client,
        asyncio.TaskGroup() as group,
    ):
        busy = [group.create_task(client.post("/run/slow", json="Hi")) for _ in range(eight)]
        await until(lambda: app.state.server.runs.active == eight)
        with pytest.raises(httpx2.TransportError):
            await client.post("/run/greeter", json="Hi")
        assert len(serving.server_state.connections) == eight
        for task in busy:
            task.cancel()


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("http://").rpartition(":")
    return host, int(port)


class Idle:
    """A connection that waits for its client."""

    waits = True

    def __init__(self) -> None:
        self.closed = False

    def abort(self) -> None:
        self.closed = True


def test_the_address_with_most_connections_makes_way() -> None:
    connections: Any = listening_module.Connections(8)
    other, many = Idle(), [Idle() for _ in range(50)]
    assert connections.add(other, "192.0.2.1")
    for connection in many:
        assert connections.add(connection, "192.0.2.2")
    assert not other.closed
    assert [connection.closed for connection in many] == [True] * 43 + [False] * 7


def test_connections_leave_half_of_the_files_and_few_are_accepted_where_files_are_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resource = pytest.importorskip("resource")

    def limited(files: int) -> tuple[int, int]:
        monkeypatch.setattr(resource, "getrlimit", {resource.RLIMIT_NOFILE: (files, files)}.get)
        return listening_module.most_connections(256), listening_module.most_accepted()

    given = (16, 64, 1024, 100_000, resource.RLIM_INFINITY)
    connections, accepted = zip(*map(limited, given), strict=True)
    assert connections[2:] == (512, 1024, 1024)
    assert accepted == (1, 2, 16, 16, 16)
