"""System One: any questions by the small model or by an agent, and what is guaranteed of
answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from jevcompat import runner
from pydantic import BaseModel
from starlette.testclient import TestClient

from moa import (
    Agent,
    Calibration,
    Cascade,
    Classifier,
    Decider,
    Filter,
    Guarded,
    Node,
    Predicate,
    predicate,
)
from moa.config.endpoints import Endpoints
from moa.core.context import RunContext
from moa.core.questions import Option, Question
from moa.decisions.defaults import make_unfitted
from moa.decisions.file import FitRecord
from moa.decisions.guarantee import Bound, Guarantee
from moa.endpoints import Endpoint
from moa.endpoints.openai import OpenAIEndpoint
from moa.serving.app import serve
from moa.testing import ScriptedEndpoint, SimulatedEndpoint, SimulatedRequest

from .harness import listening

TOPIC = {
    "type": "choice",
    "instructions": "What is this text about?",
    "criteria": {"card": None, "app": None},
}
REFUND = {"type": "noul", "instructions": "Is the customer asking for money back?"}


def by_words(text: str, asked: SimulatedRequest) -> dict[str, dict[str, float]]:
    """Decide by the words alone, so that neither names nor order of questions change an answer."""
    found: dict[str, dict[str, float]] = {}
    for question in asked.questions:
        names = [option.name for option in question.options]
        size = len(text)
        weights = [1 + (size * (place + 1) + len(name)) % 7 for place, name in enumerate(names)]
        found[question.name] = {
            name: weight / sum(weights) for name, weight in zip(names, weights, strict=True)
        }
    return found


Post = Callable[..., Any]


@pytest.fixture
def post() -> Iterator[Post]:
    """Asks a server of some nodes, and of a small model."""
    open_clients: list[TestClient] = []

    def send(
        questions: Any,
        *nodes: Node[Any, Any],
        model: str = "decide",
        small: Endpoint | None = None,
        **more: Any,
    ) -> Any:
        small = small or SimulatedEndpoint(rule=by_words)
        served = nodes or (Agent(ScriptedEndpoint([]), "Write.", name="writer"),)
        app = serve(*served, endpoints=Endpoints.of(small=small))
        client = TestClient(app, base_url="http://localhost")
        open_clients.append(client.__enter__())
        body = {"model": model, "state": "I paid twice!", "questions": questions, **more}
        return client.post("/v1/systemone", json=body)

    yield send
    for client in open_clients:
        client.__exit__()


def promising(question: Question, threshold: float) -> Calibration:
    """Make a calibration that accepts from a confidence on."""
    guarantee = Guarantee(risk=0.05)
    bound = Bound(guarantee=guarantee, threshold=threshold, labels=300, summary="a test's own")
    fit = FitRecord(heads=(None,), weights=(1.0,), bias=(0.0,) * len(question.options))
    return make_unfitted(question).model_copy(
        update={"bound": bound, "accepting": fit, "full": fit, "made": datetime.now(UTC)}
    )


def classifier(threshold: float | None = None) -> Classifier[str]:
    small = SimulatedEndpoint(rule=lambda _: {"topic": {"card": 0.9}})
    agent = Classifier(small, ["card", "app"], name="topic")
    if threshold is None:
        return agent
    return agent.calibrated(promising(agent.questions[0], threshold))


def cascade() -> Cascade[Any, Any]:
    """Two tiers, of which the first is sure of what is short."""
    large = SimulatedEndpoint(name="large", rule=lambda _: {"topic": {"app": 0.8}})
    return Cascade(
        small=classifier(),
        large=Classifier(large, ["card", "app"], name="topic"),
        confidence=0.95,
        name="settled",
    )


def test_a_cascade_answers_its_own_question_by_the_tier_that_is_asked(post: Post) -> None:
    reply = post({"mine": {**TOPIC}, "topic": {"type": "choice"}}, cascade(), model="settled")
    assert reply.status_code == 200
    assert {one["choice"] for one in reply.json()["answers"].values()} == {"app"}
    assert reply.json()["answers"]["topic"]["probabilities"] == {
        "card": pytest.approx(0.2),
        "app": 0.8,
    }


def test_what_stands_within_guards_is_asked_through_them(post: Post) -> None:
    words = SimulatedEndpoint(rule=lambda text: {"spam": {"yes": 0.9 if "twice" in text else 0.1}})
    spam = Filter(words, "spam", action="drop", name="spam")
    guarded = Guarded(node=classifier(), before=[spam], name="safe")
    stopped = post({"topic": {"type": "choice"}}, guarded, model="safe").json()["answers"]
    let = post({"topic": {"type": "choice"}}, guarded, model="safe", state="Hi").json()["answers"]
    assert stopped == {"topic": {"type": "refusal", "name": "topic"}}
    assert let["topic"]["choice"] == "card"


def test_a_cascade_is_not_taken_apart_for_other_questions(post: Post) -> None:
    reply = post({"refund": REFUND}, cascade(), model="settled")
    assert reply.status_code == 422
    assert "decide" in reply.json()["error"]["message"]


def test_what_a_cascade_promises_is_told_by_the_tier_that_promises_it(post: Post) -> None:
    large = SimulatedEndpoint(name="large", rule=lambda _: {"topic": {"app": 0.8}})
    second = Classifier(large, ["card", "app"], name="topic")
    first = Cascade(small=classifier(0.8), large=second, name="settled")
    sent_on = Cascade(small=classifier(0.95), large=second, name="settled")
    (kept,) = post({"q": TOPIC}, first, model="settled").json()["answers"].values()
    (told,) = post({"q": TOPIC}, sent_on, model="settled").json()["answers"].values()
    assert (kept["choice"], kept["accepted"], kept["bound"]["threshold"]) == ("card", True, 0.8)
    assert told["choice"] == "app"
    assert "bound" not in told


async def test_jevcompat_passes_whole() -> None:
    small = SimulatedEndpoint(rule=by_words)
    async with listening(serve(classifier(), endpoints=Endpoints.of(small=small))) as url:
        report = await asyncio.to_thread(runner.run, url)
    failed = [(one.id, one.findings) for one in report.results if one.status == "fail"]
    assert (report.verdict, failed) == ("conformant", [])


async def test_moas_own_client_reads_the_answers() -> None:
    small = SimulatedEndpoint(rule=by_words)
    yes_no = (Option("yes", value=True), Option("no", value=False))
    questions = [
        Question("refund", "predicate", "Money back?", yes_no),
        Question("topic", "choice", "What?", (Option("card", 1), Option("app", 2, "an app"))),
        Question("urgency", "score", "How urgent?", (Option("low", 0), Option("high", 1))),
    ]
    expected = await small.decide("I paid twice!", questions, RunContext())
    async with (
        listening(serve(classifier(), endpoints=Endpoints.of(small=small))) as url,
        OpenAIEndpoint("there", model="decide", base_url=f"{url}/v1") as there,
    ):
        decision = await there.decide("I paid twice!", questions, RunContext())
    for found, wanted in zip(decision.answers, expected.answers, strict=True):
        assert found.probabilities == pytest.approx(wanted.probabilities)
        assert found.source == "native"


def test_decide_asks_the_servers_small_model(post: Post) -> None:
    small = SimulatedEndpoint(rule=by_words)
    reply = post({"topic": TOPIC, "refund": REFUND}, small=small).json()
    assert small.states == ["I paid twice!"]
    assert reply["model"] == "decide"
    assert list(reply["answers"]) == ["topic", "refund"]
    assert reply["usage"]["input_tokens"] == 10


def test_an_agents_own_question_is_decided_with_its_calibration(post: Post) -> None:
    reply = post({"any name": TOPIC}, classifier(0.8), model="topic").json()
    answer = reply["answers"]["any name"]
    assert (answer["choice"], answer["accepted"]) == ("card", True)
    assert answer["bound"] == {"risk": 0.05, "confidence": 0.95, "threshold": 0.8, "labels": 300}
    assert (
        post({"q": TOPIC}, classifier(0.95), model="topic").json()["answers"]["q"]["accepted"]
        is False
    )


def test_an_agents_own_question_may_be_asked_by_its_name_alone(post: Post) -> None:
    asked = {"topic": {"type": "choice"}}
    answer = post(asked, classifier(0.8), model="topic").json()["answers"]["topic"]
    assert (answer["choice"], answer["accepted"]) == ("card", True)
    assert post({"topic": {"type": "score"}}, classifier(), model="topic").status_code == 422


@pytest.mark.parametrize(
    "changed",
    [
        {"instructions": "What is it about?"},
        {"criteria": {"card": "a bank card", "app": None}},
        {"criteria": {"app": None, "card": None}},
    ],
)
def test_nothing_is_promised_of_a_question_that_is_asked_otherwise(
    post: Post, changed: Any
) -> None:
    agent = classifier(0.0)
    agent.endpoint.rule = by_words  # pyright: ignore[reportAttributeAccessIssue]
    reply = post({"topic": {**TOPIC, **changed}}, agent, model="topic").json()
    assert "accepted" not in reply["answers"]["topic"]


def test_questions_of_a_decider_and_others_are_asked_together(post: Post) -> None:
    class Triage(BaseModel):
        refund: Predicate = predicate("Is the customer asking for money back?")

    agent = Decider(SimulatedEndpoint(rule=by_words), Triage, name="triage")
    agent = agent.calibrated({"refund": promising(agent.questions[0], 0.0)})
    reply = post({"refund": TOPIC, "again": REFUND, "own": {**REFUND}}, agent, model="triage")
    answers = reply.json()["answers"]
    assert answers["refund"]["type"] == "choice"
    assert "accepted" not in answers["refund"]
    assert answers["again"] == answers["own"]
    assert answers["own"]["accepted"] is True


def test_a_filter_says_how_probable_its_criterion_is(post: Post) -> None:
    small = SimulatedEndpoint(rule=lambda _: {"filter": {"yes": 0.3}})
    asked = {"spam": {"type": "noul", "instructions": "Is this text spam?"}}
    reply = post(asked, Filter(small, "spam", action="drop"), model="filter").json()
    assert reply["answers"]["spam"] == {"type": "noul", "noul": 0.3, "x_label_mass": 1.0}


def test_a_question_that_is_refused_leaves_the_others_answered(post: Post) -> None:
    small = SimulatedEndpoint(rule=lambda _: {"topic": {"card": 1.0}})
    answers = post({"topic": TOPIC, "refund": REFUND}, small=small).json()["answers"]
    assert answers["refund"]["type"] == "refusal"
    assert answers["topic"]["choice"] == "card"


def test_no_probability_is_made_up_where_a_model_wrote_its_answer(post: Post) -> None:
    class Writes(SimulatedEndpoint):
        async def decide(self, text: str, questions: Any, context: Any, /, **more: Any) -> Any:
            whole = await super().decide(text, questions, context, **more)
            answers = [
                type(one)(question=one.question, written=0, source="text") for one in whole.answers
            ]
            return type(whole)(answers=tuple(answers), endpoint="w", model="w", amount=whole.amount)

    small = Writes(rule=by_words)
    answer = post({"topic": TOPIC}, small=small).json()["answers"]["topic"]
    assert answer == {"type": "choice", "choice": "card", "x_doubtful": True}
    assert post({"refund": REFUND}, small=small).status_code == 501


def question(**changed: Any) -> Any:
    return {"q": {**REFUND, **changed}}


@pytest.mark.parametrize(
    ("questions", "more"),
    [
        ({}, {}),
        ({"q": 5}, {}),
        ({"q": {"type": "boolean", "instructions": "?"}}, {}),
        (question(box=[1, 2]), {}),
        (question(instructions=""), {}),
        (question(criteria={"yes": "?"}), {}),
        ({"q": {**TOPIC, "criteria": {"card": None}}}, {}),
        ({"q": {**TOPIC, "criteria": {"card": None, " ": None}}}, {}),
        ({"q": {**TOPIC, "criteria": {str(n): None for n in range(256)}}}, {}),
        ({"q": {"type": "score", "instructions": "?", "criteria": ["low", "low"]}}, {}),
        ({"q": {"type": "score", "instructions": "?", "criteria": ["low", None]}}, {}),
        ({str(n): REFUND for n in range(65)}, {}),
        ({"q": REFUND}, {"state": ""}),
        ({"q": REFUND}, {"state": None}),
        ({"q": REFUND}, {"images": ["data:image/png;base64,AA=="]}),
        ({"q": REFUND}, {"model": 5}),
        ({"q": REFUND}, {"model": "writer"}),
    ],
)
def test_what_can_not_be_asked_is_refused_with_its_place(
    post: Post, questions: Any, more: Any
) -> None:
    more = {"state": "I paid twice!", **more}
    refused = post(questions, **more)
    assert refused.status_code == 422
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert all(one["loc"][0] == "body" for one in refused.json()["detail"])


def test_text_that_steers_is_no_name_of_a_model(post: Post) -> None:
    refused = post({"q": REFUND}, model="\x1b[31m" + "m" * 10_000)
    assert refused.status_code == 404
    assert refused.json()["detail"]["error_type"] == "not_found_error"
    assert len(refused.content) < 1000
