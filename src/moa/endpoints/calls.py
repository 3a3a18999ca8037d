"""Calls: context variables that a wrapper sets for all requests within a call."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

left_of_call_s: ContextVar[float] = ContextVar("left_of_call_s", default=math.inf)
"""Maximum seconds of a request: the time that earlier tries of its call left."""
has_other: ContextVar[bool] = ContextVar("has_other", default=False)
"""True if another endpoint is asked when this one fails, so retries needn't wait for it."""
way_of_call: ContextVar[str] = ContextVar("way_of_call", default="chat")
"""How a model is asked, as logs and rehearsals show it."""


@contextmanager
def _set(variable: ContextVar[T], value: T) -> Generator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def limit_time(left_s: float) -> AbstractContextManager[None]:
    """Limit each request to the time left of its call."""
    return _set(left_of_call_s, min(left_s, left_of_call_s.get()))


def name_way(way: str) -> AbstractContextManager[None]:
    """State how a model is asked."""
    return _set(way_of_call, way)


def mark_replaceable(by_another: bool = True) -> AbstractContextManager[None]:
    """State that another endpoint is asked if this one fails."""
    return _set(has_other, by_another or has_other.get())
