"""OpenAI: <https://platform.openai.com/docs/api-reference/chat>,
errors <https://platform.openai.com/docs/guides/error-codes>,
limits <https://platform.openai.com/docs/guides/rate-limits>,
schemas <https://platform.openai.com/docs/guides/structured-outputs#supported-schemas>.
"""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from moa.core._json import at
from moa.core.context import RunContext
from moa.core.errors import (
    EndpointRejected,
    EndpointUnauthorized,
    EndpointUnavailable,
    QuotaExceeded,
)
from moa.endpoints import Prompt
from moa.endpoints.dialects import response_format

from ..conftest import Served, events
from .speaking import (
    PROMPT,
    Case,
    answer,
    chunk,
    counted,
    endpoint_of,
    last,
    refused,
    streamed,
    told,
)

MODEL = "gpt-5-mini"
USAGE = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 192, "accepted_prediction_tokens": 0},
}


def error(message: str, *, kind: str = "invalid_request_error", **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None, **more}}


async def test_a_completion(served: Served) -> None:
    served.will(answer({"content": "Paris", "refusal": None}, USAGE, model="gpt-5-mini-2025-08-07"))
    found = await endpoint_of(MODEL).complete(PROMPT, RunContext())
    assert (found.text, found.model) == ("Paris", "gpt-5-mini-2025-08-07")
    assert counted(found) == (2006, 1920, 300)  # reasoning is part of the completion
    assert found.amount.cost is not None
    (request,) = served.requests
    assert (request.host, request.path) == ("api.openai.com", "/v1/chat/completions")
    assert request.headers["authorization"] == "Bearer sk-vendor-secret"
    # `max_tokens` is refused by reasoning models.
    assert served.bodies[0]["max_completion_tokens"] == 300
    assert "max_tokens" not in served.bodies[0]


async def test_a_stream_whose_usage_comes_after_the_last_choice(served: Served) -> None:
    parts = [
        chunk({"role": "assistant", "content": "", "refusal": None}, usage=None, obfuscation="x"),
        chunk({"content": "Par"}, usage=None),
        chunk({"content": "is"}, usage=None),
        chunk({}, "stop", usage=None),
        last(USAGE),
    ]
    served.will(events(*parts))
    pieces, whole = await streamed(endpoint_of(MODEL), PROMPT)
    assert pieces == ["Par", "is"]
    assert counted(whole) == (2006, 1920, 300)


async def test_a_temperature_that_a_reasoning_model_refuses_is_left_out_from_then_on(
    served: Served,
) -> None:
    no = (
        "Unsupported value: 'temperature' does not support 0.2 with this model. "
        "Only the default (1) value is supported."
    )
    refusal = refused(400, error(no, param="temperature", code="unsupported_value"))
    served.will(refusal, answer({"content": "Paris"}, USAGE))
    endpoint = endpoint_of(MODEL)
    prompt = Prompt.of("Capital?", temperature=0.2)
    context = RunContext()
    assert (await endpoint.complete(prompt, context)).text == "Paris"
    assert [note.kind for note in context.trace] == ["dropped", "answered"]
    assert context.usage.calls == 2
    await endpoint.complete(prompt, context)
    assert [body.get("temperature") for body in served.bodies] == [0.2, None, None]


async def test_a_stop_that_a_reasoning_model_refuses_is_left_out_of_a_stream(
    served: Served,
) -> None:
    no = "Unsupported parameter: 'stop' is not supported with this model."
    served.will(
        refused(400, error(no, param="stop", code="unsupported_parameter")),
        events(chunk({"content": "Paris"}, "stop")),
    )
    pieces, _ = await streamed(endpoint_of("o3"), Prompt.of("Capital?", stop=("\n",)))
    assert pieces == ["Paris"]
    assert ["stop" in body for body in served.bodies] == [True, False]


