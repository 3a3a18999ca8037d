"""Usage adds up, prices are honest about what they don't know."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import wait_none

from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import ConfigError, EndpointUnavailable
from moa.core.usage import NOTHING, UNKNOWN_PRICE, Amount, Part, Price, Tier, Usage
from moa.endpoints import Prompt
from moa.endpoints.retries import Retried
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

counts = st.integers(min_value=0, max_value=10**9)
amounts = st.builds(
    Amount,
    calls=counts,
    input_tokens=counts,
    cached_input_tokens=counts,
    output_tokens=counts,
    priced_cost=counts.map(lambda millionths: Decimal(millionths).scaleb(-6)),
    unpriced_calls=counts,
    encodings=counts,
    failed=counts,
)
tiers: st.SearchStrategy[Tier] = st.sampled_from(("slm", "llm"))
parts = st.builds(Part, tiers, st.sampled_from(("a", "b")), st.sampled_from(("x", "y")))
usages = st.builds(Usage, st.dictionaries(parts, amounts, max_size=4))
PRICE = Price(input=Decimal(2), cached_input=Decimal("0.5"), output=Decimal(8))


@given(usages, usages, usages)
def test_adding_usage_is_associative(a: Usage, b: Usage, c: Usage) -> None:
    assert (a + b) + c == a + (b + c)


@given(usages)
def test_empty_usage_changes_nothing_and_every_split_adds_up_to_the_whole(usage: Usage) -> None:
    assert usage + Usage() == usage == Usage() + usage
    for split in (usage.by_tier(), usage.by_node(), usage.by_endpoint()):
        assert sum((part.total for part in split.values()), NOTHING) == usage.total


CACHED = Amount(input_tokens=1_000_000, cached_input_tokens=400_000, output_tokens=500_000)


@pytest.mark.parametrize(
    ("price", "amount", "cost"),
    [
        pytest.param(PRICE, CACHED, "5.4", id="cached tokens at their own rate"),
        pytest.param(UNKNOWN_PRICE, Amount(input_tokens=5), None, id="unknown"),
        pytest.param(Price(input=Decimal(1)), Amount(input_tokens=5), None, id="half a price"),
        pytest.param(Price(hour=Decimal("3.60")), Amount(seconds=10.0), "0.01", id="by the hour"),
    ],
)
def test_a_price_is_honest_about_what_it_does_not_know(
    price: Price, amount: Amount, cost: str | None
) -> None:
    assert price.of(amount) == (cost and Decimal(cost))
    assert price.charge(replace(amount, calls=1)).cost == price.of(amount)


def test_one_unpriced_call_makes_the_sum_unknown_but_keeps_what_is_known() -> None:
    both = PRICE.charge(Amount(calls=1, output_tokens=1000)) + UNKNOWN_PRICE.charge(Amount(calls=1))
    assert both.cost is None
    assert both.priced_cost == Decimal("0.008")


def test_the_large_model_alone_is_one_call_an_input_with_its_own_prompt() -> None:
    small, large = Amount(calls=60, input_tokens=6000, output_tokens=60), Amount(calls=12)
    asked = replace(large, input_tokens=2400, output_tokens=12)
    usage = Usage({Part("llm", "a", "small"): small, Part("llm", "b", "large@1"): asked})
    estimate = usage.alone(PRICE, endpoint="large", inputs=60)
    assert estimate.cost == 5 * (PRICE.of(asked) or 0)
    assert "each of 60 inputs" in estimate.how
    assert "the 12 calls of 'large': 2400 input and 12 output tokens" in estimate.how


def test_a_large_model_that_was_not_asked_has_the_mean_prompt_of_the_others() -> None:
    usage = Usage({Part("slm", "n", "small"): Amount(calls=3, input_tokens=30, output_tokens=6)})
    estimate = usage.alone(PRICE, endpoint="large", inputs=2)
    assert estimate.cost == PRICE.of(Amount(input_tokens=20, output_tokens=4))
    assert "the 3 calls of others" in estimate.how
    assert usage.alone(UNKNOWN_PRICE, endpoint="large").cost is None
    assert Usage().alone(PRICE, endpoint="large").cost is None
    for name in ("calls", "input_tokens", "output_tokens"):
        assert getattr(usage, name) == getattr(usage.total, name)


async def test_a_try_that_failed_makes_the_mean_call_of_the_large_model_no_cheaper() -> None:
    tries = [EndpointUnavailable("busy", endpoint="large", status=503), "Hello."]
    endpoint = ScriptedEndpoint(tries, name="large", tier="llm", price=PRICE)
    large = Retried(endpoint, wait=wait_none())
    context = RunContext()
    await large.complete(Prompt.of("Hi"), context.nested("writer"))
    assert (context.usage.calls, context.usage.total.failed) == (2, 1)
    assert context.usage.alone(PRICE, endpoint="large").cost == context.usage.cost


async def test_what_encoders_read_is_no_part_of_what_a_large_model_would_have_cost() -> None:
    small = SimulatedEndpoint(rule=lambda _: "Hello.")
    context = RunContext()
    await small.embed(["a text"], context)
    assert context.usage.alone(PRICE, endpoint="large").cost is None
    await small.complete(Prompt.of("Hi"), context.nested("writer"))
    estimate = context.usage.alone(PRICE, endpoint="large")
    assert "the 1 calls of others" in estimate.how
    written = context.usage.by_node()["writer"].alone(PRICE, endpoint="large")
    assert estimate.cost == written.cost


@pytest.mark.parametrize("limit", [-1, "3", float("nan"), Decimal("nan")])
def test_a_limit_that_is_no_number_from_0_on_is_refused(limit: Any) -> None:
    with pytest.raises(ConfigError, match="calls="):
        Budget(calls=limit)
