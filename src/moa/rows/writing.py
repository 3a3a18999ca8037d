"""Writing: results as lines of JSON, written as each row is done, and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from moa._files import Existing, LineFile, check_existing, replacing
from moa._json import JSON
from moa._sqlite import SQLite, SQLRow
from moa.batch import Item, MalformedLine, Row
from moa.context import RunContext
from moa.errors import ConfigError, InputError
from moa.rows.index import RowIndex
from moa.rows.loop import CALLS, Calls, Fate, fate_of
from moa.rows.reading import Format
from moa.rows.records import line, name_of
from moa.rows.tables import Table
from moa.rows.where import Where

_TABLES: tuple[Format, ...] = ("csv", "parquet", "xlsx")


class RowFile(LineFile):
    """A file of results, in the order in which rows were done, that can be resumed.

    A line has `id` and `input`, and `error` where its row failed. With `resume`, `due_rows` passes
    over the rows that have a good line. Rows that failed are due again, and so are those whose
    input has changed under the same id; the lines that they had are removed when the file is closed
    after all rows were read. Until then the last line of an id counts.

    The lines alone say which rows are done. Finished calls of unfinished rows are beside
    them, in a file whose name ends in `.calls`: with `resume` they are found and not made again. It
    goes when all rows are done.

    Args:
        path: Made if it isn't there. Its name ends in `.jsonl`.
        existing: What is done with lines that are there: `refuse` raises, `resume` goes on with
            them, `overwrite` drops them when the first line is written.
        source: The file that the rows are read from; `None`: from elsewhere.
        line: Writes what became of a row, for `take`.
        table: Made of the lines when the file is closed; see `result_file`.

    Raises:
        ConfigError: when it is entered: another process writes it, it has lines that are to be
            refused, or that are none of rows, it is `source`, or it can't be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        existing: Existing = "refuse",
        source: str | None = None,
        line: Callable[[Item[object]], Mapping[str, object]] = line,
        table: Table | None = None,
    ) -> None:
        super().__init__(path, existing=existing, source=source)
        self.table = table
        self.there = 0
        """Rows so far that had a good line."""
        self.failed = 0
        """Rows so far that had failed, and are due again."""
        self.changed = 0
        """Rows so far that had another input, and are due again."""
        self._line = line
        self._index: RowIndex
        self._kept = _CallFile(self.path, resumes=existing == "resume")
        self._calls = Calls(self._kept)
        self._all_read = False

    @property
    def lost(self) -> int:
        """Finished calls so far that were kept damaged, and that are made again."""
        return self._calls.lost

    def __enter__(self) -> Self:
        """Open and lock it, and read what is there."""
        super().__enter__()
        self._index = RowIndex(forgets=self.table is None)
        try:
            for number, start, values in self.lines():
                if not isinstance(values.get("id"), str | int) or "input" not in values:
                    raise self.line_error(number)
                name = name_of(values["id"], values["input"])
                self._index.add_line(name, start, failed="error" in values)
            if self._existing != "overwrite":
                self._kept.begin()
        except BaseException:
            self.close()
            raise
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
            StoreError: it has none for finished calls of rows that aren't done.
        """
        try:
            self._calls.close()
            self._write_table()
            if self._all_read:
                self._kept.drop_others(self._index.is_unfinished)
                self._remove_replaced()
        except OSError as problem:
            raise self._write_error(problem) from problem
        finally:
            self.close()

    def close(self) -> None:
        """Close it, and with that free its lock; an empty one is removed."""
        try:
            self._kept.end()
        finally:
            self._index.close()
            super().close()

    def due_rows(
        self, rows: Iterable[Row | MalformedLine], *, all_rows: bool = True
    ) -> Iterator[Row | MalformedLine]:
        """Yield the due rows: those without a good line for their id and input.

        Args:
            rows: The rows.
            all_rows: Whether these are all rows; else no line is removed, since a row with its
                id may still come.
        """
        for row in rows:
            name = name_of(row.id, row.input)
            failed, good = self._index.old_lines(name)
            key = self._index.read(name)  # of copies each has its own line
            if key is None:
                self.there += 1
                continue
            self.failed += failed
            self.changed += good
            if isinstance(row, MalformedLine):
                yield replace(row, key=key)
            else:
                yield replace(row, key=key, journal=self._calls.journals([key])[0])
        self._all_read = all_rows

    async def take(self, item: Item[object], context: RunContext, /) -> None:
        """Write the line of a row, by `line`; see `write`.

        A failed row's finished calls are stored, unless the row itself is at fault.

        Raises:
            StoreError: the disk has no room for them.
        """
        self._write(self._line(item), fate_of(item, context), item.key)

    def write(self, values: Mapping[str, object]) -> None:
        """Write the line of a row: it has left this process when this returns.

        Raises:
            InputError: `id` or `input` is missing.
            ConfigError: the disk is full, or gone; the lines before it are whole.
        """
        if not values.keys() >= {"id", "input"}:
            raise InputError(f"a line needs 'id' and 'input', and this one has {list(values)}")
        self._write(values, "failed" if "error" in values else "done")

    def _write(self, values: Mapping[str, object], fate: Fate, key: str = "") -> None:
        if not key:
            name = name_of(values["id"], values["input"])
            key = self._index.due(name) or self._index.add(name)
        self._kept.begin()
        start = self.add(values)
        self._index.settle(key, start, failed="error" in values)
        self._calls.settle(key, fate)

    def _write_table(self) -> None:
        if self.table is None or not self._index.lines:
            return

        def lines() -> Iterator[JSON]:
            with self.path.open("rb") as file:
                for start in self._index.starts("place"):
                    file.seek(start)
                    yield json.loads(file.readline())

        try:
            self.table.write(lines)
        except ConfigError as error:
            raise ConfigError(f"{error}. What came out is all in {self.path}") from error

    def _remove_replaced(self) -> None:
        """Remove lines that count no more."""
        if not self._index.has_replaced():
            return
        counting = self._index.starts("start")
        following, start = next(counting, None), 0
        with self.path.open("rb") as old, replacing(self.path) as new:
            for raw in old:
                if start == following:
                    new.write(raw)
                    following = next(counting, None)
                start += len(raw)


class _CallFile(SQLite):
    """Finished calls in a file beside the lines, made for the first call."""

    def __init__(self, lines: Path, *, resumes: bool) -> None:
        path = lines.with_name(f"{lines.name}.calls")
        super().__init__(path, CALLS, what=f"{path}, which keeps finished calls,", alone=True)
        self._resumes = resumes
        self._has_begun = self._is_open = False
        self.is_new = True

    def begin(self) -> None:
        """Open the calls of an earlier run, or remove them if it isn't resumed."""
        if self._has_begun:
            return
        self._has_begun = True
        if not self._resumes:
            self._remove()
        elif self.path.exists():
            self.open()
            self.is_new = False

    def open(self) -> None:
        """Open it; a `ConfigError` says that removing it loses paid calls."""
        try:
            super().open()
        except ConfigError as error:
            raise ConfigError(
                f"{error}. Without it, its calls are made and paid again: remove it for that"
            ) from error
        self._is_open = True

    def run(self, sql: str, *values: object) -> list[SQLRow]:
        """Run a statement; without a file there are no rows."""
        return super().run(sql, *values) if self._is_open else []

    def execute_many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        """See `SQLite.execute_many`."""
        self.begin()
        if not self._is_open:
            self.open()
        super().execute_many(sql, values)

    def drop_others(self, is_unfinished: Callable[[str], bool]) -> None:
        """Drop calls that a killed process has left of finished or removed rows."""
        for (key,) in self.run("select distinct key from moa_calls"):
            if not is_unfinished(key):
                self.run("delete from moa_calls where key = ?", key)

    def end(self) -> None:
        """Close it, and remove it if it is empty."""
        if self._is_open:
            self._is_open = False
            empty = not super().run("select 1 from moa_calls limit 1")
            self.close()
            if empty:
                self._remove()

    def _remove(self) -> None:
        for end in ("", "-wal", "-shm", "-journal"):
            with suppress(FileNotFoundError):
                self.path.with_name(f"{self.path.name}{end}").unlink()


