from __future__ import annotations

import json

import pytest

from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import EndpointUnavailable, MissingDependency, MoaError, QuorumNotMet
from moa.recipes.brainstorm import Brainstorm
from moa.testing import ScriptedEndpoint, SimulatedEndpoint, Step

from .encoder import WordEncoder
from .nodes import notes, tiny

ASKED = "How can a library have more visitors?"
PERSONAS = {"pragmatist": "You look for what is easy.", "outsider": "You come from elsewhere."}
WORDS = ("coffee", "concert", "bus", "night")


def proposing(*each: list[str] | Exception) -> ScriptedEndpoint:
    steps = [e if isinstance(e, Exception) else json.dumps({"ideas": e}) for e in each]
    return ScriptedEndpoint(name="proposers", tier="llm", steps=steps)


def sorting(*themes: tuple[str, list[int]]) -> ScriptedEndpoint:
    written = json.dumps({"themes": [{"theme": t, "ideas": i} for t, i in themes]})
    return ScriptedEndpoint(name="large", tier="llm", steps=[written])


def _scores(state: str) -> Step:
    level = {"excellent": 1.0} if "coffee" in state.lower() else {"fair": 1.0}
    return {"useful": level, "original": level}


def storm(
    proposers: ScriptedEndpoint,
    large: ScriptedEndpoint | SimulatedEndpoint,
    *,
    small: SimulatedEndpoint | None = None,
    most: int | None = None,
    encoder: WordEncoder | None = None,
) -> Brainstorm:
    return Brainstorm(
        slm=small or SimulatedEndpoint(name="small", rule=_scores),
        llm=large,
        proposers=[proposers],
        personas=PERSONAS,
        max_ideas=most,
        encoder=encoder or WordEncoder(name="words", words=WORDS),
    )


async def test_ideas_come_scored_by_theme_with_the_best_first() -> None:
    proposers = proposing(["A night bus."], ["A concert.", "Coffee for all."])
    result = await storm(proposers, sorting(("events", [2]), ("comfort", [1, 3]))).run(ASKED)
    found = [(i.text, i.group, i.score, i.proposed_by) for i in result.output.ideas]
    assert found == [
        ("Coffee for all.", "comfort", 1.0, ("outsider",)),
        ("A concert.", "comfort", 0.3333, ("outsider",)),
        ("A night bus.", "events", 0.3333, ("pragmatist",)),
    ]
    assert result.output.text.splitlines()[:2] == ["comfort:", "- Coffee for all."]


async def test_ideas_that_say_the_same_are_one_that_names_all_who_had_it() -> None:
    proposers = proposing(["A coffee bar."], ["Have coffee!", "A night bus."])
    result = await storm(proposers, sorting(("all", [1, 2]))).run(ASKED)
    assert [i.text for i in result.output.ideas] == ["A coffee bar.", "A night bus."]
    assert result.output.ideas[0].proposed_by == ("pragmatist", "outsider")
    assert len(notes(result, "dropped")) == 1


async def test_a_failing_persona_is_left_out() -> None:
    proposers = proposing(EndpointUnavailable("down", endpoint="proposers"), ["A concert."])
    result = await storm(proposers, sorting(("all", [1]))).run(ASKED)
    assert [i.text for i in result.output.ideas] == ["A concert."]
    assert "'pragmatist'" in notes(result, "failed")[0]


async def test_all_personas_down_is_one_error_with_each_cause() -> None:
    down = EndpointUnavailable("down", endpoint="proposers")
    with pytest.raises(QuorumNotMet) as raised:
        await storm(proposing(down, down), sorting(("all", [1]))).run(ASKED)
    assert set(raised.value.causes) == set(PERSONAS)


async def test_an_idea_with_two_themes_or_none_is_sorted_again() -> None:
    right = json.dumps({"themes": [{"theme": "all", "ideas": [1, 2]}]})
    wrong = json.dumps({"themes": [{"theme": "one", "ideas": [1, 1]}]})
    large = ScriptedEndpoint(name="large", tier="llm", steps=[wrong, right])
    result = await storm(proposing(["A concert."], ["A bus."]), large).run(ASKED)
    assert {i.group for i in result.output.ideas} == {"all"}
    assert notes(result, "repaired")


async def test_without_a_model_for_themes_ideas_stand_in_one_list() -> None:
    llm = tiny()
    result = await storm(proposing(["Coffee at night."], ["A bus."]), llm).run(ASKED)
    assert result.output.text == "- Coffee at night.\n- A bus."
    assert llm.prompts == []


@pytest.mark.parametrize(
    "failure", [EndpointUnavailable("down", endpoint="small"), {"useful": {"fair": 1}}]
)
async def test_an_idea_that_cannot_be_scored_comes_last_without_a_score(failure: Step) -> None:
    def rule(state: str) -> Step:
        return failure if "offee" in state else {"useful": {"fair": 1}, "original": {"fair": 1}}

    small = SimulatedEndpoint(name="small", rule=rule)
    made = storm(proposing(["Coffee."], ["A bus."]), sorting(("all", [1, 2])), small=small)
    ideas = (await made.run(ASKED)).output.ideas
    assert [(i.text, i.score) for i in ideas] == [("A bus.", 0.3333), ("Coffee.", None)]


async def test_only_the_best_are_kept_where_that_is_asked_for() -> None:
    made = storm(proposing(["A bus."], ["Coffee."]), sorting(("all", [1])), most=1)
    assert [i.text for i in (await made.run(ASKED)).output.ideas] == ["Coffee."]


@pytest.mark.parametrize(
    "failure",
    [
        EndpointUnavailable("down", endpoint="words"),
        MissingDependency("tokenizers", extra="local", purpose="to compare"),
    ],
)
async def test_without_vectors_the_same_words_are_still_one_idea(failure: MoaError) -> None:
    down = WordEncoder(name="words", failure=failure)
    result = await storm(
        proposing(["A bus."], ["a bus!", "Night."]), sorting(("all", [1, 2])), encoder=down
    ).run(ASKED)
    assert [i.text for i in result.output.ideas] == ["A bus.", "Night."]


async def test_a_budget_without_calls_for_scores_and_themes_still_gives_ideas() -> None:
    context = RunContext(budget=Budget(calls=3))
    result = await storm(proposing(["A bus."], ["Coffee."]), sorting(("all", [1, 2]))).run(
        ASKED, context
    )
    assert [i.score for i in result.output.ideas] == [None, None]
    assert result.usage.calls <= 3
