"""Reading: JSON of a server, which may hold only so many values.

Bytes alone say little: 126 MB of `{},{},…` come in 150 KB of gzip, and take 3 GB as objects.
"""

from __future__ import annotations

from json import loads

from moa.core._json import JSON

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
    return loads(text, object_hook=_give_way)


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
