"""moa label: labels for the texts that teach most, by a person or an LLM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, cast

import typer

from moa.cli import options, screen
from moa.cli.studio import OpenPage, Port, check_extra, page_of, show
from moa.core.errors import ConfigError

if TYPE_CHECKING:
    from moa.agents.classifier import Classifier
    from moa.config.endpoints import Endpoints
    from moa.core._json import JSON
    from moa.core.context import RunContext
    from moa.core.questions import Question
    from moa.endpoints import Endpoint
    from moa.evals.labelling import Agents, LabelFile, Pick, UnlabelledRow

_SMALL_MODEL = "slm"
"""Labeller of a sheet's decisions until a person has checked them."""
DONE, NOTHING = 0, 1


def label(
    what: Annotated[
        str,
        typer.Argument(
            metavar="GRAPH",
            help="A graph that learns, such as support, or a file of one question that moa learn "
            "--task wrote.",
        ),
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Output of moa run --out, or raw rows: .jsonl, .csv, .txt, .parquet or .xlsx.",
        ),
    ],
    *,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE.jsonl", help="Write one labelled row a line.")
    ] = Path("labelled.jsonl"),
    kept: options.ExistingOptions,
    reading: options.ReadingOptions,
    at_random: Annotated[
        bool,
        typer.Option("--random", help="Draw all texts at random, as a guarantee needs."),
    ] = False,
    by_llm: Annotated[
        bool, typer.Option("--by-llm", help="Let the large model label them.")
    ] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--sheet",
            metavar="FILE.jsonl",
            help="Write the messages into this file, to be checked in an editor; if it is there, "
            "read it.",
        ),
    ] = None,
    limit: options.DefaultLimit = 40,
    read: Annotated[
        int, typer.Option("--read", min=2, help="Number of texts to choose from.")
    ] = 300,
    port: Port = 8090,
    open_page: OpenPage = True,
    asking: options.AskingOptions,
) -> None:
    """Label the messages that teach most.

    It opens the page of moa studio on some messages, with the current decisions. Press the number
    of a right answer, then R: it confirms the other decisions about the message. Each label is
    stored at once. Ctrl-C ends; the same command with --resume continues, also with other rows.

    Half of the messages are drawn at random, since a guarantee can only be tested on such: label
    them in their order, without gaps. The others have the lowest confidence, each unlike those
    before it, and are marked "chosen": true. A message that you corrected on the page before may be
    drawn too: it keeps its labels and isn't shown again. Judge every message as if nothing was
    decided: what you confirm unread confirms wrong decisions, and hides them in the test.

        moa run support inbox.jsonl --out runs.jsonl
        moa label support runs.jsonl --out labelled.jsonl
        moa label support runs.jsonl --out labelled.jsonl --resume --random --limit 200
        moa learn labelled.jsonl --graph support --out inbox.json

    Without a browser: the first command writes a file, one message a line. Correct the labels in
    it, and set "checked" to true in each line that you have read. Then the same command reads it:

        moa label support runs.jsonl --sheet sheet.jsonl --out labelled.jsonl
        moa label support runs.jsonl --sheet sheet.jsonl --out labelled.jsonl

    By the large model instead, for at most one dollar. A guarantee from such labels says that
    decisions agree with that model:

        moa label support runs.jsonl --by-llm --budget-usd 1 --out labelled.jsonl

    Exit codes: 0 done, 1 nothing is labelled, 2 usage or configuration, 130 stopped before the
    page opened.

    One question of your own:

        moa label teams.json inbox.jsonl --out labelled.jsonl
    """
    from moa.evals.labelling import LabelFile

    filled = sheet is not None and sheet.exists()
    _check(by_llm=by_llm, sheet=sheet, source=source)
    rows, format = (str(sheet), options.ReadingOptions()) if filled else (source, reading)
    with LabelFile(out, existing=kept.existing(out), source=source) as file:
        session = Session(file)

        async def body(endpoints: Endpoints, context: RunContext) -> int:
            if by_llm and not endpoints.has_llm:
                raise ConfigError(_NO_LLM)
            find = _find_file_task if what.endswith(".json") else _find_graph_task
            task = await find(what, rows, format, endpoints, context)
            session.take(task)
            if filled:
                return session.read_sheet()
            await session.pick(task.agents, limit, read, context, at_random=at_random)
            if by_llm:
                return await session.ask_llm(endpoints.llm, task.by_llm(), context)
            return session.write_sheet(sheet) if sheet else session.take_over()

        stopped = f"stopped; the labels are stored: {options.how_to_go_on(out)}"
        code = asking.run(body, stopped=stopped)
    if code or (sheet and not filled):
        raise typer.Exit(code)
    if not (by_llm or sheet):
        session.show_page(port=port, open_page=open_page, overwrite=kept.overwrite)
    raise typer.Exit(_say_next(what, out))


