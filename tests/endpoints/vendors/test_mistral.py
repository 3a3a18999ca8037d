"""Mistral: <https://docs.mistral.ai/api/>, thinking chunks
<https://docs.mistral.ai/capabilities/reasoning/>; `stream_options` refused:
<https://github.com/dnakov/anon-kode/issues/53>; errors as in
<https://github.com/Gage-Technologies/mistral-go/pull/2>,
<https://github.com/mistralai/platform-docs-public/issues/7> and
<https://github.com/partITech/php-mistral/issues/76>.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from moa.core.context import RunContext
from moa.core.errors import EndpointRejected, EndpointUnauthorized, EndpointUnavailable

from ..conftest import Served, events
from .speaking import PROMPT, Case, answer, chunk, counted, endpoint_of, refused, streamed, told

MODEL = "magistral-medium-2509"
USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "num_cached_tokens": 64,
}


def thinking(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}], **more}


async def test_a_completion_with_a_thinking_chunk(served: Served) -> None:
    content = [thinking("It is ", closed=True), {"type": "text", "text": "Paris"}]
    served.will(answer({"content": content, "tool_calls": None}, USAGE, model=MODEL))
    found = await endpoint_of(MODEL).complete(PROMPT, RunContext())
    assert (found.text, found.reasoning) == ("Paris", "It is ")
    assert counted(found) == (100, 64, 20)
    assert (served.requests[0].host, served.paths) == ("api.mistral.ai", ["/v1/chat/completions"])
    # What it doesn't know it refuses, `max_completion_tokens` among it.
    assert set(served.bodies[0]) == {"model", "messages", "max_tokens"}


async def test_a_stream_whose_options_are_refused_is_sent_without_them(served: Served) -> None:
    forbidden = {
        "type": "extra_forbidden",
        "loc": ["body", "stream_options", "include_usage"],
        "msg": "Extra inputs are not permitted",
        "input": True,
    }
    no = {
        "object": "error",
        "message": {"detail": [forbidden]},
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    parts = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": [thinking("It is ")]}),
        chunk({"content": [thinking("Paris.")]}),
        chunk({"content": [{"type": "text", "text": "Par"}]}),
        chunk({"content": "is"}),
        chunk({"content": ""}, "stop", usage=USAGE),
    ]
    served.will(refused(422, no), events(*parts))
    endpoint = endpoint_of(MODEL)
    for _ in range(2):
        pieces, whole = await streamed(endpoint, PROMPT)
        assert pieces == ["Par", "is"]
        assert (whole.text, whole.reasoning) == ("Paris", "It is Paris.")
        assert counted(whole) == (100, 64, 20)
    assert ["stream_options" in body for body in served.bodies] == [True, False, False]


NESTED = json.dumps({"detail": [{"loc": ["body", "n"], "msg": "Extra inputs are not permitted"}]})


@pytest.mark.parametrize(
    "case",
    [
        (401, {"detail": "Unauthorized"}, EndpointUnauthorized, "Unauthorized"),
        (
            400,
            {"object": "error", "message": "Invalid model: mistral-9", "code": "1500"},
            EndpointRejected,
            "correct `model`",
        ),
        (
            422,
            {"object": "error", "message": NESTED, "type": "internal_error_proxy", "code": "1000"},
            EndpointRejected,
            r"body\.n: Extra inputs",
        ),
        (
            422,
            {
                "object": "Error",
                "detail": [{"loc": ["body", "tools"], "msg": "Extra inputs are not permitted"}],
                "message": [{"loc": ["body", "tools"], "msg": "Extra inputs are not permitted"}],
                "code": 3001,
            },
            EndpointRejected,
            r"body\.tools: Extra inputs",
        ),
        (
            429,
            {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited"},
            EndpointUnavailable,
            "Rate limit",
        ),
    ],
)
async def test_an_error_says_what_to_do(served: Served, case: Case) -> None:
    await told(served, endpoint_of(MODEL), case)
