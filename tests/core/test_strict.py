"""Strict budgets: what has no price is not asked."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from command import told

from moa import Agent, Budget, Price, RunContext
from moa.core.errors import BudgetExceeded, PriceUnknown
from moa.core.usage import FREE, Amount, Usage
from moa.testing import ScriptedEndpoint

UNPRICED = Price()


async def test_an_endpoint_without_a_price_is_not_asked_under_a_strict_budget() -> None:
    endpoint = ScriptedEndpoint(["Hello!"], name="large", price=UNPRICED)
    context = RunContext(budget=Budget(strict=True))
    with pytest.raises(PriceUnknown):
        await Agent(endpoint, "Greet.").run("Hi", context)
    assert context.usage.calls == 0


@pytest.mark.parametrize("price", [FREE, Price(input=Decimal(1), output=Decimal(2))])
async def test_what_has_a_price_or_is_free_is_asked(price: Price) -> None:
    endpoint = ScriptedEndpoint(["Hello!"], price=price)
    await Agent(endpoint, "Greet.").run("Hi", RunContext(budget=Budget(cost=1, strict=True)))
    assert endpoint.prompts


async def test_a_budget_within_a_strict_one_does_not_soften_it() -> None:
    outer = RunContext(budget=Budget(strict=True))
    endpoint = ScriptedEndpoint(["Hello!"], price=UNPRICED)
    with pytest.raises(PriceUnknown):
        await Agent(endpoint, "Greet.", budget=Budget(calls=3)).run("Hi", outer)


async def test_where_nothing_is_awaited_it_holds_too() -> None:
    context = RunContext(budget=Budget(strict=True))
    with pytest.raises(PriceUnknown):
        context.reserve_now("framework", "llm", UNPRICED.charge(Amount(calls=1)))


def test_a_strict_budget_stays_so_in_what_is_made_of_it() -> None:
    budget = Budget(calls=3, strict=True)
    assert budget.subtract(Usage()) == budget
    assert "strict" not in budget.limits
    assert "strict=True" in repr(budget)
    assert budget.with_more(Budget(calls=2)) == replace(budget, calls=5)


async def test_a_spent_budget_is_no_matter_of_prices() -> None:
    endpoint = ScriptedEndpoint(["Hello!"], price=FREE)
    with pytest.raises(BudgetExceeded):
        await Agent(endpoint, "Greet.").run("Hi", RunContext(budget=Budget(calls=0, strict=True)))


def test_the_command_line_asks_for_a_price_by_strict(tmp_path: Path) -> None:
    graph = tmp_path / "writer.py"
    graph.write_text(
        "from moa import Agent, Price\n"
        "from moa.testing import SimulatedEndpoint\n"
        "node = Agent(SimulatedEndpoint(price=Price()), 'Write.', name='writer')\n"
    )
    words = ("run", f"{graph}:node", "--text", "Hi", "--json")
    (asked,) = told(*words).lines
    (refused,) = told(*words, "--strict", leaves=1).lines
    assert (asked["status"], refused["status"]) == ("answered", "failed")
    assert "PriceUnknown" in refused["error"]
    assert refused["usage"]["calls"] == 0
