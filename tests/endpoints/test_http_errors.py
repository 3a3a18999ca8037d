"""Every exception of the HTTP stack has a meaning; a new one without fails here."""

from __future__ import annotations

import asyncio
import gzip
import json
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import aiohttp
import httpx2
import openai
import pytest
from aiohttp import client_exceptions
from aiohttp.http_writer import StreamWriter
from pydantic import SecretStr

from moa.context import RunContext
from moa.endpoints import Completion, Prompt, client
from moa.endpoints.client import is_loopback
from moa.endpoints.http_errors import error_of_exception, foreign_errors
from moa.endpoints.openai import OpenAIEndpoint
from moa.errors import (
    ConfigError,
    EndpointError,
    EndpointRejected,
    EndpointTimeout,
    EndpointUnauthorized,
    EndpointUnavailable,
    EndpointUnsupported,
    InvalidResponse,
)

KEY = "sk-very-secret"
REQUEST = httpx2.Request("POST", "http://m.test/v1/chat/completions")
NOT_OF_REQUESTS = {
    "LengthFinishReasonError",  # raised by the parsing helpers, which are not used
    "ContentFilterFinishReasonError",
    "InvalidWebhookSignatureError",
    "SubjectTokenProviderError",
    "WebSocketConnectionClosedError",
    "WebSocketQueueFullError",
    "OAuthError",
}
OF_OPENAI: dict[str, type[EndpointError]] = {
    "OpenAIError": EndpointUnavailable,
    "APIError": EndpointUnavailable,
    "APIConnectionError": EndpointUnavailable,
    "APITimeoutError": EndpointTimeout,
    "APIResponseValidationError": InvalidResponse,
    "APIStatusError": EndpointRejected,
    "BadRequestError": EndpointRejected,
    "AuthenticationError": EndpointUnauthorized,
    "PermissionDeniedError": EndpointUnauthorized,
    "NotFoundError": EndpointRejected,
    "ConflictError": EndpointUnavailable,
    "UnprocessableEntityError": EndpointRejected,
    "RateLimitError": EndpointUnavailable,
    "InternalServerError": EndpointUnavailable,
}
STATUS = {
    "APIStatusError": 418,
    "BadRequestError": 400,
    "AuthenticationError": 401,
    "PermissionDeniedError": 403,
    "NotFoundError": 404,
    "ConflictError": 409,
    "UnprocessableEntityError": 422,
    "RateLimitError": 429,
    "InternalServerError": 500,
}


def public(module: object, base: type[BaseException]) -> list[type[BaseException]]:
    found = list(vars(module).values())
    kinds = [one for one in found if isinstance(one, type) and issubclass(one, base)]
    return [kind for kind in kinds if not kind.__name__.startswith("_")]


def built(kind: type[openai.OpenAIError]) -> openai.OpenAIError:
    response = httpx2.Response(
        STATUS.get(kind.__name__, 200), json={"error": "no model"}, request=REQUEST
    )
    if issubclass(kind, openai.APIStatusError):
        return kind("broken", response=response, body=None)
    if issubclass(kind, openai.APITimeoutError):
        return kind(REQUEST)
    if issubclass(kind, openai.APIConnectionError):
        return kind(request=REQUEST)
    if issubclass(kind, openai.APIResponseValidationError):
        return kind(response, None)
    return kind("broken", REQUEST, body=None) if issubclass(kind, openai.APIError) else kind("x")


@pytest.mark.parametrize("kind", public(openai, openai.OpenAIError), ids=lambda k: k.__name__)
def test_every_exception_of_openai_has_a_meaning(kind: type[openai.OpenAIError]) -> None:
    if kind.__name__ in NOT_OF_REQUESTS:
        return
    assert kind.__name__ in OF_OPENAI, f"{kind.__name__} is new: say what it means"
    error = error_of_exception(built(kind), endpoint="writer", url="http://m.test/v1")
    assert type(error) is OF_OPENAI[kind.__name__]


@pytest.mark.parametrize("kind", public(httpx2, httpx2.HTTPError), ids=lambda k: k.__name__)
def test_every_exception_of_httpx_has_a_meaning(kind: type[httpx2.HTTPError]) -> None:
    assert issubclass(kind, foreign_errors())
    error = error_of_exception(kind.__new__(kind), endpoint="writer", url="http://m.test/v1")
    assert isinstance(error, EndpointError)
    assert isinstance(error, EndpointTimeout) == issubclass(kind, httpx2.TimeoutException)


class Plain(Exception):
    """Lets a class be built without the arguments that it asks for."""

    def __init__(self) -> None:
        pass

    def __str__(self) -> str:
        return "broken"


@pytest.mark.parametrize(
    "kind", public(client_exceptions, aiohttp.ClientError), ids=lambda k: k.__name__
)
def test_what_aiohttp_says_outweighs_what_its_transport_makes_of_it(
    kind: type[aiohttp.ClientError],
) -> None:
    assert issubclass(kind, foreign_errors())
    outer = httpx2.ConnectTimeout("as the transport calls every lost connection")
    outer.__cause__ = type(kind.__name__, (Plain, kind), {})()
    error = error_of_exception(outer, endpoint="writer", url="http://m.test/v1")
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


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_what_runs_on_this_machine_is_asked_past_every_proxy(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        await say(writer, "HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nhere")

    async with served_by(speak, host=host) as endpoint:
        with pytest.raises(EndpointUnsupported, match="here"):
            await endpoint.complete(Prompt.of("Hi"), RunContext())


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


async def test_a_proxy_that_cant_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "gopher://user:word@127.0.0.1:9")
    endpoint = OpenAIEndpoint("real", model="m", base_url="http://model.test/v1")
    with pytest.raises(ConfigError, match="ALL_PROXY can't be used: Unknown scheme") as caught:
        await endpoint.complete(Prompt.of("Hi"), RunContext())
    assert "word" not in str(caught.value)


async def test_nobody_listens() -> None:
    endpoint = OpenAIEndpoint("real", model="m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(EndpointUnavailable, match="Is the server up"):
        await endpoint.complete(Prompt.of("Hi"), RunContext())
    await endpoint.close()


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


async def test_what_answers_is_no_http_server() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        await say(writer, "220 mail.example ESMTP\r\n")

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
