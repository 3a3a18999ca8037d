"""Labelling: which texts teach most, and rows made by labelling them.

Half of the texts that are picked are drawn at random: a guarantee can only be found on such. The
others are those that some question is undecided about, each far from those before it: the gradients
that their labels could cause are compared, as BADGE does (Ash et al. 2020, "Deep Batch Active
Learning by Diverse, Uncertain Gradient Lower Bounds", arXiv 1906.03671), of all questions together,
and always the farthest is taken (Gonzalez 1985).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple, Self

from moa._async import map_async
from moa._files import Existing, LineFile
from moa.agents.deciding import DecidingAgent
from moa.calibration.features import Progress
from moa.calibration.labelled import normalise_text
from moa.context import RunContext
from moa.decisions.arrays import Floats, np
from moa.decisions.heads import encode
from moa.endpoints.encoders import feeds_heads
from moa.errors import BudgetExceeded, ConfigError, MoaError, check_recoverable
from moa.node import Frozen
from moa.questions import Answer, Option, Question
from moa.rows import Format, read_models

MOST_READ = 300
"""Default number of texts to choose from."""
MAX_CONCURRENCY = 8
"""Texts that are read in parallel."""
Agents = Mapping[str, DecidingAgent[Any]]
"""Deciding agents, by the name of the question."""


LABEL = "label"
"""Name of a question of one's own, and of the key of its labels."""


def question_of(task: str, labels: Sequence[str]) -> Question:
    """Build the question that labels answer, named `label`."""
    return Question(LABEL, "choice", task, tuple(Option(name, name) for name in labels))


class UnlabelledRow(NamedTuple):
    """A row to be labelled."""

    text: str
    fields: dict[str, object]
    """All fields of the row."""
    texts: Mapping[str, str]
    """The text that each question is about, by its name."""


class _Row(Frozen):
    text: str | None = None


def read_unlabelled(
    source: str | Path,
    *,
    format: Format | None = None,
    text_column: str | None = None,
    encoding: str | None = None,
) -> list[UnlabelledRow]:
    """Read the texts of a file; a row without one is passed over.

    Raises:
        ConfigError: no row has one, or a row can't be read.
    """
    columns: dict[str, None] = {}
    unlabelled: list[UnlabelledRow] = []
    rows = read_models(source, _Row, format=format, text_column=text_column, encoding=encoding)
    for row, read in rows:
        fields = row.value if isinstance(row.value, dict) else {}
        columns |= dict.fromkeys(map(str, fields))
        if read.text and read.text.strip():
            unlabelled.append(UnlabelledRow(read.text, fields, {LABEL: read.text}))
    if not unlabelled:
        names = ", ".join(map(repr, columns))
        hint = f". Their columns are {names}: name the one with the text by --text-column"
        raise ConfigError(f"{source}: no row has a text to be labelled{hint if columns else ''}")
    return unlabelled


@dataclass(frozen=True, slots=True)
class Pick:
    """A text to be labelled."""

    place: int
    """Index of the text."""
    chosen: bool
    """True if it was chosen because it teaches most, False if it was drawn at random."""
    answers: Mapping[str, Answer]
    """The current answers, by name of the question."""

    @property
    def guess(self) -> dict[str, str]:
        """Names of the decided options; a question without an answer has none."""
        answered = {n: answer for n, answer in self.answers.items() if answer.status == "answered"}
        return {
            name: answer.question.options[answer.best].name for name, answer in answered.items()
        }


