"""What the tests of all vendors share: an endpoint at the vendor's address, and its answers."""

from __future__ import annotations

from typing import Any

import httpx2
from pydantic import SecretStr

from moa.config import EndpointConfig
from moa.context import RunContext
from moa.endpoints import Completion, Prompt
from moa.endpoints.openai import OpenAIEndpoint

JSON = dict[str, Any]


def endpoint_of(
    transport: httpx2.AsyncClient, model: str, *, base_url: str | None = None, **settings: Any
) -> OpenAIEndpoint:
    """Build the endpoint that `moa.toml` would give for a vendor's model."""
    config = EndpointConfig(tier="llm", model=model, base_url=base_url)
    return OpenAIEndpoint(
        "vendor",
        model=model,
        base_url=config.url("vendor"),
        api_key=SecretStr("sk-vendor-secret"),
        price=config.price(),
        http_client=transport,
        **settings,
    )


async def streamed(
    endpoint: OpenAIEndpoint, prompt: Prompt, context: RunContext | None = None
) -> tuple[list[str], Completion]:
    """Give the pieces of a stream, and the whole."""
    parts = [part async for part in endpoint.stream(prompt, context or RunContext())]
    whole = parts.pop()
    assert isinstance(whole, Completion)
    return [part for part in parts if isinstance(part, str)], whole


def answer(message: JSON, usage: JSON | None, *, finish: str = "stop", **more: Any) -> Any:
    """A whole answer."""
    body: JSON = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1764000000,
        "choices": [
            {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
        ],
        **more,
    }
    if usage is not None:
        body["usage"] = usage
    return httpx2.Response(200, json=body)


def refused(status: int, body: object, **headers: str) -> httpx2.Response:
    """An error."""
    if isinstance(body, str):
        return httpx2.Response(status, text=body, headers=headers)
    return httpx2.Response(status, json=body, headers=headers)


def chunk(delta: JSON, finish: str | None = None, **more: Any) -> JSON:
    """One event of a stream."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1764000000,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }


def last(usage: JSON, **more: Any) -> JSON:
    """The event after the last choice, which holds the usage."""
    return {**chunk({}), "choices": [], "usage": usage, **more}


def sse(*events: str) -> httpx2.Response:
    """A stream, as it goes over the wire."""
    return httpx2.Response(
        200, headers={"content-type": "text/event-stream; charset=utf-8"}, content="".join(events)
    )


def counted(completion: Completion) -> tuple[int, int, int]:
    """Input, cached input and output tokens."""
    amount = completion.amount
    return amount.input_tokens, amount.cached_input_tokens, amount.output_tokens
