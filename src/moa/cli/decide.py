"""moa decide: a label for every text, without writing Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa.cli import options, screen
from moa.errors import ConfigError

if TYPE_CHECKING:
    from moa.agents.classifier import Classifier
    from moa.batch import Item, Malformed, Row
    from moa.calibration.file import Calibration
    from moa.cli.row_runner import Asked, Rows
    from moa.config.endpoints import Endpoints
    from moa.context import RunContext
    from moa.endpoints import Example

SAMPLE = 256
"""Maximum texts of the input, from its start, that bias is measured on."""
_HEARD = (32, SAMPLE)
"""Texts of standard input after which their language is checked."""


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

    Each line has id, input, label, confidence (the label's probability) and scores (one per label,
    adding up to 1), and is written as soon as its row is done. If a row failed they are null, null
    and {}, and error says why.

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
    from moa.calibration.file import Calibration
    from moa.cli.row_display import RowDisplay
    from moa.cli.row_runner import Input, RowRunner, file_of

    if calibration is None:
        way = _adapt_options(task, labels, examples, unlabelled, none=none)
    elif examples or unlabelled or none:
        raise ConfigError(
            "--examples, --unlabelled and --none don't go with --calibration, which was "
            "made with its own"
        )
    else:
        way = _CalibratedDecider(Calibration.load(calibration), task, labels)
    live = source == rows.STDIN
    column = given.text_column
    if column is None and rows.format_of(source, given.format) in ("csv", "xlsx"):
        column = "text"
    found = rows.read(
        source,
        format=given.format,
        text_column=column,
        encoding=given.encoding,
        say=screen.notes().print,
    )
    texts, found = way.look(islice(found, given.limit), live=live)

    async def prepare(
        endpoints: Endpoints, context: RunContext
    ) -> tuple[Classifier[str | None], Asked]:
        return await way.agent(endpoints, texts, context), frozenset() if calibration else None

    bounded = isinstance(way, _CalibratedDecider) and way.made.bound is not None
    write = partial(line, calibrated=bounded)
    total = rows.count(source, given.limit, given.format)
    runner = RowRunner(
        given,
        Input(rows=found, live=live),
        RowDisplay(as_json=writing.as_json, total=total, line=write, guarantee=way.guarantee),
        file=file_of(given, writing, source=None if live else source, line=write),
    )
    raise typer.Exit(runner.run(prepare))


def line(item: Item[object], *, calibrated: bool = False) -> dict[str, object]:
    """Write a decision as a line of JSON; if `calibrated`, with `accepted`."""
    from moa.questions import Choice, is_answer
    from moa.rows import resources_of

    output = item.output
    written: dict[str, object] = {"id": item.id, "input": item.input}
    written |= {"label": None, "confidence": None, "scores": {}}
    if calibrated:
        written["accepted"] = False
    if is_answer(output) and isinstance(output, Choice):
        written |= {
            "label": output.label,
            "confidence": output.confidence,
            "scores": output.probabilities,
        }
        if calibrated:
            written["accepted"] = bool(output.accepted)
    if item.problem is not None:
        written["error"] = item.problem
    return written | resources_of(item)


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
    shown = tuple(_read_examples(examples, names, none=none)) if examples else ()
    return _AdaptedDecider(task, names, none, shown, unlabelled)


@dataclass(frozen=True, slots=True)
class _CalibratedDecider:
    """Decide by a calibration, which must be for the given task and labels, if any."""

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

    def look(self, found: Rows, *, live: bool) -> tuple[Sequence[str], Rows]:
        """Take the first texts to check their language, or check it as they pass; keep all rows."""
        return ((), self._check_languages(found)) if live else _take_first(found)

    @property
    def _languages(self) -> dict[str, float]:
        return {} if self.made.data is None else self.made.data.languages

    def _check_languages(self, found: Rows) -> Rows:
        from moa.evals.calibrations import other_language

        texts: list[str] = []

        def warn_of_language() -> bool:
            other = other_language(self._languages, texts)
            screen.warn([other] if other else [])
            return other is not None

        looking = True
        for row in found:
            yield row
            if looking:
                texts += _texts(iter((row,)))
                if len(texts) in _HEARD:
                    looking = not warn_of_language() and len(texts) < SAMPLE
        if looking:
            warn_of_language()

    async def agent(
        self, endpoints: Endpoints, texts: Sequence[str], context: RunContext
    ) -> Classifier[str | None]:
        """Build the classifier, and warn of texts that the guarantee doesn't cover."""
        from moa.agents.classifier import Classifier
        from moa.context import RunContext
        from moa.evals.calibrations import connect, other_language
        from moa.questions import NONE_OF_THESE

        made = self.made
        known = [label for label in made.labels if label != NONE_OF_THESE]
        names = options.label_names(self.labels) if self.labels else known
        if sorted(names) == sorted(known):
            names = known  # in whatever order they were given
        agent = Classifier(
            endpoints.slm,
            names,
            task=self.task or made.question.text,
            describe={o.name: o.description for o in made.question.options if o.description},
            none=NONE_OF_THESE in made.labels,
            name="label",
            calibration=made,
        )
        ready = connect(made, endpoints.slm)
        warnings = await ready.check_identities(context)
        await ready.answer("Hello", RunContext())  # so that no row waits, and nothing else starts
        other = other_language(self._languages, texts)
        screen.warn([*warnings, *([other] if other else [])])
        origin = (
            f"fitted: {made.origin}" if made.bound is None else f"guarantee: {made.bound.summary}"
        )
        screen.notes().print(origin)
        return agent


