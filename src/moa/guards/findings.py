"""Findings: what recognisers find in a text, however it is written, and where they overlap.

A text is read folded too, as it is meant: digits of other scripts and full-width forms become
ASCII, odd blanks and dashes plain ones, and characters that nobody sees go (Unicode Technical
Report 36, "Unicode Security Considerations"). Where each character came from is kept, so that what
is found there can be taken out of the text as it was written.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

from moa.errors import GuardFailed

_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Characters that show nothing and are not of the category of formats."""

_LONGEST = 4
"""Characters that one stands for at most, as in `(10)`; more are a phrase in Arabic, whose many
times over would be a long text to read."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A part of a text that is to be kept from a model. It doesn't hold the part itself."""

    kind: str
    """What it is, in capitals: `EMAIL`."""
    start: int
    end: int
    """Where it stands: `text[start:end]`."""
    score: float
    """How sure the recogniser is, from 0 to 1; 1 where a checksum holds."""
    checked: bool = True
    """Whether it was looked at; where a text has too many numbers, their shape is enough."""

    def moved(self, by: int) -> Finding:
        """Say where it is in a text that begins so many characters earlier."""
        return Finding(self.kind, self.start + by, self.end + by, self.score, self.checked)


class Recognizer(Protocol):
    """Finds secrets of one or several kinds."""

    @property
    def name(self) -> str:
        """Shown in errors."""
        ...

    def find(self, text: str, /) -> Iterable[Finding]:
        """Find them. Whatever it raises stops the request."""
        ...


def find(
    recognizers: Sequence[Recognizer],
    text: str,
    *,
    least: float,
    ignore: Collection[str] = (),
) -> list[Finding]:
    """Find everything in a text with a score of at least `least`, in order and without overlaps.

    Raises:
        GuardFailed: a recogniser raised. What it said isn't told, since the text may be in it.
    """
    found: list[Finding] = []
    for view in views(text):
        for recognizer in recognizers:
            for finding in _asked(recognizer, view.text):
                counts = finding.score >= least and finding.kind not in ignore
                if counts and finding.end > finding.start:
                    start, end = view.span(finding.start, finding.end)
                    found.append(replace(finding, start=start, end=end))
    return merged(found)


def _asked(recognizer: Recognizer, text: str) -> list[Finding]:
    failure = ""
    try:
        return list(recognizer.find(text))
    except Exception as error:  # noqa: BLE001  whatever it is, nothing may be sent
        failure = type(error).__name__
    # Raised out here, so that the error doesn't carry the other one, which may quote the text.
    raise GuardFailed(
        f"the recogniser {recognizer.name!r} raised {failure}, so nothing was sent. "
        "Mend it, or leave it out; what it said is not shown, as it may hold what it looked for"
    )


def merged(found: Iterable[Finding]) -> list[Finding]:
    """Make one finding of those that overlap.

    It has the kind of the one with the highest score, of the longest among those, and covers all
    of them: no part of a finding is left over.
    """
    made: list[Finding] = []
    cluster: list[Finding] = []
    end = -1
    for finding in sorted(found, key=lambda f: f.start):
        if finding.start >= end and cluster:
            made.append(_one(cluster))
            cluster = []
        cluster.append(finding)
        end = max(end, finding.end)
    return [*made, _one(cluster)] if cluster else []


def _one(cluster: Sequence[Finding]) -> Finding:
    if len(cluster) == 1:
        return cluster[0]
    best = max(cluster, key=lambda f: (f.score, f.end - f.start, -f.start, f.kind))
    return replace(best, start=cluster[0].start, end=max(f.end for f in cluster))


@dataclass(frozen=True)
class View:
    """A way to read a text."""

    text: str
    """As it is read."""
    written: str | None = None
    """As it was written; `None`: the same."""
    meant: Mapping[int, str] = field(default_factory=dict[int, str])
    """What is read for a character of what was written, where it is another."""

    @cached_property
    def _origins(self) -> Sequence[int] | None:
        """For each character its place in what was written; `None` where it is the same."""
        if self.written is None or all(len(meant) == 1 for meant in self.meant.values()):
            return None
        lengths = {chr(code): len(meant) for code, meant in self.meant.items()}
        each = enumerate(lengths.get(character, 1) for character in self.written)
        return [place for place, length in each for _ in range(length)]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Say where a part of it stands in what was written."""
        if self._origins is None:
            return start, end
        return self._origins[start], self._origins[end - 1] + 1


def views(text: str) -> list[View]:
    """Give the ways to read a text in which a secret could show; the first is as it was written.

    A plain text has one. Letters of scripts that put no blanks between words are blanked in one
    of the others, since the end of a word is where many patterns begin.
    """
    found = [View(text)]
    if text.isascii():
        return found
    unusual = [character for character in set(text) if not character.isascii()]
    # What nobody sees may stand inside a number, or between a word and one.
    for unseen, letter in (("", None), (" ", None), ("", " ")):
        meant = {ord(character): _read(character, unseen, letter) for character in unusual}
        view = View(text.translate(meant), text, meant)
        if all(view.text != other.text for other in found):
            found.append(view)
    return found


def _read(character: str, unseen: str, letter: str | None) -> str:
    """Read a character that nobody sees, or a letter of a script without blanks, as is said."""
    if _is_unseen(character):
        return unseen
    if letter is not None and unicodedata.category(character) == "Lo":
        return letter
    return _plain(character)


def _is_unseen(character: str) -> bool:
    return (
        unicodedata.category(character) == "Cf"
        or character in _UNSEEN
        or "\ufe00" <= character <= "\ufe0f"
    )


def _plain(character: str) -> str:
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    category = unicodedata.category(character)
    if category == "Pd" or character == "\N{MINUS SIGN}":
        return "-"
    if category == "Zs":
        return " "
    meant = unicodedata.normalize("NFKC", character)
    return meant if len(meant) <= _LONGEST else character
