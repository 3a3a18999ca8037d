"""Solve: one call, and what is verified of its answer."""

from __future__ import annotations

from typing import Any

import pytest

from moa.core.context import RunContext
from moa.core.errors import EndpointUnavailable
from moa.decisions.acceptance import Judgement, Policy
from moa.guards.verifiers import Length
from moa.recipes.solve import Solution, Solve
from moa.testing import ScriptedEndpoint, Step

from .nodes import notes

YES, NO = {"right": {"yes": 0.9}}, {"right": {"yes": 0.2}}


def small(*steps: Step) -> ScriptedEndpoint:
    return ScriptedEndpoint(name="small", steps=steps)


def large(*steps: Step) -> ScriptedEndpoint:
    return ScriptedEndpoint(name="large", tier="llm", model="large-1", steps=steps)


async def solved(slm: ScriptedEndpoint, llm: ScriptedEndpoint, **settings: Any) -> Solution:
    return (await Solve(slm=slm, llm=llm, **settings).run("Go.")).output


async def test_a_problem_takes_one_call_and_its_answer_is_verified_by_another_model() -> None:
    model = large("3 * 4 = 12\nAnswer: 12 apples")
    solution = await solved(small(YES), model)
    assert (solution.text, solution.verified) == ("3 * 4 = 12\nAnswer: 12 apples", True)
    assert solution.reasons[0] == "all sums hold (1)"
    model.assert_used_up()


async def test_a_wrong_sum_is_told_with_its_right_value_and_nobody_judges_it() -> None:
    judge = small()
    result = await Solve(slm=judge, llm=large("2 + 3 = 6")).run("Go.")
    assert (result.output.text, result.output.verified) == ("2 + 3 = 6", False)
    assert result.output.reasons == ("2 + 3 = 6 is wrong: it is 5",)
    assert len(notes(result, "refused")) == 1
    assert judge.prompts == []


async def test_an_answer_that_is_not_plausible_is_given_unverified() -> None:
    solution = await solved(small(NO), large("x"))
    assert (solution.text, solution.verified) == ("x", False)
    assert "finds it plausible with 0.200" in solution.reasons[0]


async def test_a_model_that_agrees_with_itself_verifies_nothing() -> None:
    same = ScriptedEndpoint(steps=["x"])
    solution = await solved(same, same)
    assert (solution.text, solution.verified) == ("x", False)
    assert solution.reasons == ("no sum was stated", "not verified: no other model read it")


async def test_a_policy_judges_in_place_of_the_small_model() -> None:
    assert (await solved(small(), large("a"), accept=Length(most=2))).verified
    assert not (await solved(small(), large("a b c"), accept=Length(most=2))).verified


async def test_a_policy_that_refuses_without_reasons_verifies_nothing() -> None:
    class Refuses(Policy):
        async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
            return Judgement(score=0.0, accepted=False, reasons=())

    assert not (await solved(small(), large("Six."), accept=Refuses())).verified


async def test_a_verifier_that_is_down_leaves_the_answer_unverified() -> None:
    down = EndpointUnavailable("refused", endpoint="small")
    solution = await solved(small(down), large("x"))
    assert (solution.text, solution.verified) == ("x", False)
    assert solution.reasons == ("it could not be judged: small: refused",)


async def test_without_an_answer_the_error_is_raised() -> None:
    with pytest.raises(EndpointUnavailable):
        await solved(small(), large(EndpointUnavailable("refused", endpoint="large")))


def test_its_drawing_shows_who_verifies() -> None:
    assert "verifier" in Solve(slm=small(), llm=large()).draw().mermaid
    assert "verifier" not in Solve(slm=small(), llm=large(), accept=Length()).draw().mermaid
