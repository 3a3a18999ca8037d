"""What the model writes through vLLM: schemas, streams, adapters by name, priorities."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from moa import Agent, Extractor, Preprocessor, RunContext, Sentiment
from moa.core.errors import EndpointRejected
from moa.core.trace import Event, TextDelta
from moa.core.usage import Amount
from moa.endpoints import Prompt
from moa.endpoints.openai import OpenAIEndpoint

from .conftest import served, server_of

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

STORY = Prompt.of("Tell me a story about a lighthouse.", max_tokens=12, temperature=0.0)


BATCH = 64
TEXTS = ("A lovely film.", "It broke at once.", "The shop opens at nine.")


class Item(BaseModel):
    name: str = Field(max_length=30)
    number: int = Field(ge=1, le=9)


class Address(BaseModel):
    city: str = Field(max_length=30)
    country: Literal["France", "Norway", "Spain"]


class Order(BaseModel):
    customer: str = Field(max_length=30)
    address: Address
    items: list[Item] = Field(min_length=1, max_length=3)
    note: str | None = Field(default=None, max_length=60)


async def test_an_extractor_fills_in_a_nested_model(small: OpenAIEndpoint) -> None:
    agent = Extractor(small, Order, max_tokens=300, temperature=0.0, repairs=0)
    text = "Anna Berg of Oslo, Norway, orders two lamps."
    order = (await agent.run(text)).output
    assert isinstance(order, Order)
    assert "Anna" in order.customer
    assert order.address.country == "Norway"


async def test_the_schema_is_enforced_while_the_model_writes(small: OpenAIEndpoint) -> None:
    schema = {
        "type": "object",
        "properties": {"x": {"enum": ["zq-17"]}},
        "required": ["x"],
        "additionalProperties": False,
    }
    prompt = Prompt.of("Say hello in French.", json_schema=schema, max_tokens=40)
    written = (await small.complete(prompt, RunContext())).text
    assert '"zq-17"' in written  # no model would write that unless it had to


async def test_a_stream_comes_in_pieces_and_is_charged(small: OpenAIEndpoint) -> None:
    heard: list[Event] = []
    context = RunContext(listener=heard.append)
    writer = Agent(small, "Reply to the message in one sentence.", max_tokens=24)
    result = await writer.run("Hello, where is my order?", context)
    pieces = [event.text for event in heard if isinstance(event, TextDelta)]
    assert len(pieces) > 5
    assert "".join(pieces).strip() == result.output.text
    assert 0 < result.usage.output_tokens <= 24


async def test_a_text_is_rewritten(small: OpenAIEndpoint) -> None:
    assert (await Preprocessor(rewrite=small).run("i wnat my mony bakc")).output.text


async def test_control_tokens_in_a_text_are_no_control_tokens(small: OpenAIEndpoint) -> None:
    counts = [
        (await small.complete(Prompt.of(text, max_tokens=1), RunContext())).amount.input_tokens
        for text in ("a b", "a<|im_end|>b")
    ]
    assert counts[1] - counts[0] >= 5  # parsed, it would be one token


async def test_a_prompt_that_does_not_fit_is_refused(small: OpenAIEndpoint) -> None:
    with pytest.raises(EndpointRejected, match=r"\d{4}"):
        await small.complete(Prompt.of("word, " * 1900, max_tokens=300), RunContext())


async def test_an_adapter_is_chosen_by_its_name(small: OpenAIEndpoint) -> None:
    async with served("adapted") as adapted:
        plain = await small.complete(STORY, RunContext())
        other = await adapted.complete(STORY, RunContext())
    assert other.model == adapted.model
    assert other.text != plain.text


async def test_an_adapter_decides_too(small: OpenAIEndpoint) -> None:
    async with served("adapted") as adapted:
        plain, other = [
            [(await Sentiment(endpoint).run(text)).output.probabilities for text in TEXTS]
            for endpoint in (small, adapted)
        ]
    assert all(sum(probabilities.values()) == pytest.approx(1.0) for probabilities in other)
    assert any(one != pytest.approx(two, abs=0.01) for one, two in zip(plain, other, strict=True))


async def test_a_model_that_the_server_does_not_have_is_named(small: OpenAIEndpoint) -> None:
    body = {**small.chat(STORY), "model": "no-such-adapter"}
    with pytest.raises(EndpointRejected) as raised:
        await small.client.post("/chat/completions", body, RunContext(), estimate=Amount(calls=1))
    assert raised.value.status == 404


async def test_what_is_urgent_overtakes_what_waits() -> None:
    """The server works on 16 requests at once, so most of the batch waits in its queue."""
    server, ended = server_of("small"), 0
    async with served("small") as urgent, served("batch") as batch:

        async def write(n: int) -> None:
            nonlocal ended
            prompt = Prompt.of(f"Tell me story number {n}.", max_tokens=8)
            await batch.complete(prompt, RunContext())
            ended += 1

        async with asyncio.TaskGroup() as group:
            for n in range(BATCH):
                group.create_task(write(n))
            while (await server.metrics()).waiting < BATCH // 2:
                assert ended < BATCH // 4, "the batch was too quick for a queue"
            await urgent.complete(Prompt.of("Say hello.", max_tokens=2), RunContext())
            before = ended
    assert ended == BATCH
    assert before <= BATCH // 2, f"{before} of {BATCH} requests of the batch were answered first"
