"""Reading: rows of files and pipes, malformed ones included."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import sys
import threading
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, replace
from glob import glob
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn, TypeVar, cast

from pydantic import BaseModel, ValidationError

from moa._files import dumped, jsonable
from moa.batch import Malformed, Row, faults_of
from moa.errors import ConfigError, MissingDependency, MoaError, needed

Format = Literal["jsonl", "csv", "txt", "parquet"]
"""How rows stand in a file: an object a line, a table with a header, a text a line, or a table of
Parquet."""
STDIN = "-"
_PACKED = {".gz": "gzip", ".zst": "zstd"}
"""How a file is compressed, by the end of its name."""
_BROKEN = (OSError, EOFError, zlib.error)
"""What reading raises where the disk fails, or a compressed file is cut off or damaged."""
PARQUET_ROWS = 1024
"""Rows of Parquet that are read or written together."""
_BOM = b"\xef\xbb\xbf"
_LONGEST_CELL = 2**24
"""Most characters of a CSV cell, so that a quote that is never closed ends somewhere."""


Model = TypeVar("Model", bound=BaseModel)
Reader = Callable[[Iterator["Line"]], Iterator[Row | Malformed]]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file, as bytes."""

    number: int
    raw: bytes

    @property
    def shown(self) -> str:
        """It as far as it is UTF-8."""
        return self.raw.decode("utf-8", errors="replace")

    def text(self) -> str:
        """Decode it, or raise a `ValueError` that says where it isn't UTF-8."""
        try:
            return self.raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from error


def literal(text: str) -> Iterator[Row | Malformed]:
    """Read the text of the command line itself as the one item."""
    yield Row(number=1, id=1, value=text)


def read(
    source: str | Path,
    *,
    format: Format | None = None,
    text_column: str | None = None,
    else_do: str = "",
) -> Iterator[Row | Malformed]:
    """Read `.jsonl`, `.csv`, `.txt` or `.parquet` files, or `-`, one row at a time.

    A file whose name ends in `.gz` or `.zst` is decompressed on the way. Rows of several files
    without an `id` have that of their file and line, such as `b.csv:3`.

    Args:
        source: The file; a pattern such as `mails/*.jsonl.gz`; an address that `fsspec` knows, such
            as `s3://bucket/mails.parquet`; or `-` for standard input.
        format: How the rows stand in it; `None` goes by the name. Standard input is then JSON Lines
            where its first line that isn't empty begins with `{`, else one text a line.
        text_column: The column, or key, that holds the text; it is given as `text` too. `None`
            leaves rows as they are.
        else_do: A sentence on what to do with what is no file.

    Raises:
        ConfigError: there is no such file, it can't be read, or its name ends otherwise; or
            standard input is closed. While it is read: there are no rows in it, two columns have
            one name, or the first row lacks `text_column`.
        MissingDependency: Parquet, `.zst` or an address needs a package that isn't installed.
    """
    found = _found(str(source), format, else_do)
    if text_column is not None:
        found = with_text(found, text_column)
    return _some(found, "standard input" if source == STDIN else str(source))


def typed(
    source: str | Path,
    model: type[Model],
    *,
    format: Format | None = None,
    text_column: str | None = None,
) -> Iterator[tuple[Row, Model]]:
    """Read a file as `read` does, each row as a model; a text alone is its `text`.

    Raises:
        ConfigError: as for `read`, or a row is malformed or doesn't fit: it names file, line, field
            and fault.
    """
    for row in read(source, format=format, text_column=text_column):
        where = f"{source}, line {row.number}"
        if isinstance(row, Malformed):
            raise ConfigError(f"{where}: {row.error}")
        fields = {"text": row.value} if isinstance(row.value, str) else row.value
        try:
            yield row, model.model_validate(fields)
        except ValidationError as error:
            has = ", ".join(map(repr, fields)) or "nothing"
            lacks = [one["loc"][-1] for one in error.errors() if one["type"] == "missing"]
            fault = faults_of(error)
            if lacks and len(lacks) == error.error_count():
                fault = f"it takes {' and '.join(map(repr, lacks))}"
            raise ConfigError(f"{where}: {fault}. The row has {has}") from error


