"""Writes the table of figures in README.md, from the sections of docs/benchmarks.md.

python benchmarks/readme.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sections import ROOT, sections_in

README, PAGE = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- begin figures -->", "<!-- end figures -->"
FIGURES = ROOT / "benchmarks" / "readme_figures.md"
"""The table; each figure is named by section, row, column, and how it is written."""


def tables_in(section: str) -> Iterator[dict[str, dict[str, str]]]:
    """Give the tables of a section: their rows by the first cell, and their cells by column."""
    for found in re.finditer(r"(?:^\|.*\n?)+", section, re.MULTILINE):
        lines = [
            [cell.strip() for cell in line.strip().strip("|").split(" | ")]
            for line in found[0].splitlines()
        ]
        head = lines[0]
        yield {line[0]: dict(zip(head, line, strict=False)) for line in lines[2:]}


def figure(page: str, named: str) -> str:
    """Find a figure of a page, and write it.

    Args:
        page: Its text.
        named: Section, row, column and how, with ` > ` between. How is a format of Python for the
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


def with_figures(readme: str, page: str) -> str:
    """Write the table of figures into a README anew."""
    made = re.sub(r"\{([^}]+)\}", lambda found: figure(page, found[1]), FIGURES.read_text("utf-8"))
    before, _, rest = readme.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{made}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Write it."""
    readme = README.read_text("utf-8")
    README.write_text(with_figures(readme, PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
