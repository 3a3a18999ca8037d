"""JSON: types of values, and functions that check and read them without a cast.

`JSON` is an object; `object` is any value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isinf
from typing import Any, NoReturn

from typing_extensions import TypeIs

JSON = dict[str, object]
"""A JSON object."""
JSONValue = Any
"""A JSON value that a store returns as it was put in; the caller knows its type."""


def is_object(value: object) -> TypeIs[JSON]:
    """Return True if a JSON value is an object."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeIs[list[object]]:
    """Return True if a JSON value is a list."""
    return isinstance(value, list)


def is_sequence(value: object) -> TypeIs[list[object] | tuple[object, ...]]:
    """Return True if a value is a list or a tuple."""
    return isinstance(value, list | tuple)


def is_set(value: object) -> TypeIs[set[object] | frozenset[object]]:
    """Return True if a value is a set, frozen or not."""
    return isinstance(value, set | frozenset)


def is_mapping(value: object) -> TypeIs[Mapping[object, object]]:
    """Return True if a value is a mapping."""
    return isinstance(value, Mapping)


def is_table(value: object) -> TypeIs[Mapping[str, object]]:
    """Return True if a value is a mapping; its keys are assumed to be strings."""
    return isinstance(value, Mapping)


def object_of(value: object) -> JSON:
    """Return a JSON object; an empty one for anything else."""
    return value if is_object(value) else {}


def list_of(value: object) -> list[object]:
    """Return a list of JSON; an empty one for anything else."""
    return value if is_list(value) else []


def objects_of(value: object) -> list[JSON]:
    """Return the items of a list as JSON objects; an empty list for anything else."""
    return [object_of(item) for item in list_of(value)]


def at(value: object, *path: str | int) -> object:
    """Return the value at a path of keys and indices.

    Raises:
        KeyError: an object lacks a key.
        IndexError: a list is too short.
        TypeError: a key is looked up in a value that isn't an object, or an index in one that
            isn't a list.
    """
    for step in path:
        value = _step(value, step)
    return value


def _step(value: object, step: str | int) -> object:
    if isinstance(step, str) and is_object(value):
        return value[step]
    if isinstance(step, int) and is_list(value):
        return value[step]
    raise TypeError(f"{step!r} is asked of a {type(value).__name__}")


def number_of(value: object) -> float:
    """Return a number, or the number that a string holds.

    Raises:
        TypeError: the value is no number and no string.
        ValueError: the string isn't a number.
    """
    if isinstance(value, int | float | str):
        return float(value)
    raise TypeError(f"a {type(value).__name__} is no number")


def parse_json(text: str) -> object:
    """Parse JSON, without the constants and the infinite numbers that Python takes and JSON hasn't.

    Raises:
        ValueError: it isn't JSON.
        RecursionError: it is nested too deep.
    """
    return json.loads(text, parse_constant=_refuse_constant, parse_float=_parse_finite)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _parse_finite(text: str) -> float:
    value = float(text)
    if isinf(value):  # it would be written as `Infinity`
        raise ValueError(f"{text[:40]} is too large a number")
    return value


# What a server sends may hold only so many values. Bytes alone say little: 126 MB of `{},{},…`
# come in 150 KB of gzip, and take 3 GB as objects.
MOST_PARTS = 1_000_000
"""Objects, arrays, texts and names in an answer. Each takes some 60 to 200 bytes of memory."""
MOST_VALUES = 10_000_000
"""Values in an answer: 2,048 vectors of 4,096 numbers, which take 32 bytes each, and some more."""


class TooManyValues(ValueError):
    """JSON holds more than `MOST_PARTS` or `MOST_VALUES`."""


def read_json(content: bytes) -> object:
    """Read JSON in UTF-8.

    Raises:
        TooManyValues: it holds more than it may. It was not read.
        ValueError: it isn't JSON.
        RecursionError: it is nested too deep.
    """
    if _holds_too_much(content):
        raise TooManyValues(
            f"it holds more than {MOST_PARTS:,} objects, arrays and texts, "
            f"or {MOST_VALUES:,} values"
        )
    # Not the bytes: in UTF-16, which `loads` guesses, values would be counted wrongly.
    text = content.decode("utf-8-sig", "surrogatepass")
    return json.loads(text, object_hook=_give_way)


def _holds_too_much(content: bytes) -> bool:
    """Count values without reading them; those in a text as well, which may be read as JSON next.

    So no escape and no end of a text has to be found, and a model writes no text of so many signs.
    """
    parts = content.count(b"{") + content.count(b"[") + content.count(b'"') // 2
    parts += content.count(b"\\u00")  # an escape of one of these signs
    return parts > MOST_PARTS or content.count(b",") >= MOST_VALUES


def _give_way(value: JSON) -> JSON:
    """Return an object as it is. The parser holds Python's lock, save for a call such as this."""
    return value
