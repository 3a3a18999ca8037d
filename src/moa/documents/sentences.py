"""Sentences: where each sentence of a text begins."""

from __future__ import annotations

import re

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
_LONGEST = 12
"""Characters of an abbreviation, and what stands before it."""


def sentences(text: str) -> list[tuple[int, str]]:
    """Split a text into its sentences, each with the character at which it begins.

    Paragraphs and items of lists end sentences too. A citation behind the full stop, such as
    `[1]`, belongs to the sentence before it. Found by rules, for languages that end a sentence by
    a full stop, an exclamation or a question mark; a known abbreviation ends none.
    """
    found: list[tuple[int, str]] = []
    begin = 0
    for end in _END.finditer(text):
        if end.end() > begin and _ends(text, end):
            found += _stripped(text, begin, end.end())
            begin = end.end()
    return found + _stripped(text, begin, len(text))


def _ends(text: str, end: re.Match[str]) -> bool:
    if end.group()[:1] not in (".", "\u2026"):
        return True
    begin = max(0, end.start() - _LONGEST)
    return (
        _NEXT.match(text, end.end()) is not None
        and _ABBREVIATED.search(text[begin : end.start() + 1]) is None
        and _ORDINAL.search(text, end.start() - 2, end.end() + _LONGEST) is None
    )


def _stripped(text: str, begin: int, end: int) -> list[tuple[int, str]]:
    piece = text[begin:end]
    start = begin + len(piece) - len(piece.lstrip())
    return [(start, piece.strip())] if piece.strip() else []