def _check(*, by_llm: bool, sheet: Path | None, source: str) -> None:
    """Check who labels where, before a model is asked."""
    from moa.core._files import check_lines

    if sheet is None:
        if not by_llm:
            check_extra()
    elif by_llm:
        raise ConfigError("--by-llm is for the large model, and --sheet for you: give one of them")
    elif not sheet.exists():
        check_lines(sheet, existing="refuse", source=source)


_NO_LLM = (
    "--by-llm needs a large model, and none is configured: a small one would only repeat what it "
    'believes already. Add one to moa.toml, with tier = "llm"'
)


def _say_next(name: str, out: Path) -> int:
    """Print the command that uses the labels; return the exit code."""
    from moa.evals.labelling import LabelFile

    is_file = name.endswith(".json")
    learns = f'--task "…" --out {name}' if is_file else f"--graph {name} --out learned.json"
    with LabelFile(out, existing="resume", source=None) as file:
        if not file.texts:
            screen.notes().print(f"nothing is labelled in {out}")
            return NOTHING
        screen.notes().print(
            f"it has {file.texts} labelled messages, {len(file.drawn_texts)} of them drawn at "
            f"random. Next: moa learn {out} {learns}"
        )
    return DONE


class _Task(NamedTuple):
    """Rows to label, and the agents that answer the questions about them."""

    rows: Sequence[UnlabelledRow]
    agents: Agents
    """The current agents."""
    by_llm: Callable[[], Agents]
    """Returns agents that ask the large model."""


async def _find_file_task(
    file: str,
    source: str,
    reading: options.ReadingOptions,
    endpoints: Endpoints,
    context: RunContext,
) -> _Task:
    """Return the rows and agents for the one question of a calibration."""
    from moa.decisions.file import Calibration
    from moa.evals.labelling import LABEL, read_unlabelled
    from moa.graphs.single_model import single_model

    del context
    calibration = Calibration.load(file)
    rows = read_unlabelled(source, **reading.row_format)

    def agents(endpoint: Endpoint, *, calibrated: bool) -> Agents:
        agent = single_model(endpoint, calibration=calibration, calibrated=calibrated)
        return {LABEL: cast("Classifier[str | None]", agent)}

    return _Task(
        rows,
        agents(endpoints.slm, calibrated=True),
        lambda: agents(endpoints.llm, calibrated=False),
    )


async def _find_graph_task(
    graph: str,
    source: str,
    reading: options.ReadingOptions,
    endpoints: Endpoints,
    context: RunContext,
) -> _Task:
    """Return the rows and agents for all questions of a graph."""
    from moa.evals.labelling import UnlabelledRow
    from moa.learning.labelled_graph import Learner, agents_of, rows_of

    learner = Learner(graph, endpoints)
    raw_rows = rows_of(source, **reading.row_format)
    with screen.progress("reading") as progress:
        messages = await learner.messages(raw_rows, context, progress, labels=False)
    rows = [
        UnlabelledRow(str(message.fields.get("text")), message.fields, message.texts)
        for message in messages
    ]
    if not rows:
        raise ConfigError(f"{source}: no row has a text to be labelled")
    return _Task(
        rows,
        agents_of(learner.current),
        lambda: agents_of(learner.build(slm=endpoints.llm.name, decide_by="model")),
    )


