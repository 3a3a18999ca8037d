"""Answer extraction: finds the answer in a reply, so that answers can be counted and compared."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from fractions import Fraction
from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, PlainValidator

from moa.core.node import Reply, Text
from moa.decisions.acceptance import text_of
from moa.guards.reply_signs import find_final_answer
from moa.guards.verifiers import answer_of


def read_key(value: object) -> Callable[..., object]:
    """Read a key: a function, or the name of one in this module, as in a table of moa.toml."""
    keys_by_name = {key.__name__: key for key in (stated, last_number)}
    key = keys_by_name.get(value, value) if isinstance(value, str) else value
    if not callable(key):
        raise ValueError(f"a function, or {' or '.join(map(repr, keys_by_name))}, not {value!r}")
    return key


Key = Annotated[Callable[[Any], Hashable | None], PlainValidator(read_key)]
"""Returns the answer in a node's output, to be compared with others; `None` if there is no readable
answer."""

_ANSWER = "answer"


def stated(reply: object) -> Hashable | None:
    """Read the answer of a reply: its field `answer` if it has one, else as `answer_of` does.

    For a decision that is its label. For an answer that is little more than a number, as in "The
    answer is 12 days, since …" or "12 days", it is the number. Otherwise it is the words.
    """
    if isinstance(reply, BaseModel) and (field := type(reply).model_fields.get(_ANSWER)):
        value = getattr(reply, _ANSWER)
        return value if value is None or get_origin(field.annotation) is Literal else _read(value)
    return _read(reply)


def last_number(reply: object) -> Fraction | None:
    """Read the final number of a text: the one after an answer mark, else the last."""
    return find_final_answer(text_of(reply)).number


def format_answer(answer: Hashable) -> str:
    """Format an answer, whole numbers without a fraction."""
    if isinstance(answer, Fraction) and answer.denominator > 1:
        exact = float(answer)
        return f"{exact:g}" if Fraction(f"{exact:g}") == answer else str(answer)
    return str(getattr(answer, "value", answer))


def write_answer(output: object, answer: Hashable | None) -> str:
    """Write an output as text: a text as it is, any other output by its answer."""
    if isinstance(output, str | Text | Reply) or answer is None:
        return text_of(output)
    return format_answer(answer)


def _read(value: object) -> Hashable | None:
    answer = answer_of(value)
    if isinstance(value, float) and not isinstance(answer, Fraction):
        return value
    return answer if answer != "" and isinstance(answer, Hashable) else None
