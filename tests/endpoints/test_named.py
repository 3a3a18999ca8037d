"""Endpoints from strings: what each form makes, and what is said of the others."""

from __future__ import annotations

from typing import Any, cast

import pytest

import moa
from moa.agents.agent import Agent
from moa.agents.sentiment import Sentiment
from moa.core.context import RunContext
from moa.core.errors import ConfigError
from moa.core.usage import Price
from moa.endpoints import Endpoint, Prompt
from moa.endpoints.dialects import LLAMACPP
from moa.endpoints.named import as_endpoint
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.retries import Retried
from moa.endpoints.wrappers import Cached, innermost
from moa.graphs.self_consistency import SelfConsistency
from moa.local.embedded import EmbeddedEndpoint
from moa.vllm.endpoint import VLLMEndpoint

from .conftest import Served, chat

VLLM = "vllm:Qwen/Qwen3-4B@http://127.0.0.1:8000/v1"
AT_ONCE = "http://127.0.0.1:9/v1"


def made(spec: str, **settings: Any) -> OpenAIEndpoint:
    endpoint = moa.endpoint(spec, **settings)
    assert isinstance(endpoint, Retried)
    return cast("OpenAIEndpoint", innermost(endpoint))


def test_a_vendor_brings_its_address_its_price_and_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", "sk-mistral")
    large = made("mistral:mistral-small-latest")
    assert (large.name, large.tier) == ("mistral-small-latest", "llm")
    assert large.base_url == "https://api.mistral.ai/v1"
    assert large.price.known


def test_a_vendor_without_its_key_names_the_variable() -> None:
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        moa.endpoint("openai:gpt-5-mini")
    assert made("openai:gpt-5-mini", api_key="sk-1").base_url == "https://api.openai.com/v1"


def test_a_server_is_asked_at_its_address() -> None:
    small = made(VLLM, name="small", price=Price())
    assert isinstance(small, VLLMEndpoint)
    assert (small.name, small.model, small.tier) == ("small", "Qwen/Qwen3-4B", "slm")
    assert small.base_url == "http://127.0.0.1:8000/v1"
    other = made("llama.cpp:qwen3:4b@http://host/v1", tier="slm")
    assert (other.model, other.dialect, other.tier) == ("qwen3:4b", LLAMACPP, "slm")


async def test_a_vendors_key_goes_to_no_other_address(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    served.will(chat())
    async with made("openai:gpt-5-mini@http://10.0.0.7.example/v1") as away:
        await away.complete(Prompt.of("Hello?"), RunContext())
    assert "authorization" not in served.requests[0].headers
    monkeypatch.delenv("OPENAI_API_KEY")


def test_the_embedded_model_takes_no_key() -> None:
    assert isinstance(moa.endpoint("embedded"), EmbeddedEndpoint)
    with pytest.raises(ConfigError, match="api_key"):
        moa.endpoint("embedded", api_key="sk-1")


@pytest.mark.parametrize("spec", ["gpt-5-mini", "small", "opnai:gpt", "vllm:Q"])
def test_a_wrong_string_is_told_the_forms(spec: str) -> None:
    with pytest.raises(ConfigError):
        moa.endpoint(spec)


def test_agents_and_recipes_take_the_string_and_share_what_it_makes() -> None:
    spec = cast("Endpoint", VLLM)
    writer, mood = Agent(spec, "Answer."), Sentiment(spec)
    vote = SelfConsistency[str](node=cast("Any", spec))
    assert writer.endpoint is mood.endpoint
    assert innermost(writer.endpoint).name == "Qwen/Qwen3-4B"
    assert cast("Any", vote.node).endpoint is writer.endpoint
    cloud = "openai:gpt-5-mini@http://127.0.0.1:9/v1"
    assert as_endpoint(cloud) is as_endpoint(cloud, "llm")


def test_a_server_with_a_vendors_name_is_spoken_to_as_the_vendor_is() -> None:
    served = innermost(moa.endpoint("openai:gpt-5-mini@http://127.0.0.1:9/v1"))
    assert cast("OpenAIEndpoint", served).dialect.name == "OpenAI"


def test_an_endpoint_made_in_python_asks_again_as_one_of_a_file_does() -> None:
    bare = OpenAIEndpoint("m", model="m", base_url=AT_ONCE)
    endpoint = Agent(bare, "Answer.").endpoint
    assert isinstance(endpoint, Retried)
    assert endpoint.endpoint is bare
    assert as_endpoint(endpoint) is endpoint
    cached = Cached(bare)
    assert as_endpoint(cached) is cached
