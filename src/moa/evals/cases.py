"""Cases: rows of data as requests with what is expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from moa.errors import InputError

Kind = Literal["labels", "texts"]
"""Whether designs are measured by the label they give, or by the text they write."""

_ASKED = ("text", "prompt", "question")
_EXPECTED: Mapping[str, Kind] = {"label": "labels", "reference": "texts", "answer": "texts"}


@dataclass(frozen=True, slots=True)
class Case:
    """A request, and what is expected as its answer."""

    id: str
    request: str
    expected: str
    """The right label, or a text that would be a good reply."""


class Data(NamedTuple):
    """Cases, all of one kind."""

    kind: Kind
    cases: tuple[Case, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that are expected, in alphabetical order."""
        return tuple(sorted({case.expected for case in self.cases}))


def cases_of(rows: Iterable[Mapping[str, object]]) -> Data:
    """Read rows: `text`, `prompt` or `question`, and `label`, `reference` or `answer`.

    Args:
        rows: In the order of the report; an `id` is kept, else the place counts from 1.

    Raises:
        InputError: there are no rows, one lacks what is asked or expected, or some have labels
            and others texts.
    """
    found: list[Case] = []
    kinds: set[Kind] = set()
    for place, row in enumerate(rows, start=1):
        asked = next((name for name in _ASKED if isinstance(row.get(name), str)), None)
        expected = next((name for name in _EXPECTED if row.get(name) not in (None, "")), None)
        if asked is None or expected is None:
            has = ", ".join(map(repr, row)) or "nothing"
            raise InputError(
                f"row {place} has {has}: a row to compare on needs a 'text' or 'prompt', and a "
                "'label' or 'reference'"
            )
        kinds.add(_EXPECTED[expected])
        name = row.get("id", place)
        found.append(Case(str(name), str(row[asked]), str(row[expected])))
    if not found:
        raise InputError("there are no rows to compare on")
    if len(kinds) > 1:
        raise InputError("some rows have a 'label' and others a 'reference': compare them apart")
    return Data(kinds.pop(), tuple(found))
