"""Probe: find the better way to ask a model for decisions, and its weight beside an encoder.

Texts with known labels, short and long, of many tasks and languages, are read in each way. The way
that is right more often is kept. The weight of a model relative to the words of a question
minimises the log loss of its unchanged answers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from moa.core._async import map_async
from moa.core.context import RunContext
from moa.core.errors import (
    CapabilityError,
    ConfigError,
    EndpointRejected,
    EndpointUnauthorized,
    EndpointUnsupported,
    MoaError,
    OutputError,
)
from moa.core.questions import Answer, Kind, Option, Question
from moa.core.usage import FREE
from moa.decisions.arrays import Floats, log_softmax, np
from moa.decisions.encoders import feeds_heads
from moa.decisions.heads import encode
from moa.decisions.words import has_words
from moa.endpoints import Endpoint
from moa.endpoints.known import ModelFacts, facts_of
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.wrappers import innermost
from moa.local.embedded import EmbeddedEndpoint
from moa.local.heads import FOLDER
from moa.local.pairs import pair_head
from moa.local.relevance import words_head

Way = Literal["chat", "labels"]
WAYS: tuple[Way, ...] = get_args(Way)
"""In a chat for a JSON object, and by labels that continue a prompt; see `ModelFacts.asked`."""
MOST = 60
"""Questions asked in each way, a third of each kind. For a weight beside an encoder, which takes
more, all are."""
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Candidate weights of a model relative to the encoder."""
ENOUGH = 12
"""Minimum of questions of a kind, read in each way, to report a result."""
GAIN = 0.01
"""Minimum reduction of the log loss to ask a model in addition to the encoder."""
_AT_ONCE, _MOST_FAILED = 2, 6
_QUESTION = "label"


@dataclass(frozen=True, slots=True)
class Trial:
    """A text, a question about it, and the index of the right option."""

    task: str
    question: Question
    text: str
    label: int


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of probing a model."""

    facts: ModelFacts
    right: Mapping[Kind, Mapping[Way, float]]
    """Share of right answers, 0 to 1."""
    losses: Mapping[Kind, Mapping[Way, float]]
    """Mean log loss of the answers as they are, in natural logarithms; `nan` of a way without
    probabilities."""
    asked: int
    """Number of questions read in each way."""
    total: int
    """Number of all questions."""


async def probe(
    endpoint: Endpoint,
    *,
    encoder: Endpoint | None,
    context: RunContext,
    progress: Callable[[int, int], None] | None = None,
) -> Probe:
    """Find the best way to ask a model.

    `progress` is called with the number of questions read, and their total.

    Raises:
        CapabilityError: the endpoint can't be asked in a chosen way.
        EndpointRejected: no text could be read.
    """
    if not isinstance(inner := innermost(endpoint), OpenAIEndpoint | EmbeddedEndpoint):
        raise CapabilityError(f"{endpoint.name} can't be asked in a chosen way: it decides itself")
    trials = shipped_trials() if feeds_heads(encoder) else chosen_trials()
    read = await _read_all(inner, trials, context, progress)
    ways: list[Way] = [way for way in WAYS if any(key[1] == way for key in read)]
    indices = [n for n in range(len(trials)) if all((n, way) in read for way in ways)]
    words = await _read_words([trials[n] for n in indices], encoder, context)
    rows = [
        _Row(trials[n], {way: read[n, way] for way in ways}, word_logs)
        for n, word_logs in zip(indices, words, strict=True)
    ]
    best: Way = max(ways, key=lambda way: _share_right(rows, way)) if rows else "chat"
    right: dict[Kind, dict[Way, float]] = {}
    losses: dict[Kind, dict[Way, float]] = {}
    facts = facts_of(endpoint.model)
    weights = dict(facts.weight)
    for kind in get_args(Kind):
        kind_rows = [row for row in rows if row.trial.question.kind == kind]
        if len(kind_rows) < ENOUGH:
            continue
        right[kind] = {way: _share_right(kind_rows, way) for way in ways}
        losses[kind] = {way: _loss(kind_rows, way) for way in ways}
        if feeds_heads(encoder):
            by_weight = {w: _loss(kind_rows, best, w) for w in WEIGHTS}
            weight = min(WEIGHTS, key=lambda w: by_weight[w])
            weights[kind] = weight if by_weight[weight] < by_weight[0.0] - GAIN else 0.0
    update = {"name": endpoint.model, "asked": best, "weight": weights}
    return Probe(facts.model_copy(update=update), right, losses, len(indices), len(trials))


@dataclass(frozen=True, slots=True)
class _Row:
    """The answers to a question."""

    trial: Trial
    model: Mapping[Way, Answer]
    words: Floats
    """Log-probabilities by the words of the question; zeros without an encoder."""


async def _read_all(
    endpoint: OpenAIEndpoint | EmbeddedEndpoint,
    trials: Sequence[Trial],
    context: RunContext,
    progress: Callable[[int, int], None] | None,
) -> dict[tuple[int, Way], Answer]:
    """Return the answers, by index of the question and way; a way that isn't there has none."""
    read: dict[tuple[int, Way], Answer] = {}
    failures: list[MoaError] = []
    for way in WAYS:

        def report(done: int, before: int = len(read)) -> None:
            if progress is not None:
                progress(before + done, len(WAYS) * len(trials))

        asked = endpoint.deciding_by(way)
        try:
            answers = await _read_way(asked, trials, context, report)
            read.update(((index, way), answer) for index, answer in answers.items())
        except EndpointUnauthorized:
            raise
        except (EndpointRejected, ConfigError, OutputError) as error:
            failures.append(error)  # as of a model without a chat template
        finally:
            if isinstance(asked, EmbeddedEndpoint):
                await asked.close()
    if not read:
        raise failures[0]
    return read


