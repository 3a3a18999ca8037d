"""Answer extraction: what a reply answers, so that answers can be counted and compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, PlainValidator

from moa.calibration.acceptance import text_of
from moa.calibration.reply_signs import final_answer
from moa.calibration.verifiers import answer_of
from moa.errors import ConfigError
from moa.node import Reply, Text


def as_key(value: object) -> Callable[[Any], Hashable | None]:
    """Read a key: a function, or the name of one as a table of moa.toml has it."""
    known: dict[object, Key] = {"stated": stated, "number": last_number}
    if callable(value):
        return value
    if isinstance(value, str) and value in known:
        return known[value]
    raise ValueError(f"a function, 'stated' or 'number', not {value!r}")


Key = Annotated[Callable[[Any], Hashable | None], PlainValidator(as_key)]
"""Turns what a node gave into what it answers: equal where the answers are, and `None` where it
answers nothing that could be read."""

_ANSWER = "answer"


def stated(reply: Any) -> Hashable | None:
    """Read what a reply answers: its field `answer` where it has one, else as `answer_of` does.

    That is the label of a decision; the number where the answer is hardly more, as in "The answer
    is 12 days, since …" or "12 days"; else the words.
    """
    if isinstance(reply, BaseModel) and (field := type(reply).model_fields.get(_ANSWER)):
        value: Any = getattr(reply, _ANSWER)
        return value if get_origin(field.annotation) is Literal else field_of(_ANSWER)(reply)
    return _read(reply)


def last_number(reply: Any) -> Fraction | None:
    """Read the final number of a text: the one behind a mark, else the last."""
    return final_answer(text_of(reply)).number


def field_of(name: str) -> Key:
    """Give the key that compares one field of a typed output.

    It raises `ConfigError` where the output has no such field.
    """

    def read(reply: Any) -> Hashable | None:
        if not hasattr(reply, name):
            raise ConfigError(
                f"field_of({name!r}): a {type(reply).__name__} has no field {name!r} to compare. "
                "Name one that the node's output has, or give another key"
            )
        value: Any = getattr(reply, name)
        return None if value is None else _read(value)

    return read


def label_of(labels: Sequence[str]) -> Key:
    """Give the key that finds one of several labels in a text.

    The one that is named last counts, of those behind a mark ("The answer is") where there is one.
    Case doesn't matter, and of two labels at one place the longer one is meant.

    Raises:
        ConfigError: there are fewer than two labels, or two differ only in case.
    """
    known = {label.casefold(): label for label in labels}
    if len(labels) < 2 or len(known) < len(labels) or "" in known:
        raise ConfigError(f"labels to find in a text must be two or more and different: {labels!r}")
    longest = sorted(known, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)")

    def read(reply: Any) -> str | None:
        text = text_of(reply)
        for part in (final_answer(text).after, text):
            found = pattern.findall(part.casefold())
            if found:
                return known[found[-1]]
        return None

    return read


def shown(answer: Hashable) -> str:
    """Write an answer: a whole number without a fraction."""
    if isinstance(answer, Fraction) and answer.denominator > 1:
        exact = float(answer)
        return f"{exact:g}" if Fraction(f"{exact:g}") == answer else str(answer)
    return str(getattr(answer, "value", answer))


def written(output: Any, answer: Hashable | None) -> str:
    """Write what a node gave as text: a text as it is, of any other output what it answers."""
    if isinstance(output, str | Text | Reply) or answer is None:
        return text_of(output)
    return shown(answer)


def _read(value: Any) -> Hashable | None:
    found: Any = answer_of(value)
    if isinstance(value, float) and not isinstance(found, Fraction):
        return value
    return None if found == "" else found
