"""Delimited: tables of CSV, whatever separates their columns."""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain

from moa.core.batch import MalformedLine, Row
from moa.core.errors import ConfigError
from moa.rows.lines import IN_WHICH, Line, encodable, malformed_row, row_of

Say = Callable[[str], object]
"""Is called with findings about a file, in words."""
_SEPARATORS = ",;\t|"
"""Separators of columns; of equally frequent ones the first counts."""
_SEP = re.compile(rb"sep=([,;\t|])", re.IGNORECASE)
_LONGEST_CELL = 2**24
"""Most characters of a CSV cell, so that a quote that is never closed ends somewhere."""


class _Feed:
    """Lines for a `csv.reader`; lines of an invalid record can be given back."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._back: deque[Line] = deque()
        self.taken: list[Line] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self.taken.append(line)
        return line.raw.decode("utf-8", errors="surrogateescape") + "\n"

    def give_back(self) -> Line:
        """Keep the first line of the record, which is malformed, and return the others."""
        first, *rest = self.taken
        self._back.extendleft(reversed(rest))
        return first


def separator_of(header: str) -> str:
    """Return the most frequent separator of a header, outside of quotes."""
    text = re.sub(r'"[^"]*("|$)', "", header)
    return max(_SEPARATORS, key=text.count)


def _find_header(lines: Iterator[Line]) -> tuple[str, Iterator[Line]]:
    """Find the header of a table behind blank lines and Excel's `sep=;`, and its separator."""
    for line in lines:
        if (match := _SEP.fullmatch(line.raw)) is not None:
            return match[1].decode(), lines
        if line.raw.strip():
            return separator_of(line.legible), chain([line], lines)
    return ",", lines


def csv_rows(lines: Iterator[Line], say: Say = len) -> Iterator[Row | MalformedLine]:
    """Read the rows of a table; after an invalid record reading continues at the next line."""
    csv.field_size_limit(_LONGEST_CELL)
    separator, lines = _find_header(lines)
    if separator != ",":
        say(f"columns are separated by {'tabs' if separator == chr(9) else repr(separator)}")
    feed = _Feed(lines)
    reader = csv.reader(feed, strict=True, delimiter=separator)
    header: list[str] | None = None
    while True:
        feed.taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            line = feed.give_back()
            yield malformed_row(line.number, f"no CSV: {error}", line.legible)
            continue
        if header is None:
            header = header_of(cells, "CSV file")
        elif cells:
            yield _csv_row(feed.taken[0].number, header, cells)


def header_of(cells: list[str], what: str) -> list[str]:
    """Check the names of columns: all must be text, and different."""
    for index, name in enumerate(cells):
        if name in cells[:index]:
            raise ConfigError(f"two columns of the {what} are called {name!r}: rename one")
        if not encodable(name):
            raise ConfigError(f"the header of the {what} is not UTF-8. {IN_WHICH}")
    return cells


def _csv_row(number: int, header: list[str], cells: list[str]) -> Row | MalformedLine:
    raw = csv_line(cells)
    if len(cells) != len(header):
        return malformed_row(number, f"{len(cells)} cells under a header of {len(header)}", raw)
    if not encodable(raw):
        return malformed_row(number, f"not UTF-8. {IN_WHICH}", repr(raw))
    return row_of(number, dict(zip(header, cells, strict=True)))


def csv_line(cells: list[str]) -> str:
    """Write a row of a table, without its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
