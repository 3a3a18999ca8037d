"""Rows: what stands in an input file, one item at a time, malformed lines included."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from moa.cli.items import Malformed, Row
from moa.errors import ConfigError

STDIN = "-"
_BOM = b"\xef\xbb\xbf"
_LONGEST_CELL = 2**24
"""Most characters of a CSV cell, so that a quote that is never closed ends somewhere."""

Reader = Callable[[Iterator["Line"]], Iterator[Row | Malformed]]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file, as bytes."""

    number: int
    raw: bytes

    def text(self) -> str:
        """Decode it.

        Raises:
            ValueError: it is not UTF-8.
        """
        try:
            return self.raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from error


def literal(text: str) -> Iterator[Row | Malformed]:
    """Read the text of the command line itself as the one item."""
    yield Row(number=1, id=1, value=text)


def read(source: str, *, else_do: str = "") -> Iterator[Row | Malformed]:
    """Read a `.jsonl`, `.csv` or `.txt` file, or `-`, one item at a time.

    Standard input is JSON Lines where its first line that isn't empty begins with `{`, else one
    text a line.

    Args:
        source: The file.
        else_do: A sentence on what to do with what is no file.

    Raises:
        ConfigError: there is no such file, it can't be read, or its name ends otherwise; or
            standard input is closed.
    """
    if source == STDIN:
        stdin: BinaryIO | None = getattr(sys.stdin, "buffer", None)
        if stdin is None:
            raise ConfigError("there is no standard input to read from: it is closed")
        return _until_it_breaks(_stdin(stdin))
    path = Path(source)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"{source!r} is no .jsonl, .csv or .txt file, nor - for standard input"
            + (f". {else_do}" if else_do else "")
        )
    try:
        there = path.is_file()
    except OSError as error:
        raise ConfigError(f"{source!r} can't be read: {error.strerror}") from error
    if not there:
        raise ConfigError(f"there is no file {source!r}")
    return _of_file(path, reader)


def count(source: str, limit: int | None) -> int | None:
    """Count the items that will be read; `None` where only reading them would tell."""
    path = Path(source)
    if path.suffix.lower() not in (".jsonl", ".txt"):
        return None
    try:
        with _opened(path) as file:
            items = sum(1 for line in file if path.suffix.lower() == ".txt" or line.strip())
    except OSError:  # reported when reading gets there
        return None
    return items if limit is None else min(items, limit)


def _of_file(path: Path, reader: Reader) -> Iterator[Row | Malformed]:
    with _opened(path) as file:
        yield from _until_it_breaks(reader(_lines(file)))


def _until_it_breaks(found: Iterator[Row | Malformed]) -> Iterator[Row | Malformed]:
    """End where the disk fails with one item that says so: what was read before is kept."""
    number = 0
    try:
        for row in found:
            number = row.number
            yield row
    except OSError as error:
        problem = f"it and all that follows can't be read: {error.strerror}"
        yield Malformed(number=number + 1, error=problem, raw="")


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigError(f"{str(path)!r} can't be read: {error.strerror}") from error


def _lines(file: BinaryIO) -> Iterator[Line]:
    for number, raw in enumerate(file, start=1):
        if number == 1:
            raw = raw.removeprefix(_BOM)
        yield Line(number, raw.rstrip(b"\r\n"))


def _stdin(file: BinaryIO) -> Iterator[Row | Malformed]:
    lines = _lines(file)
    seen: list[Line] = []
    for line in lines:
        seen.append(line)
        if line.raw.strip():
            break
    reader = jsonl if seen and seen[-1].raw.lstrip().startswith(b"{") else _txt
    yield from reader(chain(seen, lines))


def _txt(lines: Iterator[Line]) -> Iterator[Row | Malformed]:
    for line in lines:
        try:
            yield Row(number=line.number, id=line.number, value=line.text())
        except ValueError as error:
            yield Malformed(number=line.number, error=str(error), raw=repr(line.raw))


def jsonl(lines: Iterator[Line]) -> Iterator[Row | Malformed]:
    """Read JSON Lines; blank lines are no items."""
    for line in lines:
        if not line.raw.strip():
            continue
        try:
            yield _row(line.number, _object(line.text()))
        except (ValueError, RecursionError) as error:
            raw = line.raw.decode("utf-8", errors="replace")
            yield Malformed(number=line.number, error=f"no JSON object: {error}", raw=raw)


class _Feed:
    """Lines for a `csv.reader`, which can be given back where they turn out to be no record."""

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
        first, *others = self.taken
        self._back.extendleft(reversed(others))
        return first


def _csv(lines: Iterator[Line]) -> Iterator[Row | Malformed]:
    csv.field_size_limit(_LONGEST_CELL)
    feed = _Feed(lines)
    reader = csv.reader(feed, strict=True)
    header: list[str] | None = None
    while True:
        feed.taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            line = feed.give_back()
            raw = line.raw.decode("utf-8", errors="replace")
            yield Malformed(number=line.number, error=f"no CSV: {error}", raw=raw)
            continue
        if header is None:
            header = _header(cells)
        elif cells:
            yield _csv_row(feed.taken[0].number, header, cells)


def _header(cells: list[str]) -> list[str]:
    for place, name in enumerate(cells):
        if name in cells[:place]:
            raise ConfigError(f"two columns of the CSV file are called {name!r}: rename one")
    return cells


def _csv_row(number: int, header: list[str], cells: list[str]) -> Row | Malformed:
    raw = _written(cells)
    if len(cells) != len(header):
        problem = f"{len(cells)} cells under a header of {len(header)}"
        return Malformed(number=number, error=problem, raw=raw)
    if not _encodable(raw):
        return Malformed(number=number, error="not UTF-8", raw=repr(raw))
    return _row(number, dict(zip(header, cells, strict=True)))


def _written(cells: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def _row(number: int, value: dict[str, object]) -> Row:
    given = value.get("id")
    usable = isinstance(given, str | int) and given != "" and not isinstance(given, bool)
    return Row(number=number, id=cast("str | int", given) if usable else number, value=value)


def _object(text: str) -> dict[str, object]:
    value: object = json.loads(text, parse_constant=_no_number)
    if not isinstance(value, dict):
        raise ValueError(f'a line is an object such as {{"text": …}}, not {text[:40]!r}')
    if not _encodable(json.dumps(value, ensure_ascii=False)):
        raise ValueError("half of a surrogate pair is no text")
    return cast("dict[str, object]", value)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


_READERS: dict[str, Reader] = {
    ".jsonl": jsonl,
    ".csv": _csv,
    ".txt": _txt,
}
