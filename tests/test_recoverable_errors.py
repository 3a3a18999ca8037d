"""Which failures leave a node to what stands in for it."""

from __future__ import annotations

import pytest

from moa.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    EndpointRejected,
    EndpointUnauthorized,
    EndpointUnavailable,
    EndpointUnsupported,
    InputError,
    MoaError,
    OutputError,
    QuorumNotMet,
    check_recoverable,
)
from moa.usage import Usage

DOWN = EndpointUnavailable("refused", endpoint="x")
NO_KEY = EndpointUnauthorized("no key", endpoint="x", status=401)


@pytest.mark.parametrize(
    "error",
    [
        DOWN,
        EndpointRejected("too long", endpoint="x"),
        OutputError("no JSON", node="x", text="?"),
        BudgetExceeded("calls=2 of 1", spent=Usage()),
        DeadlineExceeded("late"),
        QuorumNotMet("0 of 2", causes={"a": NO_KEY, "b": DOWN}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_another_node_may_not_fail_with_is_recoverable(error: MoaError) -> None:
    assert error.recoverable


@pytest.mark.parametrize(
    "error",
    [
        NO_KEY,
        EndpointUnsupported("no such route", endpoint="x", status=404),
        ConfigError("no model"),
        InputError("no text"),
        QuorumNotMet("0 of 1", causes={"a": NO_KEY}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_set_up_wrong_has_to_be_seen(error: MoaError) -> None:
    assert not error.recoverable


@pytest.mark.parametrize("error", [NO_KEY, DeadlineExceeded("late")])
def test_no_simpler_way_stands_in_for_a_wrong_key_or_where_the_time_is_up(error: MoaError) -> None:
    with pytest.raises(type(error)):
        check_recoverable(error)
    check_recoverable(DOWN)
