"""What a thin budget still pays for: fewer proposers, then fewer layers, then one model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.usage import Amount
from moa.graphs.mixing.packing import Call
from moa.graphs.mixture import affordable

SMALL: Call = ("slm", Amount(calls=1, input_tokens=100))
LARGE: Call = ("llm", Amount(calls=1, input_tokens=100))


def layers(*sizes: int, call: Call = SMALL) -> list[list[Call]]:
    return [[call] * size for size in sizes]


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        pytest.param(13, (6, 6), id="all"),
        pytest.param(12, (5, 5), id="fewer proposers"),
        pytest.param(5, (2, 2), id="two of each layer"),
        pytest.param(4, (3,), id="fewer layers"),
        pytest.param(3, (2,), id="one layer of two"),
        pytest.param(2, (), id="one model alone"),
        pytest.param(0, (), id="nothing is paid for"),
    ],
)
def test_a_thin_budget_takes_proposers_then_layers(calls: int, expected: tuple[int, ...]) -> None:
    part, limit = affordable(layers(6, 6), [LARGE], RunContext(budget=Budget(calls=calls)))
    assert part == expected
    assert bool(limit) is (calls < 13)


def test_it_names_the_limit() -> None:
    part = affordable(layers(3), [LARGE], RunContext(budget=Budget(tokens=350)))
    assert part == ((2,), "tokens=400 of 350")


async def test_what_was_spent_counts() -> None:
    run = RunContext(budget=Budget(calls=5))
    with await run.reserve("e", "slm", Amount(calls=2)) as call:
        call.settle(Amount(calls=2))
    assert affordable(layers(3), [LARGE], run)[0] == (2,)


def test_limits_of_a_tier_count() -> None:
    run = RunContext(budget=Budget(slm_calls=3))
    assert affordable(layers(4), [LARGE], run)[0] == (3,)


def test_a_budget_further_out_counts() -> None:
    run = RunContext(budget=Budget(calls=3)).nested("mixture", budget=Budget(calls=9))
    assert affordable(layers(4), [LARGE], run)[0] == (2,)


@pytest.mark.parametrize(("calls", "expected"), [(2, (1,)), (3, (1, 1))])
def test_of_narrow_layers_those_that_fit_are_kept(calls: int, expected: tuple[int, ...]) -> None:
    run = RunContext(budget=Budget(calls=calls))
    assert affordable(layers(1, 1), [LARGE], run)[0] == expected


def test_a_layer_of_one_is_not_thinned_away() -> None:
    run = RunContext(budget=Budget(calls=4))
    assert affordable(layers(4, 1), [LARGE], run)[0] == (2, 1)


@given(
    sizes=st.lists(st.integers(1, 5), max_size=3),
    calls=st.none() | st.integers(0, 20),
    tokens=st.none() | st.integers(0, 2000),
)
def test_what_is_left_fits_and_is_no_smaller_than_it_must_be(
    sizes: list[int], calls: int | None, tokens: int | None
) -> None:
    run = RunContext(budget=Budget(calls=calls, tokens=tokens))
    part, limit = affordable(layers(*sizes), [LARGE], run)
    assert all(taken <= size for taken, size in zip(part, sizes, strict=False))
    planned = [*([SMALL] * sum(part)), LARGE]
    if part:
        assert run.limit_ahead(planned) is None
    if not limit:
        assert part == tuple(sizes)
    whole = [*([SMALL] * sum(sizes)), LARGE]
    assert bool(limit) is (run.limit_ahead(whole) is not None)
