"""Sheets: reads Excel tables row by row, and writes them with texts as texts, not formulas."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from importlib import import_module
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO
from zipfile import BadZipFile, ZipFile

from moa.core.errors import ConfigError, require_package

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

_LONGEST = 1_048_576
"""Maximum number of rows of an Excel sheet, including the header."""
_WIDEST = 16_384
"""Maximum number of columns of a sheet."""
_CELL = 32_767
"""Maximum number of characters of a cell."""
_UNPACKED = 2**29
"""Maximum size of an unpacked Excel file in bytes, so that a small file doesn't fill the memory."""
_UNPACKED_REST = 2**25
"""Maximum of these bytes outside the sheets and their texts, since that part is read at once."""
_PARTS = 10_000


def read_sheet(file: BinaryIO, source: str) -> Iterator[tuple[int, list[object]]]:
    """Yield the non-empty rows of the first sheet, each with its number.

    Raises:
        ConfigError: it isn't an Excel file, or is too large to be read safely.
        MissingDependency: `openpyxl` isn't installed.
    """
    library = import_openpyxl("to read Excel files")
    _check_size(file, source)
    try:
        with warnings.catch_warnings():  # such as about an unknown style
            warnings.simplefilter("ignore")
            book = library.load_workbook(file, read_only=True, data_only=True, keep_links=False)
            first = book.worksheets[0]
            first.reset_dimensions()  # the size that a file states is often wrong
            rows = islice(first.iter_rows(values_only=True), _LONGEST)
            for number, cells in enumerate(rows, start=1):
                if row := _trim(cells):
                    yield number, row
    except Exception as error:  # the library raises anything for a damaged file
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{source!r} can't be read as an Excel file: {reason}") from error


def write_sheet(
    lines: Iterable[Mapping[str, object]], names: Sequence[str], file: SupportsWrite[bytes]
) -> int:
    """Write a table as the only sheet of an Excel file, without formulas; count the rows.

    Raises:
        ConfigError: it is longer or wider than Excel allows.
        MissingDependency: `openpyxl` isn't installed.
    """
    library = import_openpyxl("to write Excel files")
    cells = import_module("openpyxl.cell")
    if len(names) > _WIDEST:
        raise ConfigError(f"{len(names)} columns are more than Excel takes: write a .csv file")
    book = library.Workbook(write_only=True)
    sheet = book.create_sheet("rows")
    count = 0

    def cell(value: object) -> object:
        if not isinstance(value, str):
            return value
        text_cell = cells.WriteOnlyCell(sheet, _clean_text(value))
        text_cell.data_type = "s"  # else "=1" would be a formula
        return text_cell

    sheet.append([cell(name) for name in names])
    for count, line in enumerate(lines, start=1):
        if count >= _LONGEST:
            raise ConfigError(f"Excel takes {_LONGEST:,} rows at most: write a .csv file")
        sheet.append([cell(line.get(name)) for name in names])
    book.save(file)
    return count


def import_openpyxl(purpose: str) -> ModuleType:
    """Import the library for Excel files."""
    with require_package("openpyxl", extra="files", purpose=purpose):
        return import_module("openpyxl")


def _check_size(file: BinaryIO, source: str) -> None:
    """Refuse a file that unpacks to too much. `zipfile` reads no more than a part states."""
    try:
        parts = ZipFile(file).infolist()
    except BadZipFile as error:
        raise ConfigError(
            f"{source!r} is no .xlsx file, or one with a password: save it without one"
        ) from error
    large = sum(part.file_size for part in parts)
    rest = sum(part.file_size for part in parts if not _is_streamed(part.filename))
    if len(parts) > _PARTS or large > _UNPACKED or rest > _UNPACKED_REST:
        raise ConfigError(
            f"{source!r} would unpack to {large / 2**20:,.0f} MiB in {len(parts)} parts, which is "
            "more than is read of an Excel file: save it as .csv"
        )
    file.seek(0)


def _is_streamed(name: str) -> bool:
    return name.startswith("xl/worksheets/") or name == "xl/sharedStrings.xml"


def _trim(cells: Sequence[object]) -> list[object]:
    row = [_plain_cell(cell) for cell in cells]
    while row and row[-1] in (None, ""):
        row.pop()
    return row


def _plain_cell(cell: object) -> object:
    if isinstance(cell, date | datetime | time):
        return cell.isoformat()
    return cell if cell is None or isinstance(cell, str | int | float | bool) else str(cell)


def _clean_text(text: str) -> str:
    """Replace characters that XML can't hold, and cut the text to a cell's length."""
    clean = "".join(c if c >= " " or c in "\t\n\r" else "\ufffd" for c in text)
    return clean[:_CELL].replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")
