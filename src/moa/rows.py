"""Rows: read from files and pipes, written as lines of JSON as each is done, and resumed.

`read` gives the rows of a file or a pipe, malformed ones included. `RowFile` keeps what became of
them: it is never overwritten by accident, written by one process at a time, and says which rows are
left to do.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import hashlib
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
from decimal import Decimal
from glob import glob
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, NamedTuple, NoReturn, Self, TypeVar, cast

from pydantic import BaseModel, ValidationError

from moa._files import Existing, LineFile, dumped, replacing
from moa.batch import Item, Malformed, Row, faults_of
from moa.errors import ConfigError, InputError, MissingDependency, MoaError
from moa.usage import Amount, Usage

Format = Literal["jsonl", "csv", "txt", "parquet"]
"""How rows stand in a file: an object a line, a table with a header, a text a line, or a table of
Parquet."""
STDIN = "-"
_PACKED = {".gz": "gzip", ".zst": "zstd"}
"""How a file is compressed, by the end of its name."""
_BROKEN = (OSError, EOFError, zlib.error)
"""What reading raises where the disk fails, or a compressed file is cut off or damaged."""
_PARQUET_ROWS = 1024
"""Rows of Parquet that are read together."""
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
            raise ConfigError(f"{where}: {faults_of(error)}. The row has {has}") from error


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

    Raises:
        Exception: whatever reading them raises.
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

    A later row without that column is malformed.

    Raises:
        ConfigError: while it is read: the first row has no such column, or no text in it.
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
                row = Malformed(number=row.number, error=problem, raw=dumped(row.value))
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
        problem = f"it and all that follows can't be read: {said}"
        yield Malformed(number=number + 1, error=problem, raw="")


def _opened(source: str) -> BinaryIO:
    packed = _PACKED.get(Path(source).suffix.lower())
    try:
        if "://" in source:
            import fsspec

            unpacked = None if packed == "zstd" else packed
            file = cast("Any", fsspec).open(source, "rb", compression=unpacked).open()
            return cast("BinaryIO", _zstd(file) if packed == "zstd" else file)
        if packed == "gzip":
            return cast("BinaryIO", gzip.open(source, "rb"))
        if packed == "zstd":
            return _zstd(source)
        return Path(source).open("rb")
    except ImportError as error:
        raise MissingDependency(
            error.name or "fsspec", extra="files", purpose=f"to read {source}"
        ) from error
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise ConfigError(f"{source!r} can't be read: {said}") from error


def _zstd(file: Any) -> BinaryIO:
    """Unpack by Arrow: `zstandard` ends without a word where a file is cut off."""
    arrow = _arrow("to read .zst")
    return cast("BinaryIO", io.BufferedReader(arrow.CompressedInputStream(file, "zstd")))


def _arrow(purpose: str) -> Any:
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError as error:
        raise MissingDependency("pyarrow", extra="files", purpose=purpose) from error


def _parquet(file: BinaryIO, source: str) -> Iterator[Row | Malformed]:
    arrow, number = _arrow("to read Parquet"), 0
    try:
        table = arrow.parquet.ParquetFile(file)
        for batch in table.iter_batches(batch_size=_PARQUET_ROWS):
            for value in batch.to_pylist():
                number += 1
                try:
                    row = _row(number, {name: plain(cell) for name, cell in value.items()})
                except ValueError as error:  # such as the bytes of a picture
                    problem = f"a column holds bytes that are no text: {error}"
                    yield Malformed(number=number, error=problem, raw="")
                else:
                    yield row
    except arrow.ArrowInvalid as error:
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


def line(item: Item[object]) -> dict[str, object]:
    """Write an item as what `json` can write."""
    written: dict[str, object] = {
        "id": item.id,
        "input": plain(item.input),
        "output": plain(item.output),
        "status": item.status,
    }
    if item.problem is not None:
        written["error"] = item.problem
    return written | taken(item)


def taken(item: Item[object]) -> dict[str, object]:
    """Write what an item took: `seconds`, `usage` and `trace`.

    Usage is by tier, node and endpoint; a cost of `null` is unknown.
    """
    usage = item.usage
    estimate = item.result.llm_alone if item.result else None
    return {
        "seconds": round(item.seconds, 4),
        "usage": {
            **_amount(usage.total),
            "by_tier": _split(usage.by_tier()),
            "by_node": _split(usage.by_node()),
            "by_endpoint": _split(usage.by_endpoint()),
            "llm_alone_estimate": estimate
            and {"cost": _dollars(estimate.cost), "how": estimate.how},
        },
        "trace": [plain(note) for note in item.trace],
    }


def plain(value: object) -> Any:
    """Turn an output into what JSON can say."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, fallback=str)


def _split(parts: dict[Any, Usage]) -> dict[str, object]:
    return {str(name): _amount(usage.total) for name, usage in parts.items()}


def _amount(amount: Amount) -> dict[str, object]:
    return {
        "calls": amount.calls,
        "input_tokens": amount.input_tokens,
        "cached_input_tokens": amount.cached_input_tokens,
        "output_tokens": amount.output_tokens,
        "cost": _dollars(amount.cost),
        "seconds": round(amount.seconds, 4),
    }


def _dollars(cost: Decimal | None) -> float | None:
    return None if cost is None else float(cost)


_COLUMNS = ("id", "status", "error", "input", "output")


