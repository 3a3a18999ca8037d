"""Results: what became of rows as a table, made of lines that stand beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from moa._files import Existing
from moa.batch import Item, Malformed, Row
from moa.errors import ConfigError
from moa.rows._stores import Scratch
from moa.rows.reading import Format, format_of
from moa.rows.tables import Columns, check_writer, write_lines
from moa.rows.where import Where
from moa.rows.writing import RowFile, line, name_of

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
        self._order = _Order()

    def left(
        self, found: Iterable[Row | Malformed], *, all_rows: bool = True
    ) -> Iterator[Row | Malformed]:
        """Give the rows that are to be done, see `RowFile.left`, and remember their order."""
        return super().left(map(self._order.pass_on, found), all_rows=all_rows)

    def _finish(self) -> None:
        """Write the table.

        Raises:
            ConfigError: it can't be written; its lines are all there.
        """
        places = self._order.places(self._whole_lines())
        if not places:
            return

        def lines() -> Iterator[Mapping[str, Any]]:
            with self.path.open("rb") as file:
                for place in places:
                    file.seek(place)
                    yield json.loads(file.readline())

        def chosen() -> Iterator[Mapping[str, Any]]:
            return filter(self._where.matches, lines())

        columns = Columns.of(lines, copy_of=self._text_column)
        try:
            self.in_table = write_lines(chosen, self.result, self._kind, columns)
        except ConfigError as error:
            raise ConfigError(f"{error}. What came out is all in {self.path}") from error
        self.renamed = columns.renamed

    def _whole_lines(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        start = 0
        with self.path.open("rb") as file:
            for raw in file:
                yield start, json.loads(raw)
                start += len(raw)

    def close(self) -> None:
        """Close it."""
        self._order.close()
        super().close()


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
    if not table.exists():
        return
    if source is not None and Path(source).exists() and table.samefile(source):
        raise ConfigError(f"{table} is the input: what comes out goes into another file")
    if not table.stat().st_size or existing == "overwrite":
        return
    if existing == "refuse":
        raise ConfigError(
            f"{table} is there already: --resume goes on with it, --overwrite replaces it"
        )
    if not lines.exists():
        raise ConfigError(
            f"{table} is there, and {lines}, which --resume goes on with, is not: give another "
            "file, or --overwrite"
        )


class _Order(Scratch):
    """The order of the rows that were read, and which lines are theirs."""

    def __init__(self) -> None:
        super().__init__("create table row (given text, name text, place int)")
        self.run("create index rows_given on row (given)")
        self.run("create table line (start int primary key, given text, name text, failed int)")
        self._read = 0

    def pass_on(self, row: Row | Malformed) -> Row | Malformed:
        """Remember a row, and give it back."""
        self._read += 1
        name = name_of(row.id, row.input)
        add = "insert into row (given, name, place) values (?, ?, ?)"
        self.run(add, name.partition("/")[0], name, self._read)
        return row

    def places(self, lines: Iterable[tuple[int, Mapping[str, Any]]]) -> list[int]:
        """Give where the lines start that count, in the order of the rows.

        Those of rows that were not read come last. What doesn't count is a line that a later one
        replaces: of a row that had failed, or whose input was another.
        """
        for start, values in lines:
            name = name_of(values["id"], values["input"])
            add = "insert into line (start, given, name, failed) values (?, ?, ?, ?)"
            self.run(add, start, name.partition("/")[0], name, "error" in values)
        self.run("create index lines_name on line (name, failed)")
        found = self.run(
            "select start from line left join "
            "(select given, name, min(place) as place from row group by given, name) as read "
            "on read.name = line.name where not (failed and exists (select 1 from line as later "
            "where later.name = line.name and later.start > line.start)) and (place is not null "
            "or not exists (select 1 from row join line as other on other.name = row.name "
            "where row.given = line.given)) "
            "order by place is null, place, start"
        )
        return [start for (start,) in found]
