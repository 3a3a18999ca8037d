"""Questions are written as a pydantic model, and the model comes back filled in."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, create_model

from moa.errors import ConfigError, Unanswered
from moa.questions import (
    NONE_OF_THESE,
    Answer,
    Choice,
    Option,
    Predicate,
    Question,
    Score,
    choice,
    fill,
    predicate,
    questions_of,
    score,
)


class Topic(Enum):
    CARD = "card"
    APP = "app"


class Triage(BaseModel):
    refund: Predicate = predicate("Does the customer ask for money back?", yes="wants a refund")
    topic: Choice[Topic | None] = choice("What is it about?", describe={Topic.CARD: "a bank card"})
    urgency: Score = score("How urgent is it?", levels=["can wait", "today", "now"])


def answers(*rows: tuple[float, ...]) -> list[Answer]:
    return [
        Answer(question=question, probabilities=row)
        for question, row in zip(questions_of(Triage), rows, strict=True)
    ]


def test_the_model_comes_back_filled_in() -> None:
    triage = fill(Triage, answers((0.9, 0.1), (0.2, 0.7, 0.1), (0.5, 0.25, 0.25)))
    assert triage.refund.value is True
    assert triage.topic.label is Topic.APP
    assert triage.urgency.value == 0.75
    assert triage.urgency.level == "can wait"


def test_confidence_is_the_probability_of_what_was_picked() -> None:
    triage = fill(Triage, answers((0.1, 0.9), (0.2, 0.7, 0.1), (0.5, 0.25, 0.25)))
    assert triage.refund.confidence == 0.9
    assert triage.topic.confidence == 0.7
    assert triage.urgency.confidence == 0.5


def test_none_of_these_is_none() -> None:
    triage = fill(Triage, answers((0.9, 0.1), (0.1, 0.1, 0.8), (1.0, 0.0, 0.0)))
    assert triage.topic.label is None
    assert triage.topic.probabilities[NONE_OF_THESE] == 0.8


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Choice[Literal["a", "b"]], ["a", "b"]),
        (Choice[Literal["a", "b"] | None], ["a", "b", NONE_OF_THESE]),
        (Choice[Topic | None], [*(topic.value for topic in Topic), NONE_OF_THESE]),
    ],
)
def test_none_of_these_is_an_answer_where_the_type_has_none(kind: Any, options: list[str]) -> None:
    asking = create_model("Asking", topic=(kind, choice("Which?")))
    assert [o.name for o in questions_of(asking)[0].options] == options


def test_descriptions_reach_the_options() -> None:
    refund, topic, _ = questions_of(Triage)
    assert refund.options[0].description == "wants a refund"
    assert topic.options[0].description == "a bank card"


def test_a_plain_field_with_levels_is_a_question_too() -> None:
    class Plain(BaseModel):
        urgency: Score = Field(description="How?", json_schema_extra={"levels": ["low", "high"]})

    assert [o.name for o in questions_of(Plain)[0].options] == ["low", "high"]


def test_labels_known_only_at_run_time_are_strings() -> None:
    class Loose(BaseModel):
        topic: Choice[str] = choice("Which?", labels=["x", "y"])

    assert fill(Loose, [Answer(question=questions_of(Loose)[0], written=1)]).topic.label == "y"


@pytest.mark.parametrize("status", ["refused", "missing"])
def test_reading_an_unanswered_question_is_an_error(status: Literal["refused", "missing"]) -> None:
    questions = questions_of(Triage)
    triage = fill(Triage, [Answer(question=q, status=status) for q in questions])
    assert triage.topic.status == status
    for read in (
        lambda: triage.refund.value,
        lambda: triage.topic.label,
        lambda: triage.urgency.value,
        lambda: triage.urgency.level,
    ):
        with pytest.raises(Unanswered, match=status):
            read()


def test_a_written_answer_has_no_confidence() -> None:
    triage = fill(
        Triage, [Answer(question=q, written=1, source="text") for q in questions_of(Triage)]
    )
    assert triage.refund.value is False
    assert triage.topic.confidence is None
    assert triage.urgency.value == 1.0


def test_answers_survive_json() -> None:
    triage = fill(Triage, answers((0.9, 0.1), (0.1, 0.1, 0.8), (0.25, 0.5, 0.25)))
    assert Triage.model_validate_json(triage.model_dump_json()) == triage


def test_json_speaks_of_values_and_labels() -> None:
    dumped = fill(Triage, answers((0.9, 0.1), (0.8, 0.1, 0.1), (0.25, 0.5, 0.25))).model_dump()
    assert dumped["refund"]["value"] is True
    assert dumped["topic"]["label"] is Topic.CARD
    assert dumped["urgency"]["level"] == "today"


def test_a_field_that_asks_nothing_is_refused() -> None:
    class Wrong(BaseModel):
        age: int = Field(description="How old?")

    with pytest.raises(ConfigError, match=r"Wrong\.age is annotated"):
        questions_of(Wrong)


def test_a_question_without_text_is_refused() -> None:
    class Silent(BaseModel):
        spam: Predicate

    with pytest.raises(ConfigError, match="'spam' has no text"):
        questions_of(Silent)


def test_a_choice_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least two"):
        Question("q", "choice", "Which?", ())


def test_a_model_without_fields_asks_nothing() -> None:
    class Empty(BaseModel):
        pass

    with pytest.raises(ConfigError, match="Empty asks nothing"):
        questions_of(Empty)


@pytest.mark.parametrize("kind", [Predicate, Choice[str], Score])
def test_a_question_without_an_answer_is_named(kind: type[Predicate | Choice[str] | Score]) -> None:
    options = (Option("yes", True), Option("no", False))
    open_ = kind.of(
        Answer(question=Question("refund", "predicate", "Is it?", options), status="refused")
    )
    with pytest.raises(Unanswered, match=r"question 'refund' has no answer: it was refused"):
        _ = open_.label if isinstance(open_, Choice) else open_.value
    again = kind.model_validate_json(open_.model_dump_json())
    assert again == open_
    assert "question" not in open_.model_dump()
