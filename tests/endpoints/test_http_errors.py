"""Every exception of the HTTP stack has a meaning; a new one without fails here."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import client_exceptions
from aiohttp.http_writer import StreamWriter
from pydantic import SecretStr

from moa.context import RunContext
from moa.endpoints import Completion, Prompt, client
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.transport import error_of_exception, foreign_errors
from moa.errors import EndpointTimeout, EndpointUnavailable, InvalidResponse

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


async def say(writer: asyncio.StreamWriter, text: str) -> None:
    writer.write(text.encode())
    await writer.drain()


async def test_nobody_listens() -> None:
    endpoint = OpenAIEndpoint("real", model="m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(EndpointUnavailable, match="Is the server up"):
        await endpoint.complete(Prompt.of("Hi"), RunContext())
    await endpoint.close()


async def test_a_server_that_takes_too_long_to_connect_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/v1"
        endpoint = OpenAIEndpoint("real", model="m", base_url=url, connect_timeout_s=0.05)
        run = RunContext()
        with pytest.raises(EndpointUnavailable, match=r"cannot reach .*Connection timeout"):
            await endpoint.complete(Prompt.of("Hi"), run)
        await endpoint.close()
    assert run.usage.output_tokens == 0


async def test_the_connection_is_lost_before_the_answer() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader, writer

    async with served_by(speak) as endpoint:
        with pytest.raises(EndpointUnavailable, match="cannot reach"):
            await endpoint.complete(Prompt.of("Hi"), RunContext())


async def test_the_connection_is_lost_in_the_middle_of_the_answer() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        await say(writer, 'HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"choices": [')

    async with served_by(speak) as endpoint:
        with pytest.raises(EndpointUnavailable, match="in the middle"):
            await endpoint.complete(Prompt.of("Hi"), RunContext())


@pytest.mark.parametrize(
    "said",
    [
        "220 mail.example ESMTP\r\n",
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nplain",
    ],
    ids=["mail", "not gzip"],
)
async def test_what_answers_is_no_http_server(said: str) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        await say(writer, said)

    async with served_by(speak) as endpoint:
        with pytest.raises(InvalidResponse, match="HTTP"):
            await endpoint.complete(Prompt.of("Hi"), RunContext())


@pytest.mark.parametrize("line", ["HTTP/1.1 {key}", "HTTP/1.1 200 OK\r\nx {key}: 1"])
async def test_what_is_no_http_is_quoted_without_the_key(line: str) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        await say(writer, line.format(key=KEY) + "\r\n\r\n")

    async with served_by(speak) as endpoint:
        with pytest.raises(InvalidResponse, match=r"\*\*\*") as caught:
            await endpoint.complete(Prompt.of("Hi"), RunContext())
    assert KEY not in "".join(traceback.format_exception(caught.value))


async def test_the_connection_is_lost_in_the_middle_of_a_stream() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        event = 'data: {"choices": [{"delta": {"content": "Good"}}]}\n\n'
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        chunk = f"{len(event):x}\r\n{event}\r\n"
        await say(writer, f"{head}transfer-encoding: chunked\r\n\r\n{chunk}")

    async with served_by(speak) as endpoint:
        context = RunContext()
        pieces = endpoint.stream(Prompt.of("Hi"), context)
        assert await anext(pieces) == "Good"
        with pytest.raises(EndpointUnavailable, match="in the middle"):
            await anext(pieces)
        assert context.usage.calls == 1


async def streamed(
    endpoint: OpenAIEndpoint, prompt: Prompt, context: RunContext
) -> list[str | Completion]:
    return [piece async for piece in endpoint.stream(prompt, context)]


JSON_HEAD = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
EVENTS_HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


@pytest.mark.parametrize(
    ("head", "body", "what"),
    [
        pytest.param(JSON_HEAD, b" " * 3 * 2**20, "answer", id="body"),
        pytest.param(
            f"{JSON_HEAD}content-encoding: gzip\r\n",
            gzip.compress(b" " * 3 * 2**20),
            "answer",
            id="gzip",
        ),
        pytest.param(EVENTS_HEAD, b"data: " + b" " * 2**20, "line of a stream", id="line"),
        pytest.param(
            f"{EVENTS_HEAD}content-encoding: gzip\r\n",
            gzip.compress(b":\n" * 2**20),
            "answer",
            id="gzip-of-lines",
        ),
    ],
)
async def test_what_is_larger_than_an_answer_may_be_is_not_read_on(
    monkeypatch: pytest.MonkeyPatch, head: str, body: bytes, what: str
) -> None:
    monkeypatch.setattr(client, "LARGEST_ANSWER", 2 * 2**20 - 1)
    monkeypatch.setattr(client, "LONGEST_LINE", 2**20)

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        await say(writer, f"{head}connection: close\r\n\r\n")
        writer.write(body)
        with suppress(ConnectionError):
            await writer.drain()

    async with served_by(speak) as endpoint:
        ask = streamed if head.startswith(EVENTS_HEAD) else OpenAIEndpoint.complete
        with pytest.raises(InvalidResponse, match=f"1 MiB in one {what}"):
            await ask(endpoint, Prompt.of("Hi"), RunContext())


async def test_an_error_that_calls_itself_a_stream_is_told() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        head = EVENTS_HEAD.replace("200 OK", "500 Failed")
        await say(writer, f"{head}connection: close\r\n\r\nout of memory")

    async with served_by(speak) as endpoint:
        with pytest.raises(EndpointUnavailable, match="out of memory"):
            await streamed(endpoint, Prompt.of("Hi"), RunContext())


ANSWER = json.dumps({"choices": [{"message": {"content": "Good"}, "finish_reason": "stop"}]})


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
            await say(writer, f"{JSON_HEAD}content-length: {len(ANSWER)}\r\n\r\n{ANSWER}")
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

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        await say(writer, f"{JSON_HEAD}content-length: {len(ANSWER)}\r\n\r\n{ANSWER}")

    run = RunContext()
    async with served_by(speak) as endpoint:
        assert (await endpoint.complete(Prompt.of("Hi"), run)).text == "Good"
    assert (failures, run.usage.calls) == (0, 1)


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
