"""moa learn status, from, draw and forget: watch and feed a cascade that learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options, screen
from moa.core._files import save_text
from moa.core.errors import ConfigError

if TYPE_CHECKING:
    from moa.config.endpoints import Endpoints
    from moa.core.context import RunContext
    from moa.learning.figures import LearningFigures

_BARS, _WIDE = 20, 40
ROWS_FOR_PEOPLE = 151
"""Rows of a first draw that allow two wrong ones; with none wrong, 79 suffice."""
Answers = Annotated[
    str, typer.Argument(metavar="ANSWERS", help="The file, or postgresql://…#NAME, of learn =.")
]


def status(
    answers: Answers,
    *,
    as_json: options.AsJson = False,
    plot: options.Plot = None,
    quiet: options.Quiet = False,
) -> None:
    """Show what a cascade that learns has saved, its guarantee, and what would help.

    It only reads the file, and asks no model.

    Exit codes: 0 shown, 2 there are no answers there.

        moa learn status answers.db
        moa learn status answers.db --plot bill.png
    """
    del quiet
    from moa.learning.figures import figures_at

    screen.check_target("--plot", plot)
    figures = figures_at(answers)
    if plot is not None:
        from moa.evals.plots import plot_learning

        plot_learning(figures, plot)
    if as_json:
        screen.json_line(figures.model_dump(mode="json"))
    else:
        _show_figures(figures)
    raise typer.Exit(0)


def _show_figures(figures: LearningFigures) -> None:
    from moa.decisions.guarantee import percent

    console, result = screen.details(), screen.results_console()
    step = max(1, -(-len(figures.hundreds) // _BARS))
    console.print("calls of the large model, of 100 inputs")
    for start in range(0, len(figures.hundreds), step):
        hundreds = figures.hundreds[start : start + step]
        inputs = hundreds[-1].last - hundreds[0].first + 1
        calls = 100 * sum(hundred.calls for hundred in hundreds) / inputs
        would = 100 * sum(hundred.would for hundred in hundreds) / inputs
        bar = "█" * round(min(calls, 100) / 100 * _WIDE)
        suffix = "" if would == calls else f" ({would:.0f}, were the small answers given)"
        console.print(
            f"  {hundreds[0].first:>6}-{hundreds[-1].last:<6} {bar:<{_WIDE}} {calls:.0f}{suffix}"
        )
    for look in figures.looks:
        outcome = (
            f"{look.accepted} of {look.held_out} held-out texts accepted, {look.differ} differ"
            if look.passed
            else "nothing passed"
        )
        mark = " (in use)" if look.in_use else ""
        console.print(f"epoch {look.epoch}, look {look.look} at row {look.row}: {outcome}{mark}")
    for epoch in figures.epochs[1:]:
        console.print(f"epoch {epoch.epoch} began at row {epoch.first}: {epoch.why}")
    if figures.checked and figures.differ_at_most is not None:
        maximum = percent(figures.differ_at_most)
        console.print(
            f"checked since: {figures.checked}, of which {figures.differ} differ (by these alone "
            f"at most {maximum})"
        )
    for sample in figures.people:
        console.print(
            f"drawn for people: {sample.drawn}, {sample.labelled} of them labelled, "
            f"{sample.wrong} wrong (at most {percent(sample.at_most)}; without a label is wrong)"
        )
    if figures.asked_twice:
        console.print(
            f"the large model was asked twice {figures.asked_twice} times, and differed from "
            f"itself {figures.differs_from_itself} times"
        )
    if figures.doubt:
        screen.warn([figures.doubt])
    result.print(figures.summary)


def from_log(
    source: options.LabelledRows,
    *,
    answers: Annotated[
        str | None,
        typer.Option(
            "--answers",
            metavar="ANSWERS",
            help="Where to store them; default: learn = in [graphs.cascade].",
        ),
    ] = None,
    task: options.Task = None,
    labels: options.Labels = None,
    graph: Annotated[
        str, typer.Option("--graph", metavar="NAME", help="The cascade: a name or file.py:object.")
    ] = "cascade",
    people: Annotated[
        bool,
        typer.Option(
            "--people",
            help="The labels are from people: the small model learns from them, and on rows that "
            "moa learn draw drew they measure how often its answers are right.",
        ),
    ] = False,
    as_json: options.AsJson = False,
    given: options.ReadingAskingOptions,
) -> None:
    """Fill the answers of a cascade that learns from a log of its large model.

    The log has rows with text and label, the large model's answer. No large model is asked. Rows
    are split into training and test as in a running cascade, so it starts with what the log can
    prove. Rows that somebody chose to label ("chosen": true), and with --people all rows, only
    train. Known texts are skipped, so you can repeat the command.

    With --graph support a row has text, intent, sentiment, urgency and spam, as moa label writes
    them. A row that lacks one of the last three only trains.

    Exit codes: 0 done, 2 usage, data or configuration, 130 stopped: what was taken is kept.

        moa learn from log.jsonl --task "Which team?" --labels card,app --answers answers.db
        moa learn status answers.db
    """
    from moa.cli.learn import labelled_rows
    from moa.learning.labelled import LoggedRow

    rows = labelled_rows(source, LoggedRow, given)
    names = options.label_names(labels) if labels else None

    async def body(endpoints: Endpoints, context: RunContext) -> int:
        from moa.config.loading import load_graph
        from moa.learning.figures import figures_of
        from moa.learning.student import Student

        table = {"learn": answers, "task": task, "labels": names}
        settings = {key: value for key, value in table.items() if value is not None}
        student = getattr(load_graph(graph, endpoints, settings), "student", None)
        if not isinstance(student, Student):
            raise ConfigError(f"{graph!r} doesn't learn: give --answers, or learn = in its table")
        taken_count = 0
        with screen.progress("reading") as progress:
            for number, row in enumerate(rows, start=1):
                taken_count += await student.take(
                    row.text,
                    row.answers(student.asked.name),
                    context,
                    case=row.case,
                    chosen=row.chosen,
                    people=people,
                )
                progress("learning", number, len(rows))
        learning = await student.ready(context)
        learning.wait()
        figures = figures_of(learning.store)
        screen.details(as_json=as_json).print(f"{taken_count} of {len(rows)} rows taken")
        if as_json:
            screen.json_line(figures.model_dump(mode="json"))
        else:
            _show_figures(figures)
        return 0

    raise typer.Exit(given.run(body, stopped="stopped; what was taken is kept"))


def draw(
    answers: Answers,
    *,
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=1, help="Texts to draw.")
    ] = ROWS_FOR_PEOPLE,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE.jsonl", help="Where to write them; a new file.")
    ],
) -> None:
    """Draw random rows for people to label, to measure how often the small model is right.

    They are rows that the current head accepts, without its answers. Write a "label" into each
    line, and import them with moa learn from. This needs stored texts (keep_texts = true in learn).
    Until all rows of a draw are labelled, the command writes the rest again. A head allows three
    draws. A row without a label counts as wrong, so draw no more than you will label.

    Exit codes: 0 drawn, 2 usage or configuration.

        moa learn draw answers.db --out drawn.jsonl
        moa learn from drawn.jsonl --people --task "Which team?" --labels card,app \
            --answers answers.db
        moa learn status answers.db
    """
    from moa.learning.answers import AnswerStore

    if out.exists():
        raise ConfigError(f"{out} is there already: name a file that isn't")
    with AnswerStore(answers, must_exist=True) as store:
        store.read_question()
        drawn_rows = store.draw(store.read_state(), rows)
        lines = [json.dumps({"text": row.text}, ensure_ascii=False) for row in drawn_rows]
        save_text(out, "".join(f"{line}\n" for line in lines), private=True)
    screen.results_console().print(f"{len(drawn_rows)} rows to label, in {out}")
    raise typer.Exit(0)


def forget(
    answers: Answers,
    row: Annotated[
        int | None, typer.Argument(metavar="ROW", help="Number of the row, as in traces.")
    ] = None,
    *,
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help="All rows with this text.")
    ] = None,
) -> None:
    """Forget the features and the label of a row.

    The row is still counted. The current head, which was trained on it, stays until the next one.

    Exit codes: 0 forgotten, 1 there is none, 2 usage or configuration.

        moa learn forget answers.db 123
        moa learn forget answers.db --text "My card was stolen."
    """
    from moa.learning.answers import AnswerStore

    if (row is None) == (text is None):
        raise ConfigError("give the number of the row, or --text")
    with AnswerStore(answers, must_exist=True) as store:
        store.read_question()
        numbers = [row] if row is not None else store.indices_of(store.coin.toss(text or ""))
        forgotten_rows = [number for number in numbers if store.forget(number)]
    screen.results_console().print(f"{len(forgotten_rows)} rows forgotten")
    raise typer.Exit(0 if forgotten_rows else 1)
