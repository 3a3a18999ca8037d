"""Probe: finds out how a model is asked best, and how much it counts beside the encoder.

Texts with known labels, of many tasks and languages, are read in each layout of the prompt. For
each kind of question, the layout and the weight beside the encoder's zero-shot head are those with
the lowest log loss.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import get_args

from moa import _terminal as terminal
from moa._async import Lock, map_async
from moa.context import RunContext
from moa.decisions.arrays import Floats, log_softmax, np
from moa.decisions.heads import FOLDER, encode, feeds_heads, relevance_head
from moa.endpoints import Endpoint
from moa.endpoints.known import Known, keep, known
from moa.errors import CapabilityError, EndpointRejected, EndpointUnauthorized, StoreError
from moa.questions import Kind, Layout, Option, Question
from moa.usage import Amount

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""How much a model may count beside the encoder; without an encoder, by what its log-probabilities
are multiplied."""
ENOUGH = 12
"""Texts of a kind of question that must have been read in each layout, or nothing is said of it."""
GAIN = 0.01
"""Least fall of the log loss for which a model is asked beside the encoder at all."""
LIMIT_S = 60.0
"""Maximum seconds that a model is probed for unasked, where it costs nothing."""
_AT_ONCE, _IN_TURN = 2, 12
_QUESTION = "label"
_logger = logging.getLogger(__name__)
_ROOM, _TOKENS = 3, 100
"""How many times the calls of a probe a budget must have room for, and tokens of each."""
_tried: set[str] = set()
"""Who was probed by this process, whatever came of it."""
_lock = Lock()


@dataclass(frozen=True, slots=True)
class Trial:
    """A text, what is asked about it, and the index of the right option."""

    task: str
    question: Question
    text: str
    label: int


@dataclass(frozen=True, slots=True)
class Probe:
    """What a probe has found out about a model."""

    found: Known
    losses: Mapping[Kind, Mapping[Layout, float]]
    """Log loss at the best weight above 0, in natural logarithms."""
    texts: int
    """How many were read in each layout."""
    of: int
    """How many there are."""