class LabelFile(LineFile):
    """Labelled rows on disk, see `LineFile`. A line is there for good once `label` returns."""

    def __init__(self, path: Path, *, existing: Existing, source: str | None) -> None:
        super().__init__(path, existing=existing, source=source)
        self.texts: list[str] = []
        """Labelled texts, those of earlier sessions included."""
        self.drawn = 0
        """Number of them that were drawn at random."""
        self._lines: list[tuple[int, bool]] = []
        """The offset of each line of this session, with True if its text was drawn at random."""

    @property
    def added(self) -> int:
        """Lines of this session."""
        return len(self._lines)

    def __enter__(self) -> Self:
        """Open it, and read what is there."""
        super().__enter__()
        for number, _, values in self.lines():
            if not isinstance(text := values.get("text"), str):
                raise self.line_error(number)
            self.texts.append(text)
            self.drawn += not values.get("chosen")
        return self

    def label(
        self, row: UnlabelledRow, labels: Mapping[str, object], *, by: str, chosen: bool
    ) -> None:
        """Write one line, with a key for each question, and wait until the disk has it."""
        fields = {"text": row.text, **labels, "labelled_by": by, "chosen": chosen}
        self._lines.append((self.add(row.fields | fields), not chosen))
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._write_error(error) from error
        self.texts.append(row.text)
        self.drawn += not chosen

    def take_back(self) -> None:
        """Remove the last line of this session, if there is one."""
        if self._lines:
            start, was_drawn = self._lines.pop()
            self.cut(start)
            self.texts.pop()
            self.drawn -= was_drawn


@dataclass(slots=True)
class LabellingReport:
    """The result of labelling texts by a model."""

    spent: BudgetExceeded | None = None
    """The error that ended it before the last text."""
    failed: list[MoaError] = field(default_factory=list[MoaError])
    unlabelled: int = 0
    """Texts with a question that the model left open."""

    @property
    def problems(self) -> list[str]:
        """Problems, in sentences."""
        lines: list[str] = []
        if self.spent is not None:
            lines.append(f"the budget is spent: {self.spent}")
        if self.failed:
            lines.append(f"{len(self.failed)} failed, the first so: {self.failed[0]}")
        if self.unlabelled:
            lines.append(f"{self.unlabelled} had no answer that is one of the labels")
        return lines


async def label_by_model(
    agents: Agents,
    rows: Sequence[UnlabelledRow],
    picks: Sequence[Pick],
    write: Callable[[Pick, Mapping[str, str]], None],
    *,
    context: RunContext,
    progress: Callable[[int, int], None] | None = None,
) -> LabellingReport:
    """Ask a model for the labels of each text that was picked, and write them as they come.

    It stops once the budget is spent.

    Args:
        agents: Agents that ask the model, by the name of the question.
        rows: All texts.
        picks: Those to be labelled.
        write: Called with a text, and the names of the options by question.
        context: Budget, deadline and ledger.
        progress: Told how many were asked about, and of how many.

    Raises:
        MoaError: it is set up wrong, such as without a key.
    """
    report = LabellingReport()
    done = 0

    async def one(pick: Pick) -> None:
        nonlocal done
        if report.spent is not None:
            return
        try:
            new_pick = Pick(
                pick.place, pick.chosen, await _decide_row(agents, rows[pick.place], context)
            )
        except BudgetExceeded as error:
            report.spent = error
            return
        except MoaError as error:
            check_recoverable(error)
            report.failed.append(error)
        else:
            if new_pick.guess.keys() == agents.keys():
                write(pick, new_pick.guess)
            else:
                report.unlabelled += 1
        done += 1
        if progress is not None:
            progress(done, len(picks))

    await map_async(one, picks, max_concurrency=MAX_CONCURRENCY)
    return report


