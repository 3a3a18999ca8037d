"""Tables: rows of cells as text and as HTML, for whoever prints a value or ends a cell with it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import zip_longest

Rows = Sequence[Sequence[str]]
"""The first one is the head; the first column holds names."""


def as_text(rows: Rows, *, right: int) -> str:
    """Lay rows out in columns, those from `right` on to the right."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    lines = (
        "  ".join(
            cell.rjust(width) if place >= right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=False))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def as_html(rows: Rows) -> str:
    """Write rows as a table of HTML, in which every cell is text."""
    head, *body = rows
    lines = [_row(head, "th"), *(_row(row, "td") for row in body)]
    return f"<table>{''.join(lines)}</table>"


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
