"""Reading: rows of files and pipes, malformed ones included."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import re
import sys
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from glob import glob
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Literal, TypeVar, cast

from pydantic import BaseModel, ValidationError

from moa.core._files import dump_json, to_jsonable
from moa.core._json import JSON, is_object, parse_json
from moa.core.batch import MalformedLine, Row, describe, faults_of
from moa.core.errors import ConfigError, MissingDependency, require_package
from moa.rows.delimited import Say, csv_rows, header_of, separator_of
from moa.rows.lines import (
    Line,
    encodable,
    encoding_of,
    iter_lines,
    lines_of,
    malformed_row,
    own_id,
    row_of,
)
from moa.rows.sheets import read_sheet

Format = Literal["jsonl", "csv", "txt", "parquet", "xlsx"]
"""Format of rows in a file: a JSON object per line, a table with a header, a text per line, or a
Parquet or Excel table."""
STDIN = "-"
_PACKED = {".gz": "gzip", ".zst": "zstd"}
"""Compression of a file, by its suffix."""
_BROKEN = (OSError, EOFError, zlib.error)
"""Errors raised if the disk fails, or a compressed file is cut off or damaged."""
PARQUET_ROWS = 1024
"""Number of Parquet rows that are read or written together."""
_NAMES = {"id", "text"}
"""Column names. One of them is enough to mark standard input as a table."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""An escaped half of a surrogate pair."""
_NAME = re.compile(r"[\w.-]+( [\w.-]+)*")


Model = TypeVar("Model", bound=BaseModel)
Reader = Callable[[Iterator["Line"]], Iterator[Row | MalformedLine]]


def literal(text: str) -> Generator[Row | MalformedLine]:
    """Yield the text of the command line as the only row."""
    yield Row(number=1, id=1, value=text)


def read(
    source: str | Path,
    *,
    format: Format | None = None,
    text_column: str | None = None,
    encoding: str | None = None,
    else_do: str = "",
    say: Say = len,
) -> Generator[Row | MalformedLine]:
    """Read `.jsonl`, `.csv`, `.txt`, `.parquet` or `.xlsx` files, or `-`, one row at a time.

    The separator of a CSV file is the most frequent of comma, semicolon, tab and `|` in its header,
    or the one in a line such as `sep=;` above it. Of an Excel file, only the first sheet is read,
    and its first non-empty row is the header.

    A file whose name ends in `.gz` or `.zst` is decompressed. With several files, rows without an
    `id` get one from their file and line, such as `b.csv:3`.

    Args:
        source: The file; a pattern such as `mails/*.jsonl.gz`; a URL that `fsspec` can open, such
            as `s3://bucket/mails.parquet`; or `-` for standard input.
        format: The format of the rows; `None` goes by the file name. Standard input is then JSON
            Lines if its first non-empty line begins with `{`, CSV if that line is a header with a
            column `id`, `text` or `text_column`, else one text per line.
        text_column: The column, or key, with the text. It is copied to `text`. `None` leaves rows
            as they are.
        encoding: Encoding of the lines, such as `cp1252`; `None`: UTF-8. It is never guessed.
        else_do: Advice to add to the error if the name of `source` doesn't tell its format.
        say: Called with a message if a table's separator isn't a comma, or if standard input is
            read as CSV.

    Raises:
        ConfigError: there is no such file, its format or `encoding` is unknown, or standard input
            is closed. While reading: the file can't be read, there are no rows, two columns have
            the same name, or the first row lacks `text_column`.
        MissingDependency: the package for Parquet, `.xlsx`, `.zst` or an address isn't installed.
    """
    options = _ReadOptions(format, encoding_of(encoding), text_column, say)
    rows = _read_source(str(source), options, else_do)
    if text_column is not None:
        rows = with_text(rows, text_column)
    return _require_rows(rows, "standard input" if source == STDIN else str(source))


