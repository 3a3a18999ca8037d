"""Labelling: which texts help a calibration most, and rows made by labelling them.

Half of the texts that are picked are drawn at random: a promise can only be found on such. The
others are those that the scorer is unsure of, or that lie close to its threshold, each far from
those before it: the gradients that their labels could cause are compared, as BADGE does (Ash et
al. 2020, "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds", arXiv
1906.03671), and always the farthest is taken (Gonzalez 1985).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple, Self

from moa._files import Existing, LineFile
from moa.agents.classifier import Classifier
from moa.batch import map_rows
from moa.calibration.calibrated import Calibrated
from moa.calibration.features import Progress, VectorFeature
from moa.calibration.labelled import same_text
from moa.calibration.measuring import read_texts
from moa.context import RunContext
from moa.decisions.arrays import Floats, logit, np
from moa.errors import BudgetExceeded, ConfigError, MoaError
from moa.node import Frozen
from moa.questions import NONE_OF_THESE, Option, Question
from moa.rows import Format, typed

MOST_READ = 500
"""Texts that are read to choose among, unless told otherwise."""


def question_of(task: str, labels: Sequence[str]) -> Question:
    """Give the question that labels answer, by the name `label`."""
    return Question("label", "choice", task, tuple(Option(name, name) for name in labels))


class Unlabelled(NamedTuple):
    """A row to be labelled."""

    text: str
    fields: dict[str, object]
    """All that stands in it."""


class _Row(Frozen):
    text: str | None = None


def read_unlabelled(
    source: str | Path,
    *,
    format: Format | None = None,
    text_column: str | None = None,
    encoding: str | None = None,
) -> list[Unlabelled]:
    """Read the texts of a file; a row without one is passed over.

    Raises:
        ConfigError: no row has one, or a row can't be read.
    """
    columns: dict[str, None] = {}
    found: list[Unlabelled] = []
    rows = typed(source, _Row, format=format, text_column=text_column, encoding=encoding)
    for row, read in rows:
        fields = row.value if isinstance(row.value, dict) else {}
        columns |= dict.fromkeys(map(str, fields))
        if read.text and read.text.strip():
            found.append(Unlabelled(read.text, fields))
    if not found:
        names = ", ".join(map(repr, columns))
        why = f". Their columns are {names}: name the one with the text by --text-column"
        raise ConfigError(f"{source}: no row has a text to be labelled{why if columns else ''}")
    return found


@dataclass(frozen=True, slots=True)
class Pick:
    """A text to be labelled."""

    place: int
    """Of the text."""
    chosen: bool
    """Whether it was chosen since it helps; otherwise it was drawn at random."""


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
        made = {"text": row.text, "label": label, "labelled_by": by, "chosen": chosen}
        self._starts.append(self.add(row.fields | made))
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


async def picked(
    calibrated: Calibrated,
    texts: Sequence[str],
    *,
    most: int,
    known: Sequence[str] = (),
    most_read: int = MOST_READ,
    context: RunContext | None = None,
    progress: Progress | None = None,
) -> list[Pick]:
    """Pick the texts to label next, drawn and chosen ones in turn, the most helpful first.

    Which texts can be drawn, and in which order, depends on their words alone. So it makes no
    difference to the promise whether they are labelled in one session or in several. A text that
    comes twice counts once, one that is `known` is picked no more, and the calibration's features
    read at most `most_read` to choose among.
    """
    done = {same_text(text) for text in known}
    places = {same_text(text): place for place, text in reversed(list(enumerate(texts)))}
    new = {key: place for key, place in places.items() if key not in done}
    order = sorted((sha256(key.encode()).digest(), place) for key, place in new.items())
    drawn = [Pick(place, chosen=False) for digest, place in order if digest[0] % 2 == 0]
    others = [place for digest, place in order if digest[0] % 2][:most_read]
    found: list[int] = []
    if others:
        context = context or RunContext(keep_notes=False)
        read = await read_texts(calibrated, [texts[place] for place in others], context, progress)
        found = helpful(calibrated, [reading.values for reading in read], most=most)
    chosen = [Pick(others[place], chosen=True) for place in found]
    mixed = chain.from_iterable(zip_longest(chosen, drawn))
    return [pick for pick in mixed if pick is not None][:most]


def helpful(calibrated: Calibrated, readings: Sequence[Floats], *, most: int) -> list[int]:
    """Give the places of the texts whose labels help most, by what each feature read of them."""
    calibration = calibrated.calibration
    p = calibration.scored(readings)
    error = p - np.eye(p.shape[1])[p.argmax(1)]
    unsure = np.linalg.norm(error, axis=1)
    worth = unsure / max(float(unsure.max()), 1e-12)
    bound = calibration.bound
    if bound is not None and (threshold := bound.threshold) is not None:
        sure = calibration.judge(readings).sure
        worth = np.maximum(worth, np.exp(-np.abs(logit(sure) - logit(np.array([threshold])))))
    direction = error / np.maximum(unsure, 1e-12)[:, None]
    return _farthest(worth[:, None] * direction, _told(calibrated, readings), most)


def _told(calibrated: Calibrated, readings: Sequence[Floats]) -> Floats:
    """What tells texts apart: vectors where there are any, else log-probabilities."""
    features = calibrated.calibration.features
    vectors = [isinstance(feature, VectorFeature) for feature in features]
    used = [
        reading if is_vector else reading - reading.mean(1, keepdims=True)
        for reading, is_vector in zip(readings, vectors, strict=True)
        if is_vector or not any(vectors)
    ]
    sizes = [np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12) for one in used]
    return np.concatenate([one / size for one, size in zip(used, sizes, strict=True)], 1)


def _farthest(slopes: Floats, vectors: Floats, most: int) -> list[int]:
    """Take the largest gradient, then always the one that is farthest from all that were taken.

    A gradient is the outer product of a slope and a vector; it is never written out.
    """
    sizes = (slopes**2).sum(1) * (vectors**2).sum(1)
    away = sizes.copy()
    taken: list[int] = []
    while len(taken) < min(most, len(sizes)):
        place = int(away.argmax())
        taken.append(place)
        shared = (slopes @ slopes[place]) * (vectors @ vectors[place])
        away = np.minimum(away, sizes + sizes[place] - 2 * shared)
        away[taken] = -np.inf
    return taken
