"""moa label: labels for the texts that teach most, by a person or an LLM."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, cast

import typer
from rich.text import Text

from moa.cli import options, screen
from moa.core.errors import ConfigError

if TYPE_CHECKING:
    from moa.agents.classifier import Classifier
    from moa.config.endpoints import Endpoints
    from moa.core._terminal import Console
    from moa.core.context import RunContext
    from moa.core.questions import Question
    from moa.endpoints import Endpoint
    from moa.evals.labelling import Agents, LabelFile, Pick, UnlabelledRow

PERSON = "person"
DONE, NOTHING = 0, 1
SKIP, BACK, QUIT = "/skip", "/back", "/quit"
_HOW = (
    "Enter accepts what is in brackets. Else type what is right instead, numbers or names, one for "
    f"each question that it changes, as in: 2 7. Or {SKIP}, {BACK} or {QUIT}"
)
_MOST_SHOWN = 2000
"""Maximum characters of a message to show."""


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
    limit: options.DefaultLimit = 40,
    read: Annotated[
        int, typer.Option("--read", min=2, help="Number of texts to choose from.")
    ] = 300,
    asking: options.AskingOptions,
) -> None:
    """Label the messages that teach most.

    It shows one message after another, with the current decisions in brackets: all questions of a
    graph at once. Enter accepts them all. Correct a wrong one by a number or a name:

        spam       1 yes  [2 no]
        injection  3 yes  [4 no]
        sentiment  5 negative  [6 neutral]  7 positive
        intent     [8 order]  9 refund  10 repair  11 none
        urgency    [12 can wait]  13 today  14 now
        danger     15 yes  [16 no]
        > 5 9

    /skip skips a message, /back undoes the last one, /quit ends. Answers may come from a pipe, one
    per line. Each message is stored at once; the same command with --resume continues, also with
    other rows.

    Half of the messages are drawn at random, since a guarantee can only be tested on such. The
    others have the lowest confidence, each unlike those before it, and are marked "chosen": true.
    A message that you corrected on the page may be drawn too: it keeps its labels and isn't shown
    again. Judge every message as if the brackets were empty: what you accept unread confirms wrong
    decisions, and hides them in the test.

        moa run support inbox.jsonl --out runs.jsonl
        moa label support runs.jsonl --out labelled.jsonl
        moa label support runs.jsonl --out labelled.jsonl --resume --random --limit 200
        moa learn labelled.jsonl --graph support --out inbox.json

    By the large model instead, for at most one dollar. A guarantee from such labels says that
    decisions agree with that model:

        moa label support runs.jsonl --by-llm --budget-usd 1 --out labelled.jsonl

    Exit codes: 0 done or ended by /quit, 1 nothing was labelled, 2 usage or configuration, 130
    stopped.

    One question of your own:

        moa label teams.json inbox.jsonl --out labelled.jsonl
    """
    from moa.evals.labelling import LabelFile

    with LabelFile(out, existing=kept.existing(out), source=source) as file:
        session = Session(file)

        async def body(endpoints: Endpoints, context: RunContext) -> int:
            if by_llm and not endpoints.has_llm:
                raise ConfigError(_NO_LLM)
            find = _find_file_task if what.endswith(".json") else _find_graph_task
            task = await find(what, source, reading, endpoints, context)
            await session.pick(task, limit, read, context, at_random=at_random)
            if by_llm:
                return await session.ask_llm(endpoints.llm, task.by_llm(), context)
            return DONE

        stopped = f"stopped; the labels are stored: {options.how_to_go_on(out)}"
        code = asking.run(body, stopped=stopped)
        if not (code or by_llm):
            code = session.ask_person()
        if not code:
            _say_next(what, file)
    raise typer.Exit(code)


_NO_LLM = (
    "--by-llm needs a large model, and none is configured: a small one would only repeat what it "
    'believes already. Add one to moa.toml, with tier = "llm"'
)


def _say_next(name: str, file: LabelFile) -> None:
    """Print the command that uses the labels."""
    is_file, drawn = name.endswith(".json"), len(file.drawn_texts)
    learns = f'--task "…" --out {name}' if is_file else f"--graph {name} --out learned.json"
    screen.notes().print(
        f"it has {file.texts} labelled messages, {drawn} of them drawn at "
        f"random. Next: moa learn {file.path} {learns}"
    )


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
        lambda: agents_of(learner.build(slm=endpoints.llm.name, heads=False)),
    )


@dataclass
class Session:
    """Labels texts into a file."""

    file: LabelFile
    rows: Sequence[UnlabelledRow] = ()
    picks: Sequence[Pick] = ()
    questions: Sequence[Question] = ()

    async def pick(
        self, task: _Task, most: int, read: int, context: RunContext, *, at_random: bool
    ) -> None:
        """Choose the texts to label."""
        from moa.evals.labelling import pick_texts

        self.rows = task.rows
        questions = [question for agent in task.agents.values() for question in agent.questions]
        self.questions = [question for question in questions if question.name in task.agents]
        with screen.progress("reading") as progress:
            self.picks = await pick_texts(
                task.agents,
                task.rows,
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

    def ask_person(self) -> int:
        """Ask the user about one text after another; return the exit code."""
        console = screen.err()
        if not self.picks:
            console.print("all texts are labelled already")
            return DONE
        code = DONE
        try:
            self._ask(console)
        except KeyboardInterrupt:
            code = options.STOPPED
        finally:
            console.print(f"\n{self.file.added} labelled into {self.file.path}")
        return code if code or self.file.added else NOTHING

    def _ask(self, console: Console) -> None:
        """Show the chosen texts, and store the labels that the user enters."""
        form = Form(self.questions)
        if reconfigure := getattr(sys.stdin, "reconfigure", None):
            reconfigure(errors="replace")
        for question in self.questions:
            console.print(Text(f"{question.name}: {question.text}", "dim"))
        console.print(_HOW)
        index, written = 0, list[int]()
        while index < len(self.picks):
            pick, line = self.picks[index], SKIP
            if not pick.is_labelled:
                self._show(console, form, index)
                line = _read_line()
            if line == QUIT:
                return
            if line == BACK:
                index = self._go_back(index, written)
                continue
            # Who skips a text leaves the labels that it has: else its error would leave the sample.
            known = pick.known
            labels = known if line == SKIP else self._understand(console, form, line, pick)
            if labels is None:
                continue
            if labels:
                self.write(pick, labels, by=PERSON)
                written.append(index)
                if labels == known:
                    console.print(self._describe_known(index))
            index += 1

    def _describe_known(self, index: int) -> Text:
        labels = self.picks[index].known.items()
        told = ", ".join(f"{name} {_short(label)}" for name, label in labels)
        text = " ".join(self.rows[self.picks[index].place].text.split())[:60]
        return Text(f"{index + 1} of {len(self.picks)}: {text!r} {_TAKEN_OVER}: {told}", "dim")

    def _go_back(self, index: int, written: list[int]) -> int:
        """Take back all from the last text that was asked about on; return its index."""
        while written:
            self.file.take_back()
            index = written.pop()
            if not self.picks[index].is_labelled:
                break
        return index

    @staticmethod
    def _understand(
        console: Console, form: Form, line: str, pick: Pick
    ) -> Mapping[str, str] | None:
        """Read the labels of a line; return `None` if it is invalid and the user can repeat it."""
        try:
            return form.read(line, pick.guess)
        except ConfigError as error:
            if not sys.stdin.isatty():  # its next line would be taken for the labels of this text
                raise
            console.print(Text(str(error), "red"))
            return None

    def _show(self, console: Console, form: Form, index: int) -> None:
        pick = self.picks[index]
        row = self.rows[pick.place]
        console.rule(f"{index + 1} of {len(self.picks)}")
        if isinstance(subject := row.fields.get("subject"), str):
            console.print(Text(subject, "bold"))
        suffix = f" … and {len(row.text) - _MOST_SHOWN} characters more"
        console.print(
            Text(row.text[:_MOST_SHOWN] + (suffix if len(row.text) > _MOST_SHOWN else ""))
        )
        console.print()
        for line in form.lines(pick.guess):
            console.print(line)

    def write(self, pick: Pick, labels: Mapping[str, str], *, by: str) -> None:
        """Write a text with its labels."""
        from moa.decisions.labelled import row_value
        from moa.evals.labelling import LABEL

        values: dict[str, object] = {
            question.name: labels[question.name]
            if question.name == LABEL
            else row_value(question, labels[question.name])
            for question in self.questions
            if question.name in labels
        }
        row, names = self.rows[pick.place], {question.name for question in self.questions}
        others = {key: value for key, value in row.fields.items() if key not in names}
        by = pick.known_by if labels.items() <= pick.known.items() else by
        self.file.label(row._replace(fields=others), values, by=by, chosen=pick.chosen)


_TAKEN_OVER = "labelled before because somebody chose them, and taken over as drawn"


class Form:
    """All questions about a text, answered by one line."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._questions = questions
        answers = [(q.name, option.name) for q in questions for option in q.options]
        names = Counter(_short(option) for _, option in answers)
        self._numbers = {answer: str(number) for number, answer in enumerate(answers, start=1)}
        if not names.keys().isdisjoint(self._numbers.values()):  # a label such as 3 looks like one
            self._numbers = {}
        self._meant: dict[str, tuple[str, str]] = {}
        """The answer that a word means."""
        for name, option in answers:
            self._meant[f"{name}={_short(option)}"] = name, option
            if names[_short(option)] == 1:
                self._meant[_short(option)] = name, option
        self._meant |= {number: answer for answer, number in self._numbers.items()}

    def lines(self, guess: Mapping[str, str]) -> Iterator[Text]:
        """Yield a line for each question with its options, the current answer in brackets."""
        width = max(len(question.name) for question in self._questions)
        for question in self._questions:
            line = Text(f"{question.name:<{width}}  ", "bold")
            for option in question.options:
                number = self._numbers.get((question.name, option.name), "")
                choice = f"{number} {_short(option.name)}".strip()
                is_guess = guess.get(question.name) == option.name
                line.append(
                    f"[{choice}]  " if is_guess else f"{choice}  ", "" if is_guess else "not bold"
                )
            yield line

    def read(self, line: str, guess: Mapping[str, str]) -> dict[str, str]:
        """Read the right answers: the current ones, corrected by the line.

        Raises:
            ConfigError: a word isn't an answer, or a question has two answers or none.
        """
        from moa.core.faults import nearest

        corrections: dict[str, str] = {}
        for word in self._words(line):
            if word not in self._meant:
                raise ConfigError(
                    f"{word!r} is no answer{nearest(word, list(self._meant))}. {_HOW}"
                )
            name, option = self._meant[word]
            if corrections.setdefault(name, option) != option:
                raise ConfigError(f"{line!r} has two answers to {name!r}: give one")
        answers = {**guess, **corrections}
        if open_names := [
            question.name for question in self._questions if question.name not in answers
        ]:
            raise ConfigError(f"nothing is decided about {', '.join(open_names)}: give an answer")
        return answers

    def _words(self, line: str) -> list[str]:
        if line in self._meant:
            return [line]
        parts = line.split(",") if "," in line else line.split()
        return [part.strip() for part in parts if part.strip()]


def _short(option: str) -> str:
    from moa.core.questions import NONE_OF_THESE

    return "none" if option == NONE_OF_THESE else option


def _read_line() -> str:
    """Read one line; at the end of the input return `QUIT`."""
    line = sys.stdin.readline()
    return line.strip() if line else QUIT
