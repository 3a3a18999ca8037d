"""Recorded answers: rows of a file as requests that both models have answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moa.errors import InputError
from moa.routing.cases import Case

PROMPT, REPLY = "prompt", "weak_response"
WEAK, STRONG = "weak_correct", "strong_correct"
_NO_FIELDS = {"id", PROMPT, REPLY, "strong_response", WEAK, STRONG}
_LONGEST_FIELD = 100
_TRUTH: Mapping[object, bool] = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request that both models have answered."""

    case: Case
    weak_correct: bool
    strong_correct: bool

    @property
    def gain(self) -> int:
        """What the strong model gains: 1, 0 or -1."""
        return int(self.strong_correct) - int(self.weak_correct)


def read_case(row: Mapping[str, object], *, where: str, replied: bool | None = None) -> Case:
    """Read a request from a row: `prompt`, `weak_response`, and short texts as other fields.

    Args:
        row: Its fields.
        where: File and line, for errors.
        replied: Whether it must have a `weak_response`; `False` leaves one out, and `None` takes
            one where it is.

    Raises:
        InputError: something is missing, or is no text.
    """
    prompt = _text(row, PROMPT, where)
    reply = None
    if replied or (replied is None and row.get(REPLY) is not None):
        reply = _text(row, REPLY, where)
    fields = {
        name: value
        for name, value in row.items()
        if name not in _NO_FIELDS and isinstance(value, str) and 0 < len(value) <= _LONGEST_FIELD
    }
    return Case(prompt, reply, fields)


def read_recorded(
    row: Mapping[str, object], *, where: str, replied: bool | None = None
) -> Recorded:
    """Read a request and whether each model was right: true and false, or 1 and 0.

    Args:
        row: Its fields.
        where: File and line, for errors.
        replied: As in `read_case`.

    Raises:
        InputError: something is missing, or neither true nor false.
    """
    case = read_case(row, where=where, replied=replied)
    return Recorded(case, _truth(row, WEAK, where), _truth(row, STRONG, where))


def _text(row: Mapping[str, object], name: str, where: str) -> str:
    value = row.get(name)
    if isinstance(value, str):
        return value
    why = "looked at by a cascade" if name == REPLY else "the request itself"
    raise InputError(f"{where}: there is no text in {name!r}, {why}. {_has(row)}")


def _truth(row: Mapping[str, object], name: str, where: str) -> bool:
    if name not in row:
        raise InputError(f"{where}: {name!r} is missing, whether that model was right. {_has(row)}")
    value = row[name]
    known = _TRUTH.get(value.lower() if isinstance(value, str) else None)
    if isinstance(value, bool | int | float) and value in (0, 1):
        known = bool(value)
    if known is None:
        raise InputError(f"{where}: {name!r} is true or false (or 1 or 0), not {value!r}")
    return known


def _has(row: Mapping[str, object]) -> str:
    return f"The row has {', '.join(map(repr, row)) or 'nothing'}"
