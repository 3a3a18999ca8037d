"""moa show: rows of a run, read from its output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from moa.cli import options, screen
from moa.core._json import JSON, is_object, object_of, objects_of
from moa.core.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from moa.core.batch import MalformedLine, Row
    from moa.rows.decided import Decision

MOST = 100
"""Rows in a table."""
_COLUMNS = ("label", "confidence", "language", "kind", "queue")
"""Fields that have a column of their own."""


def show(
    source: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            help="Output of moa run --out or moa decide --out; for a table, its .jsonl file.",
        ),
    ],
    id: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="Id of a row, else the number of its line in OUT."),
    ] = None,
    *,
    where: options.Where = None,
    full: Annotated[
        bool, typer.Option("--full", help="Show whole outcomes in the table, on several lines.")
    ] = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Show one row of a run in full, or a table of some.

    One row, with its text, decisions with their probabilities, output and trace:

        moa show done.jsonl m07

    A table of rows that were quarantined, failed, or have a label:

        moa show done.jsonl --where quarantine
        moa show done.jsonl --where failed --full
        moa show done.jsonl --where decisions.intent.label=refund --where queue!=replies

    Their lines, for other programs:

        moa show done.jsonl --where queue=sales --json | jq -r .input.text
    """
    from moa import rows
    from moa.rows.writing import lines_path

    del quiet
    if (lines_file := lines_path(Path(source))).is_file():  # a table has neither scores nor traces
        source = str(lines_file)
    condition = rows.Where.of(where or ())
    matches = (row for row in _lines(rows.read(source)) if condition.matches(row[1]))
    if id is not None:
        matches = iter(_find_by_id(id, [*matches], source))
    if as_json:
        for _, line in matches:
            screen.json_line(line)
    elif id is not None:
        for number, line in matches:
            screen.results_console().print(line_table(number, line))
    else:
        _show_table(matches, full=full)


def _lines(rows: Iterator[Row | MalformedLine]) -> Iterator[tuple[int, JSON]]:
    """Yield each line with its number; report invalid ones."""
    from moa.core.batch import MalformedLine

    for row in rows:
        if isinstance(row, MalformedLine):
            screen.warn([f"line {row.number} is malformed: {row.error}"])
        else:
            yield row.number, {"input": row.value} if isinstance(row.value, str) else row.value


def _find_by_id(id: str, lines: Sequence[tuple[int, JSON]], source: str) -> list[tuple[int, JSON]]:
    """Find lines by the id of their row, else by their number."""
    by_id = [entry for entry in lines if str(entry[1].get("id", "")) == id]
    matches = by_id or [entry for entry in lines if str(entry[0]) == id]
    if not matches:
        raise ConfigError(
            f"{source} has no row or line {id!r}. To list the rows and their ids: moa show {source}"
        )
    return matches


def _show_table(lines: Iterator[tuple[int, JSON]], *, full: bool) -> None:
    first = [cells(number, line) for number, line in islice(lines, MOST)]
    out = screen.results_console()
    if first:
        out.print(screen.outcomes(first, full=full))
    if hidden := sum(1 for _ in lines):
        out.print(f"… and {hidden} more: --json prints all")
    screen.notes().print(f"{len(first) + hidden} rows")


def cells(number: int, line: JSON) -> dict[str, str]:
    """Name the cells of a line's row, left to right; `outcome` is the last."""
    row_id = line.get("id", number)
    values = {"id": str(row_id)}
    output = line.get("output")
    values |= {decision.name: decision.said for decision in _decisions(output)}
    for name in _COLUMNS:
        for part in (line, object_of(output)):
            if isinstance(value := part.get(name), str | float):
                values.setdefault(name, f"{value:.2f}" if isinstance(value, float) else value)
    values[screen.STATUS] = "failed" if "error" in line else str(line.get("status", ""))
    return values | {screen.OUTCOME: _outcome(line)}


def _outcome(line: JSON) -> str:
    from moa.rows.decided import describe_fields

    if "error" in line:
        return str(line["error"])
    output, input_value = line.get("output"), line.get("input")
    if isinstance(output, str):
        return output
    fields = object_of(output)
    words = [fields.get(name) for name in ("text", "answer", "reason")]
    if not _decisions(output):
        words.append(describe_fields(field for field in fields.items() if field[0] not in _COLUMNS))
    texts = (input_value, object_of(input_value).get("text"), line.get("text"))
    candidates = (text for text in (*words, *texts) if isinstance(text, str) and text)
    return next(candidates, "")


def _decisions(output: object) -> list[Decision]:
    """Find the decisions that have probabilities; filters are left out."""
    from moa.rows.decided import decisions_in

    return [decision for decision in decisions_in(output) if not decision.filters]


def line_table(number: int, line: JSON) -> Table:
    """Show all parts of a line, one per table row."""
    from moa.rows.decided import format_value

    table = screen.make_facts_table()
    status = "failed" if "error" in line else line.get("status", "")
    input_value, output = line.get("input", line.get("text", "")), line.get("output")
    decisions: list[tuple[str, str, object]] = [
        (decision.name, decision.said, decision.probabilities) for decision in _decisions(output)
    ]
    if "scores" in line:  # of moa decide
        decisions.insert(0, ("decision", format_value(line.get("label")), line["scores"]))
    notes = [note for note in objects_of(line.get("trace")) if note.get("kind") != "answered"]
    parts = [
        ("id", f"{line.get('id', number)} (line {number})"),
        ("status", str(status)),
        ("error", str(line.get("error", ""))),
        *_fields("input", input_value),
        *((name, f"{label}: {_rank(probabilities)}") for name, label, probabilities in decisions),
        *_fields("output", output),
        ("took", _format_usage(line)),
        *(("trace", _format_note(note)) for note in notes if note),
    ]
    for name, words in parts:
        if words:
            table.add_row(Text(name), Text(words))
    return table


def _fields(name: str, value: object, deep: int = 0) -> Iterator[tuple[str, str]]:
    """Yield the fields of a value by path, without decisions."""
    from moa.rows.decided import DEEP, format_value, is_decision

    if not is_object(value) or deep == DEEP:
        yield name, format_value(value)
    elif not is_decision(value):
        for key, inner in value.items():
            yield from _fields(f"{name}.{key}", inner, deep + 1)


def _rank(probabilities: object) -> str:
    """Format probabilities, the highest first."""
    pairs = [
        (float(p), name)
        for name, p in object_of(probabilities).items()
        if isinstance(p, int | float)
    ]
    return ", ".join(f"{name} {p:.3f}" for p, name in sorted(pairs, reverse=True))


def _format_usage(line: JSON) -> str:
    usage = object_of(line.get("usage"))
    if not usage:
        return ""
    cost = usage.get("cost")
    is_known = isinstance(cost, int | float)
    dollars = screen.dollars(Decimal(str(cost))) if is_known else "cost unknown"
    return f"{line.get('seconds', 0)} s, {usage.get('calls', 0)} calls, {dollars}"


def _format_note(note: JSON) -> str:
    return f"{note.get('kind', '')} {note.get('node', '')}: {note.get('text', '')}"
