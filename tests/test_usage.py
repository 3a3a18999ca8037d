"""Usage adds up, prices are honest about what they don't know."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.errors import ConfigError
from moa.usage import NOTHING, UNKNOWN_PRICE, Amount, Budget, Part, Price, Tier, Usage

counts = st.integers(min_value=0, max_value=10**9)
amounts = st.builds(
    Amount,
    calls=counts,
    input_tokens=counts,
    cached_input_tokens=counts,
    output_tokens=counts,
    priced_cost=st.decimals(min_value=0, max_value=10**6, places=6),
    unpriced_calls=counts,
)
tiers: st.SearchStrategy[Tier] = st.sampled_from(("slm", "llm"))
parts = st.builds(Part, tiers, st.sampled_from(("a", "b")), st.sampled_from(("x", "y")))
usages = st.builds(Usage, st.dictionaries(parts, amounts, max_size=4))
PRICE = Price(input=Decimal(2), cached_input=Decimal("0.5"), output=Decimal(8))


@given(usages, usages, usages)
def test_adding_usage_is_associative(a: Usage, b: Usage, c: Usage) -> None:
    assert (a + b) + c == a + (b + c)


@given(usages)
def test_empty_usage_changes_nothing(usage: Usage) -> None:
    assert usage + Usage() == usage == Usage() + usage


@given(usages)
def test_every_split_adds_up_to_the_whole(usage: Usage) -> None:
    splits = (usage.by_tier(), usage.by_node(), usage.by_endpoint())
    for split in splits:
        assert sum((part.total for part in split.values()), NOTHING) == usage.total


def test_a_price_counts_cached_tokens_at_their_own_rate() -> None:
    amount = Amount(input_tokens=1_000_000, cached_input_tokens=400_000, output_tokens=500_000)
    assert PRICE.of(amount) == Decimal("1.2") + Decimal("0.2") + Decimal(4)


def test_an_unknown_price_leaves_the_cost_unknown() -> None:
    assert UNKNOWN_PRICE.of(Amount(input_tokens=5)) is None
    assert UNKNOWN_PRICE.charge(Amount(calls=1)).cost is None


def test_half_a_token_price_is_no_price() -> None:
    assert Price(input=Decimal(1)).of(Amount(input_tokens=5)) is None


def test_one_unpriced_call_makes_the_sum_unknown_but_keeps_what_is_known() -> None:
    both = PRICE.charge(Amount(calls=1, output_tokens=1000)) + UNKNOWN_PRICE.charge(Amount(calls=1))
    assert both.cost is None
    assert both.priced_cost == Decimal("0.008")


def test_an_hourly_price_charges_the_seconds_of_the_call() -> None:
    assert Price(hour=Decimal("3.60")).of(Amount(seconds=10.0)) == Decimal("0.01")


def test_a_price_per_joule_charges_the_energy() -> None:
    assert Price(joule=Decimal("0.0000001")).of(Amount(joules=1000.0)) == Decimal("0.0001")


def test_the_estimate_on_another_endpoint_says_how_it_was_made() -> None:
    usage = Usage({Part("slm", "n", "small"): Amount(calls=3, input_tokens=10, output_tokens=2)})
    estimate = usage.on(PRICE, endpoint="large")
    assert estimate.cost == Decimal("0.000036")
    assert "3 calls" in estimate.how
    assert "'large'" in estimate.how


def test_the_estimate_on_an_unpriced_endpoint_is_unknown() -> None:
    assert Usage().on(UNKNOWN_PRICE, endpoint="large").cost is None


@pytest.mark.parametrize("name", ["calls", "input_tokens", "output_tokens"])
def test_usage_reads_like_its_total(name: str) -> None:
    usage = Usage({Part("slm", "n", "e"): Amount(calls=3, input_tokens=10, output_tokens=2)})
    assert getattr(usage, name) == getattr(usage.total, name)


@pytest.mark.parametrize("limit", [-1, "3", float("nan"), Decimal("nan")])
def test_a_limit_that_is_no_number_from_0_on_is_refused(limit: Any) -> None:
    with pytest.raises(ConfigError, match=r"Budget\(calls=.*number from 0 on"):
        Budget(calls=limit)
