"""Answer extraction: finds the answer in a reply, so that answers can be counted and compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal, cast, get_origin

from pydantic import BaseModel, PlainValidator

from moa.core._text import words_in
from moa.core.node import Reply, Text, text_of
from moa.core.numbers import NUMBER, find_numbers, find_signed_numbers
from moa.core.questions import Choice, Predicate, Score


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
_MARK = re.compile(
    r"\\boxed\{|\b(?:the )?(?:final )?answer(?: is|:)|\*\*answer:?\*\*", re.IGNORECASE
)
_READ = 50_000
"""Maximum characters to read of the end of a reply."""
_BESIDE = 3
"""Maximum number of other words in a text that counts as a number with its unit."""
_OPENS = " \t\n:*`\"'(="
_ENDS = re.compile(r"[.!?](?=\s|$)|[,;:](?=\s)|(?<!\d)\s[-\u2013\u2014]\s|[(\n]")
"""End of a text's first clause; the rest explains it."""


def stated(reply: object) -> Hashable | None:
    """Read the answer of a reply: its field `answer` if it has one, else as `answer_of` does.

    For a decision that is its label. For an answer that is little more than a number, as in "The
    answer is 12 days, since …" or "12 days", it is the number. Otherwise it is the words.
    """
    if isinstance(reply, BaseModel) and (field := type(reply).model_fields.get(_ANSWER)):
        value = getattr(reply, _ANSWER)
        return value if value is None or get_origin(field.annotation) is Literal else _read(value)
    return _read(reply)


def answer_of(reply: object) -> object:
    """Return the answer of a reply in a form that compares equal for equal answers.

    For a decision it is the label. If the whole reply, or the first clause after a mark such as
    "The answer is", is little more than a number, it is that number. Otherwise it is the words in
    lower case, without punctuation.
    """
    if isinstance(reply, Predicate | Choice | Score):
        return cast("Any", reply).picked
    text = text_of(reply)
    final_answer = find_final_answer(text)
    answer = final_answer.after if final_answer.marked else text
    first = _ENDS.split(answer.lstrip(_OPENS), maxsplit=1)[0] if final_answer.marked else answer
    number = _read_one_number(first)
    return " ".join(words_in(answer)) if number is None else number


def last_number(reply: object) -> Fraction | None:
    """Read the final number of a text: the one after an answer mark, else the last."""
    return find_final_answer(text_of(reply)).number


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """The final answer of a reply."""

    marked: bool
    """True if it follows a mark, such as `\\boxed{` or "the answer is"."""
    number: Fraction | None
    """The number after the mark, else the last of the reply; `None` without any."""
    before: str
    """The reply up to the mark."""
    after: str
    """The text after the mark; empty without one."""


def find_final_answer(reply: str) -> FinalAnswer:
    """Find the final answer of a reply, in its last 50,000 characters."""
    reply = reply[-_READ:]
    marks = list(_MARK.finditer(reply))
    mark = marks[-1] if marks else None
    before, after = (reply[: mark.start()], reply[mark.end() :]) if mark else (reply, "")
    numbers = find_signed_numbers(after)[:1] or find_signed_numbers(before)[-1:]
    return FinalAnswer(mark is not None, numbers[0] if numbers else None, before, after)


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


def _read_one_number(clause: str) -> Fraction | None:
    """Read the number of a clause that is little more; of an equation, the result.

    With more words, the same number can be part of opposite answers: "buy within 30 days" and "rent
    for 30 days". So can one of several numbers: "3 of 5" and "3 of 7".
    """
    words = words_in(NUMBER.sub("0", clause))
    other_words = [word for word in words if not word[0].isdigit()]
    numbers = set(find_numbers(clause.rpartition("=")[2]))
    if len(numbers) != 1 or len(other_words) > _BESIDE or len(other_words) == len(words):
        return None
    return numbers.pop()
