"""One budget, one ledger, one deadline for everything under a run."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.context import Reservation, RunContext
from moa.errors import BudgetExceeded, DeadlineExceeded, EndpointUnavailable
from moa.trace import Piece
from moa.usage import Amount, Budget, Price, Tier

ONE = Amount(calls=1, input_tokens=100, output_tokens=50)


def spend(context: RunContext, amount: Amount = ONE, *, tier: Tier = "slm") -> None:
    with context.reserve("e", tier, amount) as call:
        call.settle(amount)


def test_what_a_nested_run_is_charged_its_parents_are_too() -> None:
    run = RunContext(node="run")
    inner = run.nested("graph").nested("agent")
    spend(inner)
    spend(run)
    assert run.usage.calls == 2
    assert inner.usage.calls == 1
    assert set(run.usage.by_node()) == {"run/graph/agent", "run"}


def test_a_nested_run_can_have_a_tighter_budget() -> None:
    run = RunContext()
    inner = run.nested("inner", budget=Budget(calls=1))
    spend(inner)
    with pytest.raises(BudgetExceeded, match=r"inner: .*calls=2 of 1"):
        spend(inner)
    spend(run)


def test_a_refused_reservation_sets_nothing_aside() -> None:
    run = RunContext(budget=Budget(calls=5))
    inner = run.nested("inner", budget=Budget(calls=0))
    with pytest.raises(BudgetExceeded):
        spend(inner)
    for _ in range(5):
        spend(run)


def test_budget_errors_say_what_was_spent() -> None:
    run = RunContext(budget=Budget(calls=1))
    spend(run)
    with pytest.raises(BudgetExceeded) as caught:
        spend(run)
    assert caught.value.spent.calls == 1


async def test_eight_parallel_calls_do_not_pass_a_budget_of_two() -> None:
    run = RunContext(budget=Budget(calls=2))
    gate = asyncio.Event()
    sent = 0

    async def call() -> None:
        nonlocal sent
        with run.reserve("e", "slm", ONE) as reserved:
            sent += 1
            await gate.wait()
            reserved.settle(ONE)

    async def open_gate() -> None:
        gate.set()

    done = await asyncio.gather(*(call() for _ in range(8)), open_gate(), return_exceptions=True)
    assert sent == 2
    assert sum(isinstance(d, BudgetExceeded) for d in done) == 6


@given(
    limit=st.integers(min_value=0, max_value=10),
    llm_limit=st.integers(min_value=0, max_value=10),
    steps=st.lists(
        st.tuples(st.booleans(), st.sampled_from(("slm", "llm")), st.integers(0, 3)), max_size=40
    ),
)
def test_no_interleaving_passes_a_limit_on_calls(
    limit: int, llm_limit: int, steps: list[tuple[bool, Tier, int]]
) -> None:
    run = RunContext(budget=Budget(calls=limit, llm_calls=llm_limit))
    contexts = [run, run.nested("a"), run.nested("b"), run.nested("a").nested("c")]
    flying: list[Reservation] = []
    sent: dict[Tier, int] = {"slm": 0, "llm": 0}
    for start, tier, which in steps:
        if start:
            try:
                reserved = contexts[which].reserve("e", tier, ONE)
            except BudgetExceeded:
                continue
            sent[tier] += 1
            flying.append(reserved)
        elif flying:
            flying.pop(0).settle(ONE)
        assert sent["slm"] + sent["llm"] <= limit
        assert sent["llm"] <= llm_limit


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=20))
def test_settled_tokens_replace_what_was_reserved(calls: list[tuple[int, int]]) -> None:
    run = RunContext(budget=Budget(tokens=10**9))
    for estimated, actual in calls:
        with run.reserve("e", "slm", Amount(calls=1, input_tokens=estimated)) as call:
            call.settle(Amount(calls=1, input_tokens=actual))
    assert run.usage.input_tokens == sum(actual for _, actual in calls)
    left = 10**9 - run.usage.input_tokens
    run.reserve("e", "slm", Amount(input_tokens=left))
    with pytest.raises(BudgetExceeded):
        run.reserve("e", "slm", Amount(input_tokens=1))


def test_dollars_are_reserved_from_the_estimate_before_they_are_spent() -> None:
    price = Price(input=Decimal(10), output=Decimal(10))
    estimate = price.charge(Amount(calls=1, input_tokens=1000, output_tokens=1000))
    run = RunContext(budget=Budget(cost=0.03))
    first = run.reserve("e", "llm", estimate)
    with pytest.raises(BudgetExceeded, match=r"cost=0\.04 of 0\.03"):
        run.reserve("e", "llm", estimate)
    first.settle(price.charge(Amount(calls=1, input_tokens=10, output_tokens=10)))
    run.reserve("e", "llm", estimate)


def test_a_refused_call_counts_but_costs_nothing() -> None:
    run = RunContext()
    with pytest.raises(EndpointUnavailable), run.reserve("e", "slm", ONE):
        raise EndpointUnavailable("429", endpoint="e")
    assert (run.usage.calls, run.usage.cost) == (1, Decimal(0))


def test_a_call_cut_in_the_middle_has_an_unknown_cost() -> None:
    run = RunContext()
    with pytest.raises(TimeoutError), run.reserve("e", "slm", ONE):
        raise TimeoutError
    assert run.usage.cost is None


def test_a_limit_ahead_is_named_before_anything_is_set_aside() -> None:
    run = RunContext(budget=Budget(calls=3))
    inner = run.nested("inner", budget=Budget(llm_calls=1))
    planned: list[tuple[Tier, Amount]] = [("slm", ONE), ("llm", ONE)]
    spend(run)
    assert inner.limit_ahead(planned) is None
    assert inner.limit_ahead([*planned, ("slm", ONE)]) == "calls=4 of 3"
    assert inner.limit_ahead([("llm", ONE), ("llm", ONE)]) == "llm_calls=2 of 1"
    assert run.usage.calls == 1


def test_a_passed_deadline_stops_the_next_call() -> None:
    run = RunContext(timeout_s=0.0, node="run")
    with pytest.raises(DeadlineExceeded, match="run: the time"):
        run.reserve("e", "slm", ONE)


def test_a_nested_deadline_never_outlives_the_run() -> None:
    run = RunContext(timeout_s=1.0)
    inner = run.nested("inner", timeout_s=100.0)
    assert inner.deadline == run.deadline


def test_notes_travel_up_with_the_path_of_their_node() -> None:
    run = RunContext(node="run")
    run.nested("agent").note("truncated", "cut at 10 tokens")
    assert [(n.kind, n.node) for n in run.trace] == [("truncated", "run/agent")]


def test_events_reach_whoever_listens() -> None:
    heard: list[object] = []
    RunContext(listener=heard.append).nested("agent").emit(Piece("agent", "hello"))
    assert heard == [Piece("agent", "hello")]
