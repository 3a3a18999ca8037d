"""moa decide: a label for every text, without writing Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options, screen
from moa.core.errors import ConfigError

if TYPE_CHECKING:
    from moa.agents.classifier import Classifier
    from moa.cli.row_runner import Asked, Rows
    from moa.config.endpoints import Endpoints
    from moa.core.batch import Item, MalformedLine, Row
    from moa.core.context import RunContext
    from moa.decisions.file import Calibration
    from moa.endpoints import Example

SAMPLE = 256
"""Maximum number of first texts of the input to measure bias on."""
_HEARD = (32, SAMPLE)
"""Numbers of texts from standard input after which their language is checked."""


def decide(
    source: options.Source,
    *,
    task: options.Task = None,
    labels: options.Labels = None,
    calibration: options.CalibrationFile = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            "--examples", metavar="FILE", help="Labelled rows (text and label) to learn from."
        ),
    ] = None,
    none: Annotated[
        bool, typer.Option("--none", help='Let "none of these" be an answer too.')
    ] = False,
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            "--unlabelled",
            metavar="FILE",
            help="Texts to measure the labels' bias on; default: INPUT's first 256. Not read with "
            "eight --examples or more.",
        ),
    ] = None,
    writing: options.WritingOptions,
    given: options.RunOptions,
) -> None:
    r"""Decide on a label for every text of a file.

    Each line has id, input, label, confidence (the label's probability), scores (one per label,
    adding up to 1), seconds, usage and trace, and is written as soon as its row is done. If a row
    failed, label and confidence are null, scores is {}, and error says why.

    With a few labelled rows ({"text": …, "label": …}), which help a small model most:

        moa decide mails.jsonl --task "…" --labels billing,delivery,technical \
            --examples labelled.jsonl --out decided.jsonl

    To reuse them without fitting again, write a calibration by moa learn.

    "None of these" as an answer, and decisions that don't depend on the other rows of the file:

        moa decide mails.jsonl --task "…" --labels billing,delivery --none \
            --unlabelled last-month.jsonl --out decided.jsonl

    From a pipe. Without --unlabelled decisions start only after 256 texts:

        tail -f mails.txt | moa decide - --task "…" --labels billing,delivery \
            --unlabelled last-month.jsonl --json

    With a calibration from moa learn, which knows task and labels. If it has a guarantee, each line
    also has accepted: true if the guarantee covers the decision:

        moa decide mails.jsonl --calibration teams.json --out decided.jsonl

    Exit codes: 0 all decided, 1 some failed, 2 usage or configuration, 130 stopped.

    Labels alone, and a file of rows with id and text:

        moa decide mails.jsonl --task "Which team does this mail belong to?" \
            --labels billing,delivery,technical --out decided.jsonl
    """
    from moa import rows
    from moa.cli.row_display import RowDisplay
    from moa.cli.row_runner import Input, RowRunner, file_of
    from moa.decisions.file import Calibration

    if calibration is None:
        decider = _adapt_options(task, labels, examples, unlabelled, none=none)
    elif examples or unlabelled or none:
        raise ConfigError(
            "--examples, --unlabelled and --none don't go with --calibration, which was "
            "made with its own"
        )
    else:
        decider = _CalibratedDecider(Calibration.load(calibration), task, labels)
    live = source == rows.STDIN
    column = given.text_column
    if column is None and rows.format_of(source, given.format) in ("csv", "xlsx"):
        column = "text"
    read_rows = rows.read(
        source,
        format=given.format,
        text_column=column,
        encoding=given.encoding,
        say=screen.notes().print,
    )
    texts, input_rows = decider.look(islice(read_rows, given.limit), live=live)

    async def prepare(
        endpoints: Endpoints, context: RunContext
    ) -> tuple[Classifier[str | None], Asked]:
        return await decider.agent(endpoints, texts, context), frozenset() if calibration else None

    has_bound = isinstance(decider, _CalibratedDecider) and decider.made.bound is not None
    write = partial(line, calibrated=has_bound)
    total = rows.count(source, given.limit, given.format)
    runner = RowRunner(
        given,
        Input(rows=input_rows, live=live),
        RowDisplay(as_json=writing.as_json, total=total, line=write, guarantee=decider.guarantee),
        file=file_of(given, writing, source=None if live else source, line=write),
    )
    with nullcontext() if live else closing(read_rows):  # a thread may still wait for a pipe
        raise typer.Exit(runner.run(prepare))


def line(item: Item[object], *, calibrated: bool = False) -> dict[str, object]:
    """Write a decision as a line of JSON; if `calibrated`, with `accepted`."""
    from moa.core.questions import Choice, is_answer
    from moa.rows import resources_of

    output = item.output
    record: dict[str, object] = {"id": item.id, "input": item.input}
    record |= {"label": None, "confidence": None, "scores": {}}
    if calibrated:
        record["accepted"] = False
    if is_answer(output) and isinstance(output, Choice):
        record |= {
            "label": output.label,
            "confidence": output.confidence,
            "scores": output.probabilities,
        }
        if calibrated:
            record["accepted"] = bool(output.accepted)
    record["settled"] = item.settled
    if item.problem is not None:
        record["error"] = item.problem
    return record | resources_of(item)


def _adapt_options(
    task: str | None,
    labels: str | None,
    examples: Path | None,
    unlabelled: Path | None,
    *,
    none: bool,
) -> _AdaptedDecider:
    if not task or not labels:
        missing = (
            "--labels, the answers to choose from, such as --labels billing,delivery"
            if task
            else '--task, the question that the labels answer, such as --task "Which team?"'
        )
        raise ConfigError(f"moa decide needs {missing}. Or give a --calibration, which has both")
    names = options.label_names(labels)
    labelled = tuple(_read_examples(examples, names, none=none)) if examples else ()
    return _AdaptedDecider(task, names, none, labelled, unlabelled)


@dataclass(frozen=True, slots=True)
class _CalibratedDecider:
    """Decides by a calibration, which must be for the given task and labels, if any."""

    made: Calibration
    task: str | None
    labels: str | None

    @property
    def guarantee(self) -> str:
        """The guarantee for accepted decisions, in words."""
        if self.made.bound is None:
            return ""
        if self.made.bound.threshold is None:
            return "since nothing could be guaranteed"
        return str(replace(self.made.bound.guarantee, look=None))

    def look(self, source_rows: Rows, *, live: bool) -> tuple[Sequence[str], Rows]:
        """Return the first texts, to check their language, and all rows; live rows are checked."""
        return ((), self._check_languages(source_rows)) if live else _take_first(source_rows)

    @property
    def _languages(self) -> dict[str, float]:
        return {} if self.made.data is None else self.made.data.languages

    def _check_languages(self, rows: Rows) -> Rows:
        from moa.evals.calibrations import warn_of_language

        texts: list[str] = []

        def check() -> bool:
            warning = warn_of_language(self._languages, texts)
            screen.warn([warning] if warning else [])
            return warning is not None

        looking = True
        for row in rows:
            yield row
            if looking:
                texts += _texts(iter((row,)))
                if len(texts) in _HEARD:
                    looking = not check() and len(texts) < SAMPLE
        if looking:
            check()

    async def agent(
        self, endpoints: Endpoints, texts: Sequence[str], context: RunContext
    ) -> Classifier[str | None]:
        """Build the classifier, and warn of texts that the guarantee doesn't cover."""
        from moa.agents.classifier import Classifier
        from moa.core.context import RunContext
        from moa.core.questions import NONE_OF_THESE
        from moa.evals.calibrations import connect, warn_of_language

        calibration = self.made
        labels = [label for label in calibration.labels if label != NONE_OF_THESE]
        names = options.label_names(self.labels) if self.labels else labels
        if sorted(names) == sorted(labels):
            names = labels  # in whatever order they were given
        agent = Classifier(
            endpoints.slm,
            names,
            task=self.task or calibration.question.text,
            describe={o.name: o.description for o in calibration.question.options if o.description},
            none=NONE_OF_THESE in calibration.labels,
            name="label",
            calibration=calibration,
        )
        decider = connect(calibration, endpoints.slm)
        warnings = await decider.check_identities(context)
        await decider.answer("Hello", RunContext())  # so that no row waits, and nothing else starts
        warning = warn_of_language(self._languages, texts)
        screen.warn([*warnings, *([warning] if warning else [])])
        origin = (
            f"fitted: {calibration.origin}"
            if calibration.bound is None
            else f"guarantee: {calibration.bound.summary}"
        )
        screen.notes().print(origin)
        return agent


