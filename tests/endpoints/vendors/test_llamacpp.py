"""llama.cpp's server: <https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>."""

from __future__ import annotations

import json

import pytest

from moa.context import RunContext
from moa.endpoints import Prompt
from moa.errors import EndpointError, EndpointRejected, EndpointUnauthorized, EndpointUnavailable

from ..conftest import Served, sse
from .speaking import answer, chunk, counted, endpoint_of, last, refused, streamed

URL = "http://llama.test/v1"
PROMPT = Prompt.of("Capital of France?", max_tokens=300)
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
    served.will(sse(*(f"data: {json.dumps(part)}\n\n" for part in parts), "data: [DONE]\n\n"))
    pieces, whole = await streamed(endpoint_of("smollm2", base_url=URL), PROMPT)
    assert pieces == ["Paris"]
    assert whole.reasoning == "It is Paris."
    assert counted(whole) == (33, 28, 9)


async def test_thoughts_that_it_leaves_in_the_text_are_kept_apart(served: Served) -> None:
    served.will(answer({"content": "[THINK]It is Paris.[/THINK]Paris"}, USAGE))
    found = await endpoint_of("magistral", base_url=URL).complete(PROMPT, RunContext())
    assert (found.text, found.reasoning) == ("Paris", "It is Paris.")


@pytest.mark.parametrize(
    ("code", "kind_said", "message", "kind", "said"),
    [
        (401, "authentication_error", "Invalid API Key", EndpointUnauthorized, "api_key_env"),
        (503, "unavailable_error", "Loading model", EndpointUnavailable, "Loading model"),
        (501, "not_supported_error", "This feature is disabled", EndpointError, "cannot do"),
        (
            400,
            "exceed_context_size_error",
            "the request exceeds the available context size",
            EndpointRejected,
            "shorten",
        ),
    ],
)
async def test_an_error_says_what_to_do(
    served: Served, code: int, kind_said: str, message: str, kind: type[EndpointError], said: str
) -> None:
    served.will(refused(code, {"error": {"code": code, "message": message, "type": kind_said}}))
    with pytest.raises(kind, match=said):
        await endpoint_of("smollm2", base_url=URL).complete(PROMPT, RunContext())
