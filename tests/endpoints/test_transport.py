"""How a server is reached, and what each exception on the way means."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import client_exceptions
from aiohttp.http_writer import StreamWriter
from aiohttp.test_utils import RawTestServer
from pydantic import SecretStr

from moa.core.context import RunContext
from moa.core.errors import (
    ConfigError,
    EndpointError,
    EndpointTimeout,
    EndpointUnavailable,
    InvalidResponse,
    may_be_billed,
)
from moa.endpoints import Prompt, wire
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.transport import error_of_exception, foreign_errors, is_loopback, proxy_of

from .conftest import Served, chat, completed, streamed

TLS = Path(__file__).with_name("tls.pem")
"""A key, and the certificate that it signed itself, for 127.0.0.1."""
KEY = "sk-very-secret"


class Plain(Exception):
    """Lets a class be built without the arguments that it asks for."""

    status, message = 407, "broken"

    def __init__(self) -> None:
        pass

    def __str__(self) -> str:
        return "broken"


KINDS = [
    kind
    for kind in vars(client_exceptions).values()
    if isinstance(kind, type) and issubclass(kind, aiohttp.ClientError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_exception_of_aiohttp_has_a_meaning(kind: type[aiohttp.ClientError]) -> None:
    assert issubclass(kind, foreign_errors())
    raised = type(kind.__name__, (Plain, kind), {})()
    error = error_of_exception(raised, endpoint="writer", url="http://m.test/v1")
    # What takes no connection is not there: that it was late says nothing of `timeout_s`.
    late = issubclass(kind, TimeoutError) and not issubclass(kind, aiohttp.ConnectionTimeoutError)
    assert isinstance(error, EndpointTimeout) == late


# Over real sockets and the real transport

JSON_HEAD = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
EVENTS_HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served_by(
    speak: Speak, *, host: str = "127.0.0.1"
) -> AsyncGenerator[OpenAIEndpoint, None]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await speak(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    endpoint = OpenAIEndpoint(
        "real", model="m", base_url=f"http://{host}:{port}/v1", api_key=SecretStr(KEY)
    )
    async with server:
        yield endpoint
        await endpoint.close()


def saying(said: str | bytes) -> Speak:
    """Answer with these words, and end the connection."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(said.encode() if isinstance(said, str) else said)
        with suppress(ConnectionError):
            await writer.drain()

    return speak


async def test_nobody_listens() -> None:
    endpoint = OpenAIEndpoint("real", model="m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(EndpointUnavailable):
        await endpoint.complete(Prompt.of("Hi"), RunContext())
    await endpoint.close()


async def test_a_host_whose_name_nobody_knows_is_told_apart_from_a_server_that_is_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    endpoint = OpenAIEndpoint("real", model="m", base_url="http://nobody.invalid/v1")
    with pytest.raises(EndpointUnavailable, match="online"):
        await endpoint.complete(Prompt.of("Hi"), RunContext())
    await endpoint.close()


async def test_a_server_that_takes_too_long_to_connect_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/v1"
        endpoint = OpenAIEndpoint("real", model="m", base_url=url, connect_timeout_s=0.05)
        run = RunContext()
        with pytest.raises(EndpointUnavailable, match="cannot reach"):
            await endpoint.complete(Prompt.of("Hi"), run)
        await endpoint.close()
    assert run.usage.output_tokens == 0


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("", EndpointUnavailable),
        ('HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"choices": [', EndpointUnavailable),
        ("220 mail.example ESMTP\r\n", InvalidResponse),
        (
            "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nplain",
            InvalidResponse,
        ),
        (f"HTTP/1.1 {KEY}\r\n\r\n", InvalidResponse),
        (f"HTTP/1.1 200 OK\r\nx {KEY}: 1\r\n\r\n", InvalidResponse),
    ],
    ids=["lost before", "lost in the middle", "mail", "not gzip", "key in status", "key in header"],
)
async def test_what_is_no_answer_in_http_is_told_without_the_key(
    said: str, kind: type[EndpointError]
) -> None:
    async with served_by(saying(said)) as endpoint:
        with pytest.raises(kind) as caught:
            await endpoint.complete(Prompt.of("Hi"), RunContext())
    assert KEY not in "".join(traceback.format_exception(caught.value))


