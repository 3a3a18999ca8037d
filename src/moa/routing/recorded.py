"""Recorded answers: rows as requests to be routed, and whether both models were right on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moa.batch import Row
from moa.errors import InputError
from moa.rows import Format, checked

PROMPT, REPLY = "prompt", "weak_response"
WEAK, STRONG = "weak_correct", "strong_correct"
_NO_FIELDS = {"id", PROMPT, REPLY, "strong_response", WEAK, STRONG}
_LONGEST_FIELD = 100
_TRUTH: Mapping[object, bool] = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Case:
    """A request to be routed."""

    prompt: str
    reply: str | None = None
    """What the weak model answered; `None` where it wasn't asked yet."""
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    """Whatever else is known of it, such as its subject."""


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


def case_of(row: Mapping[str, object], *, where: str, replied: bool | None = None) -> Case:
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


def recorded_of(row: Mapping[str, object], *, where: str, replied: bool | None = None) -> Recorded:
    """Read a request and whether each model was right: true and false, or 1 and 0.

    Args:
        row: Its fields.
        where: File and line, for errors.
        replied: As in `case_of`.

    Raises:
        InputError: something is missing, or neither true nor false.
    """
    case = case_of(row, where=where, replied=replied)
    return Recorded(case, _truth(row, WEAK, where), _truth(row, STRONG, where))


def read_recorded(
    source: str | Path, *, format: Format | None = None, replied: bool | None = None
) -> list[Recorded]:
    """Read a file of requests that both models have answered.

    Args:
        source: A `.jsonl` or `.csv` file, `-` for standard input.
        format: How rows stand in it; `None` goes by its name.
        replied: As in `case_of`.

    Raises:
        ConfigError: it can't be read, is empty, or a line is no object.
        InputError: something is missing in a row.
    """
    return [
        recorded_of(fields, where=where, replied=replied)
        for _, fields, where in _fields(source, format)
    ]


def read_requests(
    source: str | Path, *, format: Format | None = None, replied: bool | None = None
) -> list[tuple[Row, Case]]:
    """Read a file of requests to be routed, in the order of its rows; see `read_recorded`."""
    return [
        (row, case_of(fields, where=where, replied=replied))
        for row, fields, where in _fields(source, format)
    ]


def _fields(
    source: str | Path, format: Format | None
) -> Iterator[tuple[Row, Mapping[str, object], str]]:
    for row, where in checked(source, format=format):
        if isinstance(row.value, str):
            raise InputError(f"{where}: a row has fields such as 'prompt', and this one is a text")
        yield row, row.value, where


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