def exported(lines: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write lines to a file, whole or not at all; see `moa.jobs.Job.export`."""
    kind = format_of(str(path))
    if kind in (None, "txt") or path.suffix == ".zst":
        raise ConfigError(f"{path}: give a name that ends in .jsonl, .csv or .parquet")
    write = {"jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}[cast("str", kind)]
    try:
        with replacing(path) as file:
            if path.suffix == ".gz":
                with gzip.open(file, "wb") as packed:
                    return write(lines, cast("BinaryIO", packed))
            return write(lines, file)
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from error


def _write_jsonl(lines: Iterable[Mapping[str, Any]], file: BinaryIO) -> int:
    count = 0
    for values in lines:
        file.write(dumped(values).encode() + b"\n")
        count += 1
    return count


def _write_csv(lines: Iterable[Mapping[str, Any]], file: BinaryIO) -> int:
    count = 0
    for cells in chain([dict(zip(_COLUMNS, _COLUMNS, strict=True))], map(_as_cells, lines)):
        file.write(f"{_written([cells[name] for name in _COLUMNS])}\r\n".encode())
        count += 1
    return count - 1


def _write_parquet(lines: Iterable[Mapping[str, Any]], file: BinaryIO) -> int:
    arrow, count = _arrow("to write Parquet"), 0
    schema = arrow.schema([(name, arrow.string()) for name in _COLUMNS])
    cells = map(_as_cells, lines)
    with arrow.parquet.ParquetWriter(file, schema) as writer:
        while some := list(islice(cells, _PARQUET_ROWS)):
            writer.write_table(arrow.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count


def _as_cells(values: Mapping[str, Any]) -> dict[str, str]:
    told = {name: values.get(name, "") for name in ("id", "status", "error")}
    parts = {name: dumped(values.get(name)) for name in ("input", "output")}
    return {name: str(value) for name, value in told.items()} | parts


class _Old(NamedTuple):
    """A line of an earlier run."""

    digest: bytes
    start: int
    failed: bool


class RowFile(LineFile):
    """A file of what became of rows, in the order in which they were done, to be resumed.

    A line has `id` and `input`, and `error` where its row failed. With `resume`, `left` passes over
    the rows that have a good line. Rows that failed are due again, and so are those whose input has
    changed under the same id; the lines that they had are removed when the file is closed after all
    rows were read. Until then the last line of an id counts.

    Args:
        path: Made where it isn't there. Its name ends in `.jsonl`.
        existing: What is done with lines that are there: `refuse` raises, `resume` goes on with
            them, `overwrite` drops them when the first line is written.
        source: The file that the rows are read from; `None`: from elsewhere.

    Raises:
        ConfigError: when it is entered: another process writes it, it has lines that are to be
            refused, or that are none of rows, it is `source`, or it can't be written.
    """

    def __init__(
        self, path: str | Path, *, existing: Existing = "refuse", source: str | None = None
    ) -> None:
        super().__init__(path, existing=existing, source=source)
        self.there = 0
        """Rows so far that had a good line."""
        self.failed = 0
        """Rows so far that had failed, and are due again."""
        self.changed = 0
        """Rows so far that had another input, and are due again."""
        self._old: dict[str | int, list[_Old]] = {}
        self._settled: set[str | int] = set()
        self._all_read = False

    def __enter__(self) -> Self:
        """Open and lock it, and read what is there."""
        super().__enter__()
        for number, start, values in self.lines():
            given = values.get("id")
            if not isinstance(given, str | int) or "input" not in values:
                raise self.unreadable(number)
            old = _Old(digest_of(values["input"]), start, "error" in values)
            self._old.setdefault(given, []).append(old)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the lines that others have replaced, and close it.

        Raises:
            ConfigError: the disk has no room for that; the lines are all there.
        """
        try:
            self._remove_replaced()
        except OSError as problem:
            raise self._unwritable(problem) from problem
        finally:
            self.close()

    def left(
        self, found: Iterable[Row | Malformed], *, all_rows: bool = True
    ) -> Iterator[Row | Malformed]:
        """Give the rows that are to be done: those without a good line for their id and input.

        Args:
            found: The rows.
            all_rows: Whether they are all that there are; else no line is removed, since it may
                be that of a row with the same id which is still to come.
        """
        for row in found:
            old = self._old.get(row.id, [])
            digest = digest_of(row.input) if old else b""
            same = next((o for o in old if o.digest == digest and not o.failed), None)
            if same is None:
                self.failed += any(o.failed for o in old)
                self.changed += any(not o.failed for o in old)
                yield row
            else:
                old.remove(same)  # so that of rows that are copies each has its own line
                self._settled.add(row.id)
                self.there += 1
        self._all_read = all_rows

    def write(self, values: Mapping[str, object]) -> None:
        """Write the line of a row: it has left this process when this returns.

        Raises:
            InputError: `id` or `input` is missing.
            ConfigError: the disk is full, or gone; the lines before it are whole.
        """
        if not values.keys() >= {"id", "input"}:
            raise InputError(f"a line needs 'id' and 'input', and this one has {list(values)}")
        self.add(values)
        self._settled.add(cast("str | int", values["id"]))

    def _remove_replaced(self) -> None:
        gone = {old.start for key in self._settled for old in self._old.get(key, ())}
        if not gone or not self._all_read:
            return
        start = 0
        with self.path.open("rb") as old, replacing(self.path) as new:
            for raw in old:
                if start not in gone:
                    new.write(raw)
                start += len(raw)


def digest_of(value: object) -> bytes:
    """Tell an input from others, whatever the order of its fields."""
    if isinstance(value, dict):
        value = sorted(cast("dict[str, object]", value).items())
    text = dumped(value)
    return hashlib.sha256(text.encode()).digest()[:16]
