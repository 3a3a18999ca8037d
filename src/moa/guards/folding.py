"""Folding: a text as it is meant, where it is written so that no pattern finds what is in it.

Digits of other scripts and full-width forms become ASCII, odd blanks and dashes plain ones, and
characters that nobody sees go (Unicode Technical Report 36, "Unicode Security Considerations").
Where each character came from is kept, so that what is found there can be taken out of the text as
it was written.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Characters that show nothing and are not of the category of formats."""

_LONGEST = 4
"""Characters that one stands for at most, as in `(10)`; more are a phrase in Arabic, whose many
times over would be a long text to read."""


@dataclass(frozen=True)
class View:
    """A way to read a text.

    Args:
        text: As it is read.
        written: As it was written; `None`: the same.
        meant: What is read for a character of what was written, where it is another.
    """

    text: str
    written: str | None = None
    meant: Mapping[int, str] = field(default_factory=dict[int, str])

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
    for read in (_folded, _folded_unseen, _spaced):
        meant = {ord(character): read(character) for character in unusual}
        view = View(text.translate(meant), text, meant)
        if all(view.text != other.text for other in found):
            found.append(view)
    return found


def _folded(character: str) -> str:
    """Leave out what nobody sees: it may stand inside a number."""
    return "" if _is_unseen(character) else _plain(character)


def _folded_unseen(character: str) -> str:
    """Make a blank of what nobody sees: it may stand between a word and a number."""
    return " " if _is_unseen(character) else _plain(character)


def _spaced(character: str) -> str:
    if _is_unseen(character):
        return ""
    return " " if unicodedata.category(character) == "Lo" else _plain(character)


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
