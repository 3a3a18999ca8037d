"""Ollama: <https://docs.ollama.com/api/openai-compatibility>; `reasoning` in deltas:
<https://github.com/anomalyco/opencode/issues/46061>; errors:
<https://github.com/ollama/ollama/issues/12561> (an object) and
<https://github.com/ollama/ollama/issues/15027> (plain).
"""

from __future__ import annotations

import pytest

from moa.core.context import RunContext
from moa.core.errors import EndpointRejected, EndpointUnavailable
from moa.endpoints import Prompt

from ..conftest import Served, events
from .speaking import JSON, PROMPT, Case, answer, chunk, counted, endpoint_of, last, streamed, told

URL = "http://ollama.test/v1"
MODEL = "qwen3:4b"
USAGE = {"prompt_tokens": 12, "completion_tokens": 40, "total_tokens": 52}


async def test_a_completion(served: Served) -> None:
    message = {"content": "Paris", "reasoning": "It is Paris."}
    served.will(answer(message, USAGE, model=MODEL, system_fingerprint="fp_ollama"))
    found = await endpoint_of(MODEL, base_url=URL).complete(PROMPT, RunContext())
    assert (found.text, found.reasoning) == ("Paris", "It is Paris.")
    assert counted(found) == (12, 0, 40)
    assert served.bodies[0]["max_tokens"] == 300


async def test_a_stream(served: Served) -> None:
    parts = [
        chunk({"role": "assistant", "content": "", "reasoning": "It is "}),
        chunk({"role": "assistant", "content": "", "reasoning": "Paris."}),
        chunk({"role": "assistant", "content": "Paris"}),
        chunk({"role": "assistant", "content": ""}, "stop"),
        last(USAGE),
    ]
    served.will(events(*parts))
    pieces, whole = await streamed(endpoint_of(MODEL, base_url=URL), PROMPT)
    assert pieces == ["Paris"]
    assert whole.reasoning == "It is Paris."
    assert counted(whole) == (12, 0, 40)


async def test_a_schema_is_asked_for_as_openai_does(served: Served) -> None:
    served.will(answer({"content": "{}"}, USAGE))
    schema: JSON = {"title": "City", "type": "object", "properties": {}, "required": []}
    await endpoint_of(MODEL, base_url=URL).complete(
        Prompt.of("Hi", json_schema=schema), RunContext()
    )
    assert served.bodies[0]["response_format"]["json_schema"]["name"] == "City"


THINK = 'think value "medium" is not supported for this model'


@pytest.mark.parametrize(
    "case",
    [
        (404, {"error": "model 'x' not found"}, EndpointRejected, "correct `model`"),
        (
            404,
            {"error": {"message": "model 'x' not found", "type": "not_found_error"}},
            EndpointRejected,
            "correct `model`",
        ),
        (400, {"error": {"message": THINK, "type": "api_error"}}, EndpointRejected, "think value"),
        (500, {"error": "llama runner process has terminated"}, EndpointUnavailable, "terminated"),
    ],
)
async def test_an_error_says_what_to_do(served: Served, case: Case) -> None:
    await told(served, endpoint_of(MODEL, base_url=URL), case)


async def test_a_plain_error_inside_a_stream(served: Served) -> None:
    served.will(events(chunk({"content": "Par"}), {"error": "an error was encountered"}))
    with pytest.raises(EndpointUnavailable, match="an error was encountered"):
        await streamed(endpoint_of(MODEL, base_url=URL), PROMPT)
