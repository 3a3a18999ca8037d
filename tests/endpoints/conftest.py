"""A served model on this machine: the real client, and every name resolved to one server."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import RawTestServer
from multidict import CIMultiDictProxy

from moa.core.context import RunContext
from moa.endpoints import Completion, Endpoint, Prompt
from moa.local.embedded import Engine, EngineSettings
from moa.local.weights import find_weights


class Asked(NamedTuple):
    """What a server was sent."""

    host: str
    path: str
    headers: CIMultiDictProxy[str]
    content: bytes
    peer: object
    """Tells one connection from another."""

    def json(self) -> Any:
        return json.loads(self.content)


class Answer:
    """What a server sends: JSON, or a text; `cut` in the middle, or `stuck` there."""

    def __init__(
        self,
        status: int = 200,
        *,
        json: object = None,
        text: str | None = None,
        headers: Mapping[str, str] | None = None,
        cut: bool = False,
        stuck: bool = False,
    ) -> None:
        self.status = status
        self.text = text if text is not None else "" if json is None else _written(json)
        self.headers = {"content-type": "application/json", **(headers or {})}
        self.cut = cut
        self.stuck = stuck

    def json(self) -> Any:
        return json.loads(self.text)


Handler = Callable[[Asked], Answer | Awaitable[Answer]]

REFUSED = Answer()
"""Nobody listens."""
LOST = Answer(cut=True)
"""The connection ends before an answer."""


def _written(value: object) -> str:
    return json.dumps(value)


class Served(AbstractResolver):
    """Answers what it is told to, whatever host is asked, and keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.answers: list[Answer | Handler] = []
        self.port = 0

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The JSON of every request that had some."""
        return [request.json() for request in self.requests if request.content]

    @property
    def paths(self) -> list[str]:
        """The path of every request."""
        return [request.path for request in self.requests]

    def will(self, *answers: Answer | Handler) -> None:
        """Give these answers, in order; the last one again and again."""
        self.answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = self.port
        if self.answers and self.answers[0] is REFUSED:
            self._next()
            found = 9
        return [
            ResolveResult(
                hostname=host, host="127.0.0.1", port=found, family=family, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        pass

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peername")
        asked = Asked(request.host, request.path, request.headers, await request.read(), peer)
        self.requests.append(asked)
        answer = self._next()
        if not isinstance(answer, Answer):
            found = answer(asked)
            answer = found if isinstance(found, Answer) else await found
        if answer is LOST:
            request.transport.close()
        sent = web.StreamResponse(status=answer.status, headers=answer.headers)
        await sent.prepare(request)
        await sent.write(answer.text.encode())
        if answer.stuck:
            await asyncio.Event().wait()
        if answer.cut:
            request.transport.close()
        return sent

    def _next(self) -> Answer | Handler:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://api.openai.com/v1")  # TLS is not spoken here
    found = Served()
    connector = partial(aiohttp.TCPConnector, resolver=found, use_dns_cache=False)
    monkeypatch.setattr(aiohttp, "TCPConnector", connector)
    async with RawTestServer(found) as server:
        found.port = server.make_url("/").port or 0
        yield found


def chat(content: str | None = "hello", *, finish_reason: str = "stop", **message: Any) -> Answer:
    """A chat completion as OpenAI writes it."""
    return Answer(
        json={
            "object": "chat.completion",
            "model": "served-1",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": finish_reason,
                    "message": {"role": "assistant", "content": content, **message},
                }
            ],
            "usage": {
                "prompt_tokens": 20,
                "completion_tokens": 4,
                "total_tokens": 24,
                "prompt_tokens_details": {"cached_tokens": 16},
            },
        }
    )


def events(*chunks: Any, done: bool = True, **how: Any) -> Answer:
    """A stream of server-sent events."""
    lines = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    if done:
        lines.append("[DONE]")
    return sse(*(f"data: {line}\n\n" for line in lines), **how)


def sse(*texts: str, **how: Any) -> Answer:
    """A stream, as it goes over the wire."""
    return Answer(text="".join(texts), headers={"content-type": "text/event-stream"}, **how)


def piece(content: str | None = None, *, finish_reason: str | None = None, **delta: Any) -> Any:
    """One event of a streamed chat completion."""
    change = delta if content is None else {"content": content, **delta}
    return {
        "model": "served-1",
        "choices": [{"index": 0, "delta": change, "finish_reason": finish_reason}],
    }


async def completed(
    endpoint: Endpoint, prompt: Prompt, context: RunContext
) -> list[str | Completion]:
    return [await endpoint.complete(prompt, context)]


async def streamed(
    endpoint: Endpoint, prompt: Prompt, context: RunContext
) -> list[str | Completion]:
    return [piece async for piece in endpoint.stream(prompt, context)]


Ask = Callable[[Endpoint, Prompt, RunContext], Awaitable[list[str | Completion]]]
both_ways = pytest.mark.parametrize("ask", [completed, streamed], ids=["complete", "stream"])


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The real engine on the real default model."""
    running = Engine(find_weights(), EngineSettings())
    yield running
    running.stop()