async def test_the_connection_is_lost_in_the_middle_of_a_stream() -> None:
    event = 'data: {"choices": [{"delta": {"content": "Good"}}]}\n\n'
    chunk = f"{len(event):x}\r\n{event}\r\n"
    async with served_by(
        saying(f"{EVENTS_HEAD}transfer-encoding: chunked\r\n\r\n{chunk}")
    ) as endpoint:
        context = RunContext()
        pieces = endpoint.stream(Prompt.of("Hi"), context)
        assert await anext(pieces) == "Good"
        with pytest.raises(EndpointUnavailable, match="in the middle"):
            await anext(pieces)
        assert context.usage.calls == 1


@pytest.mark.parametrize(
    ("head", "body"),
    [
        pytest.param(JSON_HEAD, b" " * 3 * 2**20, id="body"),
        pytest.param(
            f"{JSON_HEAD}content-encoding: gzip\r\n", gzip.compress(b" " * 3 * 2**20), id="gzip"
        ),
        pytest.param(EVENTS_HEAD, b"data: " + b" " * 2**20, id="line"),
        pytest.param(
            f"{EVENTS_HEAD}content-encoding: gzip\r\n",
            gzip.compress(b":\n" * 2**20),
            id="gzip-of-lines",
        ),
    ],
)
async def test_what_is_larger_than_an_answer_may_be_is_not_read_on(
    monkeypatch: pytest.MonkeyPatch, head: str, body: bytes
) -> None:
    monkeypatch.setattr(wire, "LARGEST_ANSWER", 2 * 2**20 - 1)
    monkeypatch.setattr(wire, "LONGEST_LINE", 2**20)
    said = f"{head}connection: close\r\n\r\n".encode() + body
    async with served_by(saying(said)) as endpoint:
        ask = streamed if head.startswith(EVENTS_HEAD) else completed
        with pytest.raises(InvalidResponse):
            await ask(endpoint, Prompt.of("Hi"), RunContext())


async def test_an_error_that_calls_itself_a_stream_is_told() -> None:
    head = EVENTS_HEAD.replace("200 OK", "500 Failed")
    async with served_by(saying(f"{head}connection: close\r\n\r\nout of memory")) as endpoint:
        with pytest.raises(EndpointUnavailable, match="out of memory"):
            await streamed(endpoint, Prompt.of("Hi"), RunContext())


ANSWER = json.dumps({"choices": [{"message": {"content": "Good"}, "finish_reason": "stop"}]})
WHOLE = f"{JSON_HEAD}content-length: {len(ANSWER)}\r\n\r\n{ANSWER}"


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_request_on_a_connection_that_was_let_go_is_sent_once_more(lost: int) -> None:
    asked: list[int] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(2):  # the second on a connection meets its end
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
            asked.append(number)
            if number or 2 <= len(asked) - 1 <= lost:
                break
            await saying(WHOLE)(reader, writer)
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        endpoint, run = OpenAIEndpoint("real", model="m", base_url=url), RunContext()
        await endpoint.complete(Prompt.of("Hi"), run)
        if lost == 1:
            await endpoint.complete(Prompt.of("Hi"), run)
        else:
            with pytest.raises(EndpointUnavailable):
                await endpoint.complete(Prompt.of("Hi"), run)
        await endpoint.close()
    assert asked == [0, 1, 0]
    assert run.usage.calls == 2


async def test_a_request_that_meets_only_ended_connections_is_sent_on_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = StreamWriter._writelines  # pyright: ignore[reportPrivateUsage]
    failures = 3

    def write(self: StreamWriter, chunks: Sequence[bytes]) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
        written(self, chunks)

    monkeypatch.setattr(StreamWriter, "_writelines", write)

    run = RunContext()
    async with served_by(saying(WHOLE)) as endpoint:
        assert (await endpoint.complete(Prompt.of("Hi"), run)).text == "Good"
    assert (failures, run.usage.calls) == (0, 1)


