"""Calls: what a wrapper tells all requests within a call, however deep."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

left_of_call_s: ContextVar[float] = ContextVar("left_of_call_s", default=math.inf)
"""Maximum seconds of a request: the time left after earlier tries of its call."""
has_other: ContextVar[bool] = ContextVar("has_other", default=False)
"""True if another endpoint is asked when this one fails, so that nobody waits for this one."""


@contextmanager
def limit_time(left_s: float) -> Generator[None]:
    """Limit each request to the time left of its call."""
    token = left_of_call_s.set(min(left_s, left_of_call_s.get()))
    try:
        yield
    finally:
        left_of_call_s.reset(token)


@contextmanager
def mark_replaceable(by_another: bool = True) -> Generator[None]:
    """State that another endpoint is asked if this one fails."""
    token = has_other.set(by_another or has_other.get())
    try:
        yield
    finally:
        has_other.reset(token)
