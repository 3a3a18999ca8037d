"""Labelled: texts with their right labels, and checks of such data before a fit."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from moa.core._text import words_in
from moa.core.errors import InputError
from moa.core.node import Frozen
from moa.core.questions import NONE_OF_THESE, Question

CHOSEN = "chosen"
"""Mark of a row that somebody chose to be labelled."""
PERSON = "person"
"""Labeller of a row that a person has labelled."""
OTHERWISE = "another decision differs"
"""Label of a text for which a large model makes another decision differently. It is never given as
an answer."""
_LIKE_TEXTS, _LONG = 0.5, 30
"""A column has no labels if more than this share of its values is distinct, and most have at
least this many characters."""
_LIKE_NUMBERS = 0.95
"""A column has no labels if more than this share of its values is distinct, however short they
are."""
_ALIKE = 0.8
"""Minimum share of common words for two texts to be near-copies."""
_LOOK_BACK = 50
"""Number of earlier texts with the same rare word to compare with."""
_TRUTHS = {"true": "yes", "false": "no"}
_MANY = 30
"""Minimum rows to judge whether a column has labels."""


def _check_not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


class Labelled(Frozen):
    """A text with its right label.

    Examples:
        >>> Labelled(text="My card is gone.", label="lost card").label
        'lost card'
    """

    text: Annotated[str, AfterValidator(_check_not_blank)]
    label: Annotated[str, AfterValidator(_check_not_blank)]
    case: str | None = Field(default=None, coerce_numbers_to_str=True)
    """Groups related texts, such as one thread; they are held out together."""
    chosen: Annotated[bool, BeforeValidator(lambda value: value or False)] = False
    """True if it was chosen for labelling, not drawn at random. It is used for fitting and never
    held out, since the guarantee needs random texts."""
    labelled_by: str | None = None
    """Who labelled it, if known."""


class LoggedRow(Labelled):
    """A row of a log: a text with answers, by names of questions.

    Examples:
        >>> LoggedRow.model_validate({"text": "Hi", "intent": "thanks"}).answers("intent")
        {'intent': 'thanks'}
    """

    model_config = ConfigDict(extra="allow")
    label: str = ""
    """The answer to the learned question, which may also be under the question's own name."""

    def answers(self, name: str) -> dict[str, object]:
        """Return the answers, including that to the learned question.

        Raises:
            InputError: it has no answer to the learned question.
        """
        answers: dict[str, object] = dict(self.model_extra or {})
        if self.label:
            answers[name] = self.label
        if name not in answers:
            raise InputError(f"the row with {self.text[:60]!r} has no label, and no {name!r}")
        return answers


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanRows:
    """Labelled texts without duplicates, and findings about them."""

    rows: tuple[Labelled, ...]
    notes: tuple[str, ...]
    """Findings, in sentences."""
    duplicates: int
    """Rows beyond one for each text."""

    @property
    def cases(self) -> tuple[str, ...]:
        """The case of each row, else its text."""
        return tuple(
            normalise_text(row.text) if row.case is None else row.case for row in self.rows
        )

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by label, in alphabetical order."""
        return dict(sorted(Counter(row.label for row in self.rows).items()))

    @property
    def labellers(self) -> dict[str, int]:
        """Number of rows by labeller, as far as known."""
        counts = Counter(row.labelled_by for row in self.rows if row.labelled_by)
        return dict(sorted(counts.items()))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of texts and labels, independent of order."""
        lines = sorted(json.dumps([row.text, row.label]) for row in self.rows)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def clean_rows(rows: Sequence[Labelled], labels: Sequence[str] | None = None) -> CleanRows:
    """Join rows of one text, and look for faults that would make a calibration worthless.

    `labels` are the allowed ones; `None` allows those of the rows.

    Raises:
        InputError: there are no rows, a label isn't one of `labels`, all rows have one label, or
            the labels look like texts and weren't given.
    """
    if rows and (labels is None or any(row.label not in labels for row in rows)):
        _check_column(rows)
    rows_by_text = join_repeats(rows)
    check_labels([*rows_by_text.values()], labels)
    row_labels = sorted({row.label for row in rows_by_text.values()})
    if len(row_labels) == 1:
        raise InputError(
            f"all {len(rows)} rows are labelled {row_labels[0]!r}, so there is nothing to tell "
            "apart: give rows of at least two labels"
        )
    # A chosen row of a held-out case would reveal what the case is about.
    cases = {row.case for row in rows_by_text.values() if not row.chosen and row.case is not None}
    unique = tuple(row for row in rows_by_text.values() if not (row.chosen and row.case in cases))
    oddities = _describe_oddities(
        len(rows),
        doubled=len(rows) - len(rows_by_text),
        count=sum(row.chosen for row in unique),
        leaks=len(rows_by_text) - len(unique),
        unseen=sorted(set(labels or ()) - set(row_labels)),
    )
    notes = (*warn_of_corrections(rows), *oddities)
    return CleanRows(rows=unique, notes=notes, duplicates=len(rows) - len(rows_by_text))


