"""The running total of a budget: as exact as a sum, and as quick with ten thousand names as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.core.budget import Budget, Reservation
from moa.core.context import RunContext
from moa.core.usage import NOTHING, Amount, Part, Price, Usage

PRICE = Price(input=0.1, cached_input=0.033, output=0.7)
"""A float is read as it is written: the sums below are exact."""
HOURLY = Price(hour=1.1)
ONE = Amount(calls=1, input_tokens=100, output_tokens=50)

amounts = st.builds(
    Amount,
    calls=st.just(1),
    input_tokens=st.integers(0, 10**6),
    output_tokens=st.integers(0, 10**6),
    seconds=st.integers(1, 1000).map(lambda n: n / 8),
).map(PRICE.charge)
steps = st.lists(
    st.tuples(
        st.sampled_from(("reserve", "settle", "release", "fail", "charge", "back")),
        st.integers(0, 3),
        amounts,
    ),
    max_size=40,
)


class Run:
    """A run with budgets at two levels, and what can be done in it."""

    def __init__(self) -> None:
        budget = Budget(tokens=10**12, cost=10**12)
        self.run = RunContext(budget=budget)
        self.inner = self.run.nested("inner", budget=budget)
        self.contexts = [self.run, self.run.nested("other"), self.inner, self.inner.nested("deep")]
        self.open: list[Reservation] = []
        self.before: list[tuple[int, Usage]] = []

    async def do(self, what: str, where: int, amount: Amount) -> None:
        context = self.contexts[where]
        if what == "reserve":
            self.open.append(await context.reserve(f"e{where}", "slm", amount, price=PRICE))
        elif what == "charge":
            usage = Usage({Part("llm", context.node, "e"): amount})
            context.charge(usage)
            self.before.append((where, usage))
        elif what == "back" and self.before:
            where, usage = self.before.pop(where % len(self.before))
            self.contexts[where].charge(usage, back=True)
        elif self.open:
            call = self.open.pop(where % len(self.open))
            ends: dict[str, Callable[[], object]] = {
                "settle": lambda: call.settle(amount),
                "release": call.release,
            }
            ends.get(what, lambda: call.__exit__(None, TimeoutError(), None))()


@given(steps=steps)
async def test_the_running_total_is_the_sum_at_every_moment(
    steps: list[tuple[str, int, Amount]],
) -> None:
    run = Run()
    for step in steps:
        await run.do(*step)
        for context in (run.run, run.inner):
            own = context._purse.own  # pyright: ignore[reportPrivateUsage]
            assert own is not None
            total, found = context.usage.total, own.total
            assert found.seconds == pytest.approx(total.seconds)
            assert replace(found, seconds=0.0) == replace(total, seconds=0.0)
    for call in run.open:
        call.release()


async def test_what_is_charged_back_leaves_nothing_behind() -> None:
    run = RunContext(budget=Budget(cost=1))
    usage = Usage({Part("slm", "n", "e"): HOURLY.charge(replace(ONE, seconds=0.1))})
    run.charge(usage)
    run.charge(usage, back=True)
    own = run._purse.own  # pyright: ignore[reportPrivateUsage]
    assert own is not None
    assert own.total == NOTHING
    assert not own.calls["slm"]


async def test_a_call_adds_no_more_amounts_up_under_many_names_than_under_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    added, add = 0, Amount.__add__

    def counted(self: Amount, other: Amount) -> Amount:
        nonlocal added
        added += 1
        return add(self, other)

    monkeypatch.setattr(Amount, "__add__", counted)
    costs: list[int] = []
    for names in (10, 10_000):
        run = RunContext(budget=Budget(calls=10**6))
        run.charge(Usage({Part("slm", f"n{number}", "e"): ONE for number in range(names)}))
        before = added
        with await run.reserve("e", "slm", ONE) as call:
            call.settle(ONE)
        costs.append(added - before)
    assert costs[0] == costs[1]