def _found(source: str, format: Format | None, else_do: str) -> Iterator[Row | Malformed]:
    if source == STDIN:
        stdin: BinaryIO | None = getattr(sys.stdin, "buffer", None)
        if stdin is None:
            raise ConfigError("there is no standard input to read from: it is closed")
        return _until_it_breaks(_stdin(stdin, format))
    if any(mark in source for mark in "*?[") and not Path(source).exists():
        files = sorted(glob(source, recursive=True))
        if not files:
            raise ConfigError(f"no file is called like {source!r}")
        return _of_several([(file, _found(file, format, else_do)) for file in files])
    path, kind = Path(source), format_of(source, format)
    if kind is None:
        raise ConfigError(
            f"{source!r} is no .jsonl, .csv, .txt or .parquet file, nor - for standard input"
            + (f". {else_do}" if else_do else "")
        )
    if "://" in source:
        return _of_file(source, kind)
    try:
        there = path.exists() and not path.is_dir()
    except OSError as error:
        raise ConfigError(f"{source!r} can't be read: {error.strerror}") from error
    if not there:
        raise ConfigError(f"there is no file {source!r}")
    return _of_file(source, kind)


def _of_several(
    files: Iterable[tuple[str, Iterator[Row | Malformed]]],
) -> Iterator[Row | Malformed]:
    for file, found in files:
        for row in found:
            name = Path(file).name
            if isinstance(row, Malformed):
                row = replace(row, error=f"{name}: {row.error}")
            elif isinstance(row.value, str) or _own_id(row.value) is None:
                row = replace(row, id=f"{name}:{row.number}")
            yield row


async def aside(found: Iterator[Row | Malformed]) -> AsyncIterator[Row | Malformed]:
    """Read rows that somebody may be waited for, as on a pipe, in a thread.

    Nobody waits for the thread when the reading is given up.
    """
    loop = asyncio.get_running_loop()
    read: asyncio.Queue[Row | Malformed | Exception | None] = asyncio.Queue(maxsize=64)

    def hand_over(one: Row | Malformed | Exception | None) -> None:
        asyncio.run_coroutine_threadsafe(read.put(one), loop).result()

    def keep_reading() -> None:
        with suppress(RuntimeError, CancelledError):  # the run has ended before the rows did
            try:
                for row in chain(found, (None,)):
                    hand_over(row)
            except (MoaError, OSError, ValueError) as error:
                hand_over(error)

    threading.Thread(target=keep_reading, daemon=True, name="moa-rows").start()
    while (row := await read.get()) is not None:
        if isinstance(row, Exception):
            raise row
        yield row


def format_of(source: str, format: Format | None = None) -> Format | None:
    """Say how rows stand in a file: as `format` says, else by its name; `None`: it doesn't tell."""
    path = Path(source)
    path = path.with_suffix("") if path.suffix.lower() in _PACKED else path
    kind = path.suffix.lower().removeprefix(".")
    return format or (kind if kind == "parquet" or kind in _READERS else None)


def with_text(found: Iterator[Row | Malformed], column: str) -> Iterator[Row | Malformed]:
    """Give each row as `text` what stands in one of its columns.

    Where the first row lacks it the column is wrong; a later one without it is malformed.
    """
    first = True
    for row in found:
        if isinstance(row, Row):
            fields = row.value if isinstance(row.value, dict) else {}
            if isinstance(text := fields.get(column), str):
                row = replace(row, value={**fields, "text": text})
            else:
                has = ", ".join(map(repr, fields)) or "no columns"
                problem = f"there is no text in a column {column!r}: it has {has}"
                if first:
                    hint = "Name the column that holds the text by --text-column"
                    raise ConfigError(f"line {row.number}: {problem}. {hint}")
                row = replace(_malformed(row.number, problem, dumped(row.value)), key=row.key)
            first = False
        yield row


def count(source: str, limit: int | None, format: Format | None = None) -> int | None:
    """Count the rows that will be read; `None` where only reading them would tell."""
    path, kind = Path(source), format_of(source, format)
    if source == STDIN or kind not in ("jsonl", "txt") or not path.is_file():
        return None
    try:
        with _opened(source) as file:
            items = sum(1 for line in file if kind == "txt" or line.strip())
    except _BROKEN:  # reported when reading gets there
        return None
    return items if limit is None else min(items, limit)


def _some(found: Iterator[Row | Malformed], source: str) -> Iterator[Row | Malformed]:
    first = next(found, None)
    if first is None:
        raise ConfigError(f"{source}: there are no rows in it")
    yield first
    yield from found


def _of_file(source: str, kind: Format) -> Iterator[Row | Malformed]:
    with _opened(source) as file:
        reader = _parquet(file, source) if kind == "parquet" else _READERS[kind](_lines(file))
        yield from _until_it_breaks(reader)


