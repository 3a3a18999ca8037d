"""Labelling: picks the texts whose labels teach most, and stores their labels.

Half of the picked texts are drawn at random: only these can support a guarantee. The others are
texts that some question is undecided about, each far from those before it. As in BADGE (Ash et al.
2020, "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds", arXiv 1906.03671),
distances are between the gradients that their labels could cause, here of all questions together.
The farthest is always taken next (Gonzalez 1985).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple, Self

from moa.agents.deciding import DecidingAgent
from moa.core._async import map_async
from moa.core._files import Existing, LineFile
from moa.core.context import RunContext
from moa.core.errors import BudgetExceeded, ConfigError, InputError, MoaError, check_recoverable
from moa.core.node import Frozen
from moa.core.questions import Answer, Option, Question
from moa.decisions.arrays import Floats, np
from moa.decisions.encoders import feeds_heads
from moa.decisions.features import Progress
from moa.decisions.heads import encode
from moa.learning.labelled import CHOSEN, is_marked, label_of, normalise_text
from moa.rows import Format, read_models

MOST_READ = 300
"""Default number of texts to choose from."""
MAX_CONCURRENCY = 8
"""Number of texts read in parallel."""
Agents = Mapping[str, DecidingAgent[Any]]
"""Deciding agents, by the name of the question."""


LABEL = "label"
"""Name of a user's own question, and key of its labels."""
CHECKED = "checked"
"""Key of a sheet: true if a person has read the row, and its labels are right."""


def question_of(task: str, labels: Sequence[str]) -> Question:
    """Build the question that labels answer, named `label`."""
    return Question(LABEL, "choice", task, tuple(Option(name, name) for name in labels))


class UnlabelledRow(NamedTuple):
    """A row to label."""

    text: str
    fields: dict[str, object]
    """All fields of the row."""
    texts: Mapping[str, str]
    """Text that each question is about, by name of the question."""


class _Row(Frozen):
    text: str | None = None


