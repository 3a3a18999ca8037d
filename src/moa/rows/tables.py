"""Tables: the lines of a run as a CSV, Parquet or Excel table, the input's columns first."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from moa.core._files import dump_json, replacing
from moa.core._json import JSON, is_object
from moa.core.errors import ConfigError
from moa.rows.delimited import csv_line
from moa.rows.reading import PARQUET_ROWS, Format, format_of, import_arrow
from moa.rows.sheets import import_openpyxl, write_sheet
from moa.rows.where import Where

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

Lines = Callable[[], Iterable[Mapping[str, object]]]
"""Returns the lines of a run, from the first, on each call."""
Column = tuple[str, str]
"""Part of the line that a field is in (`input`, `line` or `output`), and its name."""
_APART = {"input", "output", "seconds", "usage", "trace"}
"""Keys of a line that aren't columns. The first two contain columns, the others are only in
lines."""
_ORDER = ("id", "label", "confidence", "accepted")
_PREFIXES = {"input": "", "line": "moa_", "output": "output_"}
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of a table: those of the input, then those of the output.

    A name that the input already has gets the prefix `output_`, or `moa_` if it is a line's own
    field, such as `id`, `status` and `error`.
    """

    names: Mapping[Column, str]
    """Name of each column, in order."""
    kinds: Mapping[str, set[type]]
    """Types of the values in each column, by its name."""

    @classmethod
    def of(cls, lines: Lines, *, copy_of: str | None = None) -> Columns:
        """Find the columns of lines.

        Args:
            lines: The lines.
            copy_of: Column of the input that was copied to `text`. `text` is then left out.
        """
        kinds: dict[Column, set[type]] = {}
        for line in lines():
            for column, value in _fields(line).items():
                kinds.setdefault(column, set()).add(_type_of(value))
        if ("input", "id") in kinds:
            kinds.pop(("line", "id"), None)  # the same id
        if copy_of != "text" and ("input", copy_of) in kinds:
            kinds.pop(("input", "text"), None)
        names = _name_columns(kinds)
        return cls(names, {name: kinds[column] for column, name in names.items()})

    @property
    def renamed(self) -> dict[str, str]:
        """New names of columns whose names were taken."""
        return {name: new_name for (_, name), new_name in self.names.items() if name != new_name}

    def cells(self, line: Mapping[str, object]) -> dict[str, object]:
        """Return the cells of a line by column name, with nested values as JSON."""
        fields = _fields(line).items()
        return {
            self.names[column]: _flatten(value) for column, value in fields if column in self.names
        }


def _name_columns(columns: Iterable[Column]) -> dict[Column, str]:
    """Order columns and give them unique names."""
    columns_by_name: dict[str, Column] = {}
    for part, prefix in _PREFIXES.items():
        for column in (column for column in columns if column[0] == part):
            name = column[1]
            while name in columns_by_name:
                name = prefix + name
            columns_by_name[name] = column
    names = {column: name for name, column in columns_by_name.items()}
    return {column: names[column] for column in sorted(columns, key=_order_of)}


def _order_of(column: Column) -> int:
    part, name = column
    if part == "input":
        return -1
    if part == "line" and name in ("status", "settled", "error"):
        return len(_ORDER) + 1
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def _fields(line: Mapping[str, object]) -> dict[Column, object]:
    """Return the fields of a line, of its input and of its output."""
    row_input, output = line.get("input"), line.get("output")
    parts: dict[str, JSON] = {
        "input": row_input if is_object(row_input) else {"text": row_input},
        "line": {"error": None} | {name: line[name] for name in line if name not in _APART},
        "output": {} if output is None else {"output": output},
    }
    if is_object(output):
        parts["output"] = output
    return {(part, str(name)): value for part in parts for name, value in parts[part].items()}


def _type_of(value: object) -> type:
    return str if isinstance(value, int) and value not in _INT64 else type(value)


def _flatten(value: object) -> object:
    return (
        value if value is None or isinstance(value, str | bool | int | float) else dump_json(value)
    )


def check_writer(kind: Format | None) -> None:
    """Check that the package for a kind of table is installed, before any row is paid for."""
    if kind == "parquet":
        import_arrow("to write Parquet")
    elif kind == "xlsx":
        import_openpyxl("to write Excel files")