def _until_it_breaks(found: Iterator[Row | Malformed]) -> Iterator[Row | Malformed]:
    """End where the file breaks off with one item that says so: what was read before is kept."""
    number = 0
    try:
        for row in found:
            number = row.number
            yield row
    except _BROKEN as error:
        said = getattr(error, "strerror", None) or error
        yield _malformed(number + 1, f"it and all that follows can't be read: {said}", "")


def _opened(source: str) -> BinaryIO:
    packed = _PACKED.get(Path(source).suffix.lower())
    try:
        if "://" in source:
            return _remote(source, packed)
        if packed == "gzip":
            return cast("BinaryIO", gzip.open(source, "rb"))
        return _zstd(source) if packed == "zstd" else Path(source).open("rb")
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise ConfigError(f"{source!r} can't be read: {said}") from error


def _remote(source: str, packed: str | None) -> BinaryIO:
    try:
        import fsspec

        unpacked = None if packed == "zstd" else packed
        file = cast("Any", fsspec).open(source, "rb", compression=unpacked).open()
    except ImportError as error:  # of it, or of what it needs for such an address
        name = error.name or "fsspec"
        raise MissingDependency(name, extra="files", purpose=f"to read {source}") from error
    return _zstd(file) if packed == "zstd" else cast("BinaryIO", file)


def _zstd(file: Any) -> BinaryIO:
    """Unpack by Arrow: `zstandard` ends without a word where a file is cut off."""
    pyarrow = arrow("to read .zst")
    return cast("BinaryIO", io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd")))


def arrow(purpose: str) -> Any:
    """Import Arrow."""
    with needed("pyarrow", extra="files", purpose=purpose):
        import_module("pyarrow.parquet")
        return import_module("pyarrow")


def _parquet(file: BinaryIO, source: str) -> Iterator[Row | Malformed]:
    pyarrow, number = arrow("to read Parquet"), 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        for batch in table.iter_batches(batch_size=PARQUET_ROWS):
            for value in batch.to_pylist():
                number += 1
                try:
                    row = _row(number, {name: jsonable(cell) for name, cell in value.items()})
                except ValueError as error:  # such as the bytes of a picture
                    yield _malformed(number, f"a column holds bytes that are no text: {error}", "")
                else:
                    yield row
    except pyarrow.ArrowInvalid as error:
        raise ConfigError(f"{source!r} is no Parquet: {error}") from error


def _lines(file: BinaryIO) -> Iterator[Line]:
    for number, raw in enumerate(file, start=1):
        if number == 1:
            raw = raw.removeprefix(_BOM)
        yield Line(number, raw.rstrip(b"\r\n"))


def _stdin(file: BinaryIO, format: Format | None) -> Iterator[Row | Malformed]:
    lines = _lines(file)
    if format is not None:
        yield from _READERS[format](lines)
        return
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
            yield _malformed(line.number, str(error), repr(line.raw))


def jsonl(lines: Iterator[Line]) -> Iterator[Row | Malformed]:
    """Read JSON Lines; blank lines are no items."""
    for line in lines:
        if not line.raw.strip():
            continue
        try:
            yield _row(line.number, _object(line.text()))
        except (ValueError, RecursionError) as error:
            yield _malformed(line.number, f"no JSON object: {error}", line.shown)


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
            yield _malformed(line.number, f"no CSV: {error}", line.shown)
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
    raw = csv_line(cells)
    if len(cells) != len(header):
        return _malformed(number, f"{len(cells)} cells under a header of {len(header)}", raw)
    if not _encodable(raw):
        return _malformed(number, "not UTF-8", repr(raw))
    return _row(number, dict(zip(header, cells, strict=True)))


def csv_line(cells: list[str]) -> str:
    """Write a row of a table, without its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def _malformed(number: int, error: str, raw: str) -> Malformed:
    return Malformed(number=number, error=error, raw=raw)


def _row(number: int, value: dict[str, object]) -> Row:
    own = _own_id(value)
    return Row(number=number, id=number if own is None else own, value=value)


def _own_id(value: Mapping[str, object]) -> str | int | None:
    given = value.get("id")
    usable = isinstance(given, str | int) and given != "" and not isinstance(given, bool)
    return cast("str | int", given) if usable else None


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


_READERS: dict[Format, Reader] = {"jsonl": jsonl, "csv": _csv, "txt": _txt}
