"""Probe: find the best prompt layout of a model, and its weight relative to the encoder.

Texts with known labels, short and long, of many tasks and languages, are read in each layout. The
weight of a model relative to the words of a question minimises the log loss of its unchanged
answers. Only the bias to yes, which belongs to a model and not to a question, is removed and
reported. If no weight helps, the layout minimises the log loss without any bias, since a fit
removes it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import get_args

from moa.core._async import map_async
from moa.core.context import RunContext
from moa.core.errors import CapabilityError, EndpointRejected, EndpointUnauthorized
from moa.core.questions import Kind, Layout, Option, Question
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

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Candidate weights of a model relative to the encoder; without an encoder, factors of its
log-probabilities."""
ENOUGH = 12
"""Minimum of texts of a kind of question, read in each layout, to report a result."""
GAIN = 0.01
"""Minimum reduction of the log loss to ask a model in addition to the encoder, and to ask it as a
chat: for a completion, a server caches more between two texts."""
_AT_ONCE, _IN_TURN = 2, 12
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
    losses: Mapping[Kind, Mapping[Layout, float]]
    """Log loss without bias, at the best weight above 0, in natural logarithms."""
    texts: int
    """Number of texts read in each layout."""
    total: int
    """Number of all texts."""


async def probe(
    endpoint: Endpoint,
    *,
    encoder: Endpoint | None,
    context: RunContext,
    progress: Callable[[int, int], None] | None = None,
) -> Probe:
    """Find the best way to ask a model.

    `progress` is called with the number of texts read, and their total.

    Raises:
        CapabilityError: the endpoint gives no label log-probabilities.
        EndpointRejected: no text could be read, as with a model without a chat template.
    """
    trials = shipped_trials()
    read = await _read_all(endpoint, trials, context, progress)
    headed = feeds_heads(encoder)
    indices = [
        index for index in range(len(trials)) if all((index, layout) in read for layout in LAYOUTS)
    ]
    word_logs = await _read_words([trials[index] for index in indices], encoder, context)
    rows = [
        _Row(trials[index], {layout: read[index, layout] for layout in LAYOUTS}, words)
        for index, words in zip(indices, word_logs, strict=True)
    ]
    losses: dict[Kind, dict[Layout, float]] = {}
    facts = facts_of(endpoint.model)
    layouts, weights, yes_bias = dict(facts.layout), dict(facts.weight), facts.yes_bias
    for kind in get_args(Kind):
        kind_rows = [row for row in rows if row.trial.question.kind == kind]
        if len(kind_rows) < ENOUGH:
            continue
        fair = _remove_bias(kind_rows)
        losses[kind] = {
            layout: min(_loss(fair, layout, w) for w in WEIGHTS[1:]) for layout in LAYOUTS
        }
        gains = losses[kind]["chat"] < losses[kind]["completion"] - GAIN
        layouts[kind] = "chat" if gains else "completion"
        biases = {
            layout: _yes_bias(kind_rows, layout) if kind == "predicate" else 0.0
            for layout in LAYOUTS
        }
        if headed:
            ways: list[tuple[Layout, float]] = [(layout, w) for layout in LAYOUTS for w in WEIGHTS]
            way_losses = {
                (layout, w): _loss(kind_rows, layout, w, biases[layout]) for layout, w in ways
            }
            best = min(ways, key=lambda way: way_losses[way])
            weights[kind] = 0.0
            if way_losses[best] < way_losses[best[0], 0.0] - GAIN:
                layouts[kind], weights[kind] = best
        if kind == "predicate":
            yes_bias = round(biases[layouts[kind]], 2)
    update = {"name": endpoint.model, "layout": layouts, "weight": weights, "yes_bias": yes_bias}
    return Probe(facts.model_copy(update=update), losses, len(indices), len(trials))


@dataclass(frozen=True, slots=True)
class _Row:
    """The log-probabilities of a trial's options."""

    trial: Trial
    model: Mapping[Layout, Floats]
    words: Floats
    """Log-probabilities by the words of the question; zeros without an encoder."""


async def _read_all(
    endpoint: Endpoint,
    trials: Sequence[Trial],
    context: RunContext,
    progress: Callable[[int, int], None] | None,
) -> dict[tuple[int, Layout], Floats]:
    """Return log-probabilities of the options, by index of the text and layout."""
    read: dict[tuple[int, Layout], Floats] = {}
    rejected: list[EndpointRejected] = []
    by_text: dict[str, list[int]] = {}
    for index, trial in enumerate(trials):
        by_text.setdefault(trial.text, []).append(index)

    async def read_text(request: tuple[str, Layout]) -> None:
        text, layout = request
        indices = by_text[text]
        try:
            readings = await _read(
                endpoint, text, [trials[n].question for n in indices], layout, context
            )
            read.update(
                ((index, layout), logs) for index, logs in zip(indices, readings, strict=True)
            )
        except EndpointUnauthorized:
            raise
        except EndpointRejected as error:  # of one text, if the window is small
            rejected.append(error)
            if len(rejected) >= _IN_TURN:
                raise
        if progress is not None:
            progress(len(read) // len(LAYOUTS), len(trials))

    # A few texts in one layout, then in the other, since a server caches one prompt prefix.
    texts = list(by_text)
    order: list[tuple[str, Layout]] = [
        (text, layout)
        for start in range(0, len(texts), _IN_TURN)
        for layout in LAYOUTS
        for text in texts[start : start + _IN_TURN]
    ]
    await map_async(read_text, order, max_concurrency=_AT_ONCE)
    return read


async def _read(
    endpoint: Endpoint,
    text: str,
    questions: Sequence[Question],
    layout: Layout,
    context: RunContext,
) -> list[Floats]:
    """Return log-probabilities of the options of each question about a text."""
    layout_questions = [replace(question, layout=layout) for question in questions]
    decision = await endpoint.decide(text, layout_questions, context)
    probabilities = [
        answer.probabilities for answer in decision.answers if answer.source == "logprob"
    ]
    readings = [
        np.log(np.maximum(np.array(values), 1e-30))
        for values in probabilities
        if values is not None
    ]
    if len(readings) < len(layout_questions):
        raise CapabilityError(
            f"{endpoint.name} gives no log-probabilities of labels, so there is no prompt to choose"
        )
    return readings


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


def _yes_bias(rows: Sequence[_Row], layout: Layout) -> float:
    """Return the mean log-odds of yes; each task has as many yes as no."""
    return float(np.mean([row.model[layout][0] - row.model[layout][1] for row in rows]))


def _remove_bias(rows: Sequence[_Row]) -> list[_Row]:
    """Subtract the mean of each task, whose labels are balanced."""
    by_task: dict[str, list[_Row]] = {}
    for row in rows:
        by_task.setdefault(row.trial.task, []).append(row)
    fair_rows: list[_Row] = []
    for task_rows in by_task.values():
        words = np.mean([row.words for row in task_rows], 0)
        means = {layout: np.mean([row.model[layout] for row in task_rows], 0) for layout in LAYOUTS}
        fair_rows += [
            _Row(
                row.trial,
                {layout: row.model[layout] - means[layout] for layout in LAYOUTS},
                row.words - words,
            )
            for row in task_rows
        ]
    return fair_rows


def _loss(rows: Sequence[_Row], layout: Layout, weight: float, yes_bias: float = 0.0) -> float:
    """Return the log loss of words and model together."""
    losses: list[float] = []
    for row in rows:
        logs = row.words + weight * row.model[layout]
        logs[0] -= weight * yes_bias
        losses.append(-float(log_softmax(logs)[row.trial.label]))
    return float(np.mean(losses))


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
