"""How many tokens a text has for a model: by its own tokenizer, or on the safe side."""

from __future__ import annotations

import json

import pytest

from moa.core.context import RunContext
from moa.core.errors import InvalidResponse
from moa.endpoints.retries import Retried
from moa.endpoints.tokens import approximate_tokens, tokens_of, window_of
from moa.local.embedded import EmbeddedEndpoint
from moa.testing import ScriptedEndpoint
from moa.vllm.endpoint import VLLMEndpoint

from .conftest import Answer, Served


def endpoint() -> VLLMEndpoint:
    return VLLMEndpoint("small", model="m", base_url="http://vllm.test/v1", context_window=2048)


async def test_vllm_counts_by_its_own_tokenizer(served: Served) -> None:
    served.will(Answer(json={"count": 7, "max_model_len": 2048, "tokens": [1] * 7}))
    run = RunContext()
    assert await tokens_of(Retried(endpoint()), "some words", run) == 7
    assert served.paths == ["/tokenize"]
    assert json.loads(served.requests[0].content)["prompt"] == "some words"
    assert run.usage.calls == 0


async def test_a_count_that_is_none_is_garbled(served: Served) -> None:
    served.will(Answer(json={"tokens": "?"}))
    with pytest.raises(InvalidResponse):
        await endpoint().count_tokens("some words", RunContext())


async def test_a_server_that_lends_no_tokenizer_is_counted_for(served: Served) -> None:
    served.will(Answer(404, json={"detail": "Not Found"}))
    text = "some words of a text"
    assert await tokens_of(endpoint(), text, RunContext()) == approximate_tokens(text)


async def test_without_a_tokenizer_the_count_is_on_the_safe_side() -> None:
    assert await tokens_of(ScriptedEndpoint(), "abcdefg", RunContext()) == 3
    assert await tokens_of(None, "abcdefg", RunContext()) == 3


def test_the_window_is_that_of_what_is_wrapped() -> None:
    assert window_of(Retried(endpoint())) == 2048
    assert window_of(ScriptedEndpoint()) is None
    assert window_of(None) is None


@pytest.mark.embedded
async def test_the_embedded_model_counts_by_its_own_tokenizer() -> None:
    async with EmbeddedEndpoint() as embedded:
        few = await tokens_of(embedded, "A short text.", RunContext())
        many = await tokens_of(embedded, "A short text. " * 20, RunContext())
    assert 3 <= few <= 6
    assert 60 <= many <= 120
