"""Text: count words, remove control characters, and format tables as text or HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from itertools import zip_longest

# Thai to Khmer, kana, Chinese characters.
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+")
"""Scripts without spaces between words."""
_WORD = re.compile(r"\w+")
STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters except line breaks and tabs, marks of the writing direction, and lone
surrogates, which no terminal takes."""
_BREAKING = re.compile(f"[\n\t\u2028\u2029]|{STEERING.pattern}")
_LONGEST = 400
"""Maximum characters of a cell in an HTML table."""
_STYLE = "color:inherit;background:none;text-align:left;white-space:pre-wrap"


def one_line(text: str) -> str:
    """Put a text on one line, so that it can't add lines to its prompt."""
    return " ".join(text.split())


def words_in(text: str) -> list[str]:
    """List the words of a text in lower case, without punctuation."""
    return _WORD.findall(text.casefold())


def word_count(text: str) -> int:
    """Count the words of a text; in scripts without spaces, each character counts, as is usual."""
    tokens = text.split()
    return sum(map(_count_words, tokens)) if UNSPACED.search(text) else len(tokens)


def _count_words(token: str) -> int:
    unspaced = sum(map(len, UNSPACED.findall(token)))
    if not unspaced:
        return 1
    words = UNSPACED.sub(" ", token).split()
    return unspaced + sum(any(map(str.isalnum, word)) for word in words)


def strip_controls(text: str) -> str:
    """Remove characters that could steer a terminal."""
    return STEERING.sub(lambda match: "�" if match[0] >= "\ud800" else "", text)


def escape_controls(text: str) -> str:
    r"""Write control characters, line breaks among them, as escapes such as `\n`."""
    return _BREAKING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


Rows = Sequence[Sequence[str]]
"""Rows of a table: the first one is the header, and the first column holds names."""


def as_text(rows: Rows, *, right: int) -> str:
    """Align rows in columns; those with an index of at least `right` are right-aligned."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    lines = (
        "  ".join(
            cell.rjust(width) if index >= right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=False))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def as_html(*tables: Rows) -> str:
    """Format tables as HTML; cells are escaped, and cut if long.

    They inherit the colours of the page, so that they can be read in dark mode.
    """
    return "".join(map(_table, tables))


def _table(rows: Rows) -> str:
    head, *body = rows
    lines = [_row(head, "th"), *(_row(row, "td") for row in body)]
    return f'<table style="{_STYLE}">{"".join(lines)}</table>'


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(_cut(cell))}</{tag}>" for cell in cells) + "</tr>"


def _cut(cell: str) -> str:
    text = strip_controls(cell)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
