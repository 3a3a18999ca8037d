"""Choosing among answers with the embedded model: the form of what comes out, not its quality."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from pydantic import BaseModel

from moa.agents.agent import Agent
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.node import Reply
from moa.graphs.self_consistency import SelfConsistency
from moa.local.embedded import EmbeddedEndpoint
from moa.recipes.best_of_n import BestOfN
from moa.recipes.choose_best import ChooseBest
from moa.recipes.debate import Debate, Debater
from moa.recipes.judges import Listwise
from moa.recipes.refine import Critic, Refine, Reviser

pytestmark = pytest.mark.embedded
ASKED = "Which animal barks, a dog or a fish?"


@pytest_asyncio.fixture
async def model() -> AsyncIterator[EmbeddedEndpoint]:
    endpoint = EmbeddedEndpoint("embedded")
    yield endpoint
    await endpoint.close()


def writer(
    model: EmbeddedEndpoint, name: str = "writer", *, temperature: float = 0.9
) -> Agent[str | BaseModel, Reply]:
    say = "Answer with one word."
    return Agent(model, say, name=name, max_tokens=6, temperature=temperature, repairs=0)


async def test_samples_differ_and_are_counted(model: EmbeddedEndpoint) -> None:
    result = await SelfConsistency(node=writer(model), samples=3, max_concurrency=3).run(ASKED)
    output = result.output
    assert 1 <= sum(output.votes.values()) + output.unreadable <= 3
    assert output.confidence == max(output.votes.values()) / (
        sum(output.votes.values()) + output.unreadable
    )


async def test_a_model_is_chosen(model: EmbeddedEndpoint) -> None:
    nodes = [writer(model, name) for name in ("one", "two")]
    output = (await ChooseBest(nodes=nodes, samples=2).run(ASKED)).output
    assert output.model in ("one", "two")
    assert set(output.shares) == {"one", "two"}


async def test_a_sample_is_picked_within_the_budget(model: EmbeddedEndpoint) -> None:
    context = RunContext(budget=Budget(calls=6))
    result = await BestOfN(node=writer(model), judge=Listwise(model), samples=2).run(ASKED, context)
    assert result.output.text
    assert result.usage.calls <= 6


async def test_a_debate_ends_with_a_text(model: EmbeddedEndpoint) -> None:
    debaters = [Debater(model, max_tokens=8, temperature=0.0, repairs=0) for _ in range(2)]
    output = (await Debate(debaters=debaters, rounds=1).run(ASKED)).output
    assert output.text
    assert output.rounds <= 1


async def test_a_refinement_ends_with_one_of_its_drafts(model: EmbeddedEndpoint) -> None:
    critic = Critic(model, max_tokens=40, repairs=0)
    drafter = writer(model, temperature=0.0)  # now and then a sample is empty
    node = Refine(
        writer=drafter, critic=critic, reviser=Reviser(model, max_tokens=8, repairs=0), rounds=1
    )
    output = (await node.run(ASKED)).output
    assert output.text
    assert output.draft < output.drafts
