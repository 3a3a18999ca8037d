"""Doubt: what speaks against an answer that is read from a model's label probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from moa import Decider, Filter, Predicate, predicate
from moa.decisions.defaults import make_calibration
from moa.decisions.doubt import compares_figures
from moa.decisions.features import LabelFeature
from moa.decisions.file import FitRecord
from moa.endpoints import Decision
from moa.endpoints.known import ModelFacts, save_facts
from moa.testing import SimulatedEndpoint


class Scored(SimulatedEndpoint):
    """Gives its answers as if they were read from the log-probabilities of labels."""

    def __init__(self, *, mass: float = 1.0, **given: Any) -> None:
        super().__init__(**given)
        self.mass = mass

    async def decide(self, *given: Any, **more: Any) -> Decision:
        found = await super().decide(*given, **more)
        read = {"source": "logprob", "label_mass": self.mass}
        return replace(found, answers=tuple(replace(a, **read) for a in found.answers))


def rarely(_: str) -> dict[str, dict[str, float]]:
    return {"pets": {"yes": 0.1}}


class Lease(BaseModel):
    pets: Predicate = predicate("May the tenant keep a dog?")


class Deposit(BaseModel):
    high: Predicate = predicate("Is the deposit more than 500 euros?")


def saying(*yes: float) -> Scored:
    """Answer yes with these probabilities, one text after another, and then with the last."""
    left = list(yes)

    def rule(_: str) -> dict[str, dict[str, float]]:
        p = left.pop(0) if len(left) > 1 else left[0]
        return {name: {"yes": p} for name in ("pets", "high")}

    return Scored(rule=rule)


async def doubts(agent: Decider[Any], texts: int) -> list[bool]:
    outputs = [(await agent.run(f"Lease {number}.")).output for number in range(texts)]
    return [next(iter(dict(output).values())).doubtful for output in outputs]


async def test_answers_all_of_one_kind_are_doubtful_once_it_is_unlikely_that_all_are_right() -> (
    None
):
    # .9 ** 44 is the first power below .01.
    assert await doubts(Decider(saying(0.1), Lease), 46) == [False] * 43 + [True] * 3


async def test_a_model_that_is_surer_may_say_the_same_for_longer() -> None:
    assert await doubts(Decider(saying(0.001), Lease), 60) == [False] * 60


async def test_a_question_that_was_answered_in_two_ways_is_not_one_way() -> None:
    assert await doubts(Decider(saying(0.1, 0.9, 0.1), Lease), 60) == [False] * 60


async def test_a_criterion_that_no_text_meets_is_not_doubtful_for_it() -> None:
    spam = Filter(Scored(rule=rarely), "spam", action="keep", name="pets")
    assert [(await spam.run(f"Text {n}.")).output.kept for n in range(50)] == [False] * 50


async def test_the_trace_says_why_an_answer_is_doubtful() -> None:
    result = await Decider(saying(0.1), Deposit).run("The deposit is 700 euros.")
    (why,) = [note.text for note in result.trace if note.kind == "doubtful"]
    assert "'high' is DOUBTFUL" in why
    assert "figures" in why


async def test_a_model_known_to_guess_is_doubted_where_it_is_asked_about_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOA_CACHE", str(tmp_path))
    save_facts(ModelFacts(name="guessing", guesses=("predicate",)))
    guessing = Scored(model="guessing", rule=rarely)
    assert (await Decider(guessing, Lease).run("No pets.")).output.pets.doubtful
    # What the text is, a filter asks, and that is no fact in it.
    spam = Filter(guessing, "spam", action="drop", name="pets")
    assert not (await spam.run("WIN a cruise!")).output.doubtful


async def test_what_labels_or_a_fit_have_corrected_isn_t_doubted() -> None:
    agent = Decider(saying(0.1), Deposit)
    (question,) = agent.questions
    fit = FitRecord(heads=(None,), weights=(1.0,), bias=(0.0, 0.0))
    fitted = agent.calibrated(
        {"high": make_calibration(question, [LabelFeature()], fit, "by 40 labels")}
    )
    assert await doubts(fitted, 50) == [False] * 50


async def test_a_chat_that_would_rather_say_something_else_than_an_option_has_no_confidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOA_CACHE", str(tmp_path))
    for mass, doubtful in ((0.85, True), (0.95, False)):
        chat = Scored(rule=rarely, mass=mass)
        vars(chat)["decides"] = "text"
        made = (await Decider(chat, Lease).run("No pets.")).output.pets
        assert (made.doubtful, made.confidence is None) == (doubtful, doubtful)
        assert made.label_mass == mass
    # A text to be continued isn't told the labels.
    save_facts(ModelFacts(name="continuing", asked="labels"))
    continuing = Scored(rule=rarely, mass=0.4, model="continuing")
    vars(continuing)["decides"] = "auto"
    assert await doubts(Decider(continuing, Lease), 1) == [False]


@pytest.mark.parametrize(
    "question",
    [
        "Were more than 10 units returned?",
        "Did the goods arrive before 3 May?",
        "Had he left by 11:00?",
        "Was notice given within fourteen or within 14 days?",
        "Is the deposit above €500?",
        "Waren es mehr als zwei Wochen?",
        "La livraison a-t-elle eu lieu avant le 3 mai ?",
        "¿Hay al menos 20 plazas?",
        "Czy winda stoi od ponad dziesięciu dni?",
        "届いていない箱は3個以上ありますか。",
    ],
)
def test_a_question_that_compares_with_a_figure_is_found(question: str) -> None:
    assert compares_figures(question)


@pytest.mark.parametrize(
    "question",
    [
        "Has the invoice been paid in full?",
        "Did the courier do more than the customer had asked for?",
        "Is rack R12 cleared?",
        "Was it signed by two people?",
        "Do the 12 temps stay?",
        "Was it paid after the reminder?",
        "Ist Herr Voss vor Ort?",
    ],
)
def test_a_figure_or_a_comparison_alone_is_none(question: str) -> None:
    assert not compares_figures(question)
