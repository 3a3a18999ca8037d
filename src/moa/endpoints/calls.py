"""Calls: what a wrapper says of a call to all that is asked within it, however deep."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

left_of_call_s: ContextVar[float] = ContextVar("left_of_call_s", default=math.inf)
"""Most seconds that a request may take: what the earlier tries of its call have left."""


@contextmanager
def limited_to(left_s: float) -> Generator[None]:
    """Bound each request by what is left of its call."""
    token = left_of_call_s.set(min(left_s, left_of_call_s.get()))
    try:
        yield
    finally:
        left_of_call_s.reset(token)
