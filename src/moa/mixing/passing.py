"""Passing: which failures of a node leave it to what stands in for it."""

from __future__ import annotations

from moa.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    EndpointError,
    EndpointUnauthorized,
    EndpointUnsupported,
    MoaError,
    OutputError,
    QuorumNotMet,
    Unanswered,
)

_PASSING = (
    EndpointError,
    OutputError,
    Unanswered,
    QuorumNotMet,
    BudgetExceeded,
    DeadlineExceeded,
)
_SET_UP_WRONG = (ConfigError, EndpointUnauthorized, EndpointUnsupported)


def passes(error: MoaError) -> bool:
    """Whether a node may have failed so where another doesn't, or the same one another time.

    What is set up wrong, such as a key, does not pass: with a stand-in nobody would see it. Of
    several nodes that failed it takes one that was set up right.
    """
    if isinstance(error, QuorumNotMet):
        return not error.causes or any(
            not isinstance(cause, _SET_UP_WRONG) for cause in error.causes.values()
        )
    return isinstance(error, _PASSING) and not isinstance(error, _SET_UP_WRONG)


def passed_over(error: MoaError) -> bool:
    """Whether a small node that failed so is passed over for a large one, at the price of that.

    A refused key counts here as a node that is down: the large one answers, and the trace says why.
    """
    return passes(error) or isinstance(error, EndpointError)
