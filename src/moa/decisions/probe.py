"""Probe: find the best prompt layout of a model, and its weight relative to the encoder.

Texts with known labels, short and long, of many tasks and languages, are read in each layout. The
weight of a model relative to the words of a question minimises the log loss of its answers as they
are. Only the bias to yes, which belongs to a model and not to a question, is removed and reported.
If no weight helps, the layout minimises the log loss with all bias removed, since a fit removes
that.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import get_args

from moa._async import map_async
from moa.context import RunContext
from moa.decisions.arrays import Floats, log_softmax, np
from moa.decisions.heads import FOLDER, encode
from moa.decisions.pairs import pair_head
from moa.decisions.relevance import has_words, words_head
from moa.endpoints import Endpoint
from moa.endpoints.embedded import EmbeddedEndpoint
from moa.endpoints.encoders import feeds_heads
from moa.endpoints.known import ModelFacts, facts_of
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.wrappers import innermost
from moa.errors import CapabilityError, EndpointRejected, EndpointUnauthorized
from moa.questions import Kind, Layout, Option, Question
from moa.usage import FREE

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
        EndpointRejected: no text could be read, as of a model without a chat template.
    """
    trials = shipped_trials()
    read = await _read_all(endpoint, trials, context, progress)
    headed = feeds_heads(encoder)
    done = [place for place in range(len(trials)) if all((place, at) in read for at in LAYOUTS)]
    beside = await _read_words([trials[place] for place in done], encoder, context)
    rows = [
        _Row(trials[place], {at: read[place, at] for at in LAYOUTS}, words)
        for place, words in zip(done, beside, strict=True)
    ]
    losses: dict[Kind, dict[Layout, float]] = {}
    found = facts_of(endpoint.model)
    layouts, weights, yes_bias = dict(found.layout), dict(found.weight), found.yes_bias
    for kind in get_args(Kind):
        here = [row for row in rows if row.trial.question.kind == kind]
        if len(here) < ENOUGH:
            continue
        fair = _remove_bias(here)
        losses[kind] = {at: min(_loss(fair, at, w) for w in WEIGHTS[1:]) for at in LAYOUTS}
        gains = losses[kind]["chat"] < losses[kind]["completion"] - GAIN
        layouts[kind] = "chat" if gains else "completion"
        biases = {at: _yes_bias(here, at) if kind == "predicate" else 0.0 for at in LAYOUTS}
        if headed:
            ways: list[tuple[Layout, float]] = [(at, w) for at in LAYOUTS for w in WEIGHTS]
            tried = {(at, w): _loss(here, at, w, biases[at]) for at, w in ways}
            best = min(ways, key=lambda way: tried[way])
            weights[kind] = 0.0
            if tried[best] < tried[best[0], 0.0] - GAIN:
                layouts[kind], weights[kind] = best
        if kind == "predicate":
            yes_bias = round(biases[layouts[kind]], 2)
    update = {"name": endpoint.model, "layout": layouts, "weight": weights, "yes_bias": yes_bias}
    return Probe(found.model_copy(update=update), losses, len(done), len(trials))


@dataclass(frozen=True, slots=True)
class _Row:
    """The log-probabilities of a trial's options."""

    trial: Trial
    model: Mapping[Layout, Floats]
    words: Floats
    """By the words of the question; zeros without an encoder."""


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
    for place, trial in enumerate(trials):
        by_text.setdefault(trial.text, []).append(place)

    async def read_text(asked: tuple[str, Layout]) -> None:
        text, layout = asked
        places = by_text[text]
        try:
            found = await _read(
                endpoint, text, [trials[n].question for n in places], layout, context
            )
            read.update(((place, layout), logs) for place, logs in zip(places, found, strict=True))
        except EndpointUnauthorized:
            raise
        except EndpointRejected as error:  # of one text, if the window is small
            rejected.append(error)
            if len(rejected) >= _IN_TURN:
                raise
        if progress is not None:
            progress(len(read) // len(LAYOUTS), len(trials))

    # A few texts in one layout, then in the other: a server keeps one beginning of a prompt.
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
    asked = [replace(question, layout=layout) for question in questions]
    decision = await endpoint.decide(text, asked, context)
    read = [answer.probabilities for answer in decision.answers if answer.source == "logprob"]
    found = [np.log(np.maximum(np.array(one), 1e-30)) for one in read if one is not None]
    if len(found) < len(asked):
        raise CapabilityError(
            f"{endpoint.name} gives no log-probabilities of labels, so there is no prompt to choose"
        )
    return found


async def _read_words(
    trials: Sequence[Trial], encoder: Endpoint | None, context: RunContext
) -> list[Floats]:
    """Return log-probabilities by the words of the questions; zeros without an encoder."""
    nothing = [np.zeros(len(trial.question.options)) for trial in trials]
    if not feeds_heads(encoder) or not trials:
        return nothing
    vectors = np.array(await encode(encoder, [trial.text for trial in trials], context))
    found: list[Floats] = []
    for trial, vector, zeros in zip(trials, vectors, nothing, strict=True):
        asked = trial.question
        words = zeros
        if asked.kind == "choice":
            head = await pair_head(asked, (), encoder, context)
            words = np.array(head.logs_of(vector.tolist()))
        elif has_words(asked):
            words = (await words_head(asked, context)).head(vector[None])[0]
        found.append(words)
    return found


def _yes_bias(rows: Sequence[_Row], layout: Layout) -> float:
    """Return the mean log-odds of yes; each task has as many yes as no."""
    return float(np.mean([row.model[layout][0] - row.model[layout][1] for row in rows]))


def _remove_bias(rows: Sequence[_Row]) -> list[_Row]:
    """Subtract the mean of each task, whose labels are balanced."""
    by_task: dict[str, list[_Row]] = {}
    for row in rows:
        by_task.setdefault(row.trial.task, []).append(row)
    found: list[_Row] = []
    for same in by_task.values():
        words = np.mean([row.words for row in same], 0)
        means = {at: np.mean([row.model[at] for row in same], 0) for at in LAYOUTS}
        found += [
            _Row(row.trial, {at: row.model[at] - means[at] for at in LAYOUTS}, row.words - words)
            for row in same
        ]
    return found


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
    places: list[tuple[float, Trial]] = []
    for task, trials in by_task.items():
        mixed = random.Random(task).sample(trials, len(trials))
        places += [((place + 0.5) / len(mixed), trial) for place, trial in enumerate(mixed)]
    return tuple(trial for _, trial in sorted(places, key=lambda each: each[0]))


def costs_nothing(endpoint: Endpoint) -> bool:
    """Return True if asking costs only time: a model that `moa` runs, or a local server.

    A server with a price per hour, energy or tokens isn't free.
    """
    inner = innermost(endpoint)
    if isinstance(inner, EmbeddedEndpoint):
        return True
    near = isinstance(inner, OpenAIEndpoint) and inner.client.is_near
    return near and (not inner.price.known or inner.price == FREE)
