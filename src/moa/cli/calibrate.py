"""moa calibrate: from labelled rows to decisions that can be accepted at a promised risk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moa.cli import options

if TYPE_CHECKING:
    from moa.calibration import Guarantee
    from moa.calibration.features import Progress
    from moa.calibration.file import Learn
    from moa.calibration.labelled import Labelled
    from moa.cli.calibrations import Job
    from moa.context import RunContext
    from moa.questions import Question
    from moa.tiers import Endpoints

EXAMPLES = """

Rows with text and label, from which the labels are read too:

    moa calibrate labelled.jsonl --task "What does the customer want?" --out intents.json

    moa calibrate labelled.jsonl --task "Is this message spam?" --labels ham,spam \\
        --risk 0.02 --confidence 0.99 --out spam.json

What it accepts is wrong at most that often, with that confidence; a table shows the ways to score
that were tried. With few labels it accepts nothing yet, and says how many more it takes. Then:

    moa decide new.jsonl --calibration intents.json --out decided.jsonl
    moa eval intents.json other-labelled.jsonl --json report.json

On another server, or for another language, test the promise on labelled rows from there, of which
those count that were drawn at random:

    moa calibrate --recheck intents.json rows-from-there.jsonl --out intents-there.json

By default it learns from a part of the rows and holds the others out. A model that is good at the
task as it is need not learn: --learn nothing holds all rows out, so that more is accepted. Choose
before you have seen what either accepts.

Rows may grow: label more, and calibrate again on all of them with the same --out. The file counts
the looks, and each spends a part of the probability of failure, so that the promise holds over all
of them. Rows that no look has seen start anew with another --out.

With --per-class the risk holds of each label's decisions by itself, which takes more rows.

Rows of one case, such as the messages of one thread, are held out together where they have a
"case". --price says how much lower the log loss must be for a second a decision: 0 takes the best
way, 1 nearly always the quickest.

Exit codes: 0 calibrated or confirmed, 1 withdrawn, 2 usage, data or configuration, 130 stopped.
"""


_OF_ITS_OWN = ("task", "labels", "risk", "confidence", "per_class", "learn", "price", "minutes")
"""What a calibration that is tested again brings along."""


def calibrate(
    said: typer.Context,
    source: Annotated[str, typer.Argument(metavar="DATA", help="Rows with text and label.")],
    *,
    task: Annotated[
        str | None,
        typer.Option("--task", help='The question that the labels answer: "Which team is it for?"'),
    ] = None,
    labels: options.LabelNames = None,
    risk: options.Risk = 0.05,
    confidence: options.Confidence = 0.95,
    per_class: Annotated[
        bool,
        typer.Option("--per-class", help="Hold --risk for each label by itself; takes more rows."),
    ] = False,
    learn: Annotated[
        Literal["split", "nothing", "approximate"],
        typer.Option(
            "--learn",
            help="split: learn from a part of the rows, hold out the rest; nothing: hold out all; "
            "approximate: all rows, by cross-fitting, without a proof.",
        ),
    ] = "split",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.json", help="The file to write.")
    ] = None,
    price: Annotated[
        float,
        typer.Option(
            "--price",
            min=0,
            help="Latency penalty: log loss that one second a decision is worth; 0 ignores time.",
        ),
    ] = 0.02,
    recheck: Annotated[
        Path | None,
        typer.Option(
            "--recheck",
            metavar="FILE",
            help="A calibration whose target is tested on these rows; nothing is learnt.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            min=0.1,
            help="Minutes at most for reading the rows; default: 1 second a row.",
        ),
    ] = None,
    format: options.Format = None,
    text_column: options.TextColumn = None,
    budget_usd: options.BudgetUsd = None,
    config: options.ConfigFile = None,
) -> None:
    """Find out on labelled rows which decisions can be accepted, at a promised risk."""
    from moa.calibration import Guarantee
    from moa.cli.calibrations import run
    from moa.cli.labelled import labelled_rows
    from moa.cli.targets import check_target
    from moa.errors import ConfigError

    check_target("--out", out)
    if recheck is not None:
        from moa.cli.recheck import recheck as check

        _refuse(said)
        rows = labelled_rows(source, format=format, text_column=text_column)
        raise typer.Exit(run(check(recheck, rows, out), config, budget_usd))
    if not task or out is None:
        missing = "--task" if not task else "--out"
        raise ConfigError(f"moa calibrate needs {missing}; moa calibrate --help shows examples")
    rows = labelled_rows(source, format=format, text_column=text_column)
    question = _question(task, labels, rows)
    guarantee = Guarantee(risk, confidence, _look(out, task))
    limit_s = None if minutes is None else 60 * minutes
    job = _job(
        rows,
        question,
        guarantee,
        per_class=per_class,
        learn=learn,
        price=price,
        limit_s=limit_s,
        out=out,
    )
    raise typer.Exit(run(job, config, budget_usd))


def _look(out: Path, task: str) -> int:
    """Tell which look at growing rows it is: the file that is replaced has counted those before."""
    from moa.calibration.file import Calibration
    from moa.errors import CalibrationError

    try:
        before = Calibration.load(out)
    except CalibrationError:
        return 1
    return 1 + (before.bound.guarantee.look or 1) if before.question.text == task else 1


def _refuse(said: typer.Context) -> None:
    from moa.errors import ConfigError

    origins = {name: said.get_parameter_source(name) for name in _OF_ITS_OWN}
    given = [
        f"--{name.replace('_', '-')}"
        for name, origin in origins.items()
        if origin is not None and origin.name == "COMMANDLINE"
    ]
    if given:
        raise ConfigError(
            f"--recheck tests a calibration as it was made, so it does not take {', '.join(given)}"
        )


def _question(task: str, labels: str | None, rows: list[Labelled]) -> Question:
    from moa.calibration.labelled import sort_out
    from moa.cli.decide import label_names
    from moa.questions import Option, Question

    names = label_names(labels) if labels else None
    sort_out(rows, names)  # says what is wrong with the labels before a model is asked
    if names is None:
        names = sorted({row.label for row in rows})
    return Question("label", "choice", task, tuple(Option(name, name) for name in names))


def _job(
    rows: list[Labelled],
    question: Question,
    guarantee: Guarantee,
    *,
    per_class: bool,
    learn: Learn,
    price: float,
    limit_s: float | None,
    out: Path,
) -> Job:
    async def job(endpoints: Endpoints, context: RunContext, progress: Progress) -> int:
        from moa.agents.language import can_detect, language_of
        from moa.calibration.fit import calibrate
        from moa.cli import screen
        from moa.cli.calibration_table import show

        made = await calibrate(
            endpoints.slm,
            question,
            rows,
            guarantee=guarantee,
            by_label=per_class,
            learn=learn,
            price=price,
            language=language_of if can_detect() else None,
            limit_s=limit_s,
            context=context,
            progress=progress,
        )
        made.save(out)
        show(screen.out(), made, out)
        return 0

    return job
