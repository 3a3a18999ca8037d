"""Self-consistency: what is counted, when it stops, and what happens where samples fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from moa.agents.agent import Agent
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    OutputError,
    QuorumNotMet,
)
from moa.core.node import Reply, Result
from moa.decisions.acceptance import Confident
from moa.endpoints import Endpoint
from moa.graphs.cascade import Cascade
from moa.graphs.mixing.answer_extraction import last_number, stated
from moa.graphs.mixing.voting import VotedReply
from moa.graphs.self_consistency import SelfConsistency
from moa.guards.verifiers import Agreement
from moa.recipes.best_of_n import BestOfN
from moa.recipes.judges import Listwise
from moa.recipes.reasoner import Reasoned, Reasoner
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

from .nodes import DOWN, small


def writer(endpoint: Endpoint) -> Agent[str | BaseModel, Reply]:
    return Agent(endpoint, "Work it out.", temperature=0.7)


async def test_the_answer_that_most_samples_give_wins() -> None:
    endpoint = small("So\nThe answer is 7", "The answer is 8.", "7", "The answer is $7.00", "8")
    output = (await SelfConsistency(node=writer(endpoint), max_concurrency=5).run("3 + 4?")).output
    assert (output.text, output.answer, output.confidence) == ("So\nThe answer is 7", "7", 0.6)
    assert (output.votes, output.tied, output.partial) == ({"7": 3, "8": 2}, (), False)


async def test_it_stops_where_no_further_sample_can_change_the_majority() -> None:
    endpoint = small("7", "7", "7")
    result = await SelfConsistency(node=writer(endpoint), samples=5).run("3 + 4?")
    assert (result.usage.calls, result.output.confidence) == (3, 1.0)
    assert not result.output.partial


async def test_only_as_many_samples_are_asked_as_could_settle_it() -> None:
    endpoint = small("7", "8", "7", "7")
    result = await SelfConsistency(node=writer(endpoint), samples=5).run("3 + 4?")
    assert (result.usage.calls, result.output.votes) == (4, {"7": 3, "8": 1})


async def test_what_is_still_running_when_it_is_settled_is_cancelled() -> None:
    gates = [asyncio.Event() for _ in range(5)]
    asked = 0

    class Slow:
        name = "slow"

        async def run(self, request: str, context: RunContext | None = None, /) -> Result[Reply]:
            nonlocal asked
            gate = gates[asked]
            asked += 1
            if asked <= 3:
                gate.set()
            await gate.wait()
            return Result(output=Reply(text="7"))

    result = await SelfConsistency(node=Slow(), samples=5, max_concurrency=5).run("3 + 4?")
    assert (asked, result.output.votes) == (5, {"7": 3})
    assert not result.output.partial


async def test_a_tie_is_said() -> None:
    output = (await SelfConsistency(node=writer(small("7", "8")), samples=2).run("3 + 4?")).output
    assert (output.answer, output.tied, output.confidence) == ("7", ("8",), 0.5)


async def test_a_failing_sample_is_left_out_and_named() -> None:
    endpoint = small(DOWN, "7", "7", "7")
    result = await SelfConsistency(node=writer(endpoint), samples=4, max_concurrency=4).run(
        "3 + 4?"
    )
    assert (result.output.votes, result.output.partial) == ({"7": 3}, False)
    (note,) = [note for note in result.trace if note.kind == "failed"]
    assert "refused" in note.text


async def test_where_every_sample_fails_the_error_has_the_causes() -> None:
    with pytest.raises(QuorumNotMet, match="refused") as caught:
        await SelfConsistency(node=writer(SimulatedEndpoint(rule=lambda _: DOWN))).run("3 + 4?")
    assert len(caught.value.causes) == 3


async def test_a_thin_budget_leaves_the_majority_so_far_and_says_so() -> None:
    endpoint = small("7", "8", "7")
    context = RunContext(budget=Budget(calls=3))
    result = await SelfConsistency(node=writer(endpoint), samples=5).run("3 + 4?", context)
    assert (result.output.answer, result.output.partial) == ("7", True)
    assert "degraded" in {note.kind for note in result.trace}


class Hanging:
    """Answers at once as often as it is told to, and then not any more."""

    name = "hanging"

    def __init__(self, answers: int) -> None:
        self.left = answers

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[Reply]:
        self.left -= 1
        if self.left < 0:
            await asyncio.Event().wait()
        return Result(output=Reply(text="7"))


async def test_what_came_before_the_deadline_is_the_answer() -> None:
    result = await SelfConsistency(node=Hanging(2), timeout_s=0.05).run("3 + 4?")
    assert (result.output.answer, result.output.votes) == ("7", {"7": 2})
    assert result.output.partial


@pytest.mark.parametrize(
    ("limits", "error"),
    [({"timeout_s": 0.05}, DeadlineExceeded), ({"budget": Budget(calls=0)}, BudgetExceeded)],
)
async def test_without_a_single_sample_it_is_an_error(limits: Any, error: type[Exception]) -> None:
    node: Any = Hanging(0) if "timeout_s" in limits else writer(small())
    with pytest.raises(error):
        await SelfConsistency(node=node, **limits).run("3 + 4?")


async def test_samples_that_answer_nothing_are_no_majority() -> None:
    node = SelfConsistency(node=writer(SimulatedEndpoint(rule=lambda _: "Hm.")), key=last_number)
    with pytest.raises(OutputError):
        await node.run("3 + 4?")


async def test_a_typed_output_is_counted_by_its_field() -> None:
    class Bill(BaseModel):
        total: str
        note: str

    endpoint = small(*(Bill(total=total, note=total) for total in ("$12.50", "12.5")))
    agent = Agent(endpoint, "Read the bill.", output=Bill, temperature=0.7)
    node = SelfConsistency(node=agent, samples=3, key=lambda bill: stated(bill.total))
    output = (await node.run("…")).output
    assert (output.text, output.answer, output.votes) == ("12.5", "12.5", {"12.5": 2})


async def test_a_reasoner_is_counted_by_its_answer() -> None:
    steps = [Reasoned[int](reasons=str(n), answer=7) for n in range(2)]
    output = (
        await SelfConsistency(
            node=Reasoner(small(*steps), answer=int, temperature=0.7), samples=3
        ).run("?")
    ).output
    assert (output.text, output.answer) == ("7", "7")


async def test_the_share_is_a_confidence_that_a_cascade_accepts_by() -> None:
    first = SelfConsistency(node=writer(small("7", "8", "9")), samples=3, name="small")
    last = SelfConsistency(node=writer(small("8")), samples=1, name="large")
    result = await Cascade(small=first, large=last, accept=Confident(0.6)).run("3 + 4?")
    assert (result.by, result.output.answer) == ("large", "8")


def test_it_is_drawn_with_the_number_of_samples() -> None:
    assert "agent x 5" in SelfConsistency(node=writer(small())).draw().mermaid


@settings(max_examples=25)
@given(st.lists(st.sampled_from("123"), min_size=1, max_size=7), st.integers(1, 7))
async def test_stopping_early_gives_the_winner_of_the_whole_vote(
    answers: list[str], max_concurrency: int
) -> None:
    node: SelfConsistency[str | BaseModel] = SelfConsistency(
        node=writer(small(*answers)), samples=len(answers), max_concurrency=max_concurrency
    )
    output: VotedReply = (await node.run("?")).output
    counts = Counter(answers)
    most = [answer for answer in counts if counts[answer] == max(counts.values())]
    assert output.answer == most[0]
    assert len(most) == 1 + len(output.tied)


def test_a_node_that_always_says_the_same_is_not_sampled() -> None:
    cold = Agent(ScriptedEndpoint(), "Work it out.")
    for build in (
        lambda: SelfConsistency(node=cold, samples=3),
        lambda: BestOfN(node=cold, judge=Listwise(ScriptedEndpoint()), samples=3),
        lambda: Agreement(cold),
    ):
        with pytest.raises(ConfigError, match="temperature above 0"):
            build()
