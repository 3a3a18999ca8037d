"""moa label: labels for the texts that help a calibration most, by a person or an LLM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options

if TYPE_CHECKING:
    from moa.calibration.active_learning import Pick
    from moa.calibration.features import Progress
    from moa.context import RunContext
    from moa.tiers import Endpoints

EXAMPLES = """

The texts of a file that help most, one key a label; what is labelled is kept at once, and --resume
goes on where it stopped:

    moa label inbox.jsonl --calibration teams.json --out labelled.jsonl
    moa label inbox.jsonl --calibration teams.json --out labelled.jsonl --resume

By the large model instead, at no more than one dollar:

    moa label inbox.jsonl --calibration teams.json --by-llm --budget-usd 1 --out labelled.jsonl

Half of the texts are drawn at random, since a promise can only be found on such; the others are
those that the calibration is in doubt of. Each line says which by chosen, and who labelled it by
labelled_by. Then calibrate again, on the rows of before and these:

    cat before.jsonl labelled.jsonl > all.jsonl
    moa calibrate all.jsonl --task "Which team does this mail belong to?" --out teams.json

Keys: those shown before the labels; space passes over a text, backspace takes the last label back,
return or Ctrl-C ends.

Exit codes: 0 done or ended by a key, 1 nothing was labelled, 2 usage or configuration, 130 stopped.
"""


def label(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help=".jsonl, .csv or .txt file of texts.")
    ],
    *,
    calibration: Annotated[
        Path, typer.Option("--calibration", metavar="FILE", help="What moa calibrate wrote.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE.jsonl", help="Write one labelled row a line."),
    ] = Path("labelled.jsonl"),
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    format: options.Format = None,
    text_column: options.TextColumn = None,
    by_llm: Annotated[
        bool, typer.Option("--by-llm", help="Let the large model label them.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Texts to label.")] = 100,
    read: Annotated[
        int, typer.Option("--read", min=2, help="Texts that are read to choose among.")
    ] = 500,
    budget_usd: options.BudgetUsd = None,
    config: options.ConfigFile = None,
) -> None:
    """Label the texts that help a calibration most."""
    from moa.calibration.active_learning import picked
    from moa.calibration.file import Calibration
    from moa.cli.calibrations import calibrated, run
    from moa.cli.label_file import LabelFile, unlabelled
    from moa.cli.label_keys import by_keys
    from moa.cli.label_llm import by_llm as label_by_llm

    made = Calibration.load(calibration)
    existing = options.existing(out, resume=resume, overwrite=overwrite)
    found: list[Pick] = []
    with LabelFile(out, existing=existing, source=source) as file:
        rows = unlabelled(source, format=format, text_column=text_column)

        async def job(endpoints: Endpoints, context: RunContext, progress: Progress) -> int:
            found.extend(
                await picked(
                    calibrated(made, endpoints),
                    [row.text for row in rows],
                    most=limit,
                    known=file.texts,
                    most_read=read,
                    context=context,
                    progress=progress,
                )
            )
            if not by_llm:
                return 0
            return await label_by_llm(made, endpoints, rows, found, file, context, progress)

        stopped = f"stopped; what was labelled is kept: {options.how_to_go_on(out)}"
        code = run(job, config, budget_usd, stopped=stopped)
        if code or by_llm:
            raise typer.Exit(code)
        raise typer.Exit(by_keys(made, rows, found, file))