def read_models(
    source: str | Path,
    model: type[Model],
    *,
    format: Format | None = None,
    text_column: str | None = None,
    encoding: str | None = None,
) -> Iterator[tuple[Row, Model]]:
    """Read a file as `read` does, each row as a model. A plain text becomes its `text`.

    Raises:
        ConfigError: as for `read`, or a row is malformed or doesn't fit. It names file, line, field
            and fault.
    """
    for row in read(source, format=format, text_column=text_column, encoding=encoding):
        location = f"{source}, line {row.number}"
        if isinstance(row, MalformedLine):
            raise ConfigError(f"{location}: {row.error}")
        fields = {"text": row.value} if isinstance(row.value, str) else row.value
        try:
            yield row, model.model_validate(fields)
        except ValidationError as error:
            has = ", ".join(map(repr, fields)) or "nothing"
            lacks = [detail["loc"][-1] for detail in error.errors() if detail["type"] == "missing"]
            fault = faults_of(error)
            if lacks and len(lacks) == error.error_count():
                fault = f"it takes {' and '.join(map(repr, lacks))}"
            raise ConfigError(f"{location}: {fault}. The row has {has}") from error


@dataclass(frozen=True, slots=True)
class _ReadOptions:
    """Options for reading a file."""

    format: Format | None
    encoding: str | None
    text_column: str | None
    say: Say


def _read_source(source: str, options: _ReadOptions, else_do: str) -> Iterator[Row | MalformedLine]:
    if source == STDIN:
        stdin: BinaryIO | None = getattr(sys.stdin, "buffer", None)
        if stdin is None:
            raise ConfigError("there is no standard input to read from: it is closed")
        return _end_at_break(_read_stdin(stdin, options))
    if any(mark in source for mark in "*?[") and not Path(source).exists():
        files = sorted(glob(source, recursive=True))
        if not files:
            raise ConfigError(f"no file is called like {source!r}")
        return _read_files([(file, _read_source(file, options, else_do)) for file in files])
    if os.path.isdir(source):  # also false for a name that is too long
        raise ConfigError(f"{source!r} is a folder: name its files, as in '{source}/*.jsonl'")
    path, kind = Path(source), format_of(source, options.format)
    if kind is None:
        raise ConfigError(
            f"{source!r} is no .jsonl, .csv, .txt, .parquet or .xlsx file, nor - for standard input"
            + (f". {else_do}" if else_do else "")
        )
    if "://" in source:
        return _read_file(source, kind, options)
    try:
        exists = path.exists()
    except OSError as error:
        raise ConfigError(f"{source!r} can't be read: {error.strerror}") from error
    if not exists:
        raise ConfigError(f"there is no file {source!r}")
    return _read_file(source, kind, options)


def _read_files(
    files: Iterable[tuple[str, Iterator[Row | MalformedLine]]],
) -> Iterator[Row | MalformedLine]:
    for file, rows in files:
        for row in rows:
            name = Path(file).name
            if isinstance(row, MalformedLine):
                row = replace(row, error=f"{name}: {row.error}")
            elif isinstance(row.value, str) or own_id(row.value) is None:
                row = replace(row, id=f"{name}:{row.number}")
            yield row


