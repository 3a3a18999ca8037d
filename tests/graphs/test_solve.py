"""Solve: what runs side by side, what is verified, and what the second try sees."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moa.budget import Budget
from moa.calibration.verifiers import Length
from moa.context import RunContext
from moa.errors import BudgetExceeded, ConfigError, EndpointUnavailable
from moa.graphs.solve import Solution, Solve, Step, Steps, Worked
from moa.node import Result
from moa.testing import ScriptedEndpoint, SimulatedEndpoint
from moa.testing import Step as Scripted
from moa.trace import NodeFinished, NodeStarted, TextDelta
from moa.usage import Tier

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


def worked(answer: str, reasons: str = "As it says.") -> Worked:
    return Worked(reasons=reasons, answer=answer)


def given_to(endpoint: ScriptedEndpoint, call: int) -> str:
    return endpoint.prompts[call].messages[-1].content


async def test_a_problem_takes_one_call_where_its_answer_is_verified() -> None:
    first, second = small(YES), large("3 * 4 = 12\nAnswer: 12 apples")
    solution = (await Solve(slm=first, llm=second).run("3 bags of 4 apples?")).output
    assert (solution.text, solution.verified) == ("3 * 4 = 12\nAnswer: 12 apples", True)
    assert (solution.steps, solution.tries) == ((), 1)
    assert solution.reasons[0] == "all sums hold (1)"
    second.assert_used_up()


async def test_the_plan_sees_what_was_wrong_with_the_first_try() -> None:
    second = planning(plan(step("a")), worked("x"))
    await Solve(slm=small(YES), llm=second).run("Go.")
    assert "1 + 1 = 3 is wrong: it is 2" in given_to(second, 1)


async def test_steps_lead_to_a_verified_answer() -> None:
    first = small(worked("4 apples"), YES)
    second = planning(
        plan(step("bag", tier="slm"), step("all", "bag", compute="3 * {bag}")), "12 apples."
    )
    solution = (await Solve(slm=first, llm=second).run("3 bags of 4 apples?")).output
    assert (solution.text, solution.verified, solution.tries) == ("12 apples.", True, 2)
    assert [(s.id, s.by, s.answer) for s in solution.steps] == [
        ("bag", "slm", "4 apples"),
        ("all", "arithmetic", "12"),
    ]
    assert solution.reasons[0] == "every step has an answer, and all sums hold (1)"
    first.assert_used_up()


async def test_the_answer_of_a_plan_of_one_step_is_the_answer() -> None:
    second = planning(plan(step("capital")), worked("Canberra"))
    solution = (await Solve(slm=small(YES), llm=second).run("Capital of Australia?")).output
    assert (solution.text, solution.verified) == ("Canberra", True)


async def test_a_step_is_given_the_results_that_it_needs_and_no_others() -> None:
    second = planning(plan(step("a"), step("b"), step("c", "a")), *map(worked, "xyz"), "Done.")
    await Solve(slm=small(YES), llm=second).run("Go.")
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
            return worked("found")
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
        ordered = Steps(steps=tuple(steps)).ordered
    except ValidationError:
        assert not can_be
    else:
        assert can_be
        places = {one.id: place for place, one in enumerate(ordered)}
        assert all(places[need] < places[one.id] for one in ordered for need in one.needs)


async def test_a_plan_in_a_circle_goes_back_once_with_the_circle_named() -> None:
    circle = json.dumps({"steps": [{"id": "a", "question": "?", "needs": ["b"]},
                                   {"id": "b", "question": "?", "needs": ["a"]}]})  # fmt: skip
    second = planning(circle, plan(step("a")), worked("x"))
    solution = (await Solve(slm=small(YES), llm=second).run("Go.")).output
    assert solution.text == "x"
    assert "steps must not wait for each other" in given_to(second, 2)


async def test_without_a_plan_the_problem_is_worked_out_in_one_step() -> None:
    unknown = '{"steps": [{"id": "a", "question": "?", "needs": ["z"]}]}'
    second = planning(unknown, unknown, worked("x"))
    result = await Solve(slm=small(YES), llm=second).run("Go.")
    assert result.output.text == "x"
    assert any("for want of a plan" in note.text for note in result.trace)


async def test_a_plan_with_too_many_steps_goes_back_since_the_last_one_gives_the_answer() -> None:
    second = planning(plan(step("a"), step("b")), plan(step("c")), worked("x"))
    result = await Solve(slm=small(YES), llm=second, max_steps=1).run("Go.")
    assert [done.id for done in result.output.steps] == ["c"]
    assert any("asked again" in note.text for note in result.trace)


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
    second = planning(plan(step("a", compute=expression)), worked("7"))
    result = await Solve(slm=small(YES), llm=second).run("Go.")
    assert [(s.by, s.answer) for s in result.output.steps] == [("llm", "7")]
    assert fault in next(note.text for note in result.trace if note.kind == "degraded")


@pytest.mark.parametrize(
    ("expression", "answer"), [("3 + 4 = 7", "7"), ("16 - 7 = 8", "9"), ("9 * 2 = $18", "18")]
)
async def test_a_calculation_with_its_result_is_computed_anew(expression: str, answer: str) -> None:
    second = planning(plan(step("a", compute=expression)))
    solution = (await Solve(slm=small(YES), llm=second).run("Go.")).output
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
    solution = (await Solve(slm=small(YES), llm=second).run("Go.")).output
    assert [s.answer for s in solution.steps][::2] == ["33.333333333333", "200"]
    assert solution.verified


async def test_a_calculation_says_which_result_is_no_number() -> None:
    second = planning(
        plan(step("a"), step("b", "a", compute="{a} * 2")),
        worked("2 or 3"),
        worked("4 to 6"),
        "Hm.",
    )
    result = await Solve(slm=small(YES), llm=second).run("Go.")
    assert [s.by for s in result.output.steps] == ["llm", "llm"]
    (note,) = [note.text for note in result.trace if note.kind == "degraded"]
    assert note == "step 'b' is asked of a model: '2 or 3' is no single number"


async def test_the_next_try_sees_which_sum_was_wrong() -> None:
    second = planning(
        plan(step("a"), step("b", "a")), worked("13", "3 * 4 = 13"),
        plan(step("c")), worked("12", "3 * 4 = 12"),
    )  # fmt: skip
    result = await Solve(slm=small(YES), llm=second, tries=3).run("3 bags of 4?")
    assert (result.output.text, result.output.verified, result.output.tries) == ("12", True, 3)
    assert "3 * 4 = 13 is wrong: it is 12" in given_to(second, 3)
    second.assert_used_up()  # nothing was built on the wrong sum


async def test_the_next_try_sees_that_the_answer_was_not_plausible() -> None:
    second = planning(plan(step("a")), worked("x"), plan(step("b")), worked("y"))
    solution = (await Solve(slm=small(NO, YES), llm=second, tries=3).run("Go.")).output
    assert (solution.text, solution.verified) == ("y", True)
    assert "finds it plausible with 0.200" in given_to(second, 3)


async def test_an_answer_that_is_never_verified_says_why() -> None:
    second = planning(plan(step("a")), worked("x"), plan(step("b")), worked("y"))
    solution = (await Solve(slm=small(NO, NO), llm=second, tries=3).run("Go.")).output
    assert (solution.text, solution.verified, solution.tries) == ("y", False, 3)
    assert "plausible" in solution.reasons[0]


async def test_a_wrong_sum_in_the_answer_itself_is_found() -> None:
    second = planning(plan(step("a"), step("b")), worked("2"), worked("3"), "2 + 3 = 6")
    solution = (await Solve(slm=small(), llm=second, tries=2).run("Go.")).output
    assert solution.reasons == ("2 + 3 = 6 is wrong: it is 5",)


async def test_a_model_that_agrees_with_itself_verifies_nothing() -> None:
    same = ScriptedEndpoint(steps=["x"])
    solution = (await Solve(slm=same, llm=same).run("Go.")).output
    assert (solution.text, solution.verified) == ("x", False)
    assert solution.reasons == ("no sum was stated", "not verified: no other model read it")


async def test_another_policy_can_verify() -> None:
    second = large("a b c")
    solution = (
        await Solve(slm=small(), llm=second, accept=Length(most=2), tries=1).run("Go.")
    ).output
    assert not solution.verified


async def test_without_budget_for_a_second_try_the_first_answer_stands_unverified() -> None:
    second = large("x")
    result = await Solve(slm=small(NO), llm=second, budget=Budget(llm_calls=1)).run("Go.")
    assert (result.output.text, result.output.verified) == ("x", False)
    assert any(note.kind == "degraded" for note in result.trace)


async def test_a_verifier_that_is_down_leaves_the_answer_unverified() -> None:
    down = EndpointUnavailable("refused", endpoint="small")
    solution = (await Solve(slm=small(down), llm=large("x"), tries=1).run("Go.")).output
    assert solution.reasons == ("it could not be judged: small: refused",)


async def test_a_failing_step_stops_those_that_need_it_and_no_others() -> None:
    second = planning(
        plan(step("a"), step("b", tier="slm"), step("c", "a")), DOWN, "From b alone: y."
    )
    result = await Solve(slm=small(worked("y")), llm=second, tries=2).run("Go.")
    assert [s.answer for s in result.output.steps] == ["", "y", ""]
    assert result.output.steps[2].fault == "it needs a, which failed"
    assert not result.output.verified
    assert any(note.kind == "failed" and "step 'a'" in note.text for note in result.trace)


async def test_where_the_first_try_fails_its_error_is_raised() -> None:
    with pytest.raises(EndpointUnavailable, match="refused"):
        await Solve(slm=small(), llm=large(DOWN)).run("Go.")


async def test_a_first_try_without_budget_is_an_error() -> None:
    with pytest.raises(BudgetExceeded):
        await Solve(slm=small(), llm=large(), budget=Budget(calls=0)).run("Go.")


async def test_a_rejected_answer_is_not_shown_and_steps_are_told() -> None:
    second = planning(plan(step("a")), worked("x"), plan(step("b")), worked("y"))
    graph = Solve(slm=small(NO, YES), llm=second, tries=3)
    events = [event async for event in graph.stream("Go.")]
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["y"]
    assert [e.node for e in events if isinstance(e, NodeStarted)] == ["solve/a", "solve/b"]
    assert sum(isinstance(event, NodeFinished) for event in events) == 2
    assert isinstance(events[-1], Result)


def test_at_least_one_try_is_needed() -> None:
    with pytest.raises(ConfigError, match="solve: tries"):
        Solve(slm=small(), llm=large(), tries=0)


@pytest.mark.parametrize("policy", [None, Length()])
def test_it_can_be_drawn(policy: Length | None) -> None:
    drawn = Solve(slm=small(), llm=large(), accept=policy).draw().mermaid
    assert all(name in drawn for name in ("planner", "step_slm", "step_llm", "arithmetic"))


async def test_everything_is_charged_to_one_run() -> None:
    context = RunContext()
    second = planning(plan(step("a", tier="slm")))
    result = await Solve(slm=small(worked("x"), YES), llm=second).run("Go.", context)
    assert result.usage.calls == context.usage.calls == 4
