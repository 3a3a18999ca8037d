"""vLLM 0.32: <https://docs.vllm.ai/en/stable/serving/openai_compatible_server/>, reasoning
<https://docs.vllm.ai/en/stable/features/reasoning_outputs/>, structured outputs
<https://docs.vllm.ai/en/stable/features/structured_outputs/>.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from moa.core.context import RunContext
from moa.core.errors import (
    EndpointError,
    EndpointRejected,
    EndpointUnauthorized,
    EndpointUnavailable,
)
from moa.vllm.endpoint import VLLMEndpoint

from ..conftest import Served, events, sse
from .speaking import JSON, PROMPT, Case, answer, chunk, counted, last, streamed, told

MODEL = "Qwen/Qwen3-0.6B"
USAGE = {
    "prompt_tokens": 40,
    "total_tokens": 55,
    "completion_tokens": 15,
    "prompt_tokens_details": None,
}
CACHED = {**USAGE, "prompt_tokens_details": {"cached_tokens": 32}}


def endpoint_of(**settings: Any) -> VLLMEndpoint:
    return VLLMEndpoint("vllm", model=MODEL, base_url="http://vllm.test/v1", **settings)


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize(("usage", "cached"), [(USAGE, 0), (CACHED, 32)])
async def test_a_completion(served: Served, field: str, usage: Any, cached: int) -> None:
    message: JSON = {
        "content": "\n\nParis",
        field: "It is Paris.",
        "tool_calls": [],
        "refusal": None,
    }
    served.will(answer(message, usage, model=MODEL, prompt_logprobs=None))
    found = await endpoint_of().complete(PROMPT, RunContext())
    assert (found.text.strip(), found.reasoning) == ("Paris", "It is Paris.")
    assert counted(found) == (40, cached, 15)


async def test_a_stream_with_empty_choices_and_keep_alives(served: Served) -> None:
    parts = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning": "It is "}),
        chunk({"reasoning": "Paris.", "content": None}),
        chunk({"content": "Paris"}),
        chunk({"content": ""}, "stop", stop_reason=None),
        last(CACHED),
    ]
    served.will(
        sse(*(f": ping\n\ndata: {json.dumps(part)}\n\n" for part in parts), "data: [DONE]\n\n")
    )
    pieces, whole = await streamed(endpoint_of(), PROMPT)
    assert pieces == ["Paris"]
    assert whole.reasoning == "It is Paris."
    assert counted(whole) == (40, 32, 15)


LONG = (
    "This model's maximum context length is 2048 tokens. However, your request has 3000 input "
    "tokens. Please reduce the length of the input messages."
)


def error(message: str, kind: str, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    "case",
    [
        (401, {"error": "Unauthorized"}, EndpointUnauthorized, "api_key_env"),
        (
            404,
            error("The model `x` does not exist.", "NotFoundError", 404),
            EndpointRejected,
            "correct `model`",
        ),
        (400, error(LONG, "BadRequestError", 400), EndpointRejected, "shorten"),
        # Up to 0.9, errors stood at the root.
        (
            400,
            {"object": "error", "message": LONG, "type": "BadRequestError", "code": 400},
            EndpointRejected,
            "shorten",
        ),
        (
            500,
            error("EngineCore encountered an issue", "x", 500),
            EndpointUnavailable,
            "EngineCore",
        ),
        (503, "", EndpointUnavailable, "no explanation"),
    ],
)
async def test_an_error_says_what_to_do(served: Served, case: Case) -> None:
    await told(served, endpoint_of(), case)


@pytest.mark.parametrize(("code", "kind"), [(400, EndpointRejected), (500, EndpointUnavailable)])
async def test_an_error_inside_a_stream_keeps_its_meaning(
    served: Served, code: int, kind: type[EndpointError]
) -> None:
    served.will(events(chunk({"content": "Par"}), error("it broke", "x", code)))
    with pytest.raises(kind, match="it broke") as caught:
        await streamed(endpoint_of(), PROMPT)
    assert type(caught.value) is kind
    assert caught.value.status == code