def test_a_request_that_no_connection_took_is_not_billed() -> None:
    ended = aiohttp.ClientConnectionResetError("Cannot write to closing transport")
    for lost, billed in ((ended, False), (aiohttp.ServerDisconnectedError(), True)):
        assert may_be_billed(error_of_exception(lost, endpoint="e", url="u")) == billed


async def test_a_new_connection_that_is_lost_is_not_tried_again() -> None:
    asked = 0

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        del reader, writer
        asked += 1

    async with served_by(speak) as endpoint:
        with pytest.raises(EndpointUnavailable):
            await endpoint.complete(Prompt.of("Hi"), RunContext())
    assert asked == 1


# Directly or by a proxy, and by whose certificates


async def ask(url: str) -> str:
    endpoint = OpenAIEndpoint("real", model="m", base_url=url)
    try:
        return (await endpoint.complete(Prompt.of("Hi"), RunContext())).text
    finally:
        await endpoint.close()


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("http://127.8.0.1/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://[::ffff:127.0.0.1]/v1", True),
        ("http://0.0.0.0:8000/v1", True),
        ("http://LOCALHOST/v1", True),
        ("http://192.168.0.1/v1", False),
        ("http://localhost.example.org/v1", False),
    ],
)
def test_an_address_of_this_machine_is_known(url: str, *, near: bool) -> None:
    assert is_loopback(url) == near


async def test_a_proxy_is_asked_in_place_of_the_server(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", "user:word@proxy.test:3128")
    served.will(chat())
    assert await ask("http://model.test/v1") == "hello"
    assert served.requests[0].host == "model.test"
    assert served.requests[0].headers["proxy-authorization"].startswith("Basic ")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_what_runs_on_this_machine_is_asked_past_every_proxy(
    host: str, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    served.will(chat())
    assert await ask(f"http://{host}:{served.port}/v1") == "hello"


async def test_a_proxy_that_opens_no_way_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = b""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://user:word@127.0.0.1:{port}")
        with pytest.raises(EndpointUnavailable, match="proxy answers 407") as caught:
            await ask("https://model.test/v1")
    assert asked.startswith(b"CONNECT model.test:443 ")
    assert not caught.value.begun
    assert "user:word" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("proxy", ["socks5://user:word@127.0.0.1:9", "http://", "http://[::1"])
async def test_a_proxy_that_cant_be_used_is_named(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(ConfigError, match="ALL_PROXY") as caught:
        await ask("http://model.test/v1")
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    ("excepted", "url", "direct"),
    [
        ("other.test, model.test", "http://model.test/v1", True),
        (".test", "http://model.test/v1", True),
        ("model.test:8000", "http://model.test:8000/v1", True),
        ("model.test:8000", "http://model.test:8001/v1", False),
        ("*", "http://model.test/v1", True),
        ("10.0.0.0/8", "http://10.1.2.3:8000/v1", True),
        ("10.0.0.0/8", "http://11.1.2.3:8000/v1", False),
        ("fd00::/8", "http://[fd00::1]:8000/v1", True),
        ("", "http://model.test/v1", False),
    ],
)
def test_what_no_proxy_excepts_is_asked_directly(
    excepted: str, url: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("no_proxy", excepted)
    assert proxy_of(url, "real") == (None if direct else "http://proxy.test:3128")


async def test_a_server_is_trusted_by_the_certificates_that_are_named(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS)
    served.will(chat())
    server = RawTestServer(served)
    await server.start_server(ssl=context)
    url = str(server.make_url("/v1"))
    with pytest.raises(EndpointUnavailable):
        await ask(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS))
    assert await ask(url) == "hello"
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS.with_name("none.pem")))
    with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
        await ask(url)
    await server.close()