@dataclass(frozen=True, slots=True)
class _AdaptedDecider:
    """Decides with few labels or none."""

    task: str
    names: list[str]
    none: bool
    labelled: Sequence[Example]
    unlabelled: Path | None
    guarantee: str = ""

    def look(self, source_rows: Rows, *, live: bool) -> tuple[Sequence[str], Rows]:
        """Return texts of a file or of the input to measure bias on, and all rows."""
        from moa import rows
        from moa.decisions import ENOUGH

        if len(self.labelled) >= ENOUGH:
            return (), source_rows
        if self.unlabelled is not None:
            return tuple(_texts(rows.read(str(self.unlabelled)))), source_rows
        if live:
            screen.notes().print(
                f"waiting for {SAMPLE} texts, or the end of the input, to fit to them. "
                "--unlabelled FILE takes them from a file, and then each text is decided as it "
                "comes"
            )
        return _take_first(source_rows)

    async def agent(
        self, endpoints: Endpoints, texts: Sequence[str], context: RunContext
    ) -> Classifier[str | None]:
        """Build and fit the classifier, and show the progress."""
        from moa.agents.classifier import Classifier

        agent = Classifier(endpoints.slm, self.names, task=self.task, none=self.none, name="label")
        if not (texts or self.labelled or self.unlabelled):
            return agent  # no row can be read: fitting would only delay the reasons
        with screen.progress() as tell:
            adapted_agent = await agent.adapt(
                labelled=self.labelled, unlabelled=texts, context=context, progress=tell
            )
        for calibration in adapted_agent.calibrations.values():
            screen.notes().print(f"fitted to the task: {calibration.origin}")
        return adapted_agent


def _read_examples(path: Path, labels: list[str], *, none: bool) -> Iterator[Example]:
    from moa import rows
    from moa.config.faults import nearest
    from moa.core.questions import NONE_OF_THESE
    from moa.endpoints import Example
    from moa.learning.labelled import Labelled

    allowed_labels = [*labels, NONE_OF_THESE] if none else labels
    for row, example in rows.read_models(path, Labelled):
        if example.label not in allowed_labels:
            raise ConfigError(
                f"{path}, line {row.number}: {example.label!r} is no label"
                f"{nearest(example.label, allowed_labels)}"
            )
        yield Example(example.text, {"label": example.label})


def _take_first(rows: Rows) -> tuple[Sequence[str], Rows]:
    first_rows = list(islice(rows, SAMPLE))
    return tuple(_texts(iter(first_rows))), chain(first_rows, rows)


def _texts(rows: Iterator[Row | MalformedLine]) -> Iterator[str]:
    from moa.core.batch import Row, row_text
    from moa.core.errors import InputError

    for row in rows:
        if isinstance(row, Row):
            try:
                yield row_text(row.value)
            except InputError:
                continue  # reported when its turn comes
