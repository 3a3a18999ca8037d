"""Choose best: the model that agrees most with itself, and what tells equals apart."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from moa.agents.agent import Agent
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import ConfigError, OutputError
from moa.core.node import Reply
from moa.graphs.mixing.answer_extraction import last_number
from moa.recipes.choose_best import ChooseBest
from moa.testing import ScriptedEndpoint, SimulatedEndpoint, Step

from .nodes import DOWN


def model(name: str, *steps: Step) -> Agent[str | BaseModel, Reply]:
    endpoint = ScriptedEndpoint(name=name, steps=steps)
    return Agent(endpoint, "Work it out.", name=name, temperature=0.7)


async def test_the_model_that_agrees_most_with_itself_is_believed() -> None:
    node = ChooseBest(nodes=[model("a", "7", "8", "9"), model("b", "so 8", "8", "7")])
    result = await node.run("3 + 4?")
    output = result.output
    assert (output.model, output.text, output.answer) == ("b", "so 8", "8")
    assert output.shares == pytest.approx({"a": 1 / 3, "b": 2 / 3})
    assert (output.votes, output.confidence) == ({"8": 2, "7": 1}, pytest.approx(2 / 3))
    assert (result.usage.calls, output.tied_models) == (6, ())


async def test_votes_of_different_models_are_not_added_up() -> None:
    wrong = [model(name, "8", "8", str(n)) for n, name in enumerate("abc")]
    output = (await ChooseBest(nodes=[*wrong, model("d", "7", "7", "7")]).run("3 + 4?")).output
    assert (output.model, output.answer) == ("d", "7")


async def test_the_accuracy_on_labelled_rows_tells_equals_apart() -> None:
    def models() -> list[Agent[str | BaseModel, Reply]]:
        return [model("a", "8", "8", "7"), model("b", "7", "7", "8")]

    output = (await ChooseBest(nodes=models(), accuracy={"a": 0.4, "b": 0.6}).run("3 + 4?")).output
    assert (output.model, output.tied_models) == ("b", ())
    output = (await ChooseBest(nodes=models()).run("3 + 4?")).output
    assert (output.model, output.tied_models) == ("a", ("b",))


async def test_the_accuracy_does_not_outweigh_agreement() -> None:
    models = [model("a", "8", "8", "7"), model("b", "7", "7", "7")]
    output = (await ChooseBest(nodes=models, accuracy={"a": 0.9, "b": 0.1}).run("3 + 4?")).output
    assert output.model == "b"


async def test_a_dead_model_is_left_out_and_named() -> None:
    node = ChooseBest(nodes=[model("a", DOWN, DOWN, DOWN), model("b", "7", "7", "8")])
    result = await node.run("3 + 4?")
    assert (result.output.model, result.output.shares["a"]) == ("b", 0.0)
    assert sum(note.kind == "failed" for note in result.trace) == 3


async def test_a_sample_that_fails_counts_against_its_model() -> None:
    node = ChooseBest(nodes=[model("a", "8", DOWN, DOWN), model("b", "7", "7", "8")])
    output = (await node.run("3 + 4?")).output
    assert (output.model, output.partial) == ("b", True)


async def test_a_thin_budget_chooses_among_what_came_and_says_so() -> None:
    node = ChooseBest(nodes=[model("a", "7", "7"), model("b")], samples=2)
    result = await node.run("3 + 4?", RunContext(budget=Budget(calls=2)))
    assert (result.output.answer, result.output.partial) == ("7", True)
    assert "degraded" in {note.kind for note in result.trace}


async def test_samples_without_an_answer_are_an_error() -> None:
    silent = SimulatedEndpoint(rule=lambda _: "Hm.")
    node = ChooseBest(nodes=[Agent(silent, "Work it out.")], key=last_number)
    with pytest.raises(OutputError):
        await node.run("3 + 4?")


@pytest.mark.parametrize(
    ("models", "accuracy"), [([], {}), (["a", "a"], {}), (["a", "b"], {"c": 0.5})]
)
def test_what_can_not_be_chosen_from_is_refused(
    models: list[str], accuracy: dict[str, float]
) -> None:
    with pytest.raises(ConfigError):
        ChooseBest(nodes=[*map(model, models)], accuracy=accuracy)
