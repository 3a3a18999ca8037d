"""moa calibrate, eval and promote: decisions that are accepted at a promised risk."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moa.cli import options, screen
from moa.errors import ConfigError

if TYPE_CHECKING:
    from moa._terminal import Console
    from moa.calibration.file import Calibration
    from moa.calibration.labelled import Labelled
    from moa.calibration.measuring import Evaluation
    from moa.config.endpoints import Endpoints
    from moa.context import RunContext
    from moa.evals.promotion import Promotion

_OF_ITS_OWN = "task labels risk confidence per_class learn latency_penalty minutes"
"""What a calibration that is tested again brings along."""


def calibrate(
    said: typer.Context,
    source: options.LabelledRows,
    *,
    task: options.Task = None,
    labels: options.Labels = None,
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
        Path | None, typer.Option("--out", metavar="FILE.json", help="Write the calibration.")
    ] = None,
    latency_penalty: Annotated[
        float,
        typer.Option(
            "--latency-penalty",
            min=0,
            help="Log loss that one second a decision is worth; 0 ignores time.",
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
    given: options.ReadingAndAsking,
) -> None:
    r"""Find out on labelled rows which decisions can be accepted.

    What it accepts is wrong at most as often as --risk says, with that --confidence; a table shows
    the ways to score that were tried. With few labels it accepts nothing yet, and says how many
    more it takes. Then:

        moa decide new.jsonl --calibration intents.json --out decided.jsonl
        moa eval intents.json other-labelled.jsonl --report report.json

    On another server, or for another language, test the promise on labelled rows from there, of
    which those count that were drawn at random:

        moa calibrate --recheck intents.json rows-from-there.jsonl --out intents-there.json

    By default it learns from a part of the rows and holds the others out. A model that is good at
    the task as it is need not learn: --learn nothing holds all rows out, so that more is accepted.
    Choose before you have seen what either accepts.

    Rows may grow: label more, and calibrate again on all of them with the same --out. The file
    counts the looks, and each spends a part of the probability of failure, so that the promise
    holds over all of them. Rows that no look has seen start anew with another --out.

    With --per-class the risk holds of each label's decisions by itself, which takes more rows.

    Rows of one case, such as the messages of one thread, are held out together where they have a
    "case". --latency-penalty says how much lower the log loss must be for a second a decision: 0
    takes the best way, 1 nearly always the quickest.

    Exit codes: 0 calibrated or confirmed, 1 withdrawn, 2 usage, data or configuration, 130 stopped.

    Rows with text and label, from which the labels are read too:

        moa calibrate labelled.jsonl --task "What does the customer want?" --out intents.json

        moa calibrate labelled.jsonl --task "Is this message spam?" --labels ham,spam \
            --risk 0.02 --confidence 0.99 --out spam.json
    """
    from moa.calibration import Guarantee, prospect
    from moa.calibration.labelled import sort_out
    from moa.evals.calibrations import detector, next_look
    from moa.evals.labelling import question_of

    screen.check_target("--out", out)
    if recheck is not None:
        _refuse(said)
        rows = _labelled(source, given)
        raise typer.Exit(given.run(partial(_recheck, recheck, rows, out)))
    if not task or out is None:
        missing = (
            "--out, the file that it writes, such as --out calibration.json"
            if task
            else '--task, the question that the labels answer, such as --task "Which team?"'
        )
        raise ConfigError(f"moa calibrate needs {missing}")
    rows = _labelled(source, given)
    names = options.label_names(labels) if labels else None
    usable = sort_out(rows, names)  # says what is wrong with the labels before a model is asked
    question = question_of(task, names or sorted({row.label for row in rows}))
    guarantee = Guarantee(risk, confidence, next_look(out, task))
    drawn = sum(not row.chosen for row in usable.rows)
    too_few = prospect(drawn, len(question.options), guarantee, learn=learn)
    screen.warn([] if too_few is None else [too_few])

    async def body(endpoints: Endpoints, context: RunContext) -> int:
        from moa.calibration.fit import calibrate as calibrated

        with screen.progress("reading") as progress:
            made = await calibrated(
                endpoints.slm,
                question,
                rows,
                guarantee=guarantee,
                by_label=per_class,
                learn=learn,
                latency_penalty=latency_penalty,
                language=detector(),
                limit_s=None if minutes is None else 60 * minutes,
                context=context,
                progress=progress,
            )
        made.save(out)
        _show_calibration(made)
        screen.details().print(f"written to {out}")
        return 0

    raise typer.Exit(given.run(body))


def _refuse(said: typer.Context) -> None:
    origins = {name: said.get_parameter_source(name) for name in _OF_ITS_OWN.split()}
    given = [
        f"--{name.replace('_', '-')}"
        for name, origin in origins.items()
        if origin is not None and origin.name == "COMMANDLINE"
    ]
    if given:
        raise ConfigError(
            f"--recheck tests a calibration as it was made, so it does not take {', '.join(given)}"
        )


def _labelled(source: str, given: options.Reading) -> list[Labelled]:
    from moa import rows
    from moa.calibration.labelled import Labelled

    found = rows.typed(
        source,
        Labelled,
        format=given.format,
        text_column=given.text_column,
        encoding=given.encoding,
    )
    return [row for _, row in found]


async def _recheck(
    file: Path, rows: list[Labelled], out: Path | None, endpoints: Endpoints, context: RunContext
) -> int:
    """Test it, say what was found, and write it down where `out` says."""
    from moa.calibration.file import Calibration
    from moa.calibration.measuring import recheck
    from moa.evals.calibrations import connected, detector

    ready = connected(Calibration.load(file), endpoints.slm)
    screen.warn(await ready.check(context))
    with screen.progress("reading") as progress:
        made, notes = await recheck(
            ready, rows, context=context, language=detector(), progress=progress
        )
    screen.warn(list(notes))
    bound = made.proven.bound
    confirmed = bound.threshold is not None
    screen.out().print(f"{'confirmed' if confirmed else 'withdrawn'}: {bound.summary}")
    if out is not None:
        made.save(out)
        screen.details().print(f"written to {out}")
    return 0 if confirmed else 1


def evaluate(
    file: Annotated[Path, typer.Argument(metavar="FILE.json", help="A calibration.")],
    source: options.LabelledRows,
    *,
    as_json: options.AsJson = False,
    report: options.Report = None,
    given: options.ReadingAndAsking,
) -> None:
    """Measure the decisions of a calibration on labelled rows.

    FILE is what moa calibrate wrote. The rows have text and label, and must be others than those it
    was made from. Coverage is the share of decisions that are accepted; risk is the share of wrong
    ones among the accepted, null where none is.

    Exit codes: 0 measured, 2 usage, data or configuration, 130 stopped.

        moa eval intents.json labelled.jsonl
        moa eval intents.json labelled.jsonl --report report.json
    """
    screen.check_target("--report", report)
    rows = _labelled(source, given)

    async def body(endpoints: Endpoints, context: RunContext) -> int:
        from moa.calibration.file import Calibration
        from moa.calibration.measuring import evaluate as measured
        from moa.evals.calibrations import connected, odd_rows

        calibration = Calibration.load(file)
        ready = connected(calibration, endpoints.slm)
        warnings = await ready.check(context)
        screen.warn([*warnings, *odd_rows(calibration, rows)])
        with screen.progress("reading") as progress:
            found = await measured(ready, rows, context=context, progress=progress)
        console = screen.out(as_json=as_json)
        _show_evaluation(console, found)
        if calibration.bound is not None:
            console.print(f"promise: {calibration.bound.summary}")
        screen.report(found, report, as_json=as_json)
        return 0

    raise typer.Exit(given.run(body))


def promote(
    source: options.LabelledRows,
    *,
    task: options.NeededTask,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.json", help="Write the calibration.")],
    labels: options.Labels = None,
    risk: options.Risk = 0.05,
    confidence: options.Confidence = 0.95,
    use: Annotated[
        int, typer.Option("--use", min=20, help="Rows to calibrate on; the rest is looked at.")
    ] = 512,
    audit: Annotated[
        float,
        typer.Option(
            "--audit", min=0, max=1, help="Share of accepted decisions that the LLM checks, 0 to 1."
        ),
    ] = 0.02,
    write: options.Write = True,
    as_json: options.AsJson = False,
    report: options.Report = None,
    given: options.ReadingAndAsking,
) -> None:
    """Find out which decisions of an LLM a small model can take over.

    It calibrates the small model on a part of the log, looks at the rest, says what share could
    move at which risk and what that saves, and writes [graphs.cascade] into moa.toml, with the LLM
    as the audit of a share of what is accepted. Other settings of the table stay; without an LLM
    nothing is written there. Then:

        moa run cascade inbox.jsonl

    Only look, and write nothing into moa.toml:

        moa promote log.jsonl --task "…" --risk 0.02 --out teams.json --no-write

    Exit codes: 0 looked into, whatever was found; 2 usage, data or configuration, 130 stopped.

    A log of what the LLM decided, rows with text and label:

        moa promote log.jsonl --task "Which team does this mail belong to?" --out teams.json
    """
    from moa.calibration import Guarantee
    from moa.config.file import target

    screen.check_target("--out", out)
    screen.check_target("--report", report)
    if write:
        screen.check_target("--config", target(given.config).resolve())
    names = options.label_names(labels) if labels else None
    guarantee = Guarantee(risk, confidence)
    rows = _labelled(source, given)

    async def body(endpoints: Endpoints, context: RunContext) -> int:
        from moa.evals.promotion import promote as promoted

        with screen.progress("reading") as progress:
            made, found = await promoted(
                endpoints.slm,
                rows,
                task=task,
                labels=names,
                guarantee=guarantee,
                use=use,
                audit=audit,
                llm=endpoints.llm if endpoints.has_llm else None,
                context=context,
                progress=progress,
            )
        made.save(out)
        _show_promotion(found, as_json=as_json)
        screen.report(found, report, as_json=as_json)
        if write:
            _configure(screen.notes(), found, given.config, out, audit, has_llm=endpoints.has_llm)
        return 0

    raise typer.Exit(given.run(body))


def _show_calibration(made: Calibration) -> None:
    """Print what a calibration tried, chose and promises."""
    from dataclasses import replace

    from rich.table import Table

    from moa.calibration import percent
    from moa.evals.comparison import figure

    console = screen.details()
    table = Table(box=None, pad_edge=False, title="By cross-validation", title_justify="left")
    table.add_column("scorer", no_wrap=True)
    figures = ("accuracy", "macro F1", "ECE (by chance)", "acceptable", "ms", "tokens")
    for heading in (*figures, "$ per 1000"):
        table.add_column(heading, justify="right")
    picked = " + ".join(feature.name for feature in made.features)
    for one in made.candidates:
        table.add_row(
            one.name,
            f"{one.accuracy:.3f}",
            f"{one.macro_f1:.3f}",
            f"{one.ece:.3f} ({figure(one.ece_by_chance)})",
            f"{one.coverage:.0%}",
            f"{1000 * one.seconds:.1f}",
            f"{one.tokens:.0f}",
            "unknown" if one.cost is None else f"{1000 * one.cost:.4f}",
            style="bold" if one.name == picked else "",
        )
    console.print(table)
    bound, data, reached = made.proven
    console.print(f"\nchosen: {made.origin}")
    for note in made.notes:
        console.print(f"note: {note}")
    right = reached.held_out_accuracy
    if right is not None:
        console.print(
            f"fitted to {data.fitted} rows; of the {data.held_out} held out, {right:.1%} are right"
        )
    for label, of_label in made.bounds.items():
        console.print(f"{label}: {of_label.summary}")
    screen.out().print(f"promise: {bound.summary}")
    for other in made.looser:
        accepts = percent(other.coverage) if other.threshold is not None else "nothing"
        guarantee = replace(other.guarantee, look=None)
        console.print(f"instead, {guarantee}: would accept {accepts}")
    if made.more_rows is not None:
        parts = ": a part of them is learnt from, and not held out"
        console.print(
            f"for what was asked, label about {made.more_rows} more rows, drawn at random"
            + (parts if data.learn == "split" else "")
        )


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


def _show_promotion(found: Promotion, *, as_json: bool) -> None:
    from moa.calibration import percent

    console, result = screen.details(as_json=as_json), screen.out(as_json=as_json)
    rows = [(percent(seen.risk), percent(seen.coverage)) for seen in found.seen]
    console.print(f"What would have moved on {found.checked_on} rows; seen, not promised:")
    console.print(screen.listed(("at most wrong", "share moved"), rows))
    result.print(found.verdict)
    result.print(f"promise: {found.bound.summary}")
    saving = found.saving
    console.print(f"Of 1000 messages the LLM is asked about {saving.llm_calls:.0f}")
    if saving.llm_alone is None or saving.after is None:
        console.print("What that saves in US$ is not known: it takes a price of both models.")
    else:
        console.print(
            f"At its price, estimated from the texts: US$ {saving.llm_alone:.4f} for 1000 messages "
            f"by the LLM alone, US$ {saving.after:.4f} so"
        )


def _configure(
    console: Console,
    found: Promotion,
    config: Path | None,
    out: Path,
    audit: float,
    *,
    has_llm: bool,
) -> None:
    from moa.config.file import set_in_graph, target

    if found.bound.threshold is None or not found.accepted or not found.holds:
        console.print("Nothing was written into moa.toml: the LLM goes on to decide.")
        return
    if not has_llm:
        console.print(
            "Nothing was written into moa.toml: no LLM is configured, and a cascade would ask the "
            "small model again where it is in doubt, and audit it by itself. Add one: "
            "moa models add --help"
        )
        return
    folder = target(config).resolve().parent
    file = out.resolve()
    keys = {
        "calibration": os.path.relpath(file, folder),
        "audit": audit,
        "state": os.path.relpath(file.with_suffix(".audit.json"), folder),
    }
    done = set_in_graph(config, "cascade", keys)
    console.print(f"written: {out}, and [graphs.cascade] in {done.file}")
    for key, was in done.changed.items():
        console.print(f"  {key} = {json.dumps(keys[key])}, was {json.dumps(was)}")
    if done.kept:
        console.print(f"  as they were: {', '.join(done.kept)}")
