"""Whether an answer is accepted, where the next node is to know it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langgraph.types import Command
from pydantic import BaseModel

from moa.agents.agent import Agent
from moa.agents.classifier import Classifier
from moa.core.errors import ConfigError, EndpointUnavailable, WiringError
from moa.core.node import Reply
from moa.core.questions import Choice, Predicate
from moa.graphs import Graph
from moa.graphs.cascade import Cascade
from moa.guards.verifiers import Length
from moa.testing import ScriptedEndpoint, SimulatedEndpoint, Step

from .killed import THREAD
from .nodes import kept

DOWN = EndpointUnavailable("refused", endpoint="large")


def topic(large: Step | None = None) -> Cascade[Any, Choice[str]]:
    """A small model that is sure of what is loud, and a large one that may be down."""

    def sure(text: str) -> Step:
        return {"topic": {"card": 0.95 if "!" in text else 0.6}}

    def doubts(text: str) -> Step:
        return large or {"topic": {"card": 0.6}}

    def tier(name: str, rule: Callable[[str], Step]) -> Classifier[str]:
        endpoint = SimulatedEndpoint(name=name, rule=rule)
        return Classifier(endpoint, ["card", "app"], none=False, name="topic")

    first, last = tier("small", sure), tier("large", doubts)
    return Cascade(small=first, large=last, confidence=0.9, name="topic")


async def settled(text: str) -> str:
    return "settled"


async def in_doubt(text: str) -> str:
    return "in doubt"


def routed(node: Any) -> Any:
    g: Any = Graph("g", str)
    answer = g.add(node, g.input)
    doubt = g.add(in_doubt, g.input)
    return g.build(g.add(settled, g.input, when=answer.accepted, otherwise=doubt))


@pytest.mark.parametrize(
    ("text", "large", "output"),
    [("Oh!", None, "settled"), ("Oh.", None, "settled"), ("Oh.", DOWN, "in doubt")],
    ids=["the small model is sure", "the large one answers", "the large one is down"],
)
async def test_what_a_cascade_accepts_reaches_the_next_node(
    text: str, large: Step | None, output: str
) -> None:
    assert (await routed(topic(large)).run(text)).output == output


def written(
    name: str, step: Step = "It is as long as nine words can well be."
) -> Cascade[Any, Reply]:
    small, large = (Agent(ScriptedEndpoint([one]), "Answer.") for one in (step, DOWN))
    return Cascade(small=small, large=large, accept=Length(least=9), name=name)


async def test_a_match_over_cascades_says_what_the_one_that_ran_says() -> None:
    g: Any = Graph("g", str)
    label = g.add(topic(), g.input)

    def on(label: str) -> Any:
        return g.add(written(f"on {label}"), g.input)

    reply = g.match(label, on, labels=["card", "app"])
    doubt = g.add(in_doubt, g.input)
    graph = g.build(g.add(settled, g.input, when=reply.accepted, otherwise=doubt))
    assert (await graph.run("Oh!")).output == "settled"


def test_a_cascade_whose_stand_in_says_nothing_is_refused_when_it_is_built() -> None:
    g: Any = Graph("g", str)
    plain = g.add(Agent(ScriptedEndpoint(["Hi."]), "Answer.", name="plain"), g.input)

    def is_short(text: str) -> bool:
        return len(text) < 9

    short = g.input.map(is_short)
    answer = g.add(written("reply"), g.input, when=short, otherwise=plain)
    doubt = g.add(in_doubt, g.input)
    with pytest.raises(WiringError):
        g.build(g.add(settled, g.input, when=answer.accepted, otherwise=doubt))


async def test_a_cascade_of_texts_says_it_too() -> None:
    assert (await routed(written("reply", "no")).run("x")).output == "in doubt"


class Triage(BaseModel):
    urgent: Predicate
    topic: Choice[str]


def triage(*accepted: bool | None) -> Any:
    async def answers(text: str) -> Triage:
        first, second = accepted
        return Triage(
            urgent=Predicate(value=True, accepted=first),
            topic=Choice[str](label="card", accepted=second),
        )

    return answers


@pytest.mark.parametrize(
    ("accepted", "output"), [((True, True), "settled"), ((True, False), "in doubt")]
)
async def test_of_several_questions_all_must_be_accepted(
    accepted: tuple[bool, bool], output: str
) -> None:
    assert (await routed(triage(*accepted)).run("x")).output == output


async def test_an_answer_of_which_nobody_says_it_ends_the_run() -> None:
    with pytest.raises(ConfigError, match="'answers'"):
        await routed(triage(True, None)).run("x")


def test_what_cannot_be_accepted_does_not_build() -> None:
    with pytest.raises(WiringError, match="'settled'"):
        routed(settled)


def test_what_can_be_skipped_does_not_build() -> None:
    g = Graph("g", str)
    answer = g.add(topic(), g.input, when=g.input.map(bool))
    with pytest.raises(WiringError, match=r"'topic\.accepted'"):
        g.build(g.add(settled, g.input, when=answer.accepted, otherwise=g.input))


def is_question(text: str) -> bool:
    return text.endswith("?")


async def test_of_what_stands_in_it_is_said_too() -> None:
    g = Graph("g", str)
    second = g.add(topic(DOWN), g.input, name="second")
    answer = g.add(topic(), g.input, when=g.input.map(is_question), otherwise=second)
    graph = g.build(g.add(settled, g.input, when=answer.accepted, otherwise=g.input))
    assert (await graph.run("Oh?")).output == "settled"
    assert (await graph.run("Oh.")).output == "Oh."


async def test_a_run_that_goes_on_still_knows_it() -> None:
    g = Graph("g", str)
    cascade = topic(DOWN)
    answer = g.add(cascade, g.input)
    asked = g.ask_human("Is it about a card?", answer, answer=str)
    reply = g.add(settled, asked, when=answer.accepted, otherwise=asked)
    compiled = kept(g.build(reply))
    await compiled.ainvoke("Oh.", THREAD)
    assert await compiled.ainvoke(Command(resume="by hand"), THREAD) == "by hand"


def test_a_condition_is_drawn() -> None:
    assert '-.->|"if accepted"|' in routed(topic()).draw().mermaid
