"""Labelled: texts with their right labels, and what is wrong with them before a fit."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from moa.errors import InputError

_LIKE_TEXTS = 0.5
"""A column in which more than this share of values are different, and long, holds no labels."""
_MANY = 30
"""Fewer rows say nothing of whether a column holds labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A text with its right label."""

    text: str
    label: str
    case: str | None = None
    """What it is about, where several texts are about one thing; they are held out together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted:
    """Labelled texts, each once, and what was found out about them on the way."""

    rows: tuple[Labelled, ...]
    notes: tuple[str, ...]
    """In sentences."""
    duplicates: int
    """Rows left out, since an earlier one has the same text."""

    @property
    def cases(self) -> tuple[str, ...]:
        """What each row belongs to: its case, else its text."""
        return tuple(_key(row.text) if row.case is None else row.case for row in self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by label, in alphabetical order."""
        return dict(sorted(Counter(row.label for row in self.rows).items()))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of texts and labels, in any order."""
        lines = sorted(json.dumps([row.text, row.label]) for row in self.rows)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sort_out(rows: Sequence[Labelled], labels: Sequence[str] | None = None) -> Sorted:
    """Leave out rows that come twice, and look for what would make a calibration worthless.

    Args:
        rows: As they were given.
        labels: The labels there may be; `None` takes those that the rows have.

    Raises:
        InputError: there are no rows, a label is none of `labels`, all rows have one label, or
            the labels look like texts.
    """
    if not rows:
        raise InputError("there are no labelled rows: give some with 'text' and 'label'")
    _check_column(rows)
    if labels is not None:
        _check_labels(rows, labels)
    found = sorted({row.label for row in rows})
    if len(found) == 1:
        raise InputError(
            f"all {len(rows)} rows are labelled {found[0]!r}, so there is nothing to tell apart: "
            "give rows of at least two labels"
        )
    kept: dict[str, Labelled] = {}
    torn: set[str] = set()
    for row in rows:
        if kept.setdefault(_key(row.text), row).label != row.label:
            torn.add(_key(row.text))
    unique = tuple(kept.values())
    notes: list[str] = []
    if doubled := len(rows) - len(unique):
        notes.append(
            f"{doubled} of {len(rows)} rows repeat the text of another and are left out: copies "
            "would make the promise look surer than it is"
        )
    if torn:
        notes.append(
            f"{len(torn)} texts stand there with more than one label; the first one counts"
        )
    if missing := sorted(set(labels or ()) - set(found)):
        notes.append(
            f"no row is labelled {', '.join(map(repr, missing))}: nothing was learnt about that"
        )
    return Sorted(rows=unique, notes=tuple(notes), duplicates=doubled)


def _check_labels(rows: Sequence[Labelled], labels: Sequence[str]) -> None:
    unknown = Counter(row.label for row in rows if row.label not in labels)
    if unknown:
        label, times = unknown.most_common(1)[0]
        raise InputError(
            f"{unknown.total()} of {len(rows)} rows have a label that is none of "
            f"{', '.join(labels)}; the most frequent is {label!r}, {times} times"
        )


def _check_column(rows: Sequence[Labelled]) -> None:
    different = {row.label for row in rows}
    if len(rows) < _MANY or len(different) <= _LIKE_TEXTS * len(rows):
        return
    texts = {row.text for row in rows}
    swapped = len(texts) <= _LIKE_TEXTS * len(rows)
    raise InputError(
        f"the labels of {len(rows)} rows are {len(different)} different values, such as "
        f"{_short(rows[0].label)!r}: these are no labels. "
        + (
            f"The texts are only {len(texts)} different ones: are the two columns swapped?"
            if swapped
            else "Is the label in another column?"
        )
    )


def _key(text: str) -> str:
    return " ".join(text.split()).casefold()


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
