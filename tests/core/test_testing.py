"""The doubles and the plug-in: what a test may script, and whom it may ask."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import aiohttp
import pytest
from counting import serving
from pydantic import BaseModel

from moa.agents.agent import Agent
from moa.agents.sentiment import Sentiment
from moa.core.context import RunContext
from moa.core.errors import DeadlineExceeded
from moa.core.trace import TextDelta
from moa.endpoints import Prompt
from moa.endpoints.openai import OpenAIEndpoint
from moa.evals.pytest_plugin import moa_offline as moa_offline
from moa.testing import Rule, ScriptedEndpoint, SimulatedEndpoint, SimulatedRequest, Step


class City(BaseModel):
    name: str


async def test_a_rule_of_two_parameters_sees_what_was_asked() -> None:
    seen: list[SimulatedRequest] = []

    def rule(text: str, asked: SimulatedRequest) -> Step:
        seen.append(asked)
        return {"sentiment": {"positive": 1.0}} if asked.questions else City(name="Ulm")

    endpoint = SimulatedEndpoint(rule=rule)
    await Agent(endpoint, "Name the city.", output=City).run("It has a minster.")
    await Sentiment(endpoint).run("Lovely!")
    writing, deciding = seen
    assert writing.instructions.startswith("Name the city.")
    assert writing.schema is not None
    assert "name" in writing.schema["properties"]
    assert (deciding.text, deciding.schema) == ("Lovely!", None)
    assert [question.name for question in deciding.questions] == ["sentiment"]


def shouted(text: str, cut: int = 3) -> str:
    return text.upper()


@pytest.mark.parametrize("rule", [shouted, str.upper])
async def test_a_rule_of_one_parameter_is_given_the_text(rule: Rule) -> None:
    endpoint = SimulatedEndpoint(rule=rule)
    result = await Agent(endpoint, "Shout.", tag="").run("hello")
    assert result.output.text == "HELLO"


@pytest.mark.parametrize(
    "probabilities",
    [
        {"positive": 0.9, "negative": 0.9},
        {"positive": 0.5, "negative": 0.1, "neutral": 0.1},
        {"positive": 1.2, "negative": -0.2},
        {"happy": 0.9},
    ],
)
async def test_what_are_no_probabilities_is_refused_with_what_to_script(
    probabilities: dict[str, float],
) -> None:
    endpoint = ScriptedEndpoint(steps=[{"sentiment": probabilities}])
    with pytest.raises(AssertionError, match="sentiment"):
        await Sentiment(endpoint).run("Lovely!")


@pytest.mark.usefixtures("moa_offline")
@pytest.mark.parametrize("host", ["models.example.com", "203.0.113.7"])
async def test_offline_a_request_is_refused_with_its_host_and_node(host: str) -> None:
    away = OpenAIEndpoint("large", model="m", base_url=f"http://{host}/v1")
    said = f"node 'reply' by endpoint 'large' asks {host}"
    async with away:
        with pytest.raises(AssertionError, match=re.escape(said)):
            await Agent(away, "Answer.", name="reply").run("Hello")


@pytest.mark.usefixtures("moa_offline")
async def test_offline_this_machine_can_still_be_asked() -> None:
    with serving() as (url, _):
        address = url.replace("127.0.0.1", "localhost")
        async with aiohttp.ClientSession() as session, session.get(f"{address}/models") as got:
            assert got.status == 200


async def test_a_stream_comes_piece_by_piece_in_its_time() -> None:
    model = SimulatedEndpoint(rule=lambda _: "one two three", piece_s=0.05)
    events = Agent(model, "Count.").stream("Go.")
    told = [time.monotonic() async for event in events if isinstance(event, TextDelta)]
    assert all(later - sooner >= 0.04 for sooner, later in pairwise(told))
    assert len(told) == 3


def test_a_script_that_is_one_text_is_refused() -> None:
    with pytest.raises(AssertionError):
        ScriptedEndpoint("hello")


async def test_a_slow_double_ends_with_the_time_of_its_agent_and_of_the_run() -> None:
    double, begun = SimulatedEndpoint(latency_s=5.0), time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await Agent(double, "Greet.", timeout_s=0.05).run("Hi")
    with pytest.raises(DeadlineExceeded):
        await double.embed(["Hi"], RunContext(timeout_s=0.05))
    context = RunContext(timeout_s=0.05)
    with pytest.raises(DeadlineExceeded):
        await double.complete(Prompt.of("Hi"), context)
    assert context.usage.output_tokens == 5  # as a server, it may have worked it out
    assert time.monotonic() - begun < 4


async def test_a_double_that_streams_slowly_ends_in_the_middle_with_the_time_of_the_run() -> None:
    double, begun = SimulatedEndpoint(piece_s=5.0), time.monotonic()
    pieces = double.stream(Prompt.of("Hello there"), RunContext(timeout_s=0.05))
    assert await anext(pieces) == "Hello"
    with pytest.raises(DeadlineExceeded):
        await anext(pieces)
    assert time.monotonic() - begun < 4