def export_lines(lines: Lines, path: Path) -> int:
    """Write lines to a file, completely or not at all; see `moa.rows.jobs.Job.export`."""
    kind = format_of(str(path))
    if kind in (None, "txt") or path.suffix == ".zst":
        raise ConfigError(f"{path}: give a name that ends in .jsonl, .csv, .parquet or .xlsx")
    columns = Columns.of(lines) if kind != "jsonl" else None
    return write_lines(lines, path, kind, columns)


def write_lines(lines: Lines, path: Path, kind: Format | None, columns: Columns | None) -> int:
    """Write lines as they are, or as a table of `columns`, completely or not at all.

    Raises:
        ConfigError: the file can't be written, or is too long for its kind.
        MissingDependency: a package that the kind needs isn't installed.
    """
    try:
        with replacing(path) as file, ExitStack() as stack:
            target: SupportsWrite[bytes] = file
            if path.suffix == ".gz":
                target = stack.enter_context(gzip.open(file, "wb"))
            if columns is None:
                return sum(bool(target.write(f"{dump_json(line)}\n".encode())) for line in lines())
            cells = map(columns.cells, lines())
            if kind == "parquet":
                return _write_parquet(cells, columns, target)
            if kind == "xlsx":
                return write_sheet(cells, [*columns.names.values()], target)
            return _write_csv(cells, [*columns.names.values()], target)
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from error


def _write_csv(
    rows: Iterable[Mapping[str, object]], names: list[str], file: SupportsWrite[bytes]
) -> int:
    file.write(f"{csv_line(names)}\r\n".encode())
    lines = (csv_line([_to_text(row.get(name)) or "" for name in names]) for row in rows)
    return sum(bool(file.write(f"{line}\r\n".encode())) for line in lines)


def _write_parquet(
    rows: Iterable[Mapping[str, object]], columns: Columns, file: SupportsWrite[bytes]
) -> int:
    pyarrow, count = import_arrow("to write Parquet"), 0
    kinds = {name: _choose_kind(types) for name, types in columns.kinds.items()}
    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in kinds.items()])
    texts = [name for name, kind in kinds.items() if kind == "string"]
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for batch in _batches(rows):
            table = [{**row, **{name: _to_text(row.get(name)) for name in texts}} for row in batch]
            writer.write_table(pyarrow.Table.from_pylist(table, schema=schema))
            count += len(batch)
    return count


def _batches(rows: Iterable[Mapping[str, object]]) -> Iterator[list[Mapping[str, object]]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, PARQUET_ROWS)):
        yield batch


def _choose_kind(types: set[type]) -> str:
    """Choose the Parquet type of a column: text if its values have several types."""
    match types - {type(None)}:
        case kinds if kinds == {bool}:
            return "bool_"
        case kinds if kinds == {int}:
            return "int64"
        case kinds if kinds and kinds <= {int, float}:
            return "float64"
        case _:
            return "string"


def _to_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else dump_json(value)


class Table:
    """A table of results in input order, written when their file of lines is closed.

    It is replaced as a whole, even if the run was interrupted.

    Args:
        path: A name that ends in `.csv`, `.parquet` or `.xlsx`.
        where: Conditions on the lines in it.
        text_column: Column of the rows that was copied to `text`. `text` is left out.

    Raises:
        MissingDependency: the package for its kind isn't installed.
    """

    def __init__(self, path: Path, *, where: Where, text_column: str | None = None) -> None:
        self.path = path
        self.rows: int | None = None
        """Number of rows; `None` until it is written."""
        self.renamed: Mapping[str, str] = {}
        """New names of output columns whose names the input already has."""
        self._kind: Format | None = format_of(path.name)
        self._where = where
        self._text_column = text_column
        check_writer(self._kind)

    def write(self, lines: Lines) -> None:
        """Write it, or raise a `ConfigError`."""
        columns = Columns.of(lines, copy_of=self._text_column)

        def chosen_lines() -> Iterable[Mapping[str, object]]:
            return filter(self._where.matches, lines())

        self.rows = write_lines(chosen_lines, self.path, self._kind, columns)
        self.renamed = columns.renamed
