"""moa learn and eval: decisions learned from labelled rows, with a guarantee, and measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from moa.cli import options, screen
from moa.core.errors import ConfigError

if TYPE_CHECKING:
    from moa.config.endpoints import Endpoints
    from moa.core._terminal import Console
    from moa.core.context import RunContext
    from moa.decisions.file import Calibration
    from moa.evals.measuring import Evaluation
    from moa.learning.labelled import Labelled

L = TypeVar("L", bound="Labelled")
RISK, RISK_OF_GRAPH = 0.05, 0.1
Using = Literal["split", "nothing", "approximate"]
_OF_ITS_OWN = "task labels risk confidence per_class learn latency_penalty minutes"
"""Options that `--recheck` takes from the calibration."""


def learn(
    said: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Labelled rows, .jsonl or .csv, - for stdin: what moa label wrote, or rows with "
            "text and label.",
        ),
    ],
    *,
    graph: Annotated[
        str | None,
        typer.Option(
            "--graph", metavar="NAME", help="Learn all questions of a graph, such as support."
        ),
    ] = None,
    task: options.Task = None,
    labels: options.Labels = None,
    risk: options.DefaultRisk = None,
    confidence: options.Confidence = 0.95,
    per_class: Annotated[
        bool,
        typer.Option("--per-class", help="Hold --risk for each label by itself; takes more rows."),
    ] = False,
    learn: Annotated[
        Using,
        typer.Option(
            "--learn",
            help="split: train on a part of the rows, test on the rest; nothing: test on all; "
            "approximate: use all rows for both, by cross-fitting, without a proof.",
        ),
    ] = "split",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.json", help="Write what was learned.")
    ] = None,
    latency_penalty: Annotated[
        float,
        typer.Option(
            "--latency-penalty",
            min=0,
            help="Log loss that one second per decision may cost; 0 ignores time.",
        ),
    ] = 0.02,
    recheck: Annotated[
        Path | None,
        typer.Option(
            "--recheck",
            metavar="FILE",
            help="Test the guarantee of this calibration on the rows, and learn nothing.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            min=0.1,
            help="Maximum minutes for reading the rows; default: 1 second per row, at least 2 "
            "minutes.",
        ),
    ] = None,
    write_examples: Annotated[
        bool,
        typer.Option(
            "--write-examples",
            help="Have the large model write 20 messages for each label of a graph's choice, and "
            "train on them too, but not test. It states the cost first, and waits for --yes.",
        ),
    ] = False,
    yes: options.Agree = False,
    write: options.Write = True,
    given: options.ReadingAskingOptions,
) -> None:
    r"""Learn from labelled rows, with a guarantee if they suffice.

    It fits a classifier, and reports the gain: accuracy before, cross-validated accuracy now, and
    roughly what the next 50 labels would add. With enough labels of random texts it tests a
    guarantee: at most --risk (0.05, for a graph 0.1) of the accepted decisions are wrong, with that
    --confidence. With fewer it guarantees nothing, and says how many more labels that takes: for a
    graph about 200 for 10 %, and about 400 for 5 %.

    All questions of a graph are learned at once, from rows with a key for each, as moa label
    writes them, into one file. moa.toml then names that file in the graph's table, unless
    --no-write is given. A question without a gain stays as it was.

        moa learn labelled.jsonl --graph support --out inbox.json
        moa run support inbox.jsonl

    Rows that somebody chose to label ("chosen": true) only train, and never test. Rows that share
    a "case", such as the messages of one thread, are held out together.

    To add rows, label more, and learn again from all of them with the same --out. The file counts
    these recalibrations, and each costs some confidence, so that the guarantee holds over all of
    them. Only rows that were never tested may start over with another --out.

    By default one part of the rows trains, and the other tests the guarantee. A model that is good
    at the task already need not train: --learn nothing tests on all rows, so more is accepted.
    Choose before you have seen what either accepts.

    For another server or language, test the guarantee on labelled rows from there:

        moa learn rows-from-there.jsonl --recheck intents.json --out intents-there.json

    For a cascade that learns, moa learn status shows its state, from imports answers, draw draws
    rows for people to check, and forget removes some:

        moa learn status answers.db

    Exit codes: 0 learned or confirmed, 1 withdrawn, 2 usage, data or configuration, 130 stopped:
    then nothing is written.

    One question of your own, with labels from the rows; moa decide --calibration then uses it:

        moa learn labelled.jsonl --task "What does the customer want?" --out intents.json
        moa decide new.jsonl --calibration intents.json --out decided.jsonl

        moa learn labelled.jsonl --task "Is this message spam?" --labels ham,spam \
            --risk 0.02 --confidence 0.99 --out spam.json
    """
    from moa.cli.lessons import learn_graph, recheck_graph
    from moa.learning.labelled import Labelled

    screen.check_target("--out", out)
    wishes = Wishes(
        risk=risk,
        confidence=confidence,
        per_class=per_class,
        learn=learn,
        latency_penalty=latency_penalty,
        minutes=minutes,
    )
    if recheck is not None:
        _refuse_options(said)
        if graph is not None:
            raise typer.Exit(given.run(partial(recheck_graph, graph, recheck, source, given, out)))
        rows = labelled_rows(source, Labelled, given)
        raise typer.Exit(given.run(partial(_recheck, recheck, rows, out)))
    if graph is not None and (task or labels):
        raise ConfigError(
            "--graph learns the questions of a graph, and --task one of your own: give one of them"
        )
    if out is None or not (graph or task):
        raise ConfigError(f"moa learn needs {_missing_option(task=task, graph=graph)}")
    if graph is not None:
        examples = write_examples and (out.with_suffix(".written.jsonl"), yes)
        body = partial(learn_graph, graph, source, wishes, given, out, examples or None, write)
        raise typer.Exit(given.run(body))
    if write_examples or not task:
        raise ConfigError("--write-examples is for the questions of a --graph")
    raise typer.Exit(_learn_task(source, task, labels, wishes, out, given))


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Options about the guarantee."""

    risk: float | None
    """`None`: the default."""
    confidence: float
    per_class: bool
    learn: Using
    latency_penalty: float
    minutes: float | None

    @property
    def limit_s(self) -> float | None:
        """Seconds that reading may take."""
        return None if self.minutes is None else 60 * self.minutes


