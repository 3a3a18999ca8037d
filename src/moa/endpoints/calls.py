"""Calls: what a wrapper says of a call to all that is asked within it, however deep."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

left_of_call_s: ContextVar[float] = ContextVar("left_of_call_s", default=math.inf)
"""Most seconds that a request may take: what the earlier tries of its call have left."""
has_other: ContextVar[bool] = ContextVar("has_other", default=False)
"""Whether another endpoint is asked where this one fails, so that nobody waits for this one."""


@contextmanager
def limited_to(left_s: float) -> Generator[None]:
    """Bound each request by what is left of its call."""
    token = left_of_call_s.set(min(left_s, left_of_call_s.get()))
    try:
        yield
    finally:
        left_of_call_s.reset(token)


@contextmanager
def replaceable(by_another: bool = True) -> Generator[None]:
    """Say whether another endpoint is asked where this one fails; else it is as it was."""
    token = has_other.set(by_another or has_other.get())
    try:
        yield
    finally:
        has_other.reset(token)