async def test_another_refusal_is_not_sent_again(served: Served) -> None:
    no = "Invalid 'temperature': decimal above maximum value. Expected a value <= 2."
    served.will(refused(400, error(no, param="temperature", code="decimal_above_max_value")))
    with pytest.raises(EndpointRejected, match="maximum value"):
        await endpoint_of("gpt-4.1").complete(Prompt.of("Hi", temperature=3.0), RunContext())
    assert len(served.requests) == 1


class Strict(BaseModel):
    city: str
    size: Literal["small", "large"] | None
    count: int = Field(ge=0, le=9)


class Inner(BaseModel):
    oneOf: str


class Nested(BaseModel):
    inner: Inner


class Bounded(BaseModel):
    city: str = Field(min_length=2)


class Optional(BaseModel):
    city: str = "Paris"


class Free(BaseModel):
    counts: dict[str, int]


@pytest.mark.parametrize(
    ("model", "strict"),
    [(Strict, True), (Nested, True), (Bounded, False), (Optional, False), (Free, False)],
)
async def test_a_schema_is_strict_only_within_the_limits_of_strict_ones(
    served: Served, model: type[BaseModel], strict: bool
) -> None:
    served.will(answer({"content": "{}"}, USAGE))
    prompt = Prompt.of("Which?", json_schema=model.model_json_schema())
    await endpoint_of(MODEL).complete(prompt, RunContext())
    sent = served.bodies[0]["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["name"] == model.__name__
    assert sent["json_schema"]["strict"] is strict
    if not strict:
        assert sent["json_schema"]["schema"] == model.model_json_schema()
    else:
        objects = [sent["json_schema"]["schema"]]
        objects += objects[0].get("$defs", {}).values()
        for one in objects:
            assert one["additionalProperties"] is False
            assert set(one["required"]) == set(one["properties"])


def test_a_union_at_the_root_is_not_strict() -> None:
    union = {"anyOf": [Strict.model_json_schema(), Inner.model_json_schema()]}
    assert at(response_format(union), "json_schema", "strict") is False


QUOTA = "You exceeded your current quota, please check your plan and billing details."
LONG = "This model's maximum context length is 128000 tokens. However, your messages resulted in"


@pytest.mark.parametrize(
    "case",
    [
        (
            401,
            error("Incorrect API key provided: sk-vendor-secret.", code="invalid_api_key"),
            EndpointUnauthorized,
            r"\*\*\*.*api_key_env",
        ),
        (
            404,
            error("The model `gpt-9` does not exist.", code="model_not_found"),
            EndpointRejected,
            "correct `model`",
        ),
        (
            429,
            error(QUOTA, kind="insufficient_quota", code="insufficient_quota"),
            QuotaExceeded,
            "used up",
        ),
        (400, error(LONG, code="context_length_exceeded"), EndpointRejected, "shorten"),
        (500, error("The server had an error", kind="server_error"), EndpointUnavailable, "failed"),
        (503, error("The engine is currently overloaded"), EndpointUnavailable, "failed"),
        (502, "<html><body>502 Bad Gateway</body></html>", EndpointUnavailable, "an HTML page"),
    ],
)
async def test_an_error_says_what_to_do(served: Served, case: Case) -> None:
    error = await told(served, endpoint_of(MODEL), case)
    assert "sk-vendor-secret" not in str(error)


LIMIT = error("Rate limit reached for gpt-5-mini", kind="requests", code="rate_limit_exceeded")


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "350", "retry-after": "1"}, 0.35),
        (
            {
                "x-ratelimit-remaining-requests": "12",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            360,
        ),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "120ms"}, 0.12),
        ({"x-ratelimit-remaining-requests": "12", "x-ratelimit-reset-requests": "1s"}, None),
        ({}, None),
    ],
)
async def test_a_rate_limit_says_how_long_to_wait(
    served: Served, headers: dict[str, str], wait_s: float | None
) -> None:
    served.will(refused(429, LIMIT, **headers))
    with pytest.raises(EndpointUnavailable) as caught:
        await endpoint_of(MODEL).complete(PROMPT, RunContext())
    assert caught.value.retry_after_s == pytest.approx(wait_s)