async def _read_way(
    asked: Endpoint, trials: Sequence[Trial], context: RunContext, report: Callable[[int], None]
) -> dict[int, Answer]:
    """Return the answers by index of the question, all of a text at once."""
    read: dict[int, Answer] = {}
    failed: list[MoaError] = []
    by_text: dict[str, list[int]] = {}
    for index, trial in enumerate(trials):
        by_text.setdefault(trial.text, []).append(index)

    async def read_text(text: str) -> None:
        try:
            questions = [trials[index].question for index in by_text[text]]
            made = await asked.decide(text, questions, context)
        except (EndpointUnauthorized, EndpointUnsupported):
            raise
        except (EndpointRejected, OutputError) as error:  # of one text, if the window is small
            failed.append(error)
            if len(failed) >= _MOST_FAILED:
                raise
        else:
            read.update(zip(by_text[text], made.answers, strict=True))
        report(len(read))

    await map_async(read_text, list(by_text), max_concurrency=_AT_ONCE)
    return read


async def _read_words(
    trials: Sequence[Trial], encoder: Endpoint | None, context: RunContext
) -> list[Floats]:
    """Return log-probabilities by the words of the questions; zeros without an encoder."""
    nothing = [np.zeros(len(trial.question.options)) for trial in trials]
    if not feeds_heads(encoder) or not trials:
        return nothing
    vectors = np.array(await encode(encoder, [trial.text for trial in trials], context))
    readings: list[Floats] = []
    for trial, vector, zeros in zip(trials, vectors, nothing, strict=True):
        question = trial.question
        words = zeros
        if question.kind == "choice":
            head = await pair_head(question, (), encoder, context)
            words = np.array(head.logs_of(vector.tolist()))
        elif has_words(question):
            words = (await words_head(question, context)).head(vector[None])[0]
        readings.append(words)
    return readings


def _share_right(rows: Sequence[_Row], way: Way) -> float:
    """Return the share of right answers; one that is missing is wrong."""
    answers = [(row.model[way], row.trial.label) for row in rows]
    right = [a.status == "answered" and a.best == label for a, label in answers]
    return float(np.mean(right)) if right else 0.0


def _loss(rows: Sequence[_Row], way: Way, weight: float | None = None) -> float:
    """Return the mean log loss of the model alone, or with a weight beside the words."""
    losses: list[float] = []
    for row in rows:
        p = row.model[way].probabilities
        logs = np.full(len(row.words), np.nan) if p is None else np.log(np.maximum(p, 1e-30))
        both = logs if weight is None else row.words + (weight * logs if weight else 0.0)
        losses.append(-float(log_softmax(both)[row.trial.label]))
    return float(np.mean(losses))


def chosen_trials() -> list[Trial]:
    """Return as many questions of each kind, the first ones."""
    kinds = get_args(Kind)
    by_kind = [[t for t in shipped_trials() if t.question.kind == kind] for kind in kinds]
    chosen = {id(trial) for trials in by_kind for trial in trials[: MOST // len(kinds)]}
    return [trial for trial in shipped_trials() if id(trial) in chosen]


@cache
def shipped_trials() -> tuple[Trial, ...]:
    """Load the shipped texts, mixed so that any first part covers all tasks."""
    file = FOLDER / "probe.jsonl"
    by_task: dict[str, list[Trial]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        options = tuple(Option(name, name) for name in row["options"])
        question = Question(_QUESTION, row["kind"], row["question"], options)
        label = row["options"].index(row["label"])
        by_task.setdefault(row["task"], []).append(Trial(row["task"], question, row["text"], label))
    positions: list[tuple[float, Trial]] = []
    for task, trials in by_task.items():
        mixed = random.Random(task).sample(trials, len(trials))
        positions += [((index + 0.5) / len(mixed), trial) for index, trial in enumerate(mixed)]
    return tuple(trial for _, trial in sorted(positions, key=lambda pair: pair[0]))


def costs_nothing(endpoint: Endpoint) -> bool:
    """Return True if asking costs only time: a model that `moa` runs, or a local server.

    A server with a price per hour, energy or tokens isn't free.
    """
    inner = innermost(endpoint)
    if isinstance(inner, EmbeddedEndpoint):
        return True
    is_near = isinstance(inner, OpenAIEndpoint) and inner.client.is_near
    return is_near and (not inner.price.known or inner.price == FREE)
