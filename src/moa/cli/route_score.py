"""moa route score: how much the strong model would gain on each row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moa.cli import options
from moa.cli.routing_rows import RouterFile

EXAMPLES = """

    moa route score router.json rows.jsonl --out scores.jsonl

A row has prompt, and for a cascade weak_response; whether the answers are right needn't be known,
and isn't looked at. Each line has id (the row's own, else its line number), input, score (the
predicted gain of the strong model: the higher, the rather it) and model (weak or strong, by the
router's threshold), in the order of the rows.

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
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    format: options.Format = None,
) -> None:
    """Score requests: the higher, the rather the strong model."""
    from moa import rows
    from moa.cli import routing_rows, screen
    from moa.cli.targets import check_target

    check_target("--out", out)
    with rows.RowFile(
        out,
        existing=options.existing(out, resume=resume, overwrite=overwrite),
        source=None if source == rows.STDIN else source,
    ) as file:
        fitted = routing_rows.loaded(router)
        found = routing_rows.cases(source, fitted, format=format)
        cases = [case for _, case in found]
        if (missing := routing_rows.missing_fields(fitted, cases)) is not None:
            screen.err().print(f"moa: {missing}", style="yellow")
        gains = fitted.gains(cases).tolist()
        by_number = {row.number: gain for (row, _), gain in zip(found, gains, strict=True)}
        for row in file.left(row for row, _ in found):
            gain = by_number[row.number]
            model = "strong" if gain >= fitted.threshold else "weak"
            file.write({"id": row.id, "input": row.input, "score": gain, "model": model})
    strong = sum(gain >= fitted.threshold for gain in gains)
    screen.err().print(f"{len(gains)} rows scored, {strong} for the strong model: {out}")