def _missing_option(*, task: str | None, graph: str | None) -> str:
    if task or graph:
        return "--out, the file that it writes, such as --out inbox.json"
    return (
        "--graph, whose questions the rows answer, such as --graph support; or --task, one "
        'question that the labels answer, such as --task "Which team?"'
    )


def _learn_task(
    source: str,
    task: str,
    labels: str | None,
    wishes: Wishes,
    out: Path,
    asking: options.ReadingAskingOptions,
) -> int:
    """Learn one question from rows with text and label; the exit code."""
    from moa.decisions.guarantee import Guarantee, explain_too_few_rows
    from moa.evals.calibrations import detector, next_look
    from moa.evals.labelling import question_of
    from moa.learning.labelled import Labelled, clean_rows, join_repeats

    rows = labelled_rows(source, Labelled, asking)
    names = options.label_names(labels) if labels else None
    usable = clean_rows(rows, names)  # says what is wrong with the labels before a model is asked
    question = question_of(
        task, names or sorted({row.label for row in join_repeats(rows).values()})
    )
    risk = RISK if wishes.risk is None else wishes.risk
    guarantee = Guarantee(risk, wishes.confidence, next_look(out, task))
    drawn_count = sum(not row.chosen for row in usable.rows)
    too_few = explain_too_few_rows(
        drawn_count, len(question.options), guarantee, learn=wishes.learn
    )
    screen.warn([] if too_few is None else [too_few])

    async def body(endpoints: Endpoints, context: RunContext) -> int:
        from moa.learning.fit import calibrate

        with screen.progress("reading") as progress:
            calibration = await calibrate(
                endpoints.slm,
                question,
                rows,
                guarantee=guarantee,
                by_label=wishes.per_class,
                learn="all" if too_few and guarantee.look == 1 else wishes.learn,
                latency_penalty=wishes.latency_penalty,
                language=detector(),
                limit_s=wishes.limit_s,
                context=context,
                progress=progress,
            )
        calibration.save(out)
        show(calibration)
        screen.details().print(f"written to {out}")
        return 0

    return asking.run(body)


def _refuse_options(context: typer.Context) -> None:
    origins = {name: context.get_parameter_source(name) for name in _OF_ITS_OWN.split()}
    flags = [
        f"--{name.replace('_', '-')}"
        for name, origin in origins.items()
        if origin is not None and origin.name == "COMMANDLINE"
    ]
    if flags:
        raise ConfigError(
            f"--recheck tests a calibration as it was made, so it does not take {', '.join(flags)}"
        )


def labelled_rows(source: str, model: type[L], given: options.ReadingOptions) -> list[L]:
    """Read rows with text and label."""
    from moa import rows

    return [row for _, row in rows.read_models(source, model, **given.row_format)]


async def _recheck(
    file: Path, rows: list[Labelled], out: Path | None, endpoints: Endpoints, context: RunContext
) -> int:
    """Test a calibration, print the result, and write it to `out`."""
    from moa.decisions.file import Calibration
    from moa.evals.calibrations import connect, detector
    from moa.evals.measuring import recheck

    ready = connect(Calibration.load(file), endpoints.slm)
    screen.warn(await ready.check_identities(context))
    with screen.progress("reading") as progress:
        calibration, notes = await recheck(
            ready, rows, context=context, language=detector(), progress=progress
        )
    screen.warn(list(notes))
    bound = calibration.proof.bound
    confirmed = bound.threshold is not None
    screen.results_console().print(f"{'confirmed' if confirmed else 'withdrawn'}: {bound.summary}")
    if out is not None:
        calibration.save(out)
        screen.details().print(f"written to {out}")
    return 0 if confirmed else 1


