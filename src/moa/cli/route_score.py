"""moa route score: how much the strong model would gain on each row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moa.cli.routing_rows import RouterFile

EXAMPLES = """

    moa route score router.json rows.jsonl --out scores.jsonl

A row has prompt, and for a cascade weak_response; whether the answers are right needn't be known,
and isn't looked at. Each line has id (the row's own, else its line number), score (the predicted
gain of the strong model: the higher, the rather it) and model (weak or strong, by the router's
threshold), in the order of the rows.

Exit codes: 0 all scored, 2 usage, or rows that the router wasn't made for.
"""


def score(
    router: RouterFile,
    source: Annotated[
        str, typer.Argument(metavar="ROWS.jsonl", help=".jsonl or .csv file, - for standard input.")
    ],
    *,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="SCORES.jsonl", help="One line of JSON a row is written."),
    ],
) -> None:
    """Score requests: the higher, the rather the strong model."""
    from moa.cli import routing_rows, rows, screen
    from moa.cli.lines import check_out, open_out, write

    check_out(out, source=None if source == rows.STDIN else source)
    fitted = routing_rows.loaded(router)
    found = routing_rows.cases(source, fitted)
    cases = [case for _, case in found]
    if (missing := routing_rows.missing_fields(fitted, cases)) is not None:
        screen.err().print(f"moa: {missing}", style="yellow")
    gains = fitted.gains(cases).tolist()
    with open_out(out) as file:
        for (row, _), gain in zip(found, gains, strict=True):
            model = "strong" if gain >= fitted.threshold else "weak"
            write(file, {"id": row.id, "score": gain, "model": model})
    strong = sum(gain >= fitted.threshold for gain in gains)
    screen.err().print(f"{len(gains)} rows scored, {strong} for the strong model: {out}")
