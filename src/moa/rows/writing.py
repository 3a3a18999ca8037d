"""Writing: results as JSON Lines, written as each row is done, and resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from moa.adapters.sqlite import SQLite, SQLRow
from moa.core._files import Existing, LineFile, check_existing, replacing
from moa.core._json import JSON
from moa.core.batch import Item, MalformedLine, Row
from moa.core.context import RunContext
from moa.core.errors import ConfigError, InputError
from moa.rows.index import RowIndex
from moa.rows.loop import CALLS, Calls, Fate, fate_of
from moa.rows.reading import Format
from moa.rows.records import line, name_of
from moa.rows.tables import Table
from moa.rows.where import Where

_TABLES: tuple[Format, ...] = ("csv", "parquet", "xlsx")


class RowFile(LineFile):
    """A file of results, in the order in which rows were done. It can be resumed.

    A line has `id` and `input`, and `error` if its row failed. With `resume`, `due_rows` skips the
    rows that have a good line. Failed rows are due again, and so are those whose input has changed
    under the same id. Their old lines are removed when the file is closed after all rows were read.
    Until then the last line of an id counts.

    Only the lines tell which rows are done. Finished calls of unfinished rows are in a file beside
    it, whose name ends in `.calls`. With `resume` they are reused. The file is removed when all
    rows are done.

    Args:
        path: Created if missing. Its name ends in `.jsonl`.
        existing: What to do with existing lines: `refuse` raises, `resume` continues, `overwrite`
            drops them when the first line is written.
        source: File that the rows are read from; `None`: from elsewhere.
        line: Returns the line of an item, for `take`.
        table: Table to make of the lines when the file is closed; see `result_file`.

    Raises:
        ConfigError: on entering: another process writes to it, it has lines that are to be refused
            or aren't of rows, it is `source`, or it can't be written.
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
        """Number of rows so far that had a good line."""
        self.failed = 0
        """Number of rows so far that had failed, and are due again."""
        self.changed = 0
        """Number of rows so far whose input has changed, and that are due again."""
        self._line = line
        self._index: RowIndex
        self._kept = _CallFile(self.path, resumes=existing == "resume")
        self._calls = Calls(self._kept)
        self._all_read = False

    @property
    def lost(self) -> int:
        """Number of damaged finished calls so far, which are made again."""
        return self._calls.lost

    def __enter__(self) -> Self:
        """Open and lock it, and read its lines."""
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
        """Remove replaced lines, and close it.

        Raises:
            ConfigError: the disk has no room for that. All lines are still there.
            StoreError: the disk has no room for finished calls of unfinished rows.
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
        """Close it, which frees its lock. An empty file is removed."""
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
            all_rows: True if these are all rows. Otherwise no line is removed, since a row with its
                id may still come.
        """
        for row in rows:
            name = name_of(row.id, row.input)
            failed, good = self._index.old_lines(name)
            key = self._index.read(name)  # each copy has its own line
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
        """Write the line of an item, made by `line`; see `write`.

        A failed row's finished calls are stored, unless the row itself is at fault.

        Raises:
            StoreError: the disk has no room for them.
        """
        self._write(self._line(item), fate_of(item, context), item.key)

    def write(self, values: Mapping[str, object]) -> None:
        """Write the line of a row. It has left this process when this returns.

        Raises:
            InputError: `id` or `input` is missing.
            ConfigError: the disk is full, or gone. The lines before it are complete.
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
        """Remove lines that were replaced."""
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
    """File of finished calls beside the lines, created for the first call."""

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
        """Open it. A `ConfigError` says that removing it loses paid calls."""
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
        """Drop calls of finished or removed rows, which a killed process has left."""
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
    """Return the path of the file of lines of a table."""
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
    """Open the file of lines for a path: the path itself, or the file beside a table.

    An existing table is treated like existing lines.

    Raises:
        ConfigError: the path is a file of lines and there is a `where`; or the table exists without
            the lines to resume; or as for a `RowFile`.
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
