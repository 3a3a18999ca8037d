"""Options: what several commands take, said once, so that a flag means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moa.cli import screen
from moa.errors import ConfigError

if TYPE_CHECKING:
    from moa._files import Existing


def _hushed(quiet: bool) -> bool:
    screen.quiet.set(quiet)
    return quiet


def _named(labels: str | None) -> str | None:
    """Check labels before the words behind them, which with a blank between two would be one."""
    if labels:
        label_names(labels)
    return labels


Source = Annotated[
    str,
    typer.Argument(
        metavar="INPUT", help=".jsonl, .csv, .txt or .parquet file, - for standard input."
    ),
]
LabelledRows = Annotated[
    str,
    typer.Argument(metavar="DATA", help="Rows with text and label: .jsonl or .csv, - for stdin."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Configuration; else $MOA_CONFIG, else ./moa.toml.", metavar="FILE"
    ),
]
OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Write one line of JSON a row, as each is done.", metavar="FILE.jsonl"
    ),
]
JobStore = Annotated[
    str | None,
    typer.Option(
        "--job",
        metavar="DIR",
        help="Keep rows and calls in a job, which goes on after a crash or a stop, and which "
        "several processes share; or postgresql://…#NAME.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Run on the Ray cluster at ADDRESS, such as 10.0.0.1:6379; without one at "
        "$RAY_ADDRESS, else on one that is started on this machine.",
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
    bool, typer.Option("--overwrite", help="Replace what is there, instead of refusing to.")
]
Format = Annotated[
    Literal["jsonl", "csv", "txt", "parquet"] | None,
    typer.Option(
        "--format", help="Format of the rows; default: by the file's name, or its first line."
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        "--text-column", metavar="NAME", help="Column or key that holds the text; default: text."
    ),
]
_TASK = typer.Option(
    "--task", help='The question, or what to do with each text: "Which team is it for?"'
)
Task = Annotated[str | None, _TASK]
NeededTask = Annotated[str, _TASK]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="A,B,C",
        callback=_named,
        help="Names of the labels; of labelled rows, else theirs.",
    ),
]
_CALIBRATION_FILE = typer.Option(
    "--calibration", metavar="FILE.json", help="What moa calibrate wrote."
)
CalibrationFile = Annotated[Path | None, _CALIBRATION_FILE]
NeededCalibration = Annotated[Path, _CALIBRATION_FILE]
Risk = Annotated[
    float,
    typer.Option(
        "--risk", min=0, max=1, help="Target error rate of accepted decisions, 0 to 1: 0.02 is 2 %."
    ),
]
Confidence = Annotated[
    float,
    typer.Option("--confidence", help="Confidence in that rate, 0 to 1: 0.95 fails once in 20."),
]
_LIMIT = typer.Option("--limit", min=1, help="Stop after so many items.")
Limit = Annotated[int | None, _LIMIT]
DefaultLimit = Annotated[int, _LIMIT]
_CONCURRENCY = typer.Option("--concurrency", min=1, help="Maximum items in flight at once.")
Concurrency = Annotated[int | None, _CONCURRENCY]
DefaultConcurrency = Annotated[int, _CONCURRENCY]
BudgetUsd = Annotated[
    float | None,
    typer.Option(
        "--budget-usd",
        min=0,
        help="Maximum US dollars for the whole run; items that no longer fit fail. Calls to "
        "endpoints without a price don't count.",
    ),
]
HourlyUsd = Annotated[
    float | None,
    typer.Option("--hourly-usd", min=0, help="US dollars that the machine costs an hour."),
]
UsdPerKwh = Annotated[
    float | None,
    typer.Option("--usd-per-kwh", min=0, help="US dollars a kilowatt-hour of electricity."),
]
Tier = Annotated[
    Literal["slm", "llm"] | None,
    typer.Option("--tier", help="Small or large model; default: both, or as the model is."),
]
Write = Annotated[
    bool, typer.Option("--write/--no-write", help="Write what was found into moa.toml.")
]
MayCost = Annotated[
    bool, typer.Option("--yes", help="Agree to ask an endpoint that may cost money.")
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="Print JSON, a line for each item or for all, everything else on stderr."
    ),
]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.json", help="Write a report with all figures."),
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.png|FILE.svg", help="Draw the figures.")
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        callback=_hushed,
        help="Print results and errors alone: no progress, no remarks, no closing tables.",
    ),
]


def how_to_go_on(out: Path | None) -> str:
    """Say how a run that was stopped goes on."""
    return "the same command with --resume goes on" if out else "--out FILE.jsonl keeps them"


def existing(out: Path | None, *, resume: bool, overwrite: bool) -> Existing:
    """Say what is done with a file that is there; both flags, or one without a file, are wrong."""
    if resume and overwrite:
        raise ConfigError("--resume keeps what is there, and --overwrite drops it: give one")
    if out is None and (resume or overwrite):
        raise ConfigError(f"{'--resume' if resume else '--overwrite'} is about a file: give --out")
    return "resume" if resume else "overwrite" if overwrite else "refuse"


def label_names(given: str) -> list[str]:
    """Read `--labels`; fewer than two, or the same twice, or an empty one, are wrong."""
    names = [name.strip() for name in given.split(",")]
    if len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise ConfigError(
            "--labels takes at least two different labels, separated by commas and in one word or "
            f"in quotes, such as --labels a,b or --labels 'a, b'; got {given!r}"
        )
    return names
