"""Options: what several commands take, said once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from moa._files import Existing

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
        "--out", help="Write one line of JSON a row, as each is done.", metavar="FILE.jsonl"
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with --out: only what it lacks, what failed, and what has changed is done.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what --out has, instead of refusing to.")
]
Format = Annotated[
    Literal["jsonl", "csv", "txt"] | None,
    typer.Option(
        "--format", help="Format of the rows; default: by the file's name, or its first line."
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        "--text-column",
        metavar="NAME",
        help="Column or key that holds the text; default: text.",
    ),
]
LabelNames = Annotated[
    str | None,
    typer.Option("--labels", metavar="A,B,C", help="The labels; else those of the rows."),
]
Risk = Annotated[
    float,
    typer.Option("--risk", help="Target error rate of accepted decisions, 0 to 1: 0.02 is 2 %."),
]
Confidence = Annotated[
    float,
    typer.Option("--confidence", help="Confidence in that rate, 0 to 1: 0.95 fails once in 20."),
]
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


def how_to_go_on(out: Path | None) -> str:
    """Say how a run that was stopped goes on."""
    return "the same command with --resume goes on" if out else "--out FILE.jsonl keeps them"


def existing(out: Path | None, *, resume: bool, overwrite: bool) -> Existing:
    """Say what is done with what a file of lines has already.

    Raises:
        ConfigError: both are asked for, or one of them without a file.
    """
    from moa.errors import ConfigError

    if resume and overwrite:
        raise ConfigError("--resume keeps what is there, and --overwrite drops it: give one")
    if out is None and (resume or overwrite):
        raise ConfigError(f"{'--resume' if resume else '--overwrite'} is about a file: give --out")
    return "resume" if resume else "overwrite" if overwrite else "refuse"
