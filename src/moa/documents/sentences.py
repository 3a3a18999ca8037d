"""Sentences of a text, and the length that is asked for."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice

from pydantic import Field

from moa.core._text import word_count
from moa.core.node import Frozen

_CITED = r"(?:\s?\[\d[\d,;\s\u2013-]*\])*"
# An end with closing quotes and brackets, and the citations behind it: `… it is. [1][2]`. The
# second line is the full stop, the exclamation and the question mark of Chinese and Japanese.
_END = re.compile(
    rf"(?<![.!?\u2026])[.!?\u2026]++[\"'\u201d\u2019\u00bb)\]]*{_CITED}(?=\s|\Z)"
    rf"|[\u3002\uff01\uff1f]+[\u201d\u300d\u300f\uff09]*{_CITED}"
    r"|(?=\n[^\S\n]*\n)|(?=\n[^\S\n]*(?:[-*\u2022]|\d+[.)])\s)"
)
# What doesn't begin a sentence is a small letter. The end of a line may end one without.
_NEXT = re.compile(r"\s+[^\w\s]*[^\W_a-z\u00df-\u00f6\u00f8-\u00ff]|\s*\n|\s*\Z")
_ABBREVIATED = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|cf|No|Nr|Fig|Abb|Eq|Sec|Vol|pp?|ca|approx|Inc|Ltd"
    r"|Co|Gen|Col|Sgt|Rev|Hon|Mt|bzw|usw|vgl|[Ee]\.g|[Ii]\.e"
    r"|Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec)|\b[^\W\d_]|(?:\A|\n)\s*\d{1,3})\.\Z"
)
# German writes "am 3. Mai", in which the full stop ends nothing.
_ORDINAL = re.compile(
    r"(?<!\d)\d{1,2}\.\s+(?:Jan|Feb|M\u00e4rz|Apr|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez|Jahrh)"
)
_MOST, _LEAST = 1.15, 0.6
"""Shares of the words asked for between which a text is as long as was asked."""
_LONGEST = 12
"""Characters of an abbreviation with the text before it."""


def sentences(text: str) -> list[tuple[int, str]]:
    """Split a text into its sentences, each with the character at which it begins.

    Paragraphs and items of lists end sentences too. A citation behind the full stop, such as
    `[1]`, belongs to the sentence before it. Found by rules, for languages that end a sentence by
    a full stop, an exclamation or a question mark; a known abbreviation ends none.
    """
    return [*_split(text)]


def _split(text: str) -> Iterator[tuple[int, str]]:
    begin = 0
    for match in _END.finditer(text):
        if match.end() > begin and _ends(text, match):
            yield from _strip(text, begin, match.end())
            begin = match.end()
    yield from _strip(text, begin, len(text))


def _ends(text: str, end: re.Match[str]) -> bool:
    if end.group()[:1] not in (".", "\u2026"):
        return True
    begin = max(0, end.start() - _LONGEST)
    return (
        _NEXT.match(text, end.end()) is not None
        and _ABBREVIATED.search(text[begin : end.start() + 1]) is None
        and _ORDINAL.search(text, end.start() - 2, end.end() + _LONGEST) is None
    )


def _strip(text: str, begin: int, end: int) -> list[tuple[int, str]]:
    piece = text[begin:end]
    start = begin + len(piece) - len(piece.lstrip())
    return [(start, piece.strip())] if piece.strip() else []


class Length(Frozen):
    """The length asked of a text. Without a number, any length will do."""

    words: int | None = Field(default=None, gt=0)
    """About so many words: from 60 % to 115 % of them are. Of writing without spaces, as Chinese
    is, characters count."""
    sentences: int | None = Field(default=None, gt=0)
    """At most so many sentences."""

    def __str__(self) -> str:
        parts: list[str] = []
        if self.sentences is not None:
            parts.append(_format_count(self.sentences, "sentence"))
        if self.words is not None:
            parts.append(f"about {_format_count(self.words, 'word')}")
        return " and ".join(parts)

    def fault(self, text: str) -> str | None:
        """Describe how a text misses the length; return `None` if it fits."""
        count = word_count(text)
        if self.words is not None and not _LEAST <= count / self.words <= _MOST:
            return f"it has {_format_count(count, 'word')}, and about {self.words} are asked for"
        sentence_count = len(sentences(text)) if self.sentences is not None else 0
        if self.sentences is not None and sentence_count > self.sentences:
            length = _format_count(sentence_count, "sentence")
            return f"it has {length}, and at most {self.sentences} are asked for"
        return None

    def shortfall(self, text: str) -> str | None:
        """Describe that a text is too short; return `None` if it isn't."""
        return None if self.too_long(text) else self.fault(text)

    def miss(self, text: str) -> int:
        """Return by how many words a text misses the words asked for."""
        return abs(word_count(text) - (self.words or 0))

    def too_long(self, text: str) -> bool:
        """Return True if a text is too long; a short one is not."""
        if self.words is not None:
            most = self.words * _MOST
            # A long text isn't read to its end.
            if len(text.split(None, int(most) + 1)) > most or word_count(text) > most:
                return True
        if self.sentences is None:
            return False
        return next(islice(_split(text), self.sentences, None), None) is not None

    def shorten(self, text: str) -> str:
        """Cut a long text at the end of a sentence; keep at least the first sentence."""
        ends = [start + len(sentence) for start, sentence in sentences(text)]
        if not ends:
            return text

        def exceeds(number: int) -> bool:
            return self.too_long(text[: ends[number - 1]])

        # From short beginnings on: so a text that is far too long isn't read again and again.
        limit = 1
        while limit < len(ends) and not exceeds(limit):
            limit *= 2
        candidates = range(2, min(limit, len(ends)) + 1)
        return text[: ends[bisect_left(candidates, True, key=exceeds)]]


def _format_count(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
