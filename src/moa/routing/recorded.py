"""Recorded answers: requests to route, and whether both models were right on them.

Features, computed from the request or the weak model's reply, indicate how hard it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import log, log1p
from statistics import fmean
from zlib import crc32

from pydantic import ConfigDict, Field, FiniteFloat

from moa.core.errors import InputError
from moa.core.node import Frozen
from moa.decisions.arrays import Floats, Ints, np
from moa.guards.arithmetic import NUMBER
from moa.guards.reply_signs import reply_features

_NO_FIELDS = {"id", "strong_response"}
_LONGEST_FIELD = 100
"""Maximum number of characters of a field that groups rows."""
BUCKETS = 2**13
"""Number of hash buckets of the n-grams."""
_SENTENCE = re.compile(r"[.?!](?:\s|$)")
_FORMULA = re.compile(r"[=^<>\\{}|]")
_SHOUTED = re.compile(r"\b[A-Z]{2,}\b")
_LENGTHS = (2, 3, 4)
_LONGEST = 20_000
"""Maximum number of characters of a text to count n-grams in."""
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Case:
    """A request to route."""

    prompt: str
    reply: str | None = None
    """Answer of the weak model; `None` if it wasn't asked yet."""
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    """Other fields of the request, such as its subject."""
    features: Mapping[str, float] = field(default_factory=dict[str, float])
    """Your own numbers for the request, by name."""


class Request(Frozen):
    """A row to route: `prompt`, and other fields, of which only short texts are used."""

    model_config = ConfigDict(extra="allow")

    prompt: str
    weak_response: str | None = None
    """Answer of the weak model."""
    features: dict[str, FiniteFloat] = Field(default_factory=dict[str, float])
    """Numbers that you compute for a request, by name, besides the built-in ones. All rows that a
    router is fitted on must have the same ones, and so must the requests that it routes."""

    @cached_property
    def case(self) -> Case:
        """The row as a `Case`; of its other fields, only short texts."""
        fields = {
            name: value
            for name, value in (self.model_extra or {}).items()
            if name not in _NO_FIELDS
            and isinstance(value, str)
            and 0 < len(value) <= _LONGEST_FIELD
        }
        return Case(self.prompt, self.weak_response, fields, self.features)


class RecordedRequest(Request):
    """A row that both models have answered."""

    weak_correct: bool
    strong_correct: bool

    @property
    def gain(self) -> int:
        """Gain of the strong model: 1, 0 or -1."""
        return int(self.strong_correct) - int(self.weak_correct)


@dataclass(frozen=True, slots=True)
class Table:
    """Cases as numbers, with a column for each feature."""

    cases: tuple[Case, ...]
    names: tuple[str, ...]
    values: Floats
    """Array of cases and features."""

    def __getitem__(self, indices: Ints) -> Table:
        """Return some of the cases."""
        cases = tuple(self.cases[index] for index in map(int, indices))
        return Table(cases, self.names, self.values[indices])

    def columns(self, names: Sequence[str]) -> Floats:
        """Return some of the features, in the order of `names`."""
        indices = {name: number for number, name in enumerate(self.names)}
        return self.values[:, [indices[name] for name in names]]


def describe(cases: Sequence[Case], own_names: Sequence[str] = ()) -> Table:
    """Compute the features of cases: of their replies if they have one, else of their prompts.

    Their `own_names` features are added, and replace computed ones of the same name.

    Raises:
        InputError: a case lacks one of them.
    """
    rows: list[dict[str, float]] = []
    for number, case in enumerate(cases, start=1):
        if lacks := [name for name in own_names if name not in case.features]:
            raise InputError(f"request {number} has no {lacks[0]!r} in its `features`")
        prompt, reply = case.prompt, case.reply
        computed = prompt_features(prompt) if reply is None else reply_features(prompt, reply)
        rows.append(computed | {name: case.features[name] for name in own_names})
    names = tuple(rows[0]) if rows else ()
    values = np.array([[features[name] for name in names] for features in rows], dtype=float)
    return Table(tuple(cases), names, values.reshape(len(cases), len(names)))


def prompt_features(prompt: str) -> dict[str, float]:
    """Compute length, form, numbers and words of a prompt in any language with spaces."""
    words = prompt.split()
    return {
        "characters": log1p(len(prompt)),
        "words": log1p(len(words)),
        "sentences": float(len(_SENTENCE.findall(prompt))),
        "lines": float(prompt.count("\n")),
        "questions": float(prompt.count("?")),
        "quotes": float(prompt.count('"')),
        "capitals": float(len(_SHOUTED.findall(prompt))),
        "mean word": fmean(map(len, words)) if words else 0.0,
        "long words": fmean(len(word) > 10 for word in words) if words else 0.0,
        "different words": len({w.lower() for w in words}) / len(words) if words else 0.0,
        "figures": float(len(NUMBER.findall(prompt))),
        "digits": sum(map(str.isdigit, prompt)) / max(1, len(prompt)),
        "formula signs": float(len(_FORMULA.findall(prompt))),
    }


def grams(text: str) -> dict[int, float]:
    """Count the n-grams of a text, by bucket. A count c weighs 1 + ln c.

    An n-gram has 2 to 4 bytes of UTF-8, inside a word with a space at both ends. A number counts as
    one digit. Hashing (Weinberger et al. 2009, arXiv 0902.2206) keeps a fitted model small.
    """
    counts: Counter[int] = Counter()
    for word in _DIGITS.sub("0", text[:_LONGEST].lower()).split():
        padded = f" {word} ".encode()
        for length in _LENGTHS:
            for start in range(len(padded) - length + 1):
                counts[crc32(padded[start : start + length]) % BUCKETS] += 1
    return {bucket: 1 + log(count) for bucket, count in counts.items()}


KNOWN = frozenset(prompt_features("")) | frozenset(reply_features("", ""))
"""Names of the built-in features."""
