"""Deciding without labels: what is measured beforehand, on whom, and what can't be trusted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from moa import Classifier, Filter, RunContext
from moa.core.errors import ConfigError
from moa.core.node import Result
from moa.core.questions import Answer, Question
from moa.endpoints import Decision, Example
from moa.endpoints.known import ModelFacts, save_facts
from moa.local.encoders import JointEncoder
from moa.testing import SimulatedEndpoint

installed = pytest.mark.skipif(
    JointEncoder.missing() is not None, reason="the encoder is not installed"
)
PARCEL = "Where is my parcel?"


def said(result: Result[object]) -> str:
    return "\n".join(note.text for note in result.trace)


async def test_nothing_is_asked_but_the_question_where_no_encoder_stands_beside() -> None:
    endpoint = SimulatedEndpoint(rule=lambda _: {"filter": {"yes": 0.97}})
    result = await Filter(endpoint, "spam", action="drop", name="filter").run(PARCEL)
    assert endpoint.states == [PARCEL]
    assert result.usage.calls == 1
    assert not result.output.kept


@installed
async def test_the_words_decide_alone_beside_a_model_of_which_nothing_is_known() -> None:
    endpoint = SimulatedEndpoint(encoder=JointEncoder(), rule=lambda _: {"filter": {}})
    filtered = Filter(endpoint, "a weather report", action="drop", name="filter")
    assert not (await filtered.run(PARCEL)).output.met
    assert (await filtered.run("Rain and strong winds, 12 degrees.")).output.met
    assert endpoint.states == []


@installed
async def test_a_model_that_is_known_to_help_is_asked_beside_the_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOA_CACHE", str(tmp_path))
    save_facts(ModelFacts(name="helps", weight={"predicate": 2.0}))
    even = {"filter": {"yes": 0.5}}
    asked = SimulatedEndpoint(model="helps", encoder=JointEncoder(), rule=lambda _: even)
    alone = SimulatedEndpoint(encoder=JointEncoder())
    beside, words = [
        (await Filter(one, "a weather report", action="drop", name="filter").run(PARCEL)).output
        for one in (asked, alone)
    ]
    assert asked.states == [PARCEL]
    assert beside.confidence == pytest.approx(words.confidence)


@installed
async def test_a_model_whose_answers_count_nothing_is_not_asked() -> None:
    endpoint = SimulatedEndpoint(
        model="SmolLM2-135M-Instruct.Q4_1", encoder=JointEncoder(), rule=lambda text: text
    )
    result = await Filter(endpoint, "a weather report", action="drop").run(
        "Rain and strong winds, 12 degrees."
    )
    assert endpoint.states == []
    assert not result.output.kept
    assert "by the words of the question" in said(result)


@installed
@pytest.mark.parametrize("each", [4, 20])
async def test_a_head_is_fitted_to_the_examples_of_an_agent_from_twenty_a_label_on(
    each: int,
) -> None:
    endpoint = SimulatedEndpoint(
        encoder=JointEncoder(), rule=lambda text: {"label": {"x": (1 + len(text) % 7) / 9}}
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
    fitted = f"fitted to {2 * each} labelled texts by" in said(meows)
    assert fitted == (each == 20)
    assert endpoint.states == []


PETS = (
    "My cat sleeps.",
    "Kittens purr.",
    "The dog barks.",
    "A tabby hissed.",
    "Feed the cat.",
    "The hamster is asleep.",
    "Two puppies played.",
    "Our rabbit eats hay.",
)
CARS = (
    "The engine died.",
    "New tyres.",
    "The brakes squeak.",
    "I drive a van.",
    "An old bus.",
    "The clutch slips.",
    "Fill the tank.",
    "He sold his lorry.",
)


@installed
@pytest.mark.parametrize("each", [7, 8])
async def test_a_filter_learns_from_sixteen_examples_what_its_criterion_means(each: int) -> None:
    endpoint = SimulatedEndpoint(encoder=JointEncoder())
    pets, cars = (
        [(text, met) for text in texts[:each]] for texts, met in ((PETS, True), (CARS, False))
    )
    ours = Filter(endpoint, "of kind 7B", action="drop", examples=[*pets, *cars], name="filter")
    found = [await ours.run(text) for text in ("The puppy barked.", "The car needs a new engine.")]
    learnt = [result.output.met for result in found] == [True, False]
    told = "fitted to 16 labelled texts" in said(found[0])
    assert learnt == told == (each == 8)


@installed
async def test_a_head_that_is_no_better_than_the_words_of_its_criterion_is_not_used() -> None:
    endpoint = SimulatedEndpoint(encoder=JointEncoder())
    examples = [*((text, True) for text in PETS), *((text, False) for text in CARS)]
    ours = Filter(endpoint, "about an animal", action="drop", examples=examples, name="filter")
    made = await ours.run("The puppy barked.")
    assert "by the words of the question: a head was right in" in said(made)
    words = Filter(endpoint, "about an animal", action="drop", name="filter")
    assert made.output == (await words.run("The puppy barked.")).output


@pytest.mark.parametrize(
    ("p", "threshold", "doubtful"),
    [
        (0.31, 0.5, True),
        (0.29, 0.5, False),
        (0.69, 0.5, True),
        (0.71, 0.5, False),
        (0.85, 0.9, True),
        (0.97, 0.9, False),
        (0.5, 0.9, False),
        (1.0, 0.9, False),
    ],
)
def test_an_encoders_answer_near_the_threshold_is_doubtful_and_the_text_is_kept(
    p: float, threshold: float, doubtful: bool
) -> None:
    ours = Filter(SimulatedEndpoint(), "spam", action="drop", threshold=threshold)
    answer = Answer(question=ours.questions[0], probabilities=(p, 1 - p), source="encoder")
    verdict = ours.read([answer])
    assert verdict.doubtful == doubtful
    assert verdict.kept == (doubtful or p < threshold)


def test_an_example_with_a_label_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="'classifier'"):
        Classifier(SimulatedEndpoint(), ["x", "y"], examples=[("A text", "z")])
    unlabelled: Any = [("A text", None)]
    with pytest.raises(ConfigError, match="none=True"):
        Classifier(SimulatedEndpoint(), ["x", "y"], examples=unlabelled)


@installed
async def test_a_filter_whose_words_are_undecided_says_so_and_keeps_the_text() -> None:
    endpoint = SimulatedEndpoint(
        model="SmolLM2-135M-Instruct.Q4_1", encoder=JointEncoder(), rule=lambda text: text
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


async def test_of_many_labelled_rows_a_prompt_shows_some_of_each_label(tmp_path: Path) -> None:
    rows = [{"text": f"row {n}", "kind": "a" if n < 50 else "b"} for n in range(60)]
    rows += [{"text": "neither", "kind": None}, {"text": "not labelled"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shown = list[Example]()

    class Seeing(SimulatedEndpoint):
        async def decide(
            self,
            state: str,
            questions: Sequence[Question],
            context: RunContext,
            /,
            *,
            examples: Sequence[Example] = (),
        ) -> Decision:
            shown.extend(examples)
            return await super().decide(state, questions, context)

    endpoint = Seeing(rule=lambda _: {"kind": {"a": 0.9}})
    agent = Classifier(endpoint, ["a", "b"], none=True, name="kind", labelled=file)
    assert len(agent.examples) == 61
    await agent.run("hello")
    labels = [example.labels.get("kind") for example in shown]
    assert len(shown) == 32
    assert labels.count("b") == 10
    assert labels.count("a") == 21


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"text": "x", "kind": "c"}, "'c' is none of a, b"),
        ({"text": "x", "kind": None}, "kind"),
        ({"text": "x"}, "kind"),
        ({"kind": "a"}, "text"),
    ],
)
def test_a_labelled_row_that_says_nothing_of_the_labels_is_refused(
    tmp_path: Path, row: dict[str, object], fault: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=fault):
        Classifier(SimulatedEndpoint(), ["a", "b"], name="kind", labelled=file)


def asks_model(endpoint: SimulatedEndpoint, **given: Any) -> bool:
    return Classifier(endpoint, ["card", "app", "branch"], name="topic", **given).asks_endpoint


@installed
def test_among_bare_labels_the_model_chooses_unless_it_is_known_to_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOA_CACHE", str(tmp_path))
    save_facts(ModelFacts(name="guesses", guesses=("choice",)))
    unknown = SimulatedEndpoint(encoder=JointEncoder())
    assert asks_model(unknown)
    assert not asks_model(unknown, examples=[("My card is gone.", "card")])
    assert not asks_model(SimulatedEndpoint(model="guesses", encoder=JointEncoder()))
