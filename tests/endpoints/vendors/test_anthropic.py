"""Anthropic's OpenAI-compatible layer: <https://platform.claude.com/docs/en/api/openai-sdk>.

It ignores `response_format`, gives no thoughts and empty details of usage.
"""

from __future__ import annotations

import pytest

from moa.core.context import RunContext
from moa.core.errors import EndpointUnauthorized, EndpointUnavailable, QuotaExceeded

from ..conftest import Served
from .speaking import PROMPT, Case, answer, counted, endpoint_of, told

MODEL = "claude-sonnet-4-5"
USAGE = {"prompt_tokens": 14, "completion_tokens": 5, "total_tokens": 19}


async def test_a_completion(served: Served) -> None:
    served.will(answer({"content": "Paris"}, USAGE, model=MODEL))
    found = await endpoint_of(MODEL).complete(PROMPT, RunContext())
    assert found.text == "Paris"
    assert counted(found) == (14, 0, 5)
    request = served.requests[0]
    assert (request.host, request.path) == ("api.anthropic.com", "/v1/chat/completions")
    assert request.headers["authorization"] == "Bearer sk-vendor-secret"


@pytest.mark.parametrize(
    "case",
    [
        (
            401,
            {"error": {"code": "authentication_error", "message": "invalid key", "type": "x"}},
            EndpointUnauthorized,
            "invalid key",
        ),
        (
            400,
            {"error": {"message": "Your credit balance is too low to access the Anthropic API."}},
            QuotaExceeded,
            "Add credit",
        ),
        (
            529,
            {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
            EndpointUnavailable,
            "Overloaded",
        ),
    ],
)
async def test_an_error_says_what_to_do(served: Served, case: Case) -> None:
    await told(served, endpoint_of(MODEL), case)