async def probe(
    endpoint: Endpoint,
    *,
    encoder: Endpoint | None,
    context: RunContext,
    limit_s: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Probe:
    """Find out how a model is asked best.

    No further text is begun after `limit_s` seconds; `progress` is told the texts read, and those
    to read in all.

    Raises:
        CapabilityError: the endpoint gives no label log-probabilities.
        EndpointRejected: no text could be read, as of a model without a chat template.
    """
    trials = shipped_trials()
    read = await _read_all(endpoint, trials, context, limit_s, progress)
    headed = encoder is not None and feeds_heads(encoder)
    done = [place for place in range(len(trials)) if all((place, at) in read for at in LAYOUTS)]
    beside = await _beside([trials[place] for place in done], encoder, context)
    before = known(endpoint.model)
    layouts, weights = dict(before.layout), dict(before.weight)
    losses: dict[Kind, dict[Layout, float]] = {}
    for kind in get_args(Kind):
        here = [row for row, place in enumerate(done) if trials[place].question.kind == kind]
        if len(here) < ENOUGH:
            continue
        tried: dict[Layout, dict[float, float]] = {}
        for layout in LAYOUTS:
            rows = [(trials[done[row]], read[done[row], layout], beside[row]) for row in here]
            tried[layout] = {weight: _loss(rows, weight) for weight in WEIGHTS}
        asked = {at: min(WEIGHTS[1:], key=lambda w, at=at: tried[at][w]) for at in LAYOUTS}
        losses[kind] = {at: tried[at][asked[at]] for at in LAYOUTS}
        best: Layout = min(losses[kind], key=lambda layout: losses[kind][layout])
        gains = losses[kind][best] < tried[best][0.0] - GAIN
        layouts[kind] = best
        if headed:
            weights[kind] = asked[best] if gains else 0.0
    found = before.model_copy(update={"name": endpoint.model, "layout": layouts, "weight": weights})
    return Probe(found, losses, len(done), len(trials))


async def _read_all(
    endpoint: Endpoint,
    trials: Sequence[Trial],
    context: RunContext,
    limit_s: float | None,
    progress: Callable[[int, int], None] | None,
) -> dict[tuple[int, Layout], Floats]:
    """Log-probabilities of the options, by place of the text and layout."""
    ends = time.monotonic() + limit_s if limit_s is not None else float("inf")
    read: dict[tuple[int, Layout], Floats] = {}
    rejected: list[EndpointRejected] = []

    async def one(asked: tuple[int, Layout]) -> None:
        place, layout = asked
        if time.monotonic() > ends:
            return
        try:
            read[asked] = await _read(endpoint, trials[place], layout, context)
        except EndpointUnauthorized:
            raise
        except EndpointRejected as error:  # of one text, where the window is small
            rejected.append(error)
            if len(rejected) >= _IN_TURN:
                raise
        if progress is not None:
            progress(len(read) // len(LAYOUTS), len(trials))

    # A few texts in one layout, then in the other: a server keeps one beginning of a prompt.
    order: list[tuple[int, Layout]] = [
        (place, layout)
        for start in range(0, len(trials), _IN_TURN)
        for layout in LAYOUTS
        for place in range(start, min(start + _IN_TURN, len(trials)))
    ]
    await map_async(one, order, max_concurrency=_AT_ONCE)
    return read


async def _read(endpoint: Endpoint, trial: Trial, layout: Layout, context: RunContext) -> Floats:
    """Log-probabilities of the options."""
    question = replace(trial.question, layout=layout)
    decision = await endpoint.decide(trial.text, [question], context)
    answer = decision.answers[0]
    if answer.probabilities is None or answer.source != "logprob":
        raise CapabilityError(
            f"{endpoint.name} gives no log-probabilities of labels, so there is no prompt to choose"
        )
    return np.log(np.maximum(np.array(answer.probabilities), 1e-30))


async def _beside(
    trials: Sequence[Trial], encoder: Endpoint | None, context: RunContext
) -> list[Floats]:
    """Log-probabilities of the options by the words of the questions; none of them, without."""
    nothing = [np.zeros(len(trial.question.options)) for trial in trials]
    if encoder is None or not feeds_heads(encoder) or not trials:
        return nothing
    vectors = np.array(await encode(encoder, [trial.text for trial in trials], context))
    heads = {
        question: await relevance_head(question, context)
        for question in {trial.question for trial in trials}
    }
    found: list[Floats] = []
    for trial, vector, zeros in zip(trials, vectors, nothing, strict=True):
        head = heads[trial.question]
        found.append(zeros if head is None else head(vector[None])[0])
    return found


def _loss(rows: Sequence[tuple[Trial, Floats, Floats]], weight: float) -> float:
    """Log loss of encoder and model together, the mean of each taken out of each task.

    The labels of each task are balanced, so its mean is its bias.
    """
    by_task: dict[str, list[tuple[Trial, Floats, Floats]]] = {}
    for row in rows:
        by_task.setdefault(row[0].task, []).append(row)
    losses: list[float] = []
    for same in by_task.values():
        model, encoder = np.array([m for _, m, _ in same]), np.array([e for _, _, e in same])
        logs = weight * (model - model.mean(0)) + encoder - encoder.mean(0)
        right = log_softmax(logs)[np.arange(len(same)), [trial.label for trial, _, _ in same]]
        losses += (-right).tolist()
    return float(np.mean(losses))


@cache
def shipped_trials() -> tuple[Trial, ...]:
    """Read the texts that ship, mixed so that any beginning of them is of all tasks."""
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


async def find_out(endpoint: Endpoint, *, encoder: Endpoint | None, context: RunContext) -> None:
    """Probe a model of which nothing is known, for at most a minute, and keep what is found.

    It must cost nothing but time. A third of the time that is left to the run is used at most, and
    a budget without room for many times the calls is left alone.
    """
    async with _lock.held(context.remaining_s()):
        who = f"{endpoint.name}: {endpoint.model}"
        calls = _ROOM * len(LAYOUTS) * len(shipped_trials())
        room = Amount(calls=calls, input_tokens=calls * _TOKENS)
        if known(endpoint.model).layout or who in _tried:
            return
        if context.limit_ahead([(endpoint.tier, room)]) is not None:
            return
        left = context.remaining_s()
        limit_s = LIMIT_S if left is None else min(LIMIT_S, left / 3)
        _logger.info(
            "nothing is known of %s: finding out how it is asked best, once, in at most %.0f s",
            endpoint.model,
            limit_s,
        )
        try:
            inner = context.nested("probe")
            with terminal.shown(len(shipped_trials()), "probing the model, once") as tell:
                made = await probe(
                    endpoint,
                    encoder=encoder,
                    context=inner,
                    limit_s=limit_s,
                    progress=lambda done, _: tell(done),
                )
        except (CapabilityError, EndpointRejected) as error:
            if isinstance(error, EndpointUnauthorized):
                raise
            _tried.add(who)
            return
        _tried.add(who)
        if len(made.losses) == len(get_args(Kind)):
            with suppress(StoreError):  # a cache that can't be written costs the next process time
                keep(made.found)
    context.note("changed", f"{endpoint.model} was probed with {made.texts} texts")