@dataclass
class Session:
    """Labels texts into a file."""

    file: LabelFile
    rows: Sequence[UnlabelledRow] = ()
    picks: Sequence[Pick] = ()
    questions: Sequence[Question] = ()

    def take(self, task: _Task) -> None:
        """Take the rows and the questions."""
        self.rows = task.rows
        questions = [question for agent in task.agents.values() for question in agent.questions]
        self.questions = [question for question in questions if question.name in task.agents]

    async def pick(
        self, agents: Agents, most: int, read: int, context: RunContext, *, at_random: bool
    ) -> None:
        """Choose the texts to label."""
        from moa.evals.labelling import pick_texts

        with screen.progress("reading") as progress:
            self.picks = await pick_texts(
                agents,
                self.rows,
                most=most,
                labelled=self.file.drawn_texts,
                chosen=self.file.chosen_lines,
                most_read=read,
                at_random=at_random,
                context=context,
                progress=progress,
            )

    async def ask_llm(self, llm: Endpoint, agents: Agents, context: RunContext) -> int:
        """Let the large model label each text; return the exit code."""
        from moa.evals.labelling import label_by_model

        write = partial(self.write, by=f"{llm.name}: {llm.model}")
        with screen.progress() as progress:
            report = await label_by_model(
                agents,
                self.rows,
                self.picks,
                write,
                context=context,
                progress=partial(progress, f"labels by {llm.name}"),
            )
        for line in report.problems:
            screen.err().print(line)
        if report.taken_over:
            screen.notes().print(f"{report.taken_over} {_TAKEN_OVER}")
        screen.notes().print(
            f"{self.file.added} of {len(self.picks)} labelled into {self.file.path}"
        )
        return DONE if self.file.added or not self.picks else NOTHING

    def write_sheet(self, path: Path) -> int:
        """Write the chosen texts into a file, for a person to check; return the exit code."""
        from moa.core._files import dump_json
        from moa.evals.labelling import CHECKED

        blank = {CHECKED: False, **{question.name: "" for question in self.questions}}
        lines = [blank | self.line(pick, pick.guess, by=_SMALL_MODEL) for pick in self.picks]
        screen.write_text("--sheet", path, "".join(f"{dump_json(line)}\n" for line in lines))
        screen.notes().print(
            f"{len(lines)} messages in {path}: correct their labels, set {CHECKED!r} to true in "
            "each line that you have read, and run the same command again"
        )
        return DONE

    def read_sheet(self) -> int:
        """Store the checked rows of a sheet; return the exit code."""
        from moa.evals.labelling import read_sheet
        from moa.learning.labelled import PERSON

        drawn, chosen = self.file.drawn_texts, self.file.chosen_lines
        checked = read_sheet(self.rows, self.questions, labelled=drawn, chosen=chosen)
        for pick, labels in checked:
            self.write(pick, labels, by=PERSON)
        screen.notes().print(f"{self.file.added} labelled into {self.file.path}")
        return DONE if checked else NOTHING

    def take_over(self) -> int:
        """Store the labels of the texts if all have them already; the page does else."""
        from moa.learning.labelled import PERSON

        if all(pick.is_labelled for pick in self.picks):
            for pick in self.picks:
                self.write(pick, pick.known, by=PERSON)
        return DONE

    def show_page(self, *, port: int, open_page: bool, overwrite: bool) -> None:
        """Let the user label the texts on the page, until Ctrl-C."""
        from moa.learning.labelled import PERSON
        from moa.studio.labels import Labels
        from moa.studio.sources import Source, View

        shown = [pick for pick in self.picks if not pick.is_labelled]
        if len(shown) < len(self.picks):
            screen.notes().print(f"{len(self.picks) - len(shown)} {_TAKEN_OVER}")
        if not shown:
            screen.notes().print("all texts are labelled already")
            return
        if overwrite:
            self.file.path.unlink(missing_ok=True)
        drawn = {
            self.rows[pick.place].text: self.line(pick, pick.known, by=PERSON)
            if pick.known
            else None
            for pick in self.picks
            if not pick.chosen
        }
        source = Source(
            name="Messages to label",
            about="label them in their order; Ctrl-C in the terminal ends",
            lines=lambda: map(self._page_line, shown),
            in_order=True,
        )
        view = View(source, labels=Labels(self.file.path, drawn=drawn))
        with suppress(KeyboardInterrupt):
            show(view, page_of(view), port=port, open_page=open_page)

    def _page_line(self, pick: Pick) -> JSON:
        """Return a text with its decisions, as a line of a run."""
        from moa.evals.labelling import probabilities_of

        row = self.rows[pick.place]
        decisions: JSON = {}
        for name, answer in pick.answers.items():
            names = [option.name for option in answer.question.options]
            decisions[name] = {
                "status": answer.status,
                "label": pick.decided.get(name),
                "probabilities": dict(zip(names, probabilities_of(answer), strict=True)),
            }
        fields = {**self._others(row), "text": row.text}
        id = row.fields.get("id", pick.place + 1)
        return {"id": id, "input": fields, "output": decisions, "status": "answered"}

    def write(self, pick: Pick, labels: Mapping[str, str], *, by: str) -> None:
        """Write a text with its labels."""
        self.file.store(self.line(pick, labels, by=by))

    def line(self, pick: Pick, labels: Mapping[str, str], *, by: str) -> JSON:
        """Return the line of a text with its labels."""
        from moa.evals.labelling import LABEL
        from moa.learning.labelled import row_value

        row = self.rows[pick.place]
        values = {
            question.name: labels[question.name]
            if question.name == LABEL
            else row_value(question, labels[question.name])
            for question in self.questions
            if question.name in labels
        }
        by = pick.known_by if labels.items() <= pick.known.items() else by
        marks = {"labelled_by": by, "chosen": pick.chosen}
        return {**self._others(row), "text": row.text, **values, **marks}

    def _others(self, row: UnlabelledRow) -> JSON:
        """Return the fields of a row without those that a label has."""
        from moa.evals.labelling import CHECKED

        names = {question.name for question in self.questions} | {CHECKED}
        return {key: value for key, value in row.fields.items() if key not in names}


_TAKEN_OVER = "labelled before because somebody chose them, and taken over as drawn"
