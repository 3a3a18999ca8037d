"""moa eval: what a calibration is worth on labelled rows that took no part in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options

if TYPE_CHECKING:
    from moa._terminal import Console
    from moa.calibration.calibrated import Evaluation
    from moa.calibration.features import Progress
    from moa.calibration.file import Calibration
    from moa.calibration.labelled import Labelled
    from moa.cli.calibrations import Job
    from moa.context import RunContext
    from moa.tiers import Endpoints

EXAMPLES = """

    moa eval intents.json labelled.jsonl
    moa eval intents.json labelled.jsonl --json report.json

FILE is what moa calibrate wrote. The rows have text and label, and must be others than those it
was made from. Coverage is the share of decisions that are accepted; risk is the share of wrong
ones among the accepted, null where none is.

Exit codes: 0 measured, 2 usage, data or configuration, 130 stopped.
"""


def evaluate(
    file: Annotated[Path, typer.Argument(metavar="FILE.json", help="A calibration.")],
    source: Annotated[str, typer.Argument(metavar="DATA", help="Rows with text and label.")],
    *,
    report: Annotated[
        Path | None, typer.Option("--json", metavar="REPORT.json", help="Write the figures there.")
    ] = None,
    format: options.Format = None,
    text_column: options.TextColumn = None,
    budget_usd: options.BudgetUsd = None,
    config: options.ConfigFile = None,
) -> None:
    """Measure the decisions of a calibration on labelled rows."""
    from moa.cli.calibrations import run
    from moa.cli.labelled import labelled_rows
    from moa.cli.targets import check_target

    check_target("--json", report)
    rows = labelled_rows(source, format=format, text_column=text_column)
    raise typer.Exit(run(_job(file, rows, report), config, budget_usd))


def _job(file: Path, rows: list[Labelled], report: Path | None) -> Job:
    async def job(endpoints: Endpoints, context: RunContext, progress: Progress) -> int:
        from moa.calibration.calibrated import evaluate as measured
        from moa.calibration.file import Calibration
        from moa.cli import screen
        from moa.cli.calibrations import calibrated, warn
        from moa.cli.labelled import other_language
        from moa.cli.targets import write_text

        calibration = Calibration.load(file)
        ready = calibrated(calibration, endpoints)
        warnings = await ready.check(context)
        other = other_language(calibration.data.languages, [row.text for row in rows])
        warn(screen.err(), [*warnings, *([other] if other else []), *_odd(calibration, rows)])
        found = await measured(ready, rows, context=context, progress=progress)
        _show(screen.out(), found, calibration.bound.summary)
        if report is not None:
            write_text("--json", report, found.model_dump_json(indent=2) + "\n")
        return 0

    return job


def _odd(calibration: Calibration, rows: list[Labelled]) -> Iterator[str]:
    from moa.calibration.labelled import Sorted

    if Sorted(rows=tuple(rows), notes=(), duplicates=0).fingerprint == calibration.data.sha256:
        yield (
            "the calibration was made from these rows, so the figures say little of others: give "
            "rows that took no part in it"
        )
    if chosen := sum(row.chosen for row in rows):
        yield (
            f"{chosen} of {len(rows)} rows were chosen to be labelled, so the figures say little "
            "of texts as they come: for that, give rows that were drawn at random"
        )


def _show(console: Console, found: Evaluation, promise: str) -> None:
    console.print(
        f"{found.n} rows: accuracy {found.accuracy:.3f}, macro F1 {found.macro_f1:.3f}, "
        f"calibration error {found.ece:.3f} (by chance {found.ece_by_chance:.3f})",
    )
    wrong = "" if found.risk is None else f", of which {found.risk:.2%} are wrong"
    console.print(
        f"accepted {found.coverage:.1%}{wrong}; "
        f"{found.tokens_per_decision:.0f} tokens and {1000 * found.seconds_per_decision:.1f} ms "
        "a decision",
    )
    console.print(f"promise: {promise}")
