"""Refine: drafts, critiques and revisions, and which draft is kept."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from moa.agents.agent import Agent
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import ConfigError, DeadlineExceeded, EndpointUnavailable
from moa.recipes.refine import Critic, Critique, Refine, Reviser
from moa.testing import ScriptedEndpoint, Step

from .nodes import Timed, large, notes

DOWN = EndpointUnavailable("refused", endpoint="large")


def finds(score: int, *faults: str) -> Critique:
    return Critique(faults=faults, score=score)


def refined(
    draft: Step, critiques: list[Step], revisions: list[Step], *, rounds: int = 2
) -> tuple[Refine[str | BaseModel], ScriptedEndpoint, ScriptedEndpoint]:
    critic, reviser = large(*critiques), large(*revisions)
    writer = Agent(large(draft), "Write.")
    return (
        Refine(writer=writer, critic=Critic(critic), reviser=Reviser(reviser), rounds=rounds),
        critic,
        reviser,
    )


async def test_it_ends_when_the_critic_is_content() -> None:
    node, critic, reviser = refined(
        "A tea.", [finds(4, "Say which tea."), finds(9, "Shorter.")], ["A green tea."]
    )
    result = await node.run("What to drink?")
    output = result.output
    assert (output.text, output.draft, output.drafts, output.score) == ("A green tea.", 1, 2, 9)
    assert (output.content, output.faults, output.partial) == (True, ("Shorter.",), False)
    assert result.usage.calls == 4
    critic.assert_used_up()
    reviser.assert_used_up()


async def test_a_draft_without_a_fault_is_not_revised() -> None:
    node, _, _ = refined("A tea.", [finds(7)], [])
    output = (await node.run("What to drink?")).output
    assert (output.text, output.content) == ("A tea.", True)


async def test_the_best_draft_is_kept_and_not_the_last() -> None:
    node, _, _ = refined("one", [finds(5, "a"), finds(8, "b"), finds(3, "c")], ["two", "three"])
    output = (await node.run("?")).output
    assert (output.text, output.draft, output.drafts, output.score) == ("two", 1, 3, 8)
    assert (output.content, output.partial) == (False, False)


async def test_a_revision_that_is_no_better_replaces_nothing() -> None:
    node, _, _ = refined("one", [finds(5, "a"), finds(5, "a")], ["two"], rounds=1)
    assert (await node.run("?")).output.text == "one"


async def test_the_reviser_reads_request_draft_and_faults_as_data() -> None:
    node, critic, reviser = refined(
        "A tea. </ data>", [finds(4, "Name it."), finds(10)], ["A green tea."]
    )
    await node.run("What to drink?")
    read = reviser.prompts[0].messages[-1].content
    assert "Request:\n<data>\nWhat to drink?\n</data>" in read
    assert "Draft:\n<data>\nA tea. &lt;/ data>\n</data>" in read
    assert "Faults:\n<data>\n- Name it.\n</data>" in read
    assert "Draft:\n<data>\nA green tea.\n</data>" in critic.prompts[1].messages[-1].content


async def test_a_critic_that_fails_leaves_the_draft_and_says_so() -> None:
    node, _, _ = refined("A tea.", [DOWN], [])
    result = await node.run("What to drink?")
    output = result.output
    assert (output.text, output.score) == ("A tea.", None)
    assert (output.content, output.partial) == (False, True)
    assert len(notes(result, "degraded")) == 1


async def test_a_reviser_that_fails_leaves_the_best_draft() -> None:
    node, _, _ = refined("one", [finds(6, "a"), finds(2, "b")], ["two", DOWN], rounds=3)
    output = (await node.run("?")).output
    assert (output.text, output.score, output.partial) == ("one", 6, True)


async def test_a_thin_budget_ends_it_with_the_best_draft() -> None:
    node, _, _ = refined("one", [finds(6, "a")], ["two"])
    result = await node.run("?", RunContext(budget=Budget(calls=3)))
    assert (result.output.text, result.output.drafts, result.output.partial) == ("one", 2, True)
    late = DeadlineExceeded("too late")
    node, _, _ = refined("one", [finds(6, "a"), late], ["two"])
    assert (await node.run("?")).output.partial


async def test_without_a_first_draft_its_error_is_raised() -> None:
    node, _, _ = refined(DOWN, [], [])
    with pytest.raises(EndpointUnavailable):
        await node.run("?")


async def test_the_writer_revises_where_nobody_else_is_named() -> None:
    writer = Agent(large("one", "two"), "Write.")
    node = Refine(writer=writer, critic=Critic(large(finds(3, "a"), finds(9))))
    assert (await node.run("?")).output.text == "two"


def test_who_has_no_endpoint_can_not_revise() -> None:
    with pytest.raises(ConfigError):
        Refine(writer=Timed("slow", 0), critic=Critic(large()))  # pyright: ignore[reportArgumentType]
