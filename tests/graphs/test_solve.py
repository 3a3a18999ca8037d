"""Solve: what runs side by side, what is verified, and what the second try sees."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import BudgetExceeded, EndpointUnavailable
from moa.core.node import Result
from moa.core.trace import NodeFinished, NodeStarted, TextDelta
from moa.core.usage import Tier
from moa.decisions.acceptance import Judgement, Policy
from moa.guards.verifiers import Length
from moa.recipes.solve import Solution, Solve, Step, StepAnswer, Steps
from moa.testing import ScriptedEndpoint, SimulatedEndpoint
from moa.testing import Step as Scripted

from . import clock

DOWN = EndpointUnavailable("refused", endpoint="large")
YES, NO = {"right": {"yes": 0.9}}, {"right": {"yes": 0.2}}


def small(*steps: Scripted) -> ScriptedEndpoint:
    return ScriptedEndpoint(name="small", steps=steps)


WRONG = "1 + 1 = 3"
"""A first try that fails, so that a plan follows."""


def large(*steps: Scripted) -> ScriptedEndpoint:
    return ScriptedEndpoint(name="large", tier="llm", model="large-1", steps=steps)


def planning(*steps: Scripted) -> ScriptedEndpoint:
    """Give a large model whose first try fails."""
    return large(WRONG, *steps)


def plan(*steps: Step) -> Steps:
    return Steps(steps=steps)


def step(name: str, *needs: str, tier: Tier = "llm", compute: str | None = None) -> Step:
    return Step(id=name, question=f"What is {name}?", needs=needs, tier=tier, compute=compute)


def step_answer(answer: str, reasons: str = "As it says.") -> StepAnswer:
    return StepAnswer(reasons=reasons, answer=answer)


def given_to(endpoint: ScriptedEndpoint, call: int) -> str:
    return endpoint.prompts[call].messages[-1].content


async def solved(slm: ScriptedEndpoint, llm: ScriptedEndpoint, **settings: Any) -> Solution:
    return (await Solve(slm=slm, llm=llm, **settings).run("Go.")).output


async def test_a_problem_takes_one_call_where_its_answer_is_verified() -> None:
    second = large("3 * 4 = 12\nAnswer: 12 apples")
    solution = await solved(small(YES), second)
    assert (solution.text, solution.verified) == ("3 * 4 = 12\nAnswer: 12 apples", True)
    assert (solution.steps, solution.tries) == ((), 1)
    assert solution.reasons[0] == "all sums hold (1)"
    second.assert_used_up()


async def test_steps_lead_to_a_verified_answer_and_the_plan_sees_what_was_wrong() -> None:
    first = small(step_answer("4 apples"), YES)
    second = planning(
        plan(step("bag", tier="slm"), step("all", "bag", compute="3 * {bag}")), "12 apples."
    )
    solution = await solved(first, second)
    assert (solution.text, solution.verified, solution.tries) == ("12 apples.", True, 2)
    assert [(s.id, s.by, s.answer) for s in solution.steps] == [
        ("bag", "slm", "4 apples"),
        ("all", "arithmetic", "12"),
    ]
    assert solution.reasons[0] == "every step has an answer, and all sums hold (1)"
    assert "1 + 1 = 3 is wrong: it is 2" in given_to(second, 1)
    first.assert_used_up()


async def test_a_plan_in_a_code_fence_is_read() -> None:
    fenced = f"```json\n{plan(step('bag', tier='slm')).model_dump_json()}\n```"
    solution = await solved(small(step_answer("4"), YES), planning(fenced, "4 apples."))
    assert ([s.answer for s in solution.steps], solution.verified) == (["4"], True)


async def test_a_policy_that_refuses_without_reasons_verifies_nothing() -> None:
    class Refuses(Policy):
        async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
            return Judgement(score=0.0, accepted=False, reasons=())

    solution = await solved(small(), large("Six."), accept=Refuses(), tries=1)
    assert not solution.verified


async def test_a_step_is_given_the_results_that_it_needs_and_no_others() -> None:
    second = planning(plan(step("a"), step("b"), step("c", "a")), *map(step_answer, "xyz"), "Done.")
    await solved(small(YES), second)
    assert "What is a? x" in given_to(second, 4)
    assert "What is b?" not in given_to(second, 4)


SECONDS: dict[Tier, int] = {"slm": 2, "llm": 5}


@st.composite
def plans(draw: st.DrawFn) -> list[Step]:
    steps: list[Step] = []
    for here in range(draw(st.integers(2, 7))):
        before = [s.id for s in steps]
        needs = draw(st.lists(st.sampled_from(before), unique=True)) if before else []
        tiers: tuple[Tier, ...] = ("slm", "llm")
        steps.append(step(f"s{here}", *needs, tier=draw(st.sampled_from(tiers))))
    return steps


@given(steps=plans(), order=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_time_is_that_of_the_longest_chain(steps: list[Step], order: Any) -> None:
    ends: dict[str, int] = {}
    for one in steps:
        ends[one.id] = SECONDS[one.tier] + max((ends[need] for need in one.needs), default=0)
    order.shuffle(steps)

    def rule(text: str) -> Any:
        if "Question: " in text:
            return step_answer("found")
        if text == "Go.":
            return WRONG
        return "Done." if "Results of its steps" in text else plan(*steps)

    def decide(text: str) -> Any:
        return YES if text.startswith("Request:") else rule(text)

    slm = SimulatedEndpoint(name="small", rule=decide, latency_s=SECONDS["slm"])
    llm = SimulatedEndpoint(
        name="large", tier="llm", model="large-1", rule=rule, latency_s=SECONDS["llm"]
    )

    async def main() -> tuple[float, Solution]:
        solution = (await Solve(slm=slm, llm=llm).run("Go.")).output
        return clock.now(), solution

    seconds, solution = clock.run(main())
    assert solution.verified
    direct = planned = written = SECONDS["llm"]
    assert seconds == direct + planned + max(ends.values()) + written + SECONDS["slm"]


@given(
    needs=st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=6),
    names=st.lists(st.sampled_from("abcdef"), min_size=6, max_size=6),
)
def test_a_plan_is_accepted_if_it_can_be_carried_out(
    needs: list[list[int]], names: list[str]
) -> None:
    names = names[: len(needs)]
    steps = [
        step(n, *("abcdef"[i] for i in wanted)) for n, wanted in zip(names, needs, strict=True)
    ]
    done: set[str] = set()
    for _ in steps:
        done |= {one.id for one in steps if set(one.needs) <= done}
    can_be = len(set(names)) == len(names) and done == set(names)
    try:
        in_order = Steps(steps=tuple(steps)).sorted_steps
    except ValidationError:
        assert not can_be
    else:
        assert can_be
        places = {one.id: place for place, one in enumerate(in_order)}
        assert all(places[need] < places[one.id] for one in in_order for need in one.needs)


CIRCLE = json.dumps({"steps": [{"id": "a", "question": "?", "needs": ["b"]},
                               {"id": "b", "question": "?", "needs": ["a"]}]})  # fmt: skip
UNKNOWN = '{"steps": [{"id": "a", "question": "?", "needs": ["z"]}]}'


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        pytest.param(CIRCLE, "steps must not wait for each other", id="a circle"),
        pytest.param(UNKNOWN, "needs ['z'], and the ids are ['a']", id="an unknown step"),
        # Cut, it would lose the step that gives the answer.
        pytest.param(plan(step("a"), step("b")), "at most 1 item", id="too many steps"),
    ],
)
async def test_a_wrong_plan_goes_back_once_with_what_is_wrong(wrong: Scripted, told: str) -> None:
    second = planning(wrong, plan(step("c")), step_answer("x"))
    solution = await solved(small(YES), second, max_steps=1 if "most" in told else 8)
    assert (solution.text, [done.id for done in solution.steps]) == ("x", ["c"])
    assert told in given_to(second, 2)
    result = await Solve(slm=small(YES), llm=planning(UNKNOWN, UNKNOWN, step_answer("x"))).run(
        "Go."
    )
    assert result.output.text == "x"
    assert any("for want of a plan" in note.text for note in result.trace)


def test_a_calculation_must_need_what_it_computes_with() -> None:
    with pytest.raises(ValidationError, match="computes with"):
        plan(step("a"), step("b", compute="{a} + 1"))


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        pytest.param("9 ^ 9 ^ 9", "exponent", id="a power that never ends"),
        pytest.param("(10 ^ 60) * (10 ^ 60)", "too large", id="a huge number"),
        pytest.param("__import__('os').getcwd()", "no part of a sum", id="a program"),
        pytest.param("1 / (2 - 2)", "can't be computed", id="a division by zero"),
    ],
)
async def test_a_calculation_that_is_none_is_asked_of_a_model(expression: str, fault: str) -> None:
    second = planning(plan(step("a", compute=expression)), step_answer("7"))
    result = await Solve(slm=small(YES), llm=second).run("Go.")
    assert [(s.by, s.answer) for s in result.output.steps] == [("llm", "7")]
    assert fault in next(note.text for note in result.trace if note.kind == "degraded")


@pytest.mark.parametrize(
    ("expression", "answer"), [("3 + 4 = 7", "7"), ("16 - 7 = 8", "9"), ("9 * 2 = $18", "18")]
)
async def test_a_calculation_with_its_result_is_computed_anew(expression: str, answer: str) -> None:
    solution = await solved(small(YES), planning(plan(step("a", compute=expression))))
    assert [(s.by, s.answer) for s in solution.steps] == [("arithmetic", answer)]


async def test_calculations_that_follow_each_other_are_exact() -> None:
    second = planning(
        plan(
            step("a", compute="100 / 3"),
            step("b", "a", compute="{a} / 7"),
            step("c", "a", "b", compute="{b} * 42 + 0 * ({a} + {a} + {a} + {b} + {b} + {b})"),
        ),
        "200.",
    )
    solution = await solved(small(YES), second)
    assert [s.answer for s in solution.steps][::2] == ["33.333333333333", "200"]
    assert solution.verified


async def test_a_calculation_says_which_result_is_no_number() -> None:
    second = planning(
        plan(step("a"), step("b", "a", compute="{a} * 2")),
        step_answer("2 or 3"),
        step_answer("4 to 6"),
        "Hm.",
    )
    result = await Solve(slm=small(YES), llm=second).run("Go.")
    assert [s.by for s in result.output.steps] == ["llm", "llm"]
    (note,) = [note.text for note in result.trace if note.kind == "degraded"]
    assert note == "step 'b' is asked of a model: '2 or 3' is no single number"


async def test_the_next_try_sees_which_sum_was_wrong() -> None:
    second = planning(
        plan(step("a"), step("b", "a")), step_answer("13", "3 * 4 = 13"),
        plan(step("c")), step_answer("12", "3 * 4 = 12"),
    )  # fmt: skip
    solution = await solved(small(YES), second, tries=3)
    assert (solution.text, solution.verified, solution.tries) == ("12", True, 3)
    assert "3 * 4 = 13 is wrong: it is 12" in given_to(second, 3)
    second.assert_used_up()  # nothing was built on the wrong sum


@pytest.mark.parametrize(("last", "verified"), [(YES, True), (NO, False)])
async def test_the_next_try_sees_that_the_answer_was_not_plausible(
    last: Scripted, verified: bool
) -> None:
    second = planning(plan(step("a")), step_answer("x"), plan(step("b")), step_answer("y"))
    solution = await solved(small(NO, last), second, tries=3)
    assert (solution.text, solution.verified, solution.tries) == ("y", verified, 3)
    assert "finds it plausible with 0.200" in given_to(second, 3)
    assert verified or "plausible" in solution.reasons[0]


async def test_a_wrong_sum_in_the_answer_itself_is_found() -> None:
    second = planning(plan(step("a"), step("b")), step_answer("2"), step_answer("3"), "2 + 3 = 6")
    solution = await solved(small(), second)
    assert solution.reasons == ("2 + 3 = 6 is wrong: it is 5",)


async def test_a_model_that_agrees_with_itself_verifies_nothing() -> None:
    same = ScriptedEndpoint(steps=["x"])
    solution = await solved(same, same)
    assert (solution.text, solution.verified) == ("x", False)
    assert solution.reasons == ("no sum was stated", "not verified: no other model read it")


async def test_another_policy_can_verify() -> None:
    solution = await solved(small(), large("a b c"), accept=Length(most=2), tries=1)
    assert not solution.verified


async def test_without_budget_for_a_second_try_the_first_answer_stands_unverified() -> None:
    second = large("x")
    result = await Solve(slm=small(NO), llm=second, budget=Budget(llm_calls=1)).run("Go.")
    assert (result.output.text, result.output.verified) == ("x", False)
    assert any(note.kind == "degraded" for note in result.trace)


async def test_where_no_further_plan_can_be_made_the_last_answer_stands() -> None:
    second = planning(plan(step("a"), step("b")), DOWN, step_answer("y"), DOWN)
    solution = await solved(small(), second, tries=3)
    assert (solution.text, solution.verified, solution.tries) == (WRONG, False, 2)


async def test_a_verifier_that_is_down_leaves_the_answer_unverified() -> None:
    down = EndpointUnavailable("refused", endpoint="small")
    solution = await solved(small(down), large("x"), tries=1)
    assert solution.reasons == ("it could not be judged: small: refused",)


async def test_a_failing_step_stops_those_that_need_it_and_no_others() -> None:
    second = planning(
        plan(step("a"), step("b", tier="slm"), step("c", "a")), DOWN, "From b alone: y."
    )
    result = await Solve(slm=small(step_answer("y")), llm=second, tries=2).run("Go.")
    assert [s.answer for s in result.output.steps] == ["", "y", ""]
    assert result.output.steps[2].fault == "it needs a, which failed"
    assert not result.output.verified
    assert any(note.kind == "failed" and "step 'a'" in note.text for note in result.trace)


async def test_where_the_first_try_fails_its_error_is_raised() -> None:
    with pytest.raises(EndpointUnavailable, match="refused"):
        await solved(small(), large(DOWN))
    with pytest.raises(BudgetExceeded):
        await solved(small(), large(), budget=Budget(calls=0))


async def test_a_rejected_answer_is_not_shown_and_steps_are_told() -> None:
    second = planning(plan(step("a")), step_answer("x"), plan(step("b")), step_answer("y"))
    graph = Solve(slm=small(NO, YES), llm=second, tries=3)
    events = [event async for event in graph.stream("Go.")]
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["y"]
    assert [e.node for e in events if isinstance(e, NodeStarted)] == ["solve/a", "solve/b"]
    assert sum(isinstance(event, NodeFinished) for event in events) == 2
    assert isinstance(events[-1], Result)


def test_without_a_verifier_it_can_be_drawn() -> None:
    drawn = Solve(slm=small(), llm=large(), accept=Length()).draw().mermaid
    assert all(name in drawn for name in ("planner", "step_slm", "step_llm", "arithmetic"))
