"""Writes the figures in README.md and other pages, from the sections of benchmarks.md.

python benchmarks/figures.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sections import ROOT, sections_in

PAGES = ROOT / "README.md", ROOT / "docs" / "compared.md"
MEASURED = ROOT / "docs" / "benchmarks.md"
TABLES = ROOT / "benchmarks" / "figures.md"
"""The tables; each figure is named by section, row, column, and how it is written."""
_TABLE = re.compile(r"(<!-- figures: (.+?) -->\n)(.*?)(<!-- end of figures -->)", re.DOTALL)


def tables_in(section: str) -> Iterator[dict[str, dict[str, str]]]:
    """Give the tables of a section: rows by the first cell or the first two, cells by column."""
    for found in re.finditer(r"(?:^\|.*\n?)+", section, re.MULTILINE):
        lines = [
            [cell.strip() for cell in line.strip().strip("|").split(" | ")]
            for line in found[0].splitlines()
        ]
        head = lines[0]
        yield {
            ", ".join(line[:cells]): dict(zip(head, line, strict=False))
            for cells in (2, 1)
            for line in lines[2:]
        }


def figure(page: str, named: str) -> str:
    """Find a figure of a page, and write it.

    Args:
        page: Its text.
        named: Section, row, column and how, with ` > ` between. A row is named by its first cell,
            or by its first two with a comma between. How is a format of Python for the
            first number of the cell, or, after `second`, for that behind the slash; `counts` for
            `(2/3)`, as `2 of 3`; or `words` for the cell as it is.

    Raises:
        SystemExit: there is no such cell.
    """
    section, row, column, how = named.split(" > ")
    body = dict(sections_in(page)).get(section, "")
    cells = [table[row][column] for table in tables_in(body) if column in table.get(row, {})]
    if not cells:
        raise SystemExit(f"no table of the section {section!r} has {column!r} for {row!r}")
    cell = cells[0]
    if how == "words":
        return cell
    if how == "counts":
        part, _, whole = cell.partition("(")[2].partition(")")[0].partition("/")
        return f"{part} of {whole}"
    numbers = re.findall(r"\d[\d.]*", cell)
    number = float(numbers[1 if how.startswith("second ") else 0])
    return f"{number:{how.removeprefix('second ')}}".replace("%", " %")


def with_figures(text: str, measured: str) -> str:
    """Write the tables of figures into a page anew."""
    tables = {found[2]: found[3] for found in _TABLE.finditer(TABLES.read_text("utf-8"))}

    def filled(found: re.Match[str]) -> str:
        made = re.sub(r"\{([^}]+)\}", lambda one: figure(measured, one[1]), tables[found[2]])
        return f"{found[1]}{made}{found[4]}"

    return _TABLE.sub(filled, text)


def main() -> None:
    """Write them."""
    for path in PAGES:
        path.write_text(with_figures(path.read_text("utf-8"), MEASURED.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
