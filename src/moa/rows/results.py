"""Results: what became of rows as a table, made of lines that stand beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from moa._files import Existing, check_existing
from moa.batch import Item
from moa.errors import ConfigError
from moa.rows.reading import Format, format_of
from moa.rows.tables import Columns, Lines, check_writer, write_lines
from moa.rows.where import Where
from moa.rows.writing import RowFile

_TABLES: tuple[Format, ...] = ("csv", "parquet", "xlsx")


def lines_beside(table: Path) -> Path:
    """Name the file of lines that a table is made of."""
    return table.with_name(f"{table.name}.jsonl")


class Table:
    """A table of what became of rows, in the order of the input, made when their file is closed.

    It is replaced whole, also where the run was stopped.

    Args:
        path: Its name ends in `.csv`, `.parquet` or `.xlsx`.
        where: Which lines are in it.
        text_column: The column that the rows were given as `text` too: that is left out.

    Raises:
        MissingDependency: a package that its kind needs isn't installed.
    """

    def __init__(self, path: Path, *, where: Where, text_column: str | None = None) -> None:
        self.path = path
        self.rows: int | None = None
        """Rows in it; `None` until it is written."""
        self.renamed: Mapping[str, str] = {}
        """Columns of outputs that are called otherwise, since the input has such a one."""
        self._kind: Format | None = format_of(path.name)
        self._where = where
        self._text_column = text_column
        check_writer(self._kind)

    def write(self, lines: Lines) -> None:
        """Write it, or raise a `ConfigError`."""
        columns = Columns.of(lines, copy_of=self._text_column)

        def chosen() -> Iterable[Mapping[str, Any]]:
            return filter(self._where.matches, lines())

        self.rows = write_lines(chosen, self.path, self._kind, columns)
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
    """Give the file of lines that a path names, or that are beside the table that it names.

    A table that is there counts as its lines do.

    Raises:
        ConfigError: it is of lines, and there is a `where`; or as for a `RowFile`; or the table is
            there, and no lines beside it to go on with.
    """
    chosen = [*where]
    if path.suffix.lower().removeprefix(".") not in _TABLES:
        if chosen:
            raise ConfigError(
                f"--where chooses the rows of a table, and {path} keeps the lines of all: give "
                "--out FILE.csv, .parquet or .xlsx"
            )
        return RowFile(path, existing=existing, source=source, line=line)
    check_existing(path, existing=existing, source=source)
    lines = lines_beside(path)
    if existing == "resume" and not lines.exists() and path.exists() and path.stat().st_size:
        raise ConfigError(
            f"{path} is there, and {lines}, which --resume goes on with, is not: give another "
            "file, or --overwrite"
        )
    table = Table(path, where=Where.of(chosen), text_column=text_column)
    return RowFile(lines, existing=existing, source=source, line=line, table=table)
