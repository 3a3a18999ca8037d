"""Results: what became of rows as a table, made of lines that stand beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from moa._files import Existing, check_existing
from moa.batch import Item
from moa.errors import ConfigError
from moa.rows.reading import Format, format_of
from moa.rows.records import line
from moa.rows.tables import Columns, check_writer, write_lines
from moa.rows.where import Where
from moa.rows.writing import RowFile

_TABLES: tuple[Format, ...] = ("csv", "parquet", "xlsx")


def lines_beside(table: Path) -> Path:
    """Name the file of lines that a table is made of."""
    return table.with_name(f"{table.name}.jsonl")


class TableFile(RowFile):
    """A table of what became of rows, in the order of the input, written when the file is closed.

    Its lines stand beside it, in a `RowFile` whose name has `.jsonl` behind it: they are what
    `resume` goes on with. The table is replaced whole, also where the run was stopped.

    Args:
        table: Its name ends in `.csv`, `.parquet` or `.xlsx`.
        existing, source, line: See `RowFile`; a table that is there counts as its lines do.
        where: Which lines are in the table.
        text_column: The column that the rows were given as `text` too: that is left out.

    Raises:
        ConfigError: as `RowFile`; or the table is there, and no lines beside it to go on with.
    """

    def __init__(
        self,
        table: Path,
        *,
        existing: Existing = "refuse",
        source: str | None = None,
        line: Callable[[Item[Any]], Mapping[str, object]] = line,
        where: Where | None = None,
        text_column: str | None = None,
    ) -> None:
        lines = lines_beside(table)
        _check_table(table, lines, existing=existing, source=source)
        super().__init__(lines, existing=existing, source=source, line=line)
        self._kind: Format | None = format_of(table.name)
        check_writer(self._kind)
        self.result = table
        self.in_table: int | None = None
        """Rows in the table; `None` until it is written."""
        self.renamed: Mapping[str, str] = {}
        """Columns of outputs that are called otherwise, since the input has such a one."""
        self._where = where or Where()
        self._text_column = text_column

    def _finish(self) -> None:
        """Write the table.

        Raises:
            ConfigError: it can't be written; its lines are all there.
        """
        if not self._index.lines:
            return

        def lines() -> Iterator[Mapping[str, Any]]:
            with self.path.open("rb") as file:
                for start in self._index.starts("place"):
                    file.seek(start)
                    yield json.loads(file.readline())

        def chosen() -> Iterator[Mapping[str, Any]]:
            return filter(self._where.matches, lines())

        columns = Columns.of(lines, copy_of=self._text_column)
        try:
            self.in_table = write_lines(chosen, self.result, self._kind, columns)
        except ConfigError as error:
            raise ConfigError(f"{error}. What came out is all in {self.path}") from error
        self.renamed = columns.renamed


def result_file(
    path: Path,
    *,
    existing: Existing,
    source: str | None,
    line: Callable[[Item[Any]], Mapping[str, object]],
    where: Iterable[str] = (),
    text_column: str | None = None,
) -> RowFile:
    """Give the file of lines, or of a table, that a path names.

    Raises:
        ConfigError: it is of lines, and there is a `where`; or as for either.
    """
    chosen = [*where]
    if path.suffix.lower().removeprefix(".") not in _TABLES:
        if chosen:
            raise ConfigError(
                f"--where chooses the rows of a table, and {path} keeps the lines of all: give "
                "--out FILE.csv, .parquet or .xlsx"
            )
        return RowFile(path, existing=existing, source=source, line=line)
    return TableFile(
        path,
        existing=existing,
        source=source,
        line=line,
        where=Where.of(chosen),
        text_column=text_column,
    )


def _check_table(table: Path, lines: Path, *, existing: Existing, source: str | None) -> None:
    check_existing(table, existing=existing, source=source)
    is_there = table.exists() and table.stat().st_size
    if is_there and existing == "resume" and not lines.exists():
        raise ConfigError(
            f"{table} is there, and {lines}, which --resume goes on with, is not: give another "
            "file, or --overwrite"
        )
