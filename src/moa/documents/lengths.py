"""Length: how long a text is to be, in words or in sentences, and by how much one misses it."""

from __future__ import annotations

from pydantic import Field

from moa._text import word_count
from moa.documents.sentences import sentences
from moa.handoffs import Frozen

_MOST, _LEAST = 1.15, 0.6
"""Shares of the words asked for between which a text is as long as was asked."""


class Length(Frozen):
    """How long a text is to be. Without a number, any length will do."""

    words: int | None = Field(default=None, gt=0)
    """About so many words: from 60 % to 115 % of them are. Of writing without spaces, as Chinese
    is, characters count."""
    sentences: int | None = Field(default=None, gt=0)
    """At most so many sentences."""

    def __str__(self) -> str:
        parts: list[str] = []
        if self.sentences is not None:
            parts.append(_counted(self.sentences, "sentence"))
        if self.words is not None:
            parts.append(f"about {_counted(self.words, 'word')}")
        return " and ".join(parts)

    def fault(self, text: str) -> str | None:
        """Say in words how a text misses the length; `None` where it keeps to it."""
        count = word_count(text)
        if self.words is not None and not _LEAST <= count / self.words <= _MOST:
            return f"it has {_counted(count, 'word')}, and about {self.words} are asked for"
        there = len(sentences(text)) if self.sentences is not None else 0
        if self.sentences is not None and there > self.sentences:
            return (
                f"it has {_counted(there, 'sentence')}, and at most {self.sentences} are asked for"
            )
        return None

    def too_long(self, text: str) -> bool:
        """Whether a text is longer than was asked, shorter ones being no fault."""
        if self.words is not None and word_count(text) > self.words * _MOST:
            return True
        return self.sentences is not None and len(sentences(text)) > self.sentences

    def cut(self, text: str) -> str:
        """Cut a text that is too long at the end of a sentence; its first sentence always stays."""
        ends = [start + len(sentence) for start, sentence in sentences(text)]
        while len(ends) > 1 and self.too_long(text[: ends[-1]]):
            ends.pop()
        return text[: ends[-1]] if ends else text


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