def join_repeats(rows: Iterable[Labelled]) -> dict[str, Labelled]:
    """Return one row for each text from `normalise_text`, in the order of the first ones.

    The last row corrects the label of those before. The text was drawn at random if one of its rows
    was: its label had no part in that.
    """
    rows_by_text: dict[str, Labelled] = {}
    for row in rows:
        first = rows_by_text.setdefault(normalise_text(row.text), row)
        if first is not row:
            rows_by_text[normalise_text(row.text)] = first.model_copy(
                update={
                    "label": row.label,
                    "labelled_by": row.labelled_by,
                    "case": row.case if first.case is None else first.case,
                    "chosen": first.chosen and row.chosen,
                }
            )
    return rows_by_text


def _describe_oddities(
    rows: int, *, doubled: int, count: int, leaks: int, unseen: Sequence[str]
) -> Iterator[str]:
    if doubled:
        yield (
            f"{doubled} of {rows} rows repeat the text of another and are left out: copies "
            "would make the guarantee look surer than it is"
        )
    if count:
        yield (
            f"{count} rows were chosen to be labelled: they are fitted to and not held out, since "
            "a guarantee can only be found on rows that were drawn at random"
        )
    if leaks:
        yield f"{leaks} chosen rows are left out: their case has rows drawn at random too"
    if unseen:
        yield f"no row is labelled {', '.join(map(repr, unseen))}: nothing was learnt about that"


def warn_of_corrections(rows: Sequence[Labelled]) -> Iterator[str]:
    """Yield a warning if rows of one text have different labels."""
    last_rows = join_repeats(rows)
    torn = {key for row in rows if row.label != last_rows[key := normalise_text(row.text)].label}
    if torn:
        yield f"{len(torn)} texts stand there with more than one label; the last one counts"


def warn_of_near_copies(rows: Sequence[Labelled]) -> Iterator[str]:
    """Yield a warning if rows are near-copies of earlier ones without the same case.

    Near-copies share four fifths of their words (Jaccard). They must then share one of their rarest
    words, so only such pairs are compared (prefix filtering; Bayardo, Ma and Srikant 2007, "Scaling
    up all pairs similarity search"). If many texts share such a word, as from one template, each is
    compared only with the latest: time stays linear, but a copy may be missed.
    """
    words = [frozenset(words_in(row.text)) for row in rows]
    frequency = Counter(word for row_words in words for word in row_words)
    seen: dict[str, list[int]] = {}
    copies = 0
    for index, (row, row_words) in enumerate(zip(rows, words, strict=True)):
        ranked = sorted(row_words, key=lambda word: (frequency[word], word))
        rarest = ranked[: len(ranked) - ceil(_ALIKE * len(ranked)) + 1]
        candidates = {
            candidate for word in rarest for candidate in seen.get(word, [])[-_LOOK_BACK:]
        }
        copies += any(
            len(row_words & words[candidate]) >= _ALIKE * len(row_words | words[candidate])
            and (row.case is None or row.case != rows[candidate].case)
            for candidate in candidates
        )
        for word in rarest:
            seen.setdefault(word, []).append(index)
    if copies:
        yield (
            f"at least {copies} of {len(rows)} rows are near-copies of an earlier one without the "
            f"same case ({_ALIKE:.0%} of the words of both are the same): they are right or wrong "
            "together, so the guarantee is broken more often than stated. Give rows that belong "
            "together the same 'case', or leave the copies out"
        )


def check_labels(rows: Sequence[Labelled], labels: Sequence[str] | None) -> None:
    """Raise `InputError` without rows, or for labels not allowed; `None` allows any."""
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
    labels = {row.label for row in rows}
    is_long = median(len(row.label) for row in rows) >= _LONG
    if len(rows) < _MANY or len(labels) <= (_LIKE_TEXTS if is_long else _LIKE_NUMBERS) * len(rows):
        return
    texts = {row.text for row in rows}
    is_swapped = len(texts) <= _LIKE_TEXTS * len(rows)
    example = rows[0].label if len(rows[0].label) <= 40 else f"{rows[0].label[:40]}…"
    raise InputError(
        f"the labels of {len(rows)} rows are {len(labels)} different values, such as "
        f"{example!r}: these are no labels. "
        + (
            f"The texts are only {len(texts)} different ones: are the two columns swapped?"
            if is_swapped
            else "Is the label in another column?"
        )
    )


def label_of(question: Question, value: object) -> str | None:
    """Return the name of the option that a value in a row stands for; `None` for an empty value.

    A value is an option's name or its value; true or false, also as a word; null or "none" for
    "none of these".

    Raises:
        InputError: it isn't one of the options.
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


def is_marked(fields: Mapping[str, object], mark: str) -> bool:
    """Return True if a row has a mark, such as `CHOSEN`. In a table it may say so by a word."""
    value = fields.get(mark)
    return value is True or str(value).strip().casefold() in ("true", "yes", "1")


def row_value(question: Question, name: str) -> str | bool | None:
    """Return an option's value in a row: its name, true or false, or null for "none of these"."""
    if question.kind == "predicate":
        return name == question.options[0].name
    return None if name == NONE_OF_THESE else name


def normalise_text(text: str) -> str:
    """Normalise a text for comparison: words in lower case, single spaces."""
    return " ".join(text.split()).casefold()
