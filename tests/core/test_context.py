"""One budget, one ledger, one deadline for everything under a run."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.core.budget import Budget, Reservation
from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    EndpointRejected,
    EndpointTimeout,
    EndpointUnavailable,
    InvalidResponse,
)
from moa.core.trace import TextDelta
from moa.core.usage import NOTHING, Amount, Price, Tier

ONE = Amount(calls=1, input_tokens=100, output_tokens=50)
PRICE = Price(input=Decimal(10), output=Decimal(10))
DEAR = PRICE.charge(Amount(calls=1, input_tokens=1000, output_tokens=1000))
CHEAP = PRICE.charge(Amount(calls=1, input_tokens=100, output_tokens=100))


async def spend(context: RunContext, amount: Amount = ONE, *, tier: Tier = "slm") -> None:
    with await context.reserve("e", tier, amount) as call:
        call.settle(amount)


async def test_what_a_nested_run_is_charged_its_parents_are_too() -> None:
    run = RunContext(node="run")
    inner = run.nested("graph").nested("agent")
    await spend(inner)
    await spend(run)
    assert run.usage.calls == 2
    assert inner.usage.calls == 1
    assert set(run.usage.by_node()) == {"run/graph/agent", "run"}


async def test_a_tighter_budget_within_refuses_says_what_was_spent_and_sets_nothing_aside() -> None:
    run = RunContext(budget=Budget(calls=5))
    inner = run.nested("inner", budget=Budget(calls=1))
    await spend(inner)
    with pytest.raises(BudgetExceeded, match=r"inner: .*calls=2 of 1") as caught:
        await spend(inner)
    assert caught.value.spent.calls == 1
    for _ in range(4):
        await spend(run)


@given(
    limit=st.integers(min_value=0, max_value=10),
    llm_limit=st.integers(min_value=0, max_value=10),
    steps=st.lists(
        st.tuples(st.booleans(), st.sampled_from(("slm", "llm")), st.integers(0, 3)), max_size=40
    ),
)
async def test_no_interleaving_passes_a_limit_on_calls(
    limit: int, llm_limit: int, steps: list[tuple[bool, Tier, int]]
) -> None:
    run = RunContext(budget=Budget(calls=limit, llm_calls=llm_limit))
    contexts = [run, run.nested("a"), run.nested("b"), run.nested("a").nested("c")]
    flying: list[Reservation] = []
    sent: dict[Tier, int] = {"slm": 0, "llm": 0}
    for start, tier, which in steps:
        if start:
            try:
                reserved = await contexts[which].reserve("e", tier, ONE)
            except BudgetExceeded:
                continue
            sent[tier] += 1
            flying.append(reserved)
        elif flying:
            flying.pop(0).settle(ONE)
        assert sent["slm"] + sent["llm"] <= limit
        assert sent["llm"] <= llm_limit


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=20))
async def test_settled_tokens_replace_what_was_reserved(calls: list[tuple[int, int]]) -> None:
    run = RunContext(budget=Budget(tokens=10**9))
    for estimated, actual in calls:
        with await run.reserve("e", "slm", Amount(calls=1, input_tokens=estimated)) as call:
            call.settle(Amount(calls=1, input_tokens=actual))
    assert run.usage.input_tokens == sum(actual for _, actual in calls)
    left = 10**9 - run.usage.input_tokens
    await run.reserve("e", "slm", Amount(input_tokens=left))
    with pytest.raises(BudgetExceeded):
        await run.reserve("e", "slm", Amount(input_tokens=1))


async def test_dollars_are_reserved_from_the_estimate_before_they_are_spent() -> None:
    run = RunContext(budget=Budget(cost=0.03))
    first = await run.reserve("e", "llm", DEAR)
    with pytest.raises(BudgetExceeded, match=r"cost=0\.04 of 0\.03"):
        await run.reserve("e", "llm", DEAR)
    first.settle(CHEAP)
    await run.reserve("e", "llm", DEAR)


async def in_flight(context: RunContext, actual: Amount, *, seconds: float = 0.01) -> None:
    with await context.reserve("e", "llm", DEAR, price=PRICE) as call:
        await asyncio.sleep(seconds)
        call.settle(actual)


async def test_a_call_that_does_not_fit_waits_for_one_that_may_take_less() -> None:
    run = RunContext(budget=Budget(cost=0.03))
    await asyncio.gather(*(in_flight(run.nested(f"{n}"), CHEAP) for n in range(5)))
    assert run.usage.calls == 5


async def test_a_call_that_can_never_fit_fails_while_others_are_in_flight() -> None:
    run = RunContext(budget=Budget(cost=0.03))
    async with asyncio.TaskGroup() as group:
        flying = group.create_task(in_flight(run, CHEAP, seconds=0.1))
        await asyncio.sleep(0)
        with pytest.raises(BudgetExceeded):
            await run.reserve("e", "llm", PRICE.charge(Amount(calls=1, output_tokens=4000)))
        assert not flying.done()


async def test_the_deadline_holds_while_a_call_waits_and_its_turn_goes_to_the_next() -> None:
    run = RunContext(budget=Budget(cost=0.03))
    late = run.nested("late", timeout_s=0.01)
    done = await asyncio.gather(
        in_flight(run, CHEAP, seconds=0.05),
        in_flight(late, CHEAP),
        in_flight(run, CHEAP),
        return_exceptions=True,
    )
    assert [type(failed) for failed in done] == [type(None), DeadlineExceeded, type(None)]
    assert late.usage.calls == 0


async def test_a_call_that_may_be_cut_waits_for_one_that_holds_a_budget_further_up() -> None:
    run = RunContext(budget=Budget(tokens=10_000))
    tight = run.nested("tight", budget=Budget(tokens=1_000))
    with await tight.reserve("e", "llm", Amount(calls=1, output_tokens=10)) as before:
        before.settle(Amount(calls=1, output_tokens=10))

    async def holds_most() -> None:
        with await run.reserve("e", "llm", Amount(calls=1, output_tokens=9_970)) as call:
            await asyncio.sleep(0.02)
            call.settle(Amount(calls=1, output_tokens=10))

    async def asks() -> int:
        asked = Amount(calls=1, input_tokens=10, output_tokens=2_000)
        with await tight.reserve("e", "llm", asked, cuttable=True) as call:
            call.settle(NOTHING)
            return call.estimate.output_tokens

    _, left = await asyncio.gather(holds_most(), asks())
    assert left == 980


async def test_a_call_does_not_wait_for_those_that_it_is_made_within() -> None:
    run = RunContext(budget=Budget(cost=0.03))
    with await run.reserve("outer", "llm", DEAR), pytest.raises(BudgetExceeded):
        async with asyncio.timeout(1):
            await in_flight(run.nested("inner"), CHEAP)


async def test_calls_that_hold_what_the_other_waits_for_do_not_wait_for_ever() -> None:
    run = RunContext(budget=Budget(cost=0.05))
    reached = asyncio.Barrier(2)

    async def outer() -> None:
        with await run.reserve("outer", "llm", DEAR) as call:
            await reached.wait()
            try:
                await in_flight(run, CHEAP)
            finally:
                call.settle(CHEAP)

    async with asyncio.timeout(1):
        done = await asyncio.gather(outer(), outer(), return_exceptions=True)
    assert sorted(type(failed).__name__ for failed in done) == ["BudgetExceeded", "NoneType"]


@given(
    limit=st.integers(0, 3000),
    inner_limit=st.integers(0, 3000),
    concurrency=st.integers(1, 12),
    calls=st.lists(st.tuples(st.integers(1, 800), st.integers(0, 800)), max_size=25),
    cuttable=st.booleans(),
)
async def test_no_limit_is_passed_and_what_fits_is_sent_at_any_concurrency(
    limit: int, inner_limit: int, concurrency: int, calls: list[tuple[int, int]], *, cuttable: bool
) -> None:
    run = RunContext(budget=Budget(tokens=limit))
    contexts = [run, run.nested("inner", budget=Budget(tokens=inner_limit))]
    slots = asyncio.Semaphore(concurrency)
    refused: list[tuple[RunContext, int, int]] = []

    async def one(context: RunContext, most: int, taken: int) -> None:
        async with slots:
            try:
                estimate = Amount(calls=1, output_tokens=most)
                with await context.reserve("e", "slm", estimate, cuttable=cuttable) as call:
                    await asyncio.sleep(0)
                    call.settle(
                        Amount(calls=1, output_tokens=min(call.estimate.output_tokens, taken))
                    )
            except BudgetExceeded:
                refused.append((context, most, contexts.index(context)))

    async with asyncio.timeout(10):
        await asyncio.gather(*(one(contexts[n % 2], *call) for n, call in enumerate(calls)))
    assert run.usage.output_tokens <= limit
    assert contexts[1].usage.output_tokens <= inner_limit
    for context, most, inner in refused:
        over = run.usage.output_tokens + most > limit
        assert over or (inner and context.usage.output_tokens + most > inner_limit)


@given(
    limit=st.integers(0, 2000),
    inner_limit=st.integers(0, 2000),
    chains=st.lists(
        st.lists(st.tuples(st.integers(1, 800), st.integers(0, 800), st.booleans()), max_size=3),
        max_size=8,
    ),
)
async def test_calls_within_calls_all_end_and_pass_no_limit(
    limit: int, inner_limit: int, chains: list[list[tuple[int, int, bool]]]
) -> None:
    run = RunContext(budget=Budget(tokens=limit))
    inner = run.nested("inner", budget=Budget(tokens=inner_limit))

    async def within(chain: list[tuple[int, int, bool]]) -> None:
        if not chain:
            return
        most, taken, is_inner = chain[0]
        estimate = Amount(calls=1, input_tokens=most)
        with await (inner if is_inner else run).reserve("e", "slm", estimate) as call:
            await asyncio.sleep(0)
            try:
                await within(chain[1:])
            finally:
                call.settle(Amount(calls=1, input_tokens=min(most, taken)))

    async with asyncio.timeout(10):
        done = await asyncio.gather(*map(within, chains), return_exceptions=True)
    assert {type(failed) for failed in done} <= {type(None), BudgetExceeded}
    assert run.usage.input_tokens <= limit
    assert inner.usage.input_tokens <= inner_limit


async def test_an_answer_may_be_limited_to_what_is_left_once_its_usual_length_is_known() -> None:
    run = RunContext(budget=Budget(tokens=1000))
    written = Amount(calls=1, input_tokens=10, output_tokens=100)
    for left in (500, 500, 500, 500, 500, 440, 330, 220):
        estimate = Amount(calls=1, input_tokens=10, output_tokens=500)
        with await run.reserve("e", "slm", estimate, cuttable=True) as call:
            assert call.estimate.output_tokens == left
            call.settle(written)
    with pytest.raises(BudgetExceeded):
        await run.reserve("e", "slm", estimate, cuttable=True)


@pytest.mark.parametrize(
    ("error", "charged"),
    [
        (TimeoutError(), DEAR),
        (EndpointUnavailable("lost", endpoint="e", begun=True), DEAR),
        (EndpointTimeout("late", endpoint="e"), DEAR),
        (EndpointUnavailable("504", endpoint="e", status=504), DEAR),
        (EndpointUnavailable("524", endpoint="e", status=524), DEAR),
        (InvalidResponse("half", endpoint="e", status=200), DEAR),
        (EndpointUnavailable("503", endpoint="e", status=503), Amount(calls=1)),
        (EndpointUnavailable("429", endpoint="e", status=429), Amount(calls=1)),
        (EndpointRejected("400", endpoint="e", status=400), Amount(calls=1)),
        (ConfigError("no key"), Amount(calls=1)),
    ],
    ids=lambda value: str(value) if isinstance(value, Exception) else "",
)
async def test_a_call_cut_in_the_middle_is_charged_as_estimated_and_a_refused_one_for_nothing(
    error: Exception, charged: Amount
) -> None:
    run = RunContext()
    with pytest.raises(type(error)), await run.reserve("e", "llm", DEAR):
        raise error
    spent = run.usage.total
    assert (spent.calls, spent.cost, spent.tokens) == (1, charged.cost, charged.tokens)


async def test_a_call_cut_in_the_middle_is_charged_for_its_time() -> None:
    run, price = RunContext(), Price(hour=Decimal(3600))
    with await run.reserve("e", "llm", DEAR, price=price):
        await asyncio.sleep(0.02)
    assert (run.usage.cost or 0) >= Decimal("0.02")


async def test_a_limit_ahead_is_named_before_anything_is_set_aside() -> None:
    run = RunContext(budget=Budget(calls=3))
    inner = run.nested("inner", budget=Budget(llm_calls=1))
    planned: list[tuple[Tier, Amount]] = [("slm", ONE), ("llm", ONE)]
    await spend(run)
    assert inner.limit_ahead(planned) is None
    assert inner.limit_ahead([*planned, ("slm", ONE)]) == "calls=4 of 3"
    assert inner.limit_ahead([("llm", ONE), ("llm", ONE)]) == "llm_calls=2 of 1"
    assert run.usage.calls == 1


async def test_what_cannot_wait_is_refused_while_another_call_holds_the_budget() -> None:
    run = RunContext(budget=Budget(tokens=250))
    with await run.reserve("e", "slm", ONE) as call:
        with pytest.raises(BudgetExceeded, match="tokens=300 of 250"):
            run.reserve_now("e", "slm", ONE)
        call.settle(NOTHING)


async def test_a_call_that_nobody_was_asked_for_is_given_back() -> None:
    run = RunContext(budget=Budget(calls=1, llm_calls=1))
    run.nested("inner").reserve_now("e", "llm", ONE).release()
    assert not run.usage.parts
    await spend(run, tier="llm")


async def test_a_passed_deadline_stops_the_next_call_also_within() -> None:
    run = RunContext(timeout_s=0.0, node="run")
    with pytest.raises(DeadlineExceeded, match="run/inner:"):
        await run.nested("inner", timeout_s=100.0).reserve("e", "slm", ONE)


def test_notes_and_events_travel_up_with_the_path_of_their_node() -> None:
    heard: list[object] = []
    run = RunContext(node="run", listener=heard.append)
    inner = run.nested("agent")
    inner.note("truncated", "cut at 10 tokens")
    inner.emit(TextDelta("agent", "hello"))
    assert [(n.kind, n.node) for n in run.trace] == [("truncated", "run/agent")]
    assert heard == [TextDelta("agent", "hello")]


async def test_that_no_limit_of_cost_holds_without_a_price_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = Price(hour=Decimal(1)).charge(ONE)
    for budget, times in ((Budget(cost=1), 1), (Budget(calls=9), 0)):
        run = RunContext(budget=budget)
        for context in (run, run.nested("inner")):
            with await context.reserve("free", "slm", known):
                context.reserve_now("small", "slm", Price().charge(ONE)).settle(NOTHING)
        said = [one.getMessage() for one in caplog.records if one.name.startswith("moa")]
        assert len(said) == times
        assert all("No price of small is known" in one for one in said)
        caplog.clear()
