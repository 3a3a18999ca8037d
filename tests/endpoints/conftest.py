"""A served model in this process: the real client over a mock transport."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx2
import pytest

from moa.endpoints.engine import Engine, EngineSettings
from moa.endpoints.weights import find_weights

Handler = Callable[[httpx2.Request], httpx2.Response | Awaitable[httpx2.Response]]


class Served:
    """Answers what it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []
        self.answers: list[httpx2.Response | Exception | Handler] = []
        self.hang = asyncio.Event()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The JSON of every request that had some."""
        return [json.loads(request.content) for request in self.requests if request.content]

    @property
    def paths(self) -> list[str]:
        """The path of every request."""
        return [request.url.path for request in self.requests]

    def will(self, *answers: httpx2.Response | Exception | Handler) -> None:
        """Give these answers, in order; the last one again and again."""
        self.answers = list(answers)

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx2.Response):
            return httpx2.Response(
                answer.status_code, headers=answer.headers, content=answer.read()
            )
        found = answer(request)
        return found if isinstance(found, httpx2.Response) else await found


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
async def transport(served: Served) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(served)) as http:
        yield http


def chat(content: str | None = "hello", *, finish_reason: str = "stop", **message: Any) -> Any:
    """A chat completion as OpenAI writes it."""
    return httpx2.Response(
        200,
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
        },
    )


def events(*chunks: Any, done: bool = True) -> httpx2.Response:
    """A stream of server-sent events."""
    lines = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    if done:
        lines.append("[DONE]")
    text = "".join(f"data: {line}\n\n" for line in lines)
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=text)


def piece(content: str | None = None, *, finish_reason: str | None = None, **delta: Any) -> Any:
    """One event of a streamed chat completion."""
    change = delta if content is None else {"content": content, **delta}
    return {
        "model": "served-1",
        "choices": [{"index": 0, "delta": change, "finish_reason": finish_reason}],
    }


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The real engine on the real default model."""
    running = Engine.start(find_weights(), EngineSettings())
    yield running
    running.stop()
