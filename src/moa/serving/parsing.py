"""Parsing: a body of JSON, within what it may hold, and without a stall for other requests.

A parser holds Python's lock for as long as it runs, even in a thread. So values are counted in the
bytes first; a body of many of them is then read in a thread, in turn. Large bodies follow each
other at a pace, since what comes after costs the event loop time as well: prompts are copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pydantic_core import from_json

from moa.core._json import is_list, is_object
from moa.core._turns import Turns
from moa.core.errors import RequestRefused

if TYPE_CHECKING:
    from moa.serving.server import Settings

T = TypeVar("T")

_AT_ONCE = 1000
"""Values of a body that is read at once, without a thread: about a millisecond."""
_LONGEST_NAME = 4096
"""Characters of a field's name. Pydantic copies it into each fault below that field."""
_LARGE = 256 << 10
"""Bytes of a body that keeps its turn for as long as the pace says."""
_PACE = 24 << 20
"""Bytes of large bodies in a second, in all. A megabyte takes some 25 ms of the event loop."""

in_turn = Turns("moa-requests").take
"""Does what takes long of a request in a thread, fairly by caller; see `Turns.take`."""


async def parse(body: bytes, name: str, settings: Settings, read: Callable[[object], T]) -> T:
    """Parse JSON, and read the value.

    Args:
        body: The JSON.
        name: Name of the caller, who takes turns with others.
        settings: How many values it may hold, and how deep.
        read: Makes something of the value. It may run in a thread.

    Raises:
        RequestRefused: it isn't JSON, or it holds more than it may (400).
    """
    is_large = len(body) > _LARGE
    if not is_large and _most_values(body) <= _AT_ONCE:
        return read(_parse(body, settings))
    least_s = len(body) / _PACE if is_large else 0.0
    return await in_turn(name, lambda: read(_parse(body, settings)), least_s=least_s)


def _parse(body: bytes, settings: Settings) -> object:
    if _most_values(body) > settings.values and _count_values(body) > settings.values:
        problem = f"it holds more than the {settings.values} values that may be: send less at once"
        raise RequestRefused(problem, status=400, code="too_many_values")
    try:
        value: object = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestRefused(f"the body is no JSON: {error}", status=400, code="no_json") from error
    _check(value, settings)
    return value


def _most_values(text: bytes) -> int:
    """Return a number that the count of values doesn't exceed: one begins after each of these."""
    return 1 + text.count(b",") + text.count(b"[") + text.count(b"{")


def _count_values(body: bytes) -> int:
    """Count values without parsing them, to about two for each array and object."""
    pieces = body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
    return _most_values(b"".join(pieces[::2]))  # every other piece is a string


def _check(value: object, settings: Settings) -> None:
    """Refuse a value that is nested too deep, or has too long a name."""
    level = [value]
    for _ in range(settings.depth + 1):
        inner: list[object] = []
        for item in level:
            if is_object(item):
                if max(map(len, item), default=0) > _LONGEST_NAME:
                    problem = f"a field has a name of more than {_LONGEST_NAME} characters"
                    raise RequestRefused(problem, status=400, code="name_too_long")
                inner += item.values()
            elif is_list(item):
                inner += item
        if not inner:
            return
        level = inner
    problem = f"it is nested deeper than the {settings.depth} arrays and objects that may be"
    raise RequestRefused(problem, status=400, code="too_deep")
