"""Deciding without labels: what is measured beforehand, on whom, and what can't be trusted."""

from __future__ import annotations

import asyncio
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decisions.moods import classifier
from moa import Classifier, Filter, RunContext
from moa.budget import Budget
from moa.decisions.zero_shot import MOST_READ, ordinary_texts
from moa.endpoints.encoders import MultilingualEncoder
from moa.endpoints.known import Known, keep
from moa.errors import ConfigError
from moa.node import Result
from moa.testing import SimulatedEndpoint

installed = pytest.mark.skipif(
    MultilingualEncoder.missing() is not None, reason="the encoder is not installed"
)
PARCEL = "Where is my parcel?"


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the endpoints of a test are asked costs nothing, and their model was probed."""

    def yes(endpoint: object) -> bool:
        return True

    monkeypatch.setattr("moa.agents.deciding.costs_nothing", yes)
    monkeypatch.setenv("MOA_CACHE", str(tmp_path))
    keep(Known(name=SimulatedEndpoint().model, layout={"choice": "completion"}))


def biased(bias: float = 4.0) -> SimulatedEndpoint:
    """Reads how good a text is from the number that it is, and is biased to good."""

    def rule(text: str) -> dict[str, dict[str, float]]:
        number = len(text) % 7 - 3 if text in ordinary_texts() else float(text)
        return {"mood": {"good": float(1 / (1 + np.exp(-number - bias)))}}

    return SimulatedEndpoint(rule=rule)


def blind() -> SimulatedEndpoint:
    """Says yes whatever the text is."""
    return SimulatedEndpoint(rule=lambda _: {"filter": {"yes": 0.97}})


def said(result: Result[object]) -> str:
    return "\n".join(note.text for note in result.trace)


async def test_on_an_endpoint_that_costs_money_nothing_is_asked_beforehand() -> None:
    endpoint = biased()
    result = await classifier(endpoint).run("-3.0")
    assert endpoint.states == ["-3.0"]
    assert result.usage.calls == 1
    assert result.output.label == "good"


async def test_the_bias_is_measured_once_for_calls_at_once_and_taken_out(free: None) -> None:
    endpoint = biased()
    endpoint.latency_s = 0.001
    agent = classifier(endpoint)
    numbers = ["-3.0", "-2.9", "3.0", "2.9", "2.8"]
    results = await asyncio.gather(*(agent.run(number) for number in numbers))
    assert [r.output.label for r in results] == ["bad", "bad", "good", "good", "good"]
    assert sum(r.usage.calls for r in results) == MOST_READ + len(numbers)
    assert sorted(endpoint.states) == sorted([*ordinary_texts()[:MOST_READ], *numbers])


async def test_an_agent_with_an_adaptation_taken_away_measures_anew(free: None) -> None:
    endpoint = biased()
    agent = classifier(endpoint)
    await agent.run("1.0")
    await agent.adapted(None).run("1.0")
    assert len(endpoint.states) == 2 * (MOST_READ + 1)


async def test_a_budget_without_room_for_three_measurements_is_left_to_the_decisions(
    free: None,
) -> None:
    endpoint = biased()
    agent = classifier(endpoint)
    few = RunContext(budget=Budget(calls=3 * MOST_READ - 1))
    result = await agent.run("-3.0", few)
    assert endpoint.states == ["-3.0"]
    assert (result.output.label, result.usage.calls) == ("good", 1)
    assert f"the model's bias was not measured: it takes {MOST_READ} calls" in said(result)
    enough = RunContext(budget=Budget(calls=3 * MOST_READ))
    assert (await agent.run("-3.0", enough)).output.label == "bad"


async def test_a_measurement_takes_a_third_of_a_deadline_at_most_and_is_not_tried_in_vain_again(
    free: None,
) -> None:
    endpoint = biased()
    endpoint.latency_s = 0.2
    agent = classifier(endpoint)
    first = await agent.run("-3.0", RunContext(timeout_s=1.5))
    assert first.output.label == "good"
    assert "the model's bias was not measured: it takes more than a third of the time" in said(
        first
    )
    asked = len(endpoint.states)
    await agent.run("-3.0", RunContext(timeout_s=1.5))
    assert len(endpoint.states) == asked + 1
    endpoint.latency_s = 0.0
    assert (await agent.run("-3.0")).output.label == "bad"


async def test_what_measuring_took_stands_under_its_own_name_in_the_usage(free: None) -> None:
    result = await classifier(biased()).run("-3.0")
    assert {node: usage.calls for node, usage in result.usage.by_node().items()} == {
        "mood": 1,
        "mood/bias": MOST_READ,
    }


async def test_what_a_blind_model_would_drop_is_kept_as_doubtful(free: None) -> None:
    result = await Filter(blind(), "spam", action="drop", name="filter").run(PARCEL)
    verdict = result.output
    assert (verdict.kept, verdict.met, verdict.doubtful) == (True, True, True)
    assert verdict.reason.startswith("DOUBTFUL: the model can't tell whether it is spam")
    assert "question 'filter' is DOUBTFUL: the model says 'yes' whatever the text is" in said(
        result
    )


async def test_a_filter_that_keeps_what_is_met_keeps_the_doubtful_too(free: None) -> None:
    never = SimulatedEndpoint(rule=lambda _: {"filter": {"no": 0.97}})
    verdict = (await Filter(never, "a question", action="keep", name="filter").run(PARCEL)).output
    assert (verdict.kept, verdict.met, verdict.doubtful) == (True, False, True)


async def test_a_model_that_tells_texts_apart_is_not_doubtful(free: None) -> None:
    endpoint = SimulatedEndpoint(
        rule=lambda text: {"filter": {"yes": 0.99 if "prize" in text else (1 + len(text) % 9) / 20}}
    )
    spam = (
        await Filter(endpoint, "spam", action="drop", name="filter").run("Claim your prize!")
    ).output
    genuine = (await Filter(endpoint, "spam", action="drop", name="filter").run(PARCEL)).output
    assert (spam.kept, spam.doubtful) == (False, False)
    assert (genuine.kept, genuine.doubtful) == (True, False)


@installed
async def test_beside_a_model_that_costs_money_the_encoder_is_not_asked_either() -> None:
    endpoint = blind()
    endpoint.encoder = MultilingualEncoder()
    result = await Filter(endpoint, "spam", action="drop", name="filter").run(PARCEL)
    assert result.usage.calls == 1
    assert not result.output.kept


@installed
async def test_a_model_whose_answers_count_nothing_is_not_asked() -> None:
    endpoint = SimulatedEndpoint(
        model="SmolLM2-135M-Instruct.Q4_1", encoder=MultilingualEncoder(), rule=lambda text: text
    )
    result = await Filter(endpoint, "a weather report", action="drop").run(
        "Rain and strong winds, 12 degrees."
    )
    assert endpoint.states == []
    assert not result.output.kept
    assert "filter by words" in said(result)


@installed
async def test_a_blind_model_leaves_the_answer_to_the_encoder(free: None) -> None:
    endpoint = blind()
    endpoint.encoder = MultilingualEncoder()
    filtered = Filter(endpoint, "a weather report", action="drop", name="filter")
    verdict = (await filtered.run(PARCEL)).output
    assert (verdict.met, verdict.doubtful) == (False, False)
    assert (await filtered.run("Rain and strong winds, 12 degrees.")).output.met


@installed
@pytest.mark.parametrize("each", [4, 12])
async def test_a_head_is_fitted_to_the_examples_of_an_agent_from_eight_on(
    each: int, free: None
) -> None:
    endpoint = SimulatedEndpoint(
        encoder=MultilingualEncoder(), rule=lambda text: {"label": {"x": (1 + len(text) % 7) / 9}}
    )
    cats = ["My cat sleeps all day.", "Kittens purr.", "The cat caught a mouse.", "A tabby hissed."]
    cars = ["The engine is dead.", "New tyres for the van.", "The brakes squeak.", "I drive a van."]
    examples = [
        (f"{texts[n % 4]} {n // 4}", label)
        for label, texts in (("x", cats), ("y", cars))
        for n in range(each)
    ]
    agent = Classifier(
        endpoint, ["x", "y"], task="Which one?", none=False, examples=examples, name="label"
    )
    meows = await agent.run("My cat meows at night.")
    assert meows.output.label == "x"
    assert (await agent.run("The car needs a new gearbox.")).output.label == "y"
    assert "label by labelled texts" in said(meows)


@installed
async def test_a_filter_learns_from_examples_what_its_criterion_means(free: None) -> None:
    endpoint = SimulatedEndpoint(
        encoder=MultilingualEncoder(), rule=lambda text: {"filter": {"yes": len(text) % 7 / 9}}
    )
    pets = ["My cat sleeps.", "Kittens purr.", "The dog barks.", "A tabby hissed.", "Feed the cat."]
    cars = ["The engine died.", "New tyres.", "The brakes squeak.", "I drive a van.", "An old bus."]
    examples = [*((text, True) for text in pets), *((text, False) for text in cars)]
    ours = Filter(endpoint, "of kind 7B", action="drop", examples=examples, name="filter")
    assert (await ours.run("The puppy chewed my shoes.")).output.met
    assert not (await ours.run("The car needs a new gearbox.")).output.met


def test_an_example_with_a_label_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="an example of 'classifier' has the label 'z'"):
        Classifier(SimulatedEndpoint(), ["x", "y"], examples=[("A text", "z")])
    unlabelled: Any = [("A text", None)]
    with pytest.raises(ConfigError, match="none=True lets it be one"):
        Classifier(SimulatedEndpoint(), ["x", "y"], examples=unlabelled)


@installed
async def test_a_filter_whose_words_are_undecided_says_so_and_keeps_the_text() -> None:
    endpoint = SimulatedEndpoint(
        model="SmolLM2-135M-Instruct.Q4_1", encoder=MultilingualEncoder(), rule=lambda text: text
    )
    text = "It rained, so we stayed in and played cards."
    sure = (await Filter(endpoint, "a weather report", action="drop").run(text)).output
    assert sure.confidence is not None
    probability = sure.confidence if sure.met else 1 - sure.confidence
    for threshold in (probability - 0.05, probability + 0.05):
        verdict = (
            await Filter(endpoint, "a weather report", action="drop", threshold=threshold).run(text)
        ).output
        assert (verdict.kept, verdict.doubtful) == (True, True)
        assert verdict.reason.startswith("DOUBTFUL: the encoder can't tell whether it is a weather")


async def test_who_waits_for_the_first_decision_is_told_for_what(
    free: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    screen = StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", screen)
    endpoint = biased()
    agent = classifier(endpoint)
    with caplog.at_level("INFO", "moa"):
        await agent.run("3.0")
        told, shown = caplog.text, screen.getvalue()
        await agent.run("-3.0")
    assert f"its bias on {MOST_READ} texts" in told
    assert "measuring the model's bias" in shown
    assert (caplog.text, screen.getvalue()) == (told, shown)