async def pick_texts(
    agents: Agents,
    rows: Sequence[UnlabelledRow],
    *,
    most: int,
    labelled: Sequence[str] = (),
    most_read: int = MOST_READ,
    at_random: bool = False,
    context: RunContext | None = None,
    progress: Progress | None = None,
) -> list[Pick]:
    """Pick the texts to label next, drawn and chosen ones in turn, those that teach most first.

    Which texts can be drawn, and in which order, depends on their words alone. So it makes no
    difference to the guarantee whether they are labelled in one session or in several. A text that
    comes twice counts once, and one that is `labelled` is picked no more.

    Args:
        agents: Agents that decide now, by the name of the question.
        rows: The texts.
        most: Maximum of picks.
        labelled: Texts that are labelled already.
        most_read: Maximum of texts that are read to choose among.
        at_random: Whether all are drawn at random, for a guarantee.
        context: Budget, deadline and ledger; `None` starts one.
        progress: Told how many texts are read.
    """
    context = context or RunContext(keep_notes=False)
    known_keys = {normalise_text(text) for text in labelled}
    index_by_key = {
        normalise_text(row.text): index for index, row in reversed(list(enumerate(rows)))
    }
    new = {key: index for key, index in index_by_key.items() if key not in known_keys}
    order = sorted((sha256(key.encode()).digest(), index) for key, index in new.items())
    drawn_indices = [index for digest, index in order if digest[0] % 2 == 0]
    candidates = [index for digest, index in order if digest[0] % 2][:most_read]
    candidates = [] if at_random else candidates
    drawn_indices = drawn_indices[
        : most if at_random or not candidates else max(most - most // 2, most - len(candidates))
    ]
    read: dict[int, Mapping[str, Answer]] = {}

    async def one(index: int) -> None:
        read[index] = await _decide_row(agents, rows[index], context)
        if progress is not None:
            progress("texts", len(read), len(candidates) + len(drawn_indices))

    await map_async(one, [*candidates, *drawn_indices], max_concurrency=MAX_CONCURRENCY)
    answers = [read[index] for index in candidates]
    helpful: list[int] = []
    if candidates:
        vectors = await _vectors(agents, [rows[index] for index in candidates], answers, context)
        helpful = find_helpful(answers, vectors, most=most)
    chosen_picks = [
        Pick(candidates[index], chosen=True, answers=answers[index]) for index in helpful
    ]
    drawn_picks = [Pick(index, chosen=False, answers=read[index]) for index in drawn_indices]
    mixed = chain.from_iterable(zip_longest(chosen_picks, drawn_picks))
    return [pick for pick in mixed if pick is not None][:most]


async def _decide_row(agents: Agents, row: UnlabelledRow, context: RunContext) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for name, agent in agents.items():
        if name not in answers:  # an agent may ask several
            for answer in await agent.answers(row.texts[name], context):
                answers[answer.question.name] = answer
    return {name: answers[name] for name in agents}


def find_helpful(read: Sequence[Mapping[str, Answer]], vectors: Floats, *, most: int) -> list[int]:
    """Return the indices of the texts whose labels teach most, by the answers about each.

    Questions count alike: the text that each is least sure of has the same worth.
    """
    slopes: list[Floats] = []
    for name in read[0]:
        p = np.array([_probabilities(answers[name]) for answers in read])
        error = p - np.eye(p.shape[1])[p.argmax(1)]
        slopes.append(error / max(float(np.linalg.norm(error, axis=1).max()), 1e-12))
    return _pick_farthest(np.concatenate(slopes, 1), vectors, most)


def _probabilities(answer: Answer) -> Sequence[float]:
    """Return the probabilities of the options; equal ones if unknown."""
    options = len(answer.question.options)
    return answer.probabilities or (1 / options,) * options


async def _vectors(
    agents: Agents,
    rows: Sequence[UnlabelledRow],
    read: Sequence[Mapping[str, Answer]],
    context: RunContext,
) -> Floats:
    """Return vectors that tell texts apart: of the encoder if there is one, else of the answers."""
    encoder = next((agent.encoder for agent in agents.values()), None)
    if feeds_heads(encoder):
        name = next(iter(agents))
        vectors = np.array(await encode(encoder, [row.texts[name] for row in rows], context))
    else:
        logs = [
            [np.log(np.maximum(_probabilities(a), 1e-9)) for a in answers.values()]
            for answers in read
        ]
        vectors = np.array(
            [np.concatenate([log_p - log_p.mean() for log_p in row]) for row in logs]
        )
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _pick_farthest(slopes: Floats, vectors: Floats, limit: int) -> list[int]:
    """Take the largest gradient, then always the one that is farthest from all that were taken.

    A gradient is the outer product of a slope and a vector; it is never written out.
    """
    sizes = (slopes**2).sum(1) * (vectors**2).sum(1)
    distances = sizes.copy()
    indices: list[int] = []
    while len(indices) < min(limit, len(sizes)):
        index = int(distances.argmax())
        indices.append(index)
        shared = (slopes @ slopes[index]) * (vectors @ vectors[index])
        distances = np.minimum(distances, sizes + sizes[index] - 2 * shared)
        distances[indices] = -np.inf
    return indices
