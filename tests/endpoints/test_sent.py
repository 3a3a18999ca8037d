"""What a model is sent can be seen: before a call, without one, and while calls are made."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
from counting import serving
from pydantic import BaseModel

from moa import Agent, Classifier, OpenAIEndpoint
from moa.endpoints.decide import Decides
from moa.endpoints.dialects import LLAMACPP, Dialect
from moa.endpoints.sent import LOGGER, SentPrompt
from moa.testing import ScriptedEndpoint


class Order(BaseModel):
    number: int


def nowhere(decides: Decides = "auto", dialect: Dialect | None = None) -> OpenAIEndpoint:
    return OpenAIEndpoint(
        "one", model="m", base_url="http://127.0.0.1:9/v1", decides=decides, dialect=dialect
    )


def written(sent: SentPrompt) -> str:
    return json.dumps([{"role": role, "content": text} for role, text in sent.messages])


async def test_a_prompt_shows_the_very_messages_that_are_then_sent() -> None:
    with serving(answer=lambda _: '{"number": 7}') as (url, asked):
        one = OpenAIEndpoint("one", model="m", base_url=url)
        agent = Agent(one, "Find the order.", output=Order, examples=[("It is 5", {"number": 5})])
        (sent,) = agent.prompt("Order 7 </data> is late")
        assert not asked
        await agent.run("Order 7 </data> is late")
        assert list(asked) == [written(sent)]
        await one.close()


def test_the_schema_the_settings_and_the_tokens_are_shown_too() -> None:
    (sent,) = Agent(nowhere(), "Find the order.", output=Order, max_tokens=77).prompt("7")
    assert sent.schema is not None
    assert "number" in json.dumps(sent.schema)
    assert sent.settings["max_tokens"] == 77
    assert sent.tokens is not None
    assert not sent.counted


def test_of_a_question_read_by_labels_the_prompt_and_the_labels_are_shown() -> None:
    team = Classifier(nowhere("labels", LLAMACPP), ["sales", "repairs"], task="Which team?")
    (sent,) = team.prompt("It broke")
    ((role, text),) = sent.messages
    assert role == "prompt"
    assert text.endswith("Text: It broke\nLabel:")
    assert [label.strip() for label in sent.labels] == ["sales", "repairs"]


@pytest.mark.parametrize("decides", ["systemone", "decisions", "text"])
def test_other_ways_to_decide_show_the_text_and_every_label(decides: Decides) -> None:
    team = Classifier(nowhere(decides), ["sales", "repairs"], task="Which team?")
    (sent,) = team.prompt("It broke")
    assert all(word in sent.text for word in ("It broke", "Which team?", "sales", "repairs"))


def test_tools_that_are_chosen_by_a_schema_are_shown_as_they_are_described() -> None:
    def opening_hours(day: str) -> str:
        """Say when it is open."""
        return day

    small = OpenAIEndpoint(
        "s", model="m", base_url="http://127.0.0.1:9/v1", capabilities=["complete"]
    )
    (sent,) = Agent(small, "Answer.", tools=[opening_hours]).prompt("Open on Sunday?")
    assert "opening_hours" in sent.text
    assert "tools" not in sent.settings


async def test_it_can_be_shown_inside_a_running_loop() -> None:
    (sent,) = Agent(ScriptedEndpoint(), "Thank.").prompt("It works")
    assert "It works" in sent.text


async def test_the_logger_tells_what_is_sent_once_it_is_turned_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving() as (url, _):
        one = OpenAIEndpoint("one", model="m", base_url=url)
        agent = Agent(one, "Thank.")
        with caplog.at_level(logging.DEBUG):  # of the root: what an application sets
            await agent.run("secret one")
        assert "secret one" not in caplog.text
        with caplog.at_level(logging.INFO, LOGGER.name):
            await agent.run("secret two")
        (sent,) = agent.prompt("secret two")
        assert caplog.messages[-1] == str(replace(sent, tokens=None))
        await one.close()
