"""A cascade: who is asked, what is accepted, and what happens where something fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import pytest
from pydantic import BaseModel

from moa.agents.agent import Agent
from moa.agents.classifier import Classifier
from moa.agents.deciding import Decider
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import (
    ConfigError,
    DeadlineExceeded,
    EndpointRejected,
    EndpointUnauthorized,
    EndpointUnavailable,
    OutputError,
)
from moa.core.node import Reply, Text
from moa.core.questions import Answer, Choice, Predicate, choice, predicate
from moa.decisions.acceptance import Confident
from moa.decisions.defaults import make_unfitted
from moa.endpoints import Endpoint, Example
from moa.endpoints.breaker import breaker_of
from moa.endpoints.retries import Retried
from moa.graphs.cascade import Cascade
from moa.graphs.engine.graph import Graph
from moa.guards.verifiers import Arithmetic, Format, Length
from moa.testing import ScriptedEndpoint, Step

from .nodes import DOWN, BreaksOff, large, small, streamed

LABELS = ["card", "app"]


def sure(label: str, probability: float) -> Mapping[str, Mapping[str, float]]:
    return {"classifier": {label: probability}}


def labelled(first: Endpoint, second: Endpoint) -> Cascade[Text | str, Choice[str]]:
    return Cascade(
        small=Classifier(first, LABELS, none=False),
        large=Classifier(second, LABELS, none=False),
        confidence=0.8,
    )


WRONG_KEY = EndpointUnauthorized("wrong key", endpoint="e", status=401)
PASSED_ON = "'classifier' gave no answer, so the next one is asked: "
GUESS = "the answer of 'classifier' is not accepted, and no other was had"
DOUBT = "from 'classifier': confidence 0.600, 0.800 is needed"
DOUBTFUL, OTHER = sure("app", 0.6), sure("card", 0.7)
LATE, REJECTED = DeadlineExceeded("late"), EndpointRejected("no", endpoint="large")


@pytest.mark.parametrize(
    ("first", "second", "expected", "told"),
    [
        pytest.param(sure("app", 0.9), DOWN, ("app", True, 0), "", id="sure"),
        pytest.param(DOUBTFUL, OTHER, ("card", True, 1), DOUBT, id="doubtful"),
        pytest.param(DOWN, OTHER, ("card", True, 1), f"{PASSED_ON}small: refused", id="down"),
        pytest.param(WRONG_KEY, OTHER, ("card", True, 1), f"{PASSED_ON}e: wrong", id="wrong key"),
        pytest.param(DOUBTFUL, DOWN, ("app", False, 0), GUESS, id="large down"),
        pytest.param(DOUBTFUL, LATE, ("app", False, 0), GUESS, id="large late"),
    ],
)
async def test_who_answers_and_whether_it_is_accepted(
    first: Step, second: Step, expected: object, told: str
) -> None:
    result = await labelled(small(first), last := large(second)).run("Hm.")
    assert (result.output.label, result.accepted, result.tier) == expected
    assert any(note.text.startswith(told) for note in result.trace)
    assert bool(last.prompts or last.states) is bool(told)


async def test_the_large_tier_is_asked_at_once_where_the_server_of_the_small_one_is_down() -> None:
    server = small(sure("app", 0.9))
    breaker = breaker_of(server)
    breaker.succeed()
    breaker.fail(DOWN, probes=True)
    breaker.probe_at = time.monotonic() + 20
    async with asyncio.timeout(10):
        result = await labelled(Retried(server), large(OTHER)).run("Hm.")
    assert (result.output.label, result.tier) == ("card", 1)


async def test_a_budget_too_thin_for_the_large_tier_leaves_the_small_answer_unaccepted() -> None:
    context = RunContext(budget=Budget(llm_calls=0))
    result = await labelled(small(DOUBTFUL), large(OTHER)).run("Hm.", context)
    assert (result.output.label, result.accepted, result.tier) == ("app", False, 0)
    assert "llm" not in result.usage.by_tier()


@pytest.mark.parametrize(
    ("first", "second", "error"),
    [
        pytest.param(DOWN, REJECTED, EndpointRejected, id="both down"),
        pytest.param(DOUBTFUL, WRONG_KEY, EndpointUnauthorized, id="wrong key"),
    ],
)
async def test_where_nobody_answers_it_is_the_error_of_the_last(
    first: Step, second: Step, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await labelled(small(first), large(second)).run("Hm.")


async def test_tiers_are_asked_in_turn_each_with_its_own_policy() -> None:
    one, two, three = (
        Classifier(ScriptedEndpoint(name=name, steps=[sure("app", p)]), LABELS, none=False)
        for name, p in (("one", 0.7), ("two", 0.8), ("three", 0.6))
    )
    policies = [Confident(0.9), Confident(0.75)]
    agent = Cascade(small=one, between=[two], large=three, accept=policies)
    result = await agent.run("Hm.")
    assert (result.tier, result.output.confidence) == (1, 0.8)


class Triage(BaseModel):
    refund: Predicate = predicate("Does the customer ask for money back?")
    topic: Choice[Literal["card", "app"]] = choice("What is it about?")


async def test_of_several_questions_only_the_doubtful_ones_go_on() -> None:
    first = small({"refund": {"yes": 0.95}, "topic": {"app": 0.6}})
    second = large({"topic": {"card": 0.99}})
    card = Example("My card!", {"refund": "no", "topic": "card"})
    asked = Decider(second, Triage)
    asked.use_calibrations({q.name: make_unfitted(q, [card]) for q in asked.questions})
    agent = Cascade(
        small=Decider(first, Triage),
        large=asked,
        accept=Confident(0.8),
    )
    result = await agent.run("It crashes, money back!")
    assert result.output.refund.probability == 0.95
    assert result.output.topic.label == "card"
    assert result.output.topic.confidence == pytest.approx(0.99)
    second.assert_used_up()


async def test_an_agent_is_asked_no_question_that_it_does_not_have() -> None:
    with pytest.raises(ConfigError):
        Decider(small(), Triage).select(["mood"])


async def test_a_generated_text_is_accepted_by_a_policy_over_the_reply() -> None:
    policy = Length(most=20) & Arithmetic()
    replies = ("2 + 2 = 5", "2 + 2 = 4")
    first, second = (
        Agent(ScriptedEndpoint(name=name, steps=[text]), "Answer.")
        for name, text in zip(("small", "large"), replies, strict=True)
    )
    result = await Cascade(small=first, large=second, accept=policy).run("What is 2 + 2?")
    assert result.output.text == "2 + 2 = 4"


async def test_what_the_small_model_could_not_write_goes_on() -> None:
    class Sum(BaseModel):
        value: int

    first, second = small("four", "4!"), large('{"value": 4}')
    tiers = [Agent(endpoint, "Add.", output=Sum) for endpoint in (first, second)]
    agent = Cascade(small=tiers[0], large=tiers[1], accept=Format("json"))
    result = await agent.run("2 + 2")
    assert result.output.value == 4
    with pytest.raises(OutputError):
        await Agent(small("four", "4!"), "Add.", output=Sum).run("2 + 2")


async def test_a_cascade_stands_in_a_graph_and_is_drawn_in_it() -> None:
    agent = labelled(small(sure("app", 0.6)), large(sure("card", 0.9)))
    g = Graph("g", str)
    graph = g.build(g.add(agent, g.input).map(lambda c: c.label))
    assert (await graph.run("Hm.")).output == "card"
    drawn = graph.draw().mermaid
    assert "SLM · small" in drawn
    assert "LLM · large" in drawn
    alone = agent.draw().mermaid
    assert "if doubtful" in alone
    arrows = [line.split() for line in alone.splitlines() if "->" in line]
    assert all(first != last for first, *_, last in arrows), "no tier has an arrow to itself"


def test_a_cascade_that_cannot_work_is_refused() -> None:
    agent = Classifier(small(), LABELS)
    with pytest.raises(ConfigError):
        Cascade(small=agent, large=agent, accept=[Confident(0.5), Confident(0.5)])
    with pytest.raises(ConfigError):
        Cascade(small=agent, large=agent, accept=Confident(0.5), confidence=0.5)
    with pytest.raises(ConfigError, match="cascade:"):
        Cascade(small=agent, large=cast("Any", 3), confidence=0.5)
    writer = Agent(small(), "Answer.")
    with pytest.raises(ConfigError, match="'agent'"):
        Cascade(small=writer, large=writer)


async def test_an_agent_that_is_not_calibrated_says_so_at_its_first_answer() -> None:
    first, second = (Classifier(end, LABELS) for end in (small(sure("app", 0.9)), large()))
    with pytest.raises(ConfigError):
        await Cascade(small=first, large=second).run("Hm.")


class Both(BaseModel):
    first: Predicate = predicate("Is it loud?")
    second: Predicate = predicate("Is it rude?")


class Accepting(Decider[Both]):
    """Accepts its own answers, as one whose questions all have a calibration."""

    def read(self, answers: Sequence[Answer]) -> Both:
        return super().read([replace(answer, accepted=True) for answer in answers])


async def test_of_several_questions_each_can_say_itself_whether_it_is_accepted() -> None:
    asked = {"first": {"yes": 0.9}, "second": {"yes": 0.9}}
    first, second = Accepting(small(asked), Both), Decider(large(), Both)
    assert (await Cascade(small=first, large=second).run("Hm?")).tier == 0


class Says(BaseModel):
    text: str
    accepted: bool


@pytest.mark.parametrize(("accepted", "tier"), [(True, 0), (False, 1)])
async def test_an_answer_can_say_itself_whether_it_is_accepted(accepted: bool, tier: int) -> None:
    says = Says(text="yes", accepted=accepted)
    first, second = (Agent(end, "Answer.", output=Says) for end in (small(says), large(says)))
    assert (await Cascade(small=first, large=second).run("Hm?")).tier == tier


def writing(first: Endpoint, second: Endpoint) -> Cascade[Any, Reply]:
    return Cascade(
        small=Agent(first, "Answer."),
        large=Agent(second, "Answer."),
        accept=Length(least=4),
    )


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        pytest.param("Hi.", "A good long answer.", "A good long answer.", id="rejected"),
        pytest.param("You go there by train.", "", "You go there by train.", id="accepted"),
    ],
)
async def test_only_the_text_that_counts_is_shown(first: str, second: str, shown: str) -> None:
    node = writing(small(first), large(second))
    assert "".join(await streamed(node, "How do I get there?")) == shown


async def test_where_a_text_breaks_off_that_is_shown_no_other_takes_its_place() -> None:
    writer = Agent(small("Hi.", "Hi."), "Answer.")
    node = Cascade(small=writer, large=BreaksOff("large"), accept=Length(least=4))
    assert (await node.run("How do I get there?")).output.text == "Hi."
    with pytest.raises(EndpointUnavailable):
        await streamed(node, "How do I get there?")


def test_tiers_that_choose_among_different_labels_are_refused_with_the_difference() -> None:
    with pytest.raises(ConfigError, match="'first'"):
        Cascade(
            small=Classifier(small(DOUBTFUL), LABELS, name="first"),
            large=Classifier(large(DOUBTFUL), ["card", "web"], name="second"),
            confidence=0.8,
        )


@pytest.mark.parametrize("says", [{"confidence": 0.8}, {"accept": Confident(0.8)}])
def test_a_confidence_is_refused_where_the_small_tier_writes(says: dict[str, Any]) -> None:
    writer = Agent(small("Hello."), "Greet.", name="writer")
    with pytest.raises(ConfigError, match="'writer'"):
        Cascade(small=writer, large=Agent(large("Good day."), "Greet."), **says)
    Cascade(small=writer, large=Agent(large("Good day."), "Greet."), accept=Length(most=80))
