"""Errors: which leave a node to what stands in for it, and how they cross processes."""

from __future__ import annotations

import pickle

import pytest

from moa.core.errors import (
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
    QuotaExceeded,
    check_recoverable,
)
from moa.core.usage import Usage

DOWN = EndpointUnavailable("refused", endpoint="x", status=503, retry_after_s=2.0)
NO_KEY = EndpointUnauthorized("no key", endpoint="x", status=401)


RECOVERABLE = [
    DOWN,
    EndpointRejected("too long", endpoint="x"),
    OutputError("no JSON", node="x", text="?"),
    BudgetExceeded("calls=2 of 1", spent=Usage()),
    DeadlineExceeded("late"),
    QuorumNotMet("0 of 2", causes={"a": NO_KEY, "b": DOWN}),
]
SET_UP_WRONG = [
    NO_KEY,
    QuotaExceeded("no credit", endpoint="x", status=402),
    EndpointUnsupported("no such route", endpoint="x", status=404),
    ConfigError("no model"),
    InputError("no text"),
    QuorumNotMet("0 of 1", causes={"a": NO_KEY}),
]


def test_what_another_node_may_not_fail_with_is_recoverable_and_what_is_set_up_wrong_is_seen() -> (
    None
):
    assert all(error.recoverable for error in RECOVERABLE)
    assert not any(error.recoverable for error in SET_UP_WRONG)


@pytest.mark.parametrize("error", [NO_KEY, DeadlineExceeded("late")])
def test_no_simpler_way_stands_in_for_a_wrong_key_or_where_the_time_is_up(error: MoaError) -> None:
    with pytest.raises(type(error)):
        check_recoverable(error)
    check_recoverable(DOWN)


@pytest.mark.parametrize("error", [*RECOVERABLE, *SET_UP_WRONG], ids=lambda error: str(error))
def test_an_error_comes_from_another_process_as_it_was(error: MoaError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert {name: str(value) for name, value in vars(again).items()} == {
        name: str(value) for name, value in vars(error).items()
    }
