"""llama.cpp's server: <https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>."""

from __future__ import annotations

import pytest

from moa.core.context import RunContext
from moa.core.errors import (
    EndpointRejected,
    EndpointUnauthorized,
    EndpointUnavailable,
    EndpointUnsupported,
)

from ..conftest import Served, events
from .speaking import JSON, PROMPT, Case, answer, chunk, counted, endpoint_of, last, streamed, told

URL = "http://llama.test/v1"
USAGE = {
    "completion_tokens": 9,
    "prompt_tokens": 33,
    "total_tokens": 42,
    "prompt_tokens_details": {"cached_tokens": 28},
}
TIMINGS = {"cache_n": 28, "prompt_n": 5, "prompt_ms": 30.9, "predicted_n": 9, "predicted_ms": 60.0}


async def test_a_completion(served: Served) -> None:
    message = {"content": "Paris", "reasoning_content": "It is Paris."}
    served.will(answer(message, USAGE, model="smollm2.gguf", timings=TIMINGS))
    found = await endpoint_of("smollm2", base_url=URL).complete(PROMPT, RunContext())
    assert (found.text, found.reasoning, found.model) == ("Paris", "It is Paris.", "smollm2.gguf")
    assert counted(found) == (33, 28, 9)


async def test_a_stream(served: Served) -> None:
    parts = [
        chunk({"role": "assistant", "content": None}),
        chunk({"reasoning_content": "It is Paris."}),
        chunk({"content": "Paris"}),
        chunk({}, "stop"),
        last(USAGE, timings=TIMINGS),
    ]
    served.will(events(*parts))
    pieces, whole = await streamed(endpoint_of("smollm2", base_url=URL), PROMPT)
    assert pieces == ["Paris"]
    assert whole.reasoning == "It is Paris."
    assert counted(whole) == (33, 28, 9)


TOO_LONG = "the request exceeds the available context size"


def error(message: str, kind: str) -> JSON:
    return {"error": {"message": message, "type": kind}}


@pytest.mark.parametrize(
    "case",
    [
        (
            401,
            error("Invalid API Key", "authentication_error"),
            EndpointUnauthorized,
            "api_key_env",
        ),
        (503, error("Loading model", "unavailable_error"), EndpointUnavailable, "Loading model"),
        (501, error("It is disabled", "not_supported_error"), EndpointUnsupported, "cannot do"),
        (400, error(TOO_LONG, "exceed_context_size_error"), EndpointRejected, "shorten"),
    ],
)
async def test_an_error_says_what_to_do(served: Served, case: Case) -> None:
    await told(served, endpoint_of("smollm2", base_url=URL), case)
