"""The deciding agents: one request, typed answers, corrected probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, Literal

import pytest
from decisions.moods import Headed
from pydantic import BaseModel

from moa import (
    Choice,
    Classifier,
    Decider,
    Filter,
    Predicate,
    Score,
    Sentiment,
    Text,
    choice,
    predicate,
    score,
)
from moa.agents.filter import Action
from moa.core.errors import (
    CalibrationError,
    ConfigError,
    InputError,
    InvalidResponse,
    Unanswered,
)
from moa.core.questions import Answer, Question
from moa.core.usage import Amount
from moa.decisions.defaults import make_calibration, make_unfitted
from moa.decisions.features import ASKED_AS, LabelFeature
from moa.decisions.file import Calibration, FitRecord
from moa.endpoints import Decision, Example
from moa.testing import ScriptedEndpoint, SimulatedEndpoint


class Triage(BaseModel):
    refund: Predicate = predicate("Does the customer ask for money back?")
    topic: Choice[Literal["card", "app"] | None] = choice("What is it about?")
    urgency: Score = score("How urgent is it?", levels=["can wait", "today", "now"])


class Topic(Enum):
    CARD = "card"
    APP = "app"


class Asked(SimulatedEndpoint):
    """Gives one answer, and keeps what it was shown."""

    def __init__(self, answer: dict[str, dict[str, float]]) -> None:
        super().__init__(rule=lambda _: answer)
        self.shown: list[tuple[Example, ...]] = []

    async def decide(self, *given: Any, examples: Sequence[Example] = ()) -> Decision:
        self.shown.append(tuple(examples))
        return await super().decide(*given, examples=examples)


class Writing(ScriptedEndpoint):
    """Writes the first label of each question, as a server without probabilities does."""

    async def decide(
        self, state: str, questions: Sequence[Question], *given: Any, **more: Any
    ) -> Decision:
        answers = tuple(Answer(question=q, written=0, source="text") for q in questions)
        return Decision(answers=answers, endpoint="writing", model="m", amount=Amount())


SURE = {"refund": {"yes": 0.9}, "topic": {"card": 0.8}, "urgency": {"now": 0.5, "today": 0.5}}


async def test_all_questions_go_out_in_one_request() -> None:
    endpoint = ScriptedEndpoint([SURE])
    text = Text(text="I want my money back", language="en")
    result = await Decider(endpoint, Triage, name="triage").run(text)
    assert endpoint.states == ["I want my money back"]
    assert result.usage.calls == 1
    assert result.output.refund.value is True
    assert result.output.topic.label == "card"
    assert result.output.topic.confidence == pytest.approx(0.8)
    assert result.output.urgency.value == pytest.approx(1.5)


async def test_an_unanswered_question_is_noted_and_the_others_stand() -> None:
    endpoint = ScriptedEndpoint([{"refund": {"yes": 0.9}, "urgency": {"now": 1.0}}])
    result = await Decider(endpoint, Triage).run("hello")
    assert result.output.refund.value is True
    assert result.output.topic.status == "missing"
    assert [note.text for note in result.trace if note.kind == "refused"] == [
        "question 'topic' has no answer: missing"
    ]


class Lease(BaseModel):
    dog: Predicate[bool | None] = predicate("May one keep a dog?", unknown=True)
    payer: Choice[Literal["tenant", "owner"]] = choice("Who pays?")


@pytest.mark.parametrize(("told", "value"), [(0.8, True), (0.3, None)])
async def test_an_endpoint_that_decides_itself_is_asked_whether_the_text_tells_it(
    told: float, value: bool | None
) -> None:
    answer = {"dog": {"yes": 0.9}, "dog told": {"yes": told}, "payer": {"owner": 0.9}}
    endpoint = ScriptedEndpoint([answer])
    result = await Decider(endpoint, Lease).run("§ 1 Pets")
    assert (result.output.dog.value, result.output.payer.label) == (value, "owner")
    assert result.usage.calls == 1


async def test_that_the_text_does_not_tell_is_one_more_option_of_a_model_in_a_chat() -> None:
    class Denying(Writing):
        decides = "text"

        async def decide(self, *given: Any, **more: Any) -> Decision:
            made = await super().decide(*given, **more)
            asked = [replace(a, untold=a.question.unknown) for a in made.answers]
            return replace(made, answers=tuple(asked))

    result = await Decider(Denying(), Lease).run("§ 1 Pets")
    assert (result.output.dog.value, result.output.payer.label) == (None, "tenant")


async def test_an_empty_text_is_not_decided_on() -> None:
    with pytest.raises(InputError):
        await Decider(ScriptedEndpoint(), Triage).run(" \n")


def corrected(
    bias: tuple[float, ...], *shown: tuple[Example, ...], weights: tuple[float, ...] = (1.0,)
) -> Calibration:
    (question,) = Sentiment(ScriptedEndpoint()).questions
    variants = shown or ((),)
    features = [
        LabelFeature(name=str(place), prompt_variants=(variant,), asked_as="")
        for place, variant in enumerate(variants)
    ]
    fit = FitRecord(heads=(None,) * len(features), weights=weights, bias=bias)
    return make_calibration(question, features, fit, "bias removed")


async def test_a_calibration_without_a_bound_corrects_the_probabilities_and_says_so() -> None:
    endpoint = ScriptedEndpoint([{"sentiment": {"neutral": 0.8, "positive": 0.15}}] * 2)
    sentiment = Sentiment(endpoint)
    assert (await sentiment.run("fine")).output.label == "neutral"
    result = await sentiment.calibrated(corrected((0.0, -20.0, 0.0))).run("fine")
    assert result.output.label == "positive"
    assert result.output.accepted is None
    assert sum(result.output.probabilities.values()) == pytest.approx(1.0)
    assert "probabilities corrected: bias removed" in [note.text for note in result.trace]
    assert not sentiment.calibrations


async def test_each_prompt_variant_is_asked_once_and_all_are_weighed() -> None:
    both = corrected((0.0,) * 3, (), (Example("ça va", {ASKED_AS: "neutral"}),), weights=(1.0, 1.0))
    asked = Asked({"sentiment": {"negative": 0.2, "neutral": 0.2, "positive": 0.6}})
    result = await Sentiment(asked, calibration=both).run("fine")
    assert result.usage.calls == 2
    assert sorted(asked.shown, key=len) == [(), (Example("ça va", {"sentiment": "neutral"}),)]
    assert result.output.probabilities["positive"] == pytest.approx(0.36 / 0.44)


async def test_questions_with_calibrations_that_show_the_same_texts_are_asked_together() -> None:
    endpoint = ScriptedEndpoint([SURE])
    agent = Decider(endpoint, Triage)
    refund, topic, _ = agent.questions
    shown = [Example("My card!", {"refund": "no", "topic": "card"})]
    by = {"refund": make_unfitted(refund), "topic": make_unfitted(topic)}
    assert (await agent.calibrated(by).run("hi")).usage.calls == 1
    endpoint = Asked(SURE)
    behind = {"refund": make_unfitted(refund, shown), "topic": make_unfitted(topic, shown)}
    await Decider(endpoint, Triage).calibrated(behind).run("hi")
    assert sorted(endpoint.shown, key=len) == [(), tuple(shown)]


async def test_a_question_is_asked_by_the_name_that_it_had_when_it_was_fitted() -> None:
    agent = Decider(SimulatedEndpoint(), Triage)
    refund, topic, _ = agent.questions
    by = {
        q.name: make_calibration(q, [LabelFeature(asked_as="label")], None, "fitted as a label")
        for q in (refund, topic)
    }
    names: list[list[str]] = []

    class Named(SimulatedEndpoint):
        async def decide(
            self, state: str, questions: Sequence[Question], *given: Any, **more: Any
        ) -> Decision:
            names.append([question.name for question in questions])
            return await super().decide(state, questions, *given, **more)

    endpoint = Named(rule=lambda _: {"label": {}} | SURE)
    result = await Decider(endpoint, Triage, calibration=by).run("hi")
    assert sorted(name for asked in names for name in asked) == ["label", "label", "urgency"]
    assert result.output.refund.question == "refund"


def test_a_calibration_for_another_question_or_none_is_refused() -> None:
    agent = Sentiment(ScriptedEndpoint())
    other = make_unfitted(Filter(ScriptedEndpoint(), "spam", action="drop").questions[0])
    with pytest.raises(CalibrationError):
        agent.calibrated(other)
    with pytest.raises(CalibrationError, match="'mood'"):
        agent.calibrated({"mood": other})


async def test_what_was_refused_says_nothing_beside_what_was_read() -> None:
    two = corrected((0.0,) * 3, (), (Example("ça va", {ASKED_AS: "neutral"}),), weights=(1.0, 1.0))
    endpoint = ScriptedEndpoint([{"sentiment": {"positive": 0.7}}, {}])
    answer = (await Sentiment(endpoint, calibration=two).run("fine")).output
    assert answer.probabilities["positive"] == pytest.approx(0.7)
    nothing = (await Sentiment(ScriptedEndpoint([{}, {}]), calibration=two).run("fine")).output
    assert nothing.status == "missing"


async def test_an_agent_alone_asks_its_endpoint() -> None:
    encoder = Headed(name="vectors")
    small = SimulatedEndpoint(encoder=encoder, rule=lambda _: {"sentiment": {"positive": 0.9}})
    assert not Sentiment(small).asks_endpoint
    assert (await Sentiment(small).alone().run("fine")).output.label == "positive"


async def test_sentiment_reads_label_and_intensity_from_probabilities() -> None:
    endpoint = ScriptedEndpoint([{"sentiment": {"negative": 0.7, "neutral": 0.2}}])
    mood = (await Sentiment(endpoint).run("It broke.")).output
    assert mood.label == "negative"
    assert mood.intensity == pytest.approx(0.6)
    assert mood.model_dump()["intensity"] == mood.intensity


def test_binary_sentiment_has_no_neutral_anywhere() -> None:
    sentiment = Sentiment(ScriptedEndpoint(), neutral=False)
    (question,) = sentiment.questions
    assert [option.name for option in question.options] == ["negative", "positive"]
    assert {example.labels["sentiment"] for example in sentiment.examples} == {
        "negative",
        "positive",
    }


@pytest.mark.parametrize(
    ("action", "yes", "threshold", "kept"),
    [
        ("drop", 0.9, 0.5, False),
        ("drop", 0.1, 0.5, True),
        ("keep", 0.9, 0.5, True),
        ("keep", 0.1, 0.5, False),
        ("drop", 0.4, 0.5, True),
        ("drop", 0.4, 0.3, False),
    ],
)
async def test_a_filter_keeps_or_drops_by_its_criterion_and_threshold(
    action: Action, yes: float, threshold: float, kept: bool
) -> None:
    agent = Filter(
        ScriptedEndpoint([{"filter": {"yes": yes}}]),
        "unsolicited advertising",
        action=action,
        threshold=threshold,
    )
    result = await agent.run("Buy now!")
    assert result.output.kept is kept
    assert result.output.confidence == pytest.approx(yes if yes >= threshold else 1 - yes)
    assert "unsolicited advertising" in result.output.reason
    assert ("dropped" in [note.kind for note in result.trace]) is not kept


async def test_a_filter_drops_an_empty_text_without_asking() -> None:
    result = await Filter(ScriptedEndpoint(), "spam", action="keep").run("  ")
    assert not result.output.kept
    assert not result.output.met
    assert result.usage.calls == 0


@pytest.mark.parametrize("given", [{"action": "remove"}, {"action": "drop", "threshold": 1}])
def test_a_filter_is_told_whether_it_keeps_or_drops(given: Any) -> None:
    with pytest.raises(ConfigError):
        Filter(ScriptedEndpoint(), "spam", **given)


@pytest.mark.parametrize("accepted", [True, False, None])
def test_a_filter_says_whether_its_answer_is_accepted(accepted: bool | None) -> None:
    agent = Filter(ScriptedEndpoint(), "spam", action="drop")
    answer = Answer(question=agent.questions[0], probabilities=(0.1, 0.9), accepted=accepted)
    assert agent.read([answer]).accepted is accepted


async def test_a_filter_without_an_answer_decides_nothing() -> None:
    with pytest.raises(Unanswered):
        await Filter(ScriptedEndpoint([{}]), "spam", action="drop").run("Hi")


MEANT = ["a bank card", "the app"]


@pytest.mark.parametrize(
    ("labels", "expected", "meant"),
    [
        (Topic, Topic.CARD, [None, None]),
        (Literal["card", "app"], "card", [None, None]),
        (["card", "app"], "card", [None, None]),
        ({"card": MEANT[0], "app": MEANT[1]}, "card", MEANT),
        ({Topic.CARD: MEANT[0], Topic.APP: MEANT[1]}, Topic.CARD, MEANT),
    ],
    ids=["Enum", "Literal", "list", "mapping", "mapping of an Enum"],
)
async def test_a_classifier_gives_the_label_as_it_was_given(
    labels: Any, expected: object, meant: list[str | None]
) -> None:
    endpoint = ScriptedEndpoint([{"intent": {"card": 0.7, "app": 0.2}}])
    agent: Classifier[Any] = Classifier(endpoint, labels, none=True, name="intent")
    result = await agent.run("My card is gone")
    assert result.output.label == expected
    assert set(result.output.probabilities) == {"card", "app", "none of these"}
    assert sum(result.output.probabilities.values()) == pytest.approx(1.0)
    assert [option.description for option in agent.questions[0].options[:2]] == meant


@pytest.mark.parametrize(
    ("labels", "examples"),
    [
        (["one"], ()),
        (["a", "a"], ()),
        (["a", " "], ()),
        ("a,b", ()),
        ({"card", "app"}, ()),
        ((word for word in ("card", "app")), ()),
        (["card", "app"], {"My card": "card"}),
        (["card", "app"], [("My card", "loan")]),
        (["card", "app"], [("Hi", None)]),
    ],
)
def test_labels_and_examples_that_cannot_be_told_apart_are_refused(
    labels: Any, examples: Any
) -> None:
    with pytest.raises(ConfigError):
        Classifier(ScriptedEndpoint(), labels, examples=examples)


async def test_a_classifier_says_that_none_fits_only_where_it_is_told_that_it_may() -> None:
    endpoint = ScriptedEndpoint([{"classifier": {"none of these": 0.9}}])
    result = await Classifier(endpoint, ["card", "app"], none=True).run("Nice weather")
    assert result.output.label is None
    (question,) = Classifier(endpoint, ["card", "app"]).questions
    assert [option.name for option in question.options] == ["card", "app"]


def test_a_classifier_takes_hundreds_of_labels_and_describes_them() -> None:
    labels = {f"label {i}": f"meaning {i}" for i in range(300)}
    (question,) = Classifier(ScriptedEndpoint(), labels, none=False).questions
    assert len(question.options) == 300
    assert question.options[7].description == "meaning 7"


async def test_a_written_label_has_no_confidence_and_says_so() -> None:
    bias = corrected((9.0, 0.0, 0.0))
    for agent in (Sentiment(Writing(), calibration=bias), Classifier(Writing(), ["card", "app"])):
        result = await agent.run("hello")
        assert result.output.source == "text"
        assert result.output.label in {"negative", "card"}
        assert result.output.confidence is None
        assert result.output.probabilities == {}
        assert "degraded" in [note.kind for note in result.trace]
    assert (await Sentiment(Writing()).run("hello")).output.intensity is None
    verdict = (await Filter(Writing(), "spam", action="drop").run("hello")).output
    assert (verdict.kept, verdict.confidence) == (False, None)
    assert "as written by the model" in verdict.reason


async def test_answers_to_other_questions_are_an_error() -> None:
    class Mixed(Writing):
        async def decide(self, *given: Any, **more: Any) -> Decision:
            whole = await super().decide(*given, **more)
            return replace(whole, answers=whole.answers[::-1])

    with pytest.raises(InvalidResponse, match="asked"):
        await Decider(Mixed(), Triage).run("hello")


@pytest.mark.parametrize("unit", ["1", "a@", "ignore ", "😀", "我的包裹在哪里", "\u200b", "[({<"])
@pytest.mark.parametrize("long", [2_000, 1_000_000], ids=["kilobytes", "a megabyte"])
def test_of_a_text_that_does_not_fit_the_window_the_opening_and_the_end_are_read(
    unit: str, long: int
) -> None:
    read: list[str] = []

    def rule(text: str) -> dict[str, dict[str, float]]:
        read.append(text)
        return {"filter": {"yes": 0.9}}

    small = SimulatedEndpoint(rule=rule)
    small.context_window = 400  # type: ignore[attr-defined]
    text = f"Hello. {unit * (long // len(unit))} Bye."
    result = Filter(small, "spam", action="drop").run_sync(text)
    assert not result.output.kept
    assert [note.kind for note in result.trace].count("truncated") == 1
    assert all(one.startswith("Hello.") and one.endswith("Bye.") for one in read)
    assert max(len(one.encode()) for one in read) <= 320
    assert result.usage.calls == 1


def test_a_text_that_fits_the_window_is_read_whole() -> None:
    read: list[str] = []

    def rule(text: str) -> dict[str, dict[str, float]]:
        read.append(text)
        return {"filter": {"yes": 0.9}}

    small = SimulatedEndpoint(rule=rule)
    small.context_window = 400  # type: ignore[attr-defined]
    text = "Where is my parcel? " * 40
    result = Filter(small, "spam", action="drop").run_sync(text)
    assert read == [text]
    assert not [note for note in result.trace if note.kind == "truncated"]