async def read_in_thread(
    rows: Iterator[Row | MalformedLine],
) -> AsyncIterator[Row | MalformedLine]:
    """Read rows in a thread, since a pipe may block.

    The thread isn't awaited if reading is abandoned.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Row | MalformedLine | Exception | None] = asyncio.Queue(maxsize=64)

    def hand_over(item: Row | MalformedLine | Exception | None) -> None:
        asyncio.run_coroutine_threadsafe(queue.put(item), loop).result()

    def keep_reading() -> None:
        with suppress(RuntimeError, CancelledError):  # the run has ended before the rows did
            try:
                for row in chain(rows, (None,)):
                    hand_over(row)
            except Exception as error:  # noqa: BLE001  raised where the rows are awaited
                hand_over(error)

    threading.Thread(target=keep_reading, daemon=True, name="moa-rows").start()
    while (row := await queue.get()) is not None:
        if isinstance(row, Exception):
            raise row
        yield row


def format_of(source: str, format: Format | None = None) -> Format | None:
    """Return the format of a file: `format`, else by its name; `None` if unknown."""
    path = Path(source)
    path = path.with_suffix("") if path.suffix.lower() in _PACKED else path
    kind = path.suffix.lower().removeprefix(".")
    return format or _KINDS.get(kind)


def with_text(rows: Iterator[Row | MalformedLine], column: str) -> Iterator[Row | MalformedLine]:
    """Copy one column of each row to `text`.

    If the first row lacks it, a `ConfigError` is raised. A later row without it is malformed.
    """
    first = True
    for row in rows:
        if isinstance(row, Row):
            fields = row.value if isinstance(row.value, dict) else {}
            if isinstance(text := fields.get(column), str):
                row = replace(row, value={**fields, "text": text})
            else:
                has = ", ".join(map(repr, fields)) or "no columns"
                problem = f"there is no text in a column {column!r}: it has {has}"
                if column in fields:
                    problem = (
                        f"what stands in {column!r} is no text, but {describe(fields[column])}"
                    )
                if first:
                    hint = "Name the column that holds the text by --text-column"
                    raise ConfigError(f"line {row.number}: {problem}. {hint}")
                row = replace(malformed_row(row.number, problem, dump_json(row.value)), key=row.key)
            first = False
        yield row


def count(source: str, limit: int | None, format: Format | None = None) -> int | None:
    """Count the rows; return `None` if they would have to be parsed."""
    path, kind = Path(source), format_of(source, format)
    if source == STDIN or kind not in ("jsonl", "txt") or not path.is_file():
        return None
    try:
        with _open(source) as file:
            items = sum(1 for line in iter_lines(file) if kind == "txt" or line.strip())
    except _BROKEN:  # reported when reading gets there
        return None
    return items if limit is None else min(items, limit)


def _require_rows(
    rows: Iterator[Row | MalformedLine], source: str
) -> Generator[Row | MalformedLine]:
    first = next(rows, None)
    if first is None:
        raise ConfigError(f"{source}: there are no rows in it")
    yield first
    yield from rows


def _read_file(source: str, kind: Format, options: _ReadOptions) -> Iterator[Row | MalformedLine]:
    with _open(source) as file:
        if kind == "parquet":
            reader = _read_parquet(file, source)
        elif kind == "xlsx":
            reader = _read_table(read_sheet(file, source), f"Excel file {source!r}")
        else:
            reader = _reader(kind, options)(lines_of(file, options.encoding))
        yield from _end_at_break(reader)


def _read_table(
    cells: Iterator[tuple[int, list[object]]], table_name: str
) -> Iterator[Row | MalformedLine]:
    """Read the rows of a table. The first one is the header."""
    header: list[str] | None = None
    for number, row in cells:
        if header is None:
            header = header_of([str(cell) for cell in row], table_name)
            continue
        if len(row) > len(header):
            raw = dump_json(row)
            error = f"{len(row)} cells under a header of {len(header)}"
            yield malformed_row(number, error, raw)
            continue
        row += [None] * (len(header) - len(row))
        yield row_of(number, dict(zip(header, row, strict=True)))


def _end_at_break(rows: Iterator[Row | MalformedLine]) -> Iterator[Row | MalformedLine]:
    """Yield rows up to a read error, then a malformed row that names it."""
    number = 0
    try:
        for row in rows:
            number = row.number
            yield row
    except _BROKEN as error:
        reason = getattr(error, "strerror", None) or error
        yield malformed_row(number + 1, f"it and all that follows can't be read: {reason}", "")


def _open(source: str) -> BinaryIO:
    packed = _PACKED.get(Path(source).suffix.lower())
    try:
        if "://" in source:
            return _open_remote(source, packed)
        if packed == "gzip":
            return cast("BinaryIO", gzip.open(source, "rb"))
        return _open_zstd(source) if packed == "zstd" else Path(source).open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{source!r} can't be read: {reason}") from error


def _open_remote(source: str, packed: str | None) -> BinaryIO:
    try:
        unpacked = None if packed == "zstd" else packed
        file = import_module("fsspec").open(source, "rb", compression=unpacked).open()
    except ImportError as error:  # fsspec, or what it needs for such an address
        name = error.name or "fsspec"
        raise MissingDependency(name, extra="files", purpose=f"to read {source}") from error
    return _open_zstd(file) if packed == "zstd" else file


def _open_zstd(file: str | BinaryIO) -> BinaryIO:
    """Decompress with Arrow: `zstandard` doesn't report that a file is cut off."""
    pyarrow = import_arrow("to read .zst")
    return io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"))


