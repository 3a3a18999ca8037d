"""moa compare: designs side by side on labelled rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options

if TYPE_CHECKING:
    from moa.evals.report import Comparison

EXAMPLES = """

The small model, the large one, and the small one first with the large one in doubt:

    moa compare labelled.jsonl --designs slm,llm,cascade --calibration intents.json

Without a calibration, by the labels of the rows; one of your own designs beside them:

    moa compare labelled.jsonl --designs slm,llm,mine.py:graph --task "Which team is it for?"

Texts against a reference, at the same budget, kept as it goes, and as tables and pictures; with
--resume it goes on where it stopped:

    moa compare problems.jsonl --designs slm,llm --task "Solve the problem." --metric numeric \\
        --budget-usd 2 --out answers.jsonl --markdown report.md --plot report.svg

Rows have text (or prompt) and label, or text and reference. A design is any ready graph or agent
by its name, with its table of moa.toml, or file.py:object. Each has an equal part of the budget; a
case that it has no answer for counts as wrong.

Exit codes: 0 compared, 1 a design answered nothing, 2 usage or configuration, 130 stopped.
"""


def compare(
    source: Annotated[
        str, typer.Argument(metavar="DATA", help=".jsonl or .csv: text and label, or reference.")
    ],
    *,
    designs: Annotated[
        str, typer.Option("--designs", metavar="A,B,C", help="Ready names, or file.py:object.")
    ] = "slm,llm",
    task: Annotated[
        str | None, typer.Option("--task", help="The question, or what to do with each text.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", metavar="A,B,C", help="The labels; else those of the rows."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration", metavar="FILE", help="What moa calibrate wrote for the small model."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="Design that the others are compared with; default: llm."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric", help="How answers in words are scored: exact, numeric, rouge-l or judge."
        ),
    ] = None,
    risk: Annotated[
        float, typer.Option("--risk", min=0, max=1, help="Risk that coverage is shown at.")
    ] = 0.05,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE.json", help="Write all figures.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE.md", help="Write the table.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png|FILE.svg", help="Draw into FILE-cost.png, …"),
    ] = None,
    out: options.OutFile = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    format: options.Format = None,
    text_column: options.TextColumn = None,
    limit: options.Limit = None,
    concurrency: options.Concurrency = 8,
    budget_usd: options.BudgetUsd = None,
    config: options.ConfigFile = None,
) -> None:
    """Compare designs on labelled rows: what they reach, what they take, and what pays."""
    from moa._files import check_lines
    from moa.cli import screen
    from moa.cli.compare_run import Compared, written
    from moa.cli.compare_tables import shown
    from moa.cli.decide import label_names
    from moa.cli.targets import check_target
    from moa.evals.pictures import check_picture

    for option, file in (("--json", json_file), ("--markdown", markdown), ("--plot", plot)):
        check_target(option, file)
    existing = options.existing(out, resume=resume, overwrite=overwrite)
    if out is not None:
        check_target("--out", out)
        check_lines(out, existing=existing, source=source)
    if plot is not None:
        check_picture(plot)
    compared = Compared(
        source=source,
        designs=tuple(name.strip() for name in designs.split(",") if name.strip()),
        task=task,
        labels=None if labels is None else tuple(label_names(labels)),
        calibration=calibration,
        reference=reference,
        metric=metric,
        risk=risk,
        out=out,
        existing=existing,
        format=format,
        text_column=text_column,
        limit=limit,
        concurrency=concurrency,
        budget_usd=budget_usd,
        config=config,
    )
    try:
        found = compared.run(screen.err())
    except KeyboardInterrupt:
        screen.err().print(f"Stopped with some of the answers: {options.how_to_go_on(out)}.")
        raise
    screen.out().print(shown(found))
    for file in written(found, json_file=json_file, markdown=markdown, plot=plot):
        screen.err().print(f"written: {file}")
    raise typer.Exit(1 if _failed(found) else 0)


def _failed(found: Comparison) -> bool:
    return any(not design.answered for design in found.designs)
