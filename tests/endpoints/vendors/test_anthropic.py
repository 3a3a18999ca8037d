"""Anthropic's OpenAI-compatible layer: <https://platform.claude.com/docs/en/api/openai-sdk>.

It ignores `response_format`, gives no thoughts and empty details of usage.
"""

from __future__ import annotations

import json

import pytest

from moa.context import RunContext
from moa.endpoints import Prompt
from moa.errors import EndpointUnauthorized, EndpointUnavailable

from ..conftest import Served, sse
from .speaking import answer, chunk, counted, endpoint_of, last, refused, streamed

MODEL = "claude-sonnet-4-5"
PROMPT = Prompt.of("Capital of France?", system="Be brief.", max_tokens=300)
USAGE = {"prompt_tokens": 14, "completion_tokens": 5, "total_tokens": 19}


async def test_a_completion(served: Served) -> None:
    served.will(answer({"content": "Paris"}, USAGE, model=MODEL))
    found = await endpoint_of(MODEL).complete(PROMPT, RunContext())
    assert found.text == "Paris"
    assert counted(found) == (14, 0, 5)
    request = served.requests[0]
    assert (request.host, request.path) == ("api.anthropic.com", "/v1/chat/completions")
    assert request.headers["authorization"] == "Bearer sk-vendor-secret"


async def test_a_stream(served: Served) -> None:
    parts = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Paris"}),
        chunk({}, "stop"),
        last(USAGE),
    ]
    served.will(sse(*(f"data: {json.dumps(part)}\n\n" for part in parts), "data: [DONE]\n\n"))
    pieces, whole = await streamed(endpoint_of(MODEL), PROMPT)
    assert pieces == ["Paris"]
    assert counted(whole) == (14, 0, 5)


async def test_errors_are_in_the_form_of_openai(served: Served) -> None:
    said = {"code": "authentication_error", "message": "invalid x-api-key", "type": "x"}
    served.will(
        refused(401, {"error": said}),
        refused(
            529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        ),
    )
    endpoint = endpoint_of(MODEL)
    with pytest.raises(EndpointUnauthorized, match="invalid x-api-key"):
        await endpoint.complete(PROMPT, RunContext())
    with pytest.raises(EndpointUnavailable, match="Overloaded"):
        await endpoint.complete(PROMPT, RunContext())