def lines_path(table: Path) -> Path:
    """Return the path of the lines of a table."""
    return table.with_name(f"{table.name}.jsonl")


def result_file(
    path: Path,
    *,
    existing: Existing,
    source: str | None,
    line: Callable[[Item[object]], Mapping[str, object]],
    where: Iterable[str] = (),
    text_column: str | None = None,
) -> RowFile:
    """Open the file of lines of a path: itself, or the one beside a table.

    A table that is there counts as its lines do.

    Raises:
        ConfigError: it is of lines, and there is a `where`; or as for a `RowFile`; or the table is
            there, and no lines beside it to go on with.
    """
    conditions = [*where]
    if path.suffix.lower().removeprefix(".") not in _TABLES:
        if conditions:
            raise ConfigError(
                f"--where chooses the rows of a table, and {path} keeps the lines of all: give "
                "--out FILE.csv, .parquet or .xlsx"
            )
        return RowFile(path, existing=existing, source=source, line=line)
    check_existing(path, existing=existing, source=source)
    lines = lines_path(path)
    if existing == "resume" and not lines.exists() and path.exists() and path.stat().st_size:
        raise ConfigError(
            f"{path} is there, and {lines}, which --resume goes on with, is not: give another "
            "file, or --overwrite"
        )
    table = Table(path, where=Where.of(conditions), text_column=text_column)
    return RowFile(lines, existing=existing, source=source, line=line, table=table)