def show(calibration: Calibration) -> None:
    """Print the candidates, the chosen one, and the guarantee."""
    from rich.table import Table

    from moa.decisions.guarantee import percent
    from moa.evals.comparison import figure
    from moa.learning.learned import NONE_DRAWN

    console = screen.details()
    table = Table(box=None, pad_edge=False, title="By cross-validation", title_justify="left")
    table.add_column("scorer", no_wrap=True)
    figures = ("accuracy", "macro F1", "ECE (by chance)", "acceptable", "ms", "tokens")
    for heading in (*figures, "$ per 1000"):
        table.add_column(heading, justify="right")
    chosen_name = " + ".join(feature.name for feature in calibration.features)
    for candidate in calibration.candidates:
        table.add_row(
            candidate.name,
            f"{candidate.accuracy:.3f}",
            f"{candidate.macro_f1:.3f}",
            f"{candidate.ece:.3f} ({figure(candidate.ece_by_chance)})",
            f"{candidate.coverage:.0%}",
            f"{1000 * candidate.seconds:.1f}",
            f"{candidate.tokens:.0f}",
            "unknown" if candidate.cost is None else f"{1000 * candidate.cost:.4f}",
            style="bold" if candidate.name == chosen_name else "",
        )
    console.print(table)
    console.print(f"\nchosen: {calibration.origin}")
    for note in calibration.notes:
        console.print(f"note: {note}")
    if calibration.bound is None:
        accuracy = calibration.expected_accuracy
        expectation = "" if accuracy is None else f"; expected: {percent(accuracy)} right"
        if calibration.reached is not None and accuracy is None:
            expectation = f"; nothing can be expected: {NONE_DRAWN}"
        screen.results_console().print(f"guarantee: none{expectation}")
    else:
        _show_guarantee(console, calibration)


def _show_guarantee(console: Console, calibration: Calibration) -> None:
    from dataclasses import replace

    from moa.decisions.guarantee import percent

    bound, data, reached = calibration.proof
    accuracy = reached.held_out_accuracy
    if accuracy is not None:
        console.print(
            f"fitted to {data.fitted} rows; of the {data.held_out} held out, {accuracy:.1%} are "
            "right"
        )
    for label, of_label in calibration.bounds.items():
        console.print(f"{label}: {of_label.summary}")
    screen.results_console().print(f"guarantee: {bound.summary}")
    for looser_bound in calibration.looser:
        accepts = (
            percent(looser_bound.coverage) if looser_bound.threshold is not None else "nothing"
        )
        guarantee = replace(looser_bound.guarantee, look=None)
        console.print(f"instead, {guarantee}: would accept {accepts}")
    if calibration.more_rows is not None:
        parts = ": a part of them is learned from, and not held out"
        console.print(
            f"for what was asked, label about {calibration.more_rows} more rows, drawn at random"
            + (parts if data.learn == "split" else "")
        )


def evaluate(
    file: Annotated[Path, typer.Argument(metavar="FILE.json", help="A calibration.")],
    source: options.LabelledRows,
    *,
    as_json: options.AsJson = False,
    report: options.Report = None,
    given: options.ReadingAskingOptions,
) -> None:
    """Measure the decisions of a calibration on labelled rows.

    FILE is the output of moa learn --task. The rows have text and label; use none that it learned
    from. Coverage is the share of decisions that are accepted; risk is the share of wrong ones
    among the accepted, null if there are none.

    Exit codes: 0 measured, 2 usage, data or configuration, 130 stopped.

        moa eval intents.json labelled.jsonl
        moa eval intents.json labelled.jsonl --report report.json
    """
    from moa.learning.labelled import Labelled

    screen.check_target("--report", report)
    rows = labelled_rows(source, Labelled, given)

    async def body(endpoints: Endpoints, context: RunContext) -> int:
        from moa.decisions.file import Calibration
        from moa.evals.calibrations import connect, odd_rows
        from moa.evals.measuring import evaluate as measured

        calibration = Calibration.load(file)
        ready = connect(calibration, endpoints.slm)
        warnings = await ready.check_identities(context)
        screen.warn([*warnings, *odd_rows(calibration, rows)])
        with screen.progress("reading") as progress:
            evaluation = await measured(ready, rows, context=context, progress=progress)
        console = screen.results_console(as_json=as_json)
        _show_evaluation(console, evaluation)
        if calibration.bound is not None:
            console.print(f"guarantee: {calibration.bound.summary}")
        screen.report(evaluation, report, as_json=as_json)
        return 0

    raise typer.Exit(given.run(body))


def _show_evaluation(console: Console, evaluation: Evaluation) -> None:
    from moa.evals.comparison import figure

    console.print(
        f"{evaluation.n} rows: accuracy {evaluation.accuracy:.3f}, "
        f"macro F1 {evaluation.macro_f1:.3f}, calibration error {evaluation.ece:.3f} "
        f"(by chance {figure(evaluation.ece_by_chance)})"
    )
    risk = "" if evaluation.risk is None else f", of which {evaluation.risk:.2%} are wrong"
    console.print(
        f"accepted {evaluation.coverage:.1%}{risk}; "
        f"{evaluation.tokens_per_decision:.0f} tokens and "
        f"{1000 * evaluation.seconds_per_decision:.1f} ms a decision"
    )