def import_arrow(purpose: str) -> ModuleType:
    """Import Arrow."""
    with require_package("pyarrow", extra="files", purpose=purpose):
        import_module("pyarrow.parquet")
        return import_module("pyarrow")


def _read_parquet(file: BinaryIO, source: str) -> Iterator[Row | MalformedLine]:
    pyarrow, number = import_arrow("to read Parquet"), 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        for batch in table.iter_batches(batch_size=PARQUET_ROWS):
            for value in batch.to_pylist():
                number += 1
                try:
                    row = row_of(number, {name: to_jsonable(cell) for name, cell in value.items()})
                except ValueError as error:  # such as the bytes of a picture
                    yield malformed_row(
                        number, f"a column holds bytes that are no text: {error}", ""
                    )
                else:
                    yield row
    except pyarrow.ArrowInvalid as error:
        raise ConfigError(f"{source!r} is no Parquet: {error}") from error


def _read_stdin(file: BinaryIO, options: _ReadOptions) -> Iterator[Row | MalformedLine]:
    if options.format in ("parquet", "xlsx"):
        raise ConfigError(f"--format {options.format} needs a file: it is not read front to back")
    lines = lines_of(file, options.encoding)
    if options.format is not None:
        yield from _reader(options.format, options)(lines)
        return
    seen: list[Line] = []
    for line in lines:
        seen.append(line)
        if line.raw.strip():
            break
    kind = _guess_format(seen[-1].raw, options.text_column) if seen else "txt"
    if kind == "csv":
        options.say("standard input is read as CSV; --format txt takes each line as a text")
    yield from _reader(kind, options)(chain(seen, lines))


def _guess_format(first: bytes, text_column: str | None) -> Format:
    """Guess the format of standard input by its first line."""
    if first.lstrip().startswith(b"{"):
        return "jsonl"
    header = first.decode("utf-8", errors="replace")
    names = [name.strip('"') for name in header.split(separator_of(header))]
    is_header = len({*names}) == len(names) > 1 and all(map(_NAME.fullmatch, names))
    return "csv" if is_header and {*names} & {*_NAMES, text_column} else "txt"


def _reader(kind: Format, options: _ReadOptions) -> Reader:
    return partial(csv_rows, say=options.say) if kind == "csv" else _READERS[kind]


def _read_txt(lines: Iterator[Line]) -> Iterator[Row | MalformedLine]:
    for line in lines:
        try:
            yield Row(number=line.number, id=line.number, value=line.text())
        except ValueError as error:
            yield malformed_row(line.number, str(error), repr(line.raw))


def jsonl(lines: Iterator[Line]) -> Iterator[Row | MalformedLine]:
    """Read JSON Lines; blank lines aren't items."""
    for line in lines:
        if not line.raw.strip():
            continue
        try:
            yield row_of(line.number, _parse_object(line.text()))
        except (ValueError, RecursionError) as error:
            yield malformed_row(line.number, f"no JSON object: {error}", line.legible)


def _parse_object(text: str) -> JSON:
    value = parse_json(text)
    if not is_object(value):
        raise ValueError(f'a line is an object such as {{"text": …}}, not {text[:40]!r}')
    if _HALF.search(text) and not encodable(json.dumps(value, ensure_ascii=False)):
        raise ValueError("half of a surrogate pair is no text")
    return value


_READERS: dict[Format, Reader] = {"jsonl": jsonl, "txt": _read_txt}
_KINDS: dict[str, Format] = {
    "jsonl": "jsonl",
    "csv": "csv",
    "tsv": "csv",
    "txt": "txt",
    "parquet": "parquet",
    "xlsx": "xlsx",
}
"""Format by file suffix."""