@dataclass(frozen=True, slots=True)
class _AdaptedDecider:
    """Decide with few labels or none."""

    task: str
    names: list[str]
    none: bool
    labelled: Sequence[Example]
    unlabelled: Path | None
    guarantee: str = ""

    def look(self, found: Rows, *, live: bool) -> tuple[Sequence[str], Rows]:
        """Take texts of a file or of the input to remove bias on; keep all rows."""
        from moa import rows
        from moa.decisions import ENOUGH

        if len(self.labelled) >= ENOUGH:
            return (), found
        if self.unlabelled is not None:
            return tuple(_texts(rows.read(str(self.unlabelled)))), found
        if live:
            screen.notes().print(
                f"waiting for {SAMPLE} texts, or the end of the input, to fit to them. "
                "--unlabelled FILE takes them from a file, and then each text is decided as it "
                "comes"
            )
        return _take_first(found)

    async def agent(
        self, endpoints: Endpoints, texts: Sequence[str], context: RunContext
    ) -> Classifier[str | None]:
        """Fit it before the first decision, and show the progress."""
        from moa.agents.classifier import Classifier

        agent = Classifier(endpoints.slm, self.names, task=self.task, none=self.none, name="label")
        if not (texts or self.labelled or self.unlabelled):
            return agent  # no row can be read: fitting would only delay the reasons
        with screen.progress() as tell:
            fitted = await agent.adapt(
                labelled=self.labelled, unlabelled=texts, context=context, progress=tell
            )
        for made in fitted.calibrations.values():
            screen.notes().print(f"fitted to the task: {made.origin}")
        return fitted


def _read_examples(path: Path, labels: list[str], *, none: bool) -> Iterator[Example]:
    from moa import rows
    from moa.calibration.labelled import Labelled
    from moa.config.faults import nearest
    from moa.endpoints import Example
    from moa.questions import NONE_OF_THESE

    allowed = [*labels, NONE_OF_THESE] if none else labels
    for row, found in rows.typed(path, Labelled):
        if found.label not in allowed:
            raise ConfigError(
                f"{path}, line {row.number}: {found.label!r} is no label"
                f"{nearest(found.label, allowed)}"
            )
        yield Example(found.text, {"label": found.label})


def _take_first(found: Rows) -> tuple[Sequence[str], Rows]:
    first = list(islice(found, SAMPLE))
    return tuple(_texts(iter(first))), chain(first, found)


def _texts(found: Iterator[Row | Malformed]) -> Iterator[str]:
    from moa.batch import Row, row_text
    from moa.errors import InputError

    for row in found:
        if isinstance(row, Row):
            try:
                yield row_text(row.value)
            except InputError:
                continue  # reported when its turn comes