def read_unlabelled(
    source: str | Path,
    *,
    format: Format | None = None,
    text_column: str | None = None,
    encoding: str | None = None,
) -> list[UnlabelledRow]:
    """Read the texts of a file. Rows without one are skipped.

    Raises:
        ConfigError: no row has a text, or a row can't be read.
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
    """A text to label."""

    place: int
    """Index of the text."""
    chosen: bool
    """True if the text was chosen because it teaches most, False if drawn at random."""
    answers: Mapping[str, Answer]
    """Current answers, by name of the question; empty if all labels are known."""
    known: Mapping[str, str] = field(default_factory=dict[str, str])
    """Labels that a drawn text got when somebody chose it, by name of the question."""
    known_by: str = ""
    """Who gave these; empty: unknown."""

    @property
    def decided(self) -> dict[str, str]:
        """Names of the decided options. A question without an answer has none."""
        answered = {n: answer for n, answer in self.answers.items() if answer.status == "answered"}
        return {
            name: answer.question.options[answer.best].name for name, answer in answered.items()
        }

    @property
    def guess(self) -> dict[str, str]:
        """Names of the known or decided options."""
        return {**self.decided, **self.known}

    @property
    def is_labelled(self) -> bool:
        """True if the known labels answer all questions, so that nobody is asked again."""
        return bool(self.known) and not self.answers


class LabelFile(LineFile):
    """Labelled rows on disk, see `LineFile`. A line is safely stored once `store` returns."""

    def __init__(self, path: Path, *, existing: Existing, source: str | None) -> None:
        super().__init__(path, existing=existing, source=source)
        self.drawn_texts: set[str] = set()
        """Labelled texts that were drawn at random, from `normalise_text`, of all sessions."""
        self.chosen_lines: list[Mapping[str, object]] = []
        """Lines of texts that were chosen, such as those corrected on the page."""
        self.added = 0
        """Number of lines added in this session."""

    @property
    def texts(self) -> int:
        """Number of labelled texts. One that was chosen and drawn counts once."""
        chosen_texts = (normalise_text(str(line["text"])) for line in self.chosen_lines)
        return len(self.drawn_texts.union(chosen_texts))

    def __enter__(self) -> Self:
        """Open the file and read its lines."""
        super().__enter__()
        for number, _, values in self.lines():
            if not isinstance(values.get("text"), str):
                raise self.line_error(number)
            self._count(values)
        return self

    def _count(self, line: Mapping[str, object]) -> None:
        if is_marked(line, CHOSEN):
            self.chosen_lines.append(line)
        else:
            self.drawn_texts.add(normalise_text(str(line["text"])))

    def store(self, line: Mapping[str, object]) -> None:
        """Write a labelled row, and wait until it is on disk."""
        self.add(line)
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._write_error(error) from error
        self.added += 1
        self._count(line)


@dataclass(slots=True)
class LabellingReport:
    """Result of labelling texts by a model."""

    spent: BudgetExceeded | None = None
    """Error of the budget that stopped the labelling early."""
    failed: list[MoaError] = field(default_factory=list[MoaError])
    unlabelled: int = 0
    """Number of texts with a question that the model left open."""
    taken_over: int = 0
    """Number of texts whose known labels were taken over, so that the model wasn't asked."""

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
    """Ask a model for the labels of each picked text, and write them as they come.

    It stops when the budget is spent.

    Args:
        agents: Agents that ask the model, by the name of the question.
        rows: All texts.
        picks: Texts to label.
        write: Called with a pick, and the names of the options by question. Known labels of a pick
            are taken over; if the model gives no others, they are written alone.
        context: Budget, deadline and ledger.
        progress: Called with the number of texts done, and the total.

    Raises:
        MoaError: the setup is wrong, such as a missing key.
    """
    report = LabellingReport()
    done = 0

    async def one(pick: Pick) -> None:
        nonlocal done
        if report.spent is not None:
            return
        labels: Mapping[str, str] = pick.known
        if pick.is_labelled:
            report.taken_over += 1
        else:
            try:
                answers = await _decide_row(agents, rows[pick.place], context)
            except BudgetExceeded as error:
                report.spent = error
                return
            except MoaError as error:
                check_recoverable(error)
                report.failed.append(error)
            else:
                guess = replace(pick, answers=answers).guess
                report.unlabelled += guess.keys() != agents.keys()
                labels = guess if guess.keys() == agents.keys() else labels
        if labels:
            write(pick, labels)
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
    labelled: Collection[str] = (),
    chosen: Sequence[Mapping[str, object]] = (),
    most_read: int = MOST_READ,
    at_random: bool = False,
    context: RunContext | None = None,
    progress: Progress | None = None,
) -> list[Pick]:
    """Pick the texts to label next: drawn and chosen ones in turn, those that teach most first.

    Which texts can be drawn, and in which order, depends only on their words. So a guarantee is the
    same whether they are labelled in one session or in several. Duplicate texts count once, and
    `labelled` ones are not picked again. Those that somebody has `chosen` may still be drawn:
    people choose the wrong ones, and a sample without these would promise too much. They keep their
    labels, in `Pick.known`: whoever were asked again could skip them.

    Args:
        agents: Agents that decide now, by the name of the question.
        rows: The texts.
        most: Maximum number of picks.
        labelled: Texts already labelled.
        chosen: Lines of texts already labelled because somebody chose them, in order: `text`,
            labels by name of the question, and `labelled_by`.
        most_read: Maximum number of texts read to choose from.
        at_random: True to draw all at random, for a guarantee.
        context: Budget, deadline and ledger; `None` starts one.
        progress: Called with the number of texts read.
    """
    context = context or RunContext(keep_notes=False)
    known_keys = {normalise_text(text) for text in labelled}
    asked = [question for agent in agents.values() for question in agent.questions]
    known = _read_known([question for question in asked if question.name in agents], chosen)
    index_by_key = {
        normalise_text(row.text): index for index, row in reversed(list(enumerate(rows)))
    }
    new = {key: index for key, index in index_by_key.items() if key not in known_keys}
    order = sorted((sha256(key.encode()).digest(), index, key) for key, index in new.items())
    drawn_indices = [index for digest, index, _ in order if digest[0] % 2 == 0]
    candidates = [index for digest, index, key in order if digest[0] % 2 and key not in known][
        :most_read
    ]
    candidates = [] if at_random else candidates
    drawn_indices = drawn_indices[
        : most if at_random or not candidates else max(most - most // 2, most - len(candidates))
    ]
    read: dict[int, Mapping[str, Answer]] = {}

    def known_labels(index: int) -> _Known:
        return known.get(normalise_text(rows[index].text), _Known())

    async def one(index: int) -> None:
        is_known = known_labels(index).labels.keys() == agents.keys()
        read[index] = {} if is_known else await _decide_row(agents, rows[index], context)
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
    drawn_picks = [
        Pick(index, chosen=False, answers=read[index], known=labels, known_by=by)
        for index in drawn_indices
        for labels, by in [known_labels(index)]
    ]
    mixed = chain.from_iterable(zip_longest(chosen_picks, drawn_picks))
    return [pick for pick in mixed if pick is not None][:most]


class _Known(NamedTuple):
    """Labels that a text got when somebody chose it, and who gave the last of them."""

    labels: Mapping[str, str] = {}
    by: str = ""


def _read_known(
    questions: Sequence[Question], lines: Sequence[Mapping[str, object]]
) -> dict[str, _Known]:
    """Return the labels of each text from `normalise_text`, the last one of each question."""
    known: dict[str, _Known] = {}
    for line in lines:
        labels: dict[str, str] = {}
        for question in questions:
            with suppress(InputError):  # it is no option of the question, so that is asked again
                label = label_of(question, line.get(question.name, ""))
                labels |= {} if label is None else {question.name: label}
        key = normalise_text(str(line["text"]))
        earlier = known.get(key, _Known()).labels
        known[key] = _Known({**earlier, **labels}, str(line.get("labelled_by") or ""))
    return known


def read_sheet(
    rows: Sequence[UnlabelledRow],
    questions: Sequence[Question],
    *,
    labelled: Collection[str] = (),
    chosen: Sequence[Mapping[str, object]] = (),
) -> list[tuple[Pick, Mapping[str, str]]]:
    """Return the checked rows of a sheet with their labels, without those labelled already.

    Drawn rows before the last one that aren't checked are returned with the labels that somebody
    has given to them before: else they would be missing in the sample.

    Args:
        rows: Rows of the sheet.
        questions: Questions about them.
        labelled: Texts drawn and labelled already.
        chosen: See `pick_texts`.

    Raises:
        ConfigError: a checked row lacks the label of a question, or has one that is no option.
    """
    known = _read_known(questions, chosen)
    drawn_keys = {normalise_text(text) for text in labelled}
    found: list[tuple[Pick, Mapping[str, str]]] = []
    last = 0
    for index, row in enumerate(rows):
        key, is_chosen = normalise_text(row.text), is_marked(row.fields, CHOSEN)
        if key in (known if is_chosen else drawn_keys):
            continue
        labels, by = known.get(key, _Known())
        pick = Pick(index, chosen=is_chosen, answers={}, known=labels, known_by=by)
        if is_marked(row.fields, CHECKED):
            found.append((pick, _read_checked(row, index + 1, questions)))
            last = len(found)
        elif labels:
            found.append((pick, labels))
    return found[:last]


def _read_checked(
    row: UnlabelledRow, number: int, questions: Sequence[Question]
) -> Mapping[str, str]:
    labels: dict[str, str] = {}
    for question in questions:
        try:
            label = label_of(question, row.fields.get(question.name, ""))
        except InputError as error:
            raise ConfigError(f"row {number} of the sheet: {error}") from error
        if label is None:
            raise ConfigError(
                f"row {number} of the sheet is checked, and nothing is decided about "
                f"{question.name}: give an answer"
            )
        labels[question.name] = label
    return labels


async def _decide_row(agents: Agents, row: UnlabelledRow, context: RunContext) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for name, agent in agents.items():
        if name not in answers:  # an agent may ask several
            for answer in await agent.answers(row.texts[name], context):
                answers[answer.question.name] = answer
    return {name: answers[name] for name in agents}


def find_helpful(read: Sequence[Mapping[str, Answer]], vectors: Floats, *, most: int) -> list[int]:
    """Return the indices of the texts whose labels teach most, judged by their answers.

    Questions have equal weight: the text that each is least sure of counts the same.
    """
    slopes: list[Floats] = []
    for name in read[0]:
        p = np.array([probabilities_of(answers[name]) for answers in read])
        error = p - np.eye(p.shape[1])[p.argmax(1)]
        slopes.append(error / max(float(np.linalg.norm(error, axis=1).max()), 1e-12))
    return _pick_farthest(np.concatenate(slopes, 1), vectors, most)


def probabilities_of(answer: Answer) -> Sequence[float]:
    """Return the probabilities of the options, equal ones if unknown."""
    options = len(answer.question.options)
    return answer.probabilities or (1 / options,) * options


async def _vectors(
    agents: Agents,
    rows: Sequence[UnlabelledRow],
    read: Sequence[Mapping[str, Answer]],
    context: RunContext,
) -> Floats:
    """Return vectors to compare texts: of the encoder if there is one, else of the answers."""
    encoder = next((agent.encoder for agent in agents.values()), None)
    if feeds_heads(encoder):
        name = next(iter(agents))
        vectors = np.array(await encode(encoder, [row.texts[name] for row in rows], context))
    else:
        logs = [
            [np.log(np.maximum(probabilities_of(a), 1e-9)) for a in answers.values()]
            for answers in read
        ]
        vectors = np.array(
            [np.concatenate([log_p - log_p.mean() for log_p in row]) for row in logs]
        )
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _pick_farthest(slopes: Floats, vectors: Floats, limit: int) -> list[int]:
    """Take the largest gradient, then always the one farthest from all taken.

    A gradient is the outer product of a slope and a vector, and is never computed in full.
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
