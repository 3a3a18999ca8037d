"""Labelled rows, made by labelling texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from moa._files import Existing, LineFile
from moa.agents.classifier import Classifier
from moa.batch import Malformed, map_rows, row_text
from moa.calibration.active_learning import Pick
from moa.context import RunContext
from moa.errors import BudgetExceeded, ConfigError, InputError, MoaError
from moa.questions import NONE_OF_THESE, Option, Question
from moa.rows import Format, read


def question_of(task: str, labels: Sequence[str]) -> Question:
    """Give the question that labels answer, by the name `label`."""
    return Question("label", "choice", task, tuple(Option(name, name) for name in labels))


class Unlabelled(NamedTuple):
    """A row to be labelled."""

    text: str
    fields: dict[str, object]


def read_unlabelled(
    source: str | Path, *, format: Format | None = None, text_column: str | None = None
) -> list[Unlabelled]:
    """Read the texts of a file; a row without one is passed over."""
    found: list[Unlabelled] = []
    for row in read(source, format=format, text_column=text_column):
        if isinstance(row, Malformed):
            continue
        try:
            text = row_text(row.value)
        except InputError:
            continue
        if text.strip():
            found.append(Unlabelled(text, row.value if isinstance(row.value, dict) else {}))
    if not found:
        raise ConfigError(f"{source}: there is no row with a 'text' to be labelled")
    return found


class LabelFile(LineFile):
    """Labelled rows on disk, see `LineFile`. A line is there for good once `label` returns."""

    def __init__(self, path: Path, *, existing: Existing, source: str | None) -> None:
        super().__init__(path, existing=existing, source=source)
        self.texts: list[str] = []
        """Those labelled so far, those of earlier sessions included."""
        self._starts: list[int] = []
        """Where each line of this session starts."""

    @property
    def added(self) -> int:
        """Lines of this session."""
        return len(self._starts)

    def __enter__(self) -> Self:
        """Open it, and read what is there."""
        super().__enter__()
        for number, _, values in self.lines():
            if not isinstance(text := values.get("text"), str):
                raise self.unreadable(number)
            self.texts.append(text)
        return self

    def label(self, row: Unlabelled, label: str, *, by: str, chosen: bool) -> None:
        """Write one line, and wait until the disk has it."""
        written = {**row.fields, "text": row.text, "label": label}
        self._starts.append(self.add(written | {"labelled_by": by, "chosen": chosen}))
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._unwritable(error) from error
        self.texts.append(row.text)

    def take_back(self) -> None:
        """Remove the last line of this session, if there is one."""
        if self._starts:
            self.cut(self._starts.pop())
            self.texts.pop()


@dataclass(slots=True)
class Labelling:
    """What came of labelling texts by a model."""

    spent: BudgetExceeded | None = None
    """Why it stopped before the last text."""
    failed: list[MoaError] = field(default_factory=list[MoaError])
    unlabelled: int = 0
    """Texts whose answer is none of the labels."""

    @property
    def problems(self) -> list[str]:
        """Say what went wrong, in sentences."""
        lines: list[str] = []
        if self.spent is not None:
            lines.append(f"the budget is spent: {self.spent}")
        if self.failed:
            lines.append(f"{len(self.failed)} failed, the first so: {self.failed[0]}")
        if self.unlabelled:
            lines.append(f"{self.unlabelled} had no answer that is one of the labels")
        return lines


async def label_by_model(
    agent: Classifier[str | None],
    rows: Sequence[Unlabelled],
    picks: Sequence[Pick],
    file: LabelFile,
    *,
    by: str,
    labels: Sequence[str],
    context: RunContext,
    progress: Callable[[int, int], None] | None = None,
) -> Labelling:
    """Ask a model for the label of each text that was picked, and write it as it comes.

    It stops where the budget is spent. Of the answers those in `labels` are kept, "none of these"
    among them where it is one. `by` is who labels, as the file says it.
    """
    found = Labelling()

    def texts() -> Iterator[str]:
        for pick in picks:
            if found.spent is None:
                yield rows[pick.place].text

    async with aclosing(map_rows(agent, texts(), context, max_concurrency=8)) as items:
        async for item in items:
            pick, answer = picks[item.number - 1], item.output
            label = None if answer is None else answer.label or NONE_OF_THESE
            if isinstance(item.error, BudgetExceeded):
                found.spent = item.error
            elif item.error is not None:
                found.failed.append(item.error)
            elif answer and answer.status == "answered" and label in labels:
                file.label(rows[pick.place], str(label), by=by, chosen=pick.chosen)
            else:
                found.unlabelled += 1
            if progress is not None:
                progress(file.added, len(picks))
    return found
