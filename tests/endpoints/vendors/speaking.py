"""What the tests of all vendors share: an endpoint at the vendor's address, and its answers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from moa.config.tables import AddressConfig
from moa.core.context import RunContext
from moa.core.errors import EndpointError
from moa.endpoints import Completion, Prompt
from moa.endpoints.openai import OpenAIEndpoint

from ..conftest import Answer, Served

JSON = dict[str, Any]


def endpoint_of(model: str, *, base_url: str | None = None, **settings: Any) -> OpenAIEndpoint:
    """Build the endpoint that `moa.toml` would give for a vendor's model."""
    config = AddressConfig(tier="llm", model=model, base_url=base_url)
    url = config.addresses("vendor")[0]
    return OpenAIEndpoint(
        "vendor",
        model=model,
        base_url=url and url.replace("https://", "http://"),  # TLS is not spoken here
        api_key=SecretStr("sk-vendor-secret"),
        price=config.price(),
        **settings,
    )


PROMPT = Prompt.of("Capital of France?", system="Be brief.", max_tokens=300)
Case = tuple[int, object, type[EndpointError], str]
"""Status and body of a refusal, which error it is, and what that says."""


async def told(served: Served, endpoint: OpenAIEndpoint, case: Case) -> EndpointError:
    """Give the error that a refusal becomes."""
    status, body, kind, said = case
    served.will(refused(status, body))
    with pytest.raises(kind, match=said) as caught:
        await endpoint.complete(PROMPT, RunContext())
    assert type(caught.value) is kind
    assert caught.value.status == status
    return caught.value


async def streamed(
    endpoint: OpenAIEndpoint, prompt: Prompt, context: RunContext | None = None
) -> tuple[list[str], Completion]:
    """Give the pieces of a stream, and the whole."""
    *pieces, whole = [part async for part in endpoint.stream(prompt, context or RunContext())]
    assert isinstance(whole, Completion)
    return list(map(str, pieces)), whole


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
    return Answer(json=body)


def refused(status: int, body: object, **headers: str) -> Answer:
    """An error."""
    if isinstance(body, str):
        return Answer(status, text=body, headers=headers)
    return Answer(status, json=body, headers=headers)


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


def counted(completion: Completion) -> tuple[int, int, int]:
    """Input, cached input and output tokens."""
    amount = completion.amount
    return amount.input_tokens, amount.cached_input_tokens, amount.output_tokens
