"""Labelled: texts with their right labels, and what is wrong with them before a fit."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from moa._text import words_in
from moa.errors import InputError
from moa.node import Frozen
from moa.questions import NONE_OF_THESE, Question

OTHERWISE = "another decision differs"
"""Label of a text for which a large model makes another decision otherwise. It is never given."""
_LIKE_TEXTS, _LONG = 0.5, 30
"""A column in which more than this share of values are different, and most are at least this long,
in characters, holds no labels."""
_LIKE_NUMBERS = 0.95
"""Nor does one in which more than this share is different, however short."""
_ALIKE = 0.8
"""Share of the words of two texts together that both have, from which on they are near-copies."""
_LOOK_BACK = 50
"""Texts with one rare word that a text is compared with."""
_TRUTHS = {"true": "yes", "false": "no"}
_MANY = 30
"""Fewer rows say nothing of whether a column holds labels."""


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


class Labelled(Frozen):
    """A text with its right label.

    Examples:
        >>> Labelled(text="My card is gone.", label="lost card").label
        'lost card'
    """

    text: Annotated[str, AfterValidator(_filled)]
    label: Annotated[str, AfterValidator(_filled)]
    case: str | None = Field(default=None, coerce_numbers_to_str=True)
    """Groups related texts, such as one thread; they are held out together."""
    chosen: Annotated[bool, BeforeValidator(lambda given: given or False)] = False
    """True if it was chosen for labelling, not drawn at random. It is used for fitting and never
    held out, since the guarantee needs random texts."""
    labelled_by: str | None = None
    """Who labelled it, if known."""


class Logged(Labelled):
    """A row of a log: a text with answers, by the names of the questions.

    Examples:
        >>> Logged.model_validate({"text": "Hi", "intent": "thanks"}).answers("intent")
        {'intent': 'thanks'}
    """

    model_config = ConfigDict(extra="allow")
    label: str = ""
    """The answer to the question that is learned, whatever its name; it may stand under that."""

    def answers(self, name: str) -> dict[str, object]:
        """Give the answers, that to the question that is learned among them.

        Raises:
            InputError: it has none to that.
        """
        found: dict[str, object] = dict(self.model_extra or {})
        if self.label:
            found[name] = self.label
        if name not in found:
            raise InputError(f"the row with {self.text[:60]!r} has no label, and no {name!r}")
        return found


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
        return tuple(same_text(row.text) if row.case is None else row.case for row in self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by label, in alphabetical order."""
        return dict(sorted(Counter(row.label for row in self.rows).items()))

    @property
    def by(self) -> dict[str, int]:
        """Rows by who labelled them, as far as that is known."""
        by = Counter(row.labelled_by for row in self.rows if row.labelled_by)
        return dict(sorted(by.items()))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of texts and labels, in any order."""
        lines = sorted(json.dumps([row.text, row.label]) for row in self.rows)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sort_out(rows: Sequence[Labelled], labels: Sequence[str] | None = None) -> Sorted:
    """Leave out rows that come twice, and look for what would make a calibration worthless.

    `labels` are those there may be; `None` takes those that the rows have.

    Raises:
        InputError: there are no rows, a label is none of `labels`, all rows have one label, or
            the labels look like texts and weren't given.
    """
    if rows and (labels is None or any(row.label not in labels for row in rows)):
        _check_column(rows)
    check_labels(rows, labels)
    found = sorted({row.label for row in rows})
    if len(found) == 1:
        raise InputError(
            f"all {len(rows)} rows are labelled {found[0]!r}, so there is nothing to tell apart: "
            "give rows of at least two labels"
        )
    kept: dict[str, Labelled] = {}
    torn: set[str] = set()
    for row in rows:
        if kept.setdefault(same_text(row.text), row).label != row.label:
            torn.add(same_text(row.text))
    # A chosen row would tell what a case is about that is held out.
    cases = {row.case for row in kept.values() if not row.chosen and row.case is not None}
    unique = tuple(row for row in kept.values() if not (row.chosen and row.case in cases))
    notes = _oddities(
        len(rows),
        doubled=len(rows) - len(kept),
        torn=len(torn),
        chosen=sum(row.chosen for row in unique),
        leaks=len(kept) - len(unique),
        unseen=sorted(set(labels or ()) - set(found)),
    )
    return Sorted(rows=unique, notes=tuple(notes), duplicates=len(rows) - len(kept))


def _oddities(
    rows: int, *, doubled: int, torn: int, chosen: int, leaks: int, unseen: Sequence[str]
) -> Iterator[str]:
    if doubled:
        yield (
            f"{doubled} of {rows} rows repeat the text of another and are left out: copies "
            "would make the guarantee look surer than it is"
        )
    if torn:
        yield f"{torn} texts stand there with more than one label; the first one counts"
    if chosen:
        yield (
            f"{chosen} rows were chosen to be labelled: they are fitted to and not held out, since "
            "a guarantee can only be found on rows that were drawn at random"
        )
    if leaks:
        yield f"{leaks} chosen rows are left out: their case has rows drawn at random too"
    if unseen:
        yield f"no row is labelled {', '.join(map(repr, unseen))}: nothing was learnt about that"


def near_copies_of(rows: Sequence[Labelled]) -> Iterator[str]:
    """Warn of near-copies of an earlier row, which the rows of one case may be, and no others.

    Two texts are that share four fifths of all their words (Jaccard). They must then share one of
    their rarest, so only such pairs are compared (prefix filtering; Bayardo, Ma and Srikant 2007,
    "Scaling up all pairs similarity search"). Of many texts with one such word, as of one template,
    each is compared with the latest, so that time stays linear and a copy may be missed.
    """
    words = [frozenset(words_in(row.text)) for row in rows]
    frequent = Counter(word for found in words for word in found)
    seen: dict[str, list[int]] = {}
    copies = 0
    for place, (row, found) in enumerate(zip(rows, words, strict=True)):
        ranked = sorted(found, key=lambda word: (frequent[word], word))
        rarest = ranked[: len(ranked) - ceil(_ALIKE * len(ranked)) + 1]
        others = {other for word in rarest for other in seen.get(word, [])[-_LOOK_BACK:]}
        copies += any(
            len(found & words[other]) >= _ALIKE * len(found | words[other])
            and (row.case is None or row.case != rows[other].case)
            for other in others
        )
        for word in rarest:
            seen.setdefault(word, []).append(place)
    if copies:
        yield (
            f"at least {copies} of {len(rows)} rows are near-copies of an earlier one without the "
            f"same case ({_ALIKE:.0%} of the words of both are the same): they are right or wrong "
            "together, so the guarantee is broken more often than stated. Give rows that belong "
            "together the same 'case', or leave the copies out"
        )


def check_labels(rows: Sequence[Labelled], labels: Sequence[str] | None) -> None:
    """Make sure that there are rows, and that their labels are among some; `None`: any will do."""
    if not rows:
        raise InputError("there are no labelled rows: give some with 'text' and 'label'")
    unknown = Counter(row.label for row in rows if labels is not None and row.label not in labels)
    if unknown:
        label, times = unknown.most_common(1)[0]
        raise InputError(
            f"{unknown.total()} of {len(rows)} rows have a label that is none of "
            f"{', '.join(labels or ())}; the most frequent is {label!r}, {times} times"
        )


def _check_column(rows: Sequence[Labelled]) -> None:
    different = {row.label for row in rows}
    long = median(len(row.label) for row in rows) >= _LONG
    if len(rows) < _MANY or len(different) <= (_LIKE_TEXTS if long else _LIKE_NUMBERS) * len(rows):
        return
    texts = {row.text for row in rows}
    swapped = len(texts) <= _LIKE_TEXTS * len(rows)
    shown = rows[0].label if len(rows[0].label) <= 40 else f"{rows[0].label[:40]}…"
    raise InputError(
        f"the labels of {len(rows)} rows are {len(different)} different values, such as "
        f"{shown!r}: these are no labels. "
        + (
            f"The texts are only {len(texts)} different ones: are the two columns swapped?"
            if swapped
            else "Is the label in another column?"
        )
    )


def label_of(question: Question, value: object) -> str | None:
    """Give the name of the option that a value in a row means.

    That is its name or its value; true and false, also in words as a table has them; and null or
    "none" for "none of these". It is `None` where the value says nothing.

    Raises:
        InputError: it is none of the options.
    """
    names = [option.name for option in question.options]
    for option in question.options:
        if value == option.name or (value == option.value and type(value) is type(option.value)):
            return option.name
    if isinstance(value, str) and (word := value.strip().casefold()) not in names:
        if question.kind == "predicate" and word in _TRUTHS:
            return _TRUTHS[word]
        if word == "none" and NONE_OF_THESE in names:
            return NONE_OF_THESE
    if value is None or value == "":
        return None
    raise InputError(f"{question.name}: {value!r} is none of {', '.join(names)}")


def written_as(question: Question, name: str) -> str | bool | None:
    """Give what a row says for an option: its name; true or false; null for "none of these"."""
    if question.kind == "predicate":
        return name == question.options[0].name
    return None if name == NONE_OF_THESE else name


def same_text(text: str) -> str:
    """Give what two texts share that count as the same: their words, in small letters."""
    return " ".join(text.split()).casefold()
