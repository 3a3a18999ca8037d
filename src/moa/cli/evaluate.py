"""moa eval: how good a calibration is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options, screen
from moa.cli.learn import labelled_rows

if TYPE_CHECKING:
    from moa._terminal import Console
    from moa.calibration.measuring import Evaluation
    from moa.config.endpoints import Endpoints
    from moa.context import RunContext


def evaluate(
    file: Annotated[Path, typer.Argument(metavar="FILE.json", help="A calibration.")],
    source: options.LabelledRows,
    *,
    as_json: options.AsJson = False,
    report: options.Report = None,
    given: options.ReadingAndAsking,
) -> None:
    """Measure the decisions of a calibration on labelled rows.

    FILE is the output of moa learn --task. The rows have text and label; use none that it learned
    from. Coverage is the share of decisions that are accepted; risk is the share of wrong ones
    among the accepted, null if there are none.

    Exit codes: 0 measured, 2 usage, data or configuration, 130 stopped.

        moa eval intents.json labelled.jsonl
        moa eval intents.json labelled.jsonl --report report.json
    """
    from moa.calibration.labelled import Labelled

    screen.check_target("--report", report)
    rows = labelled_rows(source, Labelled, given)

    async def body(endpoints: Endpoints, context: RunContext) -> int:
        from moa.calibration.file import Calibration
        from moa.calibration.measuring import evaluate as measured
        from moa.evals.calibrations import connected, odd_rows

        calibration = Calibration.load(file)
        ready = connected(calibration, endpoints.slm)
        warnings = await ready.check_identities(context)
        screen.warn([*warnings, *odd_rows(calibration, rows)])
        with screen.progress("reading") as progress:
            found = await measured(ready, rows, context=context, progress=progress)
        console = screen.out(as_json=as_json)
        _show_evaluation(console, found)
        if calibration.bound is not None:
            console.print(f"guarantee: {calibration.bound.summary}")
        screen.report(found, report, as_json=as_json)
        return 0

    raise typer.Exit(given.run(body))


def _show_evaluation(console: Console, found: Evaluation) -> None:
    from moa.evals.comparison import figure

    console.print(
        f"{found.n} rows: accuracy {found.accuracy:.3f}, macro F1 {found.macro_f1:.3f}, "
        f"calibration error {found.ece:.3f} (by chance {figure(found.ece_by_chance)})"
    )
    wrong = "" if found.risk is None else f", of which {found.risk:.2%} are wrong"
    console.print(
        f"accepted {found.coverage:.1%}{wrong}; "
        f"{found.tokens_per_decision:.0f} tokens and {1000 * found.seconds_per_decision:.1f} ms "
        "a decision"
    )
