"""Gemini's OpenAI-compatible endpoint: <https://ai.google.dev/gemini-api/docs/openai>;
errors are Google's, in a list: <https://github.com/google-gemini/gemini-cli/issues/6454>, with
`RetryInfo`: <https://cloud.google.com/apis/design/errors#error_details>.
"""

from __future__ import annotations

from typing import Any

import pytest

from moa.core.context import RunContext
from moa.core.errors import EndpointRejected, EndpointUnauthorized, EndpointUnavailable

from ..conftest import Served, events
from .speaking import PROMPT, Case, answer, chunk, counted, endpoint_of, refused, streamed, told

MODEL = "gemini-2.5-flash"
USAGE = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 108}


def error(code: int, status: str, message: str, *details: Any) -> list[dict[str, Any]]:
    said = {"code": code, "message": message, "status": status}
    return [{"error": {**said, "details": list(details)} if details else said}]


async def test_a_completion_whose_thoughts_are_counted_in_the_total_alone(served: Served) -> None:
    served.will(answer({"content": "Paris"}, USAGE, model=MODEL))
    found = await endpoint_of(MODEL).complete(PROMPT, RunContext())
    assert found.text == "Paris"
    assert counted(found) == (7, 0, 101)
    assert found.amount.cost is not None
    assert served.requests[0].host == "generativelanguage.googleapis.com"
    assert served.paths == ["/v1beta/openai/chat/completions"]
    assert served.bodies[0]["max_tokens"] == 300


async def test_a_stream_of_thoughts_and_text_with_usage_in_every_chunk(served: Served) -> None:
    parts = [
        chunk({"role": "assistant", "content": "<thought>It is "}, usage=USAGE),
        chunk({"role": "assistant", "content": "Paris.\n</thought>"}, usage=USAGE),
        chunk({"role": "assistant", "content": "Par"}, usage=USAGE),
        chunk({"role": "assistant", "content": "is"}, "stop", usage=USAGE),
    ]
    served.will(events(*parts))
    pieces, whole = await streamed(endpoint_of(MODEL), PROMPT)
    assert pieces == ["Par", "is"]
    assert (whole.text, whole.reasoning) == ("Paris", "It is Paris.")
    assert counted(whole) == (7, 0, 101)


RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36.5s"}
BAD_KEY = "API key not valid. Please pass a valid API key."


@pytest.mark.parametrize(
    "case",
    [
        (400, error(400, "INVALID_ARGUMENT", BAD_KEY), EndpointUnauthorized, "api_key_env"),
        (403, error(403, "PERMISSION_DENIED", "No permission"), EndpointUnauthorized, "key"),
        (
            404,
            error(404, "NOT_FOUND", "models/gemini-9 is not found for API version v1main"),
            EndpointRejected,
            "correct `model`",
        ),
        (
            400,
            error(400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
            EndpointRejected,
            "invalid argument",
        ),
        (
            503,
            error(503, "UNAVAILABLE", "The model is overloaded."),
            EndpointUnavailable,
            "overloaded",
        ),
    ],
)
async def test_an_error_in_a_list_says_what_to_do(served: Served, case: Case) -> None:
    await told(served, endpoint_of(MODEL), case)


async def test_a_used_up_rate_says_how_long_to_wait(served: Served) -> None:
    body = error(429, "RESOURCE_EXHAUSTED", "Quota exceeded for metric", RETRY)
    served.will(refused(429, body))
    with pytest.raises(EndpointUnavailable, match="Quota exceeded") as caught:
        await endpoint_of(MODEL).complete(PROMPT, RunContext())
    assert caught.value.retry_after_s == 36.5
