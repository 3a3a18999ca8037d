"""Options: what several commands take, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Configuration; else $MOA_CONFIG, else ./moa.toml.", metavar="FILE"
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]…", help="Endpoints; none: all that are served here."),
]
OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Write one line of JSON an item, as each is done.", metavar="FILE.jsonl"
    ),
]
LabelNames = Annotated[
    str | None,
    typer.Option("--labels", metavar="A,B,C", help="The labels; else those of the rows."),
]
Risk = Annotated[float, typer.Option("--risk", help="Most of the accepted that may be wrong.")]
Confidence = Annotated[float, typer.Option("--confidence", help="How sure that has to be.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Stop after so many items.")]
Concurrency = Annotated[
    int, typer.Option("--concurrency", min=1, help="Most items worked on at once.")
]
BudgetUsd = Annotated[
    float | None,
    typer.Option(
        "--budget-usd",
        min=0,
        help="Most US dollars for the whole run; items that no longer fit fail. Calls to "
        "endpoints without a price don't count.",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one line of JSON an item, everything else on stderr."),
]
