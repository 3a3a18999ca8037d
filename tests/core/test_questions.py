"""Questions are written as a pydantic model, and the model comes back filled in."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, create_model

from moa.core.errors import ConfigError, Unanswered
from moa.core.questions import (
    NONE_OF_THESE,
    UNTOLD,
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


def answers_to(model: type[BaseModel], *rows: tuple[float, ...]) -> list[Answer]:
    pairs = zip(questions_of(model), rows, strict=True)
    return [Answer(question=question, probabilities=row) for question, row in pairs]


def test_the_model_comes_back_filled_in_with_the_confidence_in_what_was_picked() -> None:
    triage = fill(Triage, answers((0.9, 0.1), (0.2, 0.7, 0.1), (0.5, 0.25, 0.25)))
    assert (triage.refund.value, triage.refund.confidence) == (True, 0.9)
    assert (triage.topic.label, triage.topic.confidence) == (Topic.APP, 0.7)
    assert (triage.urgency.value, triage.urgency.level) == (0.75, "can wait")
    assert triage.urgency.confidence == 0.5
    none = fill(Triage, answers((0.1, 0.9), (0.1, 0.1, 0.8), (1.0, 0.0, 0.0)))
    assert (none.refund.value, none.refund.confidence) == (False, 0.9)
    assert (none.topic.label, none.topic.probabilities[NONE_OF_THESE]) == (None, 0.8)


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


def test_answers_survive_json_which_speaks_of_values_and_labels() -> None:
    triage = fill(Triage, answers((0.9, 0.1), (0.8, 0.1, 0.1), (0.25, 0.5, 0.25)))
    assert Triage.model_validate_json(triage.model_dump_json()) == triage
    dumped = triage.model_dump()
    assert dumped["refund"]["value"] is True
    assert dumped["topic"]["label"] is Topic.CARD
    assert dumped["urgency"]["level"] == "today"


class Lease(BaseModel):
    dog: Predicate[bool | None] = predicate("May one keep a dog?", unknown=True)
    payer: Choice[Topic | None] = choice("Who pays?", unknown=True)
    strict: Score[str | None] = score("How strict?", levels=["mild", "strict"], unknown=True)


def test_an_answer_that_the_text_does_not_tell_is_none() -> None:
    told = fill(Lease, answers_to(Lease, (0.9, 0.1), (0.8, 0.2), (0.2, 0.8)))
    assert (told.dog.value, told.payer.label, told.strict.level) == (True, Topic.CARD, "strict")
    lease = fill(Lease, [replace(a, untold=True) for a in answers_to(Lease, *[(0.9, 0.1)] * 3)])
    assert (lease.dog.value, lease.payer.label, lease.strict.level) == (None, None, None)
    assert {lease.dog.said, lease.payer.said, lease.strict.said} == {UNTOLD}
    assert lease.dog.confidence is None
    assert Lease.model_validate_json(lease.model_dump_json()) == lease
    with pytest.raises(Unanswered, match="strict"):
        _ = lease.strict.value


def test_none_of_these_is_no_option_where_none_says_that_the_text_does_not_tell() -> None:
    assert [option.name for option in questions_of(Lease)[1].options] == ["card", "app"]


@pytest.mark.parametrize(
    "fields",
    [
        {"age": (int, Field(description="How old?"))},
        {"spam": (Predicate, ...)},
        {"topic": (Choice[str], choice("Which?", labels=["one"]))},
        {},
        {"dog": (Predicate, predicate("A dog?", unknown=True))},
    ],
    ids=["no question", "no text", "a choice of one", "no fields", "unknown, and no None"],
)
def test_a_model_that_asks_wrongly_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        questions_of(create_model("Wrong", **fields))


@pytest.mark.parametrize("kind", [Predicate, Choice[str], Score])
def test_a_question_without_an_answer_is_named(kind: type[Predicate | Choice[str] | Score]) -> None:
    options = (Option("yes", True), Option("no", False))
    open_ = kind.of(
        Answer(question=Question("refund", "predicate", "Is it?", options), status="refused")
    )
    with pytest.raises(Unanswered, match="'refund'"):
        _ = open_.label if isinstance(open_, Choice) else open_.value
    again = kind.model_validate_json(open_.model_dump_json())
    assert again == open_
    assert "question" not in open_.model_dump()
