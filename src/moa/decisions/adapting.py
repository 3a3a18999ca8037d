"""Adapting: fits a deciding agent to its task from unlabelled texts, and labelled ones if any.

A small model that reads labels leans to some of them whatever the text. On unlabelled texts the
lean can be seen and taken out (as Zhao et al. 2021, arXiv 2102.09690, do with empty texts, and
Zhou et al. 2023, arXiv 2309.17249, with the batch). Texts that it is sure of, or labelled ones,
are shown to it as examples; reading each text in several such views steadies the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moa.context import RunContext
from moa.decisions import Adaptation, Correction, View
from moa.decisions.choosing import confident, halves
from moa.decisions.fitting import (
    Floats,
    Ints,
    class_prior,
    fit,
    held_out_loss,
    matching_bias,
    shrunk_mean,
)
from moa.decisions.stand_ins import STAND_INS
from moa.endpoints import Endpoint, Example
from moa.questions import Answer, Question, Source

ENOUGH_TEXTS = 32
"""Fewer unlabelled texts than these say too little of a lean: the shipped ones stand in."""
ENOUGH_LABELS = 8
"""Fewer labelled texts than these are shown, and nothing is fitted to them."""
MOST_TEXTS = 128
"""Most unlabelled texts that are read, evenly spread over those given."""
MOST_LABELS = 512
"""Most labelled texts that are fitted to, the first ones."""
_AT_ONCE = 8
_SINGLE, _STACKED, _GAIN = 1.2, 0.8, 0.02
"""Weights to start from with one view and with several; least gain that is worth fewer views."""

Progress = Callable[[int, int], None]
"""Called with the texts read so far, and those to read in all, as far as that is known."""


async def adapt(
    endpoint: Endpoint,
    questions: Sequence[Question],
    *,
    labelled: Sequence[Example] = (),
    unlabelled: Sequence[str] = (),
    own: Sequence[Example] = (),
    context: RunContext | None = None,
    progress: Progress | None = None,
) -> Adaptation:
    """Fit an agent to its task.

    Without labels each text is read with the agent's own demonstrations and with two sets of
    texts that the model was sure of, and the lean it shows is taken out. With at least 8 labels
    they are shown in two halves, beside the own way; one of the two is left out where the held-out
    log loss is lower without it. Weights and a bias are fitted to the labels, around a bias that
    matches the frequency of the labels on the unlabelled texts.

    Args:
        endpoint: Who decides.
        questions: What is asked.
        labelled: Texts with the names of the right options.
        unlabelled: Texts like those to come. From 32 on they are used, at most 128 of them; else
            36 shipped texts stand in.
        own: Examples that the agent shows of its own accord.
        context: Budget, deadline and ledger; `None` starts one.
        progress: Told how far it is.

    Raises:
        EndpointError: a request failed.
        BudgetExceeded: a limit would be passed.
        DeadlineExceeded: the run's time is up.
        CapabilityError: the endpoint can't decide.
    """
    enough = len(unlabelled) >= ENOUGH_TEXTS
    texts = _spread(unlabelled) if enough else STAND_INS
    reader = _Reader(endpoint, tuple(questions), tuple(own), context or RunContext(), progress)
    plain = await reader.read([()], texts)
    where = f"{len(texts)} {'unlabelled' if enough else 'shipped'} texts"
    labelled = tuple(labelled)[:MOST_LABELS]
    if reader.source == "text":
        return Adaptation(views=(labelled[:8],), origin="examples shown: it writes its labels")
    if reader.source == "native":
        views: list[View] = [()]
    elif len(labelled) >= ENOUGH_LABELS:
        views = [(), *halves(labelled, reader.questions)]
    elif labelled:
        views = [(), labelled]
    elif enough:
        views = [(), *confident(texts, plain, reader.questions)]
    else:
        views = [()]
    shown = await reader.read(views[1:], texts)
    readings = {
        q.name: np.concatenate([plain[q.name], shown[q.name]], axis=1) for q in reader.questions
    }
    if len(labelled) < ENOUGH_LABELS:
        corrections = {name: _unbiased(reading) for name, reading in readings.items()}
        return Adaptation(
            views=tuple(views), corrections=corrections, origin=f"bias removed on {where}"
        )
    fitted = await _Fitting(reader, views, labelled).corrections(readings)
    return _without_idle_views(
        views, fitted, f"fitted to {len(labelled)} labelled texts, bias removed on {where}"
    )


def _unbiased(reading: Floats) -> Correction:
    """The own way has weight 1, and so have all other views together."""
    others = reading.shape[1] - 1
    weights = np.array([1.0] + [1.0 / others] * others) if others else np.array([1.0])
    lean = shrunk_mean(reading[:, 0])
    for view in range(1, others + 1):
        mean = reading[:, view].mean(0)
        lean = lean + weights[view] * (mean - mean.mean())
    return Correction(_floats(-lean), _floats(weights))


@dataclass(slots=True)
class _Reader:
    """Reads texts in views, several at once."""

    endpoint: Endpoint
    questions: tuple[Question, ...]
    own: View
    context: RunContext
    progress: Progress | None
    source: Source = "native"
    done: int = 0
    total: int = 0

    async def read(self, views: Sequence[View], texts: Sequence[str]) -> dict[str, Floats]:
        """Log-probabilities by question: texts, views, options; centred on their mean."""
        self.total += len(views) * len(texts)
        # View by view: a server that caches prompts keeps one beginning at a time.
        found = [await self._all(view, texts) for view in views]
        return {
            q.name: np.array(
                [
                    [_logs(answers[place].probabilities, len(q.options)) for answers in view]
                    for view in found
                ]
            )
            .reshape(len(views), len(texts), len(q.options))
            .swapaxes(0, 1)
            for place, q in enumerate(self.questions)
        }

    async def _all(self, view: View, texts: Sequence[str]) -> list[tuple[Answer, ...]]:
        answers: list[tuple[Answer, ...] | None] = [None] * len(texts)
        left = iter(enumerate(texts))

        async def work() -> None:
            for place, text in left:
                answers[place] = await self._one(view, text)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_AT_ONCE, len(texts))):
                    group.create_task(work())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return [answer for answer in answers if answer is not None]

    async def _one(self, view: View, text: str) -> tuple[Answer, ...]:
        decision = await self.endpoint.decide(
            text, self.questions, self.context, examples=view or self.own
        )
        self.source = decision.answers[0].source
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
        return decision.answers


@dataclass(frozen=True, slots=True)
class _Fitting:
    """Fits corrections to labelled texts."""

    reader: _Reader
    views: Sequence[View]
    labelled: Sequence[Example]

    async def corrections(self, unlabelled: dict[str, Floats]) -> dict[str, Correction]:
        """Fit one for each question, given readings of unlabelled texts in all views."""
        texts = [example.text for example in self.labelled]
        known = await self.reader.read([()], texts)
        shown = [await self.reader.read([view], texts) for view in self.views[1:]]
        return {
            q.name: self._correction(
                q, unlabelled[q.name], known[q.name][:, 0], [s[q.name][:, 0] for s in shown]
            )
            for q in self.reader.questions
        }

    def _correction(
        self, question: Question, unlabelled: Floats, plain: Floats, shown: Sequence[Floats]
    ) -> Correction:
        names = [option.name for option in question.options]
        given = [
            (row, names.index(example.labels[question.name]))
            for row, example in enumerate(self.labelled)
            if example.labels.get(question.name) in names
        ]
        rows = [row for row, _ in given]
        labels = np.array([label for _, label in given], dtype=np.intp)
        if len(set(labels.tolist())) < 2:
            return _unbiased(unlabelled)
        means = unlabelled.mean(0)
        own = plain[rows] - means[0]
        texts_own = unlabelled[:, 0] - means[0]
        ways: list[tuple[Floats, Floats, list[int]]] = [
            (own[:, None], texts_own[:, None], [0]),
        ]
        if shown:
            others = self._unseen(rows, [s - means[i + 1] for i, s in enumerate(shown)])
            texts_others = (unlabelled[:, 1:] - means[1:]).mean(1)
            ways.append((others[:, None], texts_others[:, None], [1]))
            both = np.stack([own, others], 1), np.stack([texts_own, texts_others], 1)
            ways.insert(0, (*both, [0, 1]))
        return _best(ways, labels, means, views=len(self.views))

    def _unseen(self, rows: Sequence[int], shown: Sequence[Floats]) -> Floats:
        """Read each labelled text only in views that don't show it."""
        found: list[Floats] = []
        for row in rows:
            views = zip(shown, self.views[1:], strict=True)
            unseen = [reading[row] for reading, view in views if self.labelled[row] not in view]
            found.append(np.mean(unseen or [reading[row] for reading in shown], axis=0))
        return np.array(found)


def _best(
    ways: Sequence[tuple[Floats, Floats, list[int]]], labels: Ints, means: Floats, *, views: int
) -> Correction:
    """Keep the first way, all views together, unless the held-out loss of another is lower.

    Few labels tell little: where the losses are close, more views are the steadier choice.
    """
    prior = class_prior(labels, means.shape[1])
    best: tuple[float, Floats, Floats, list[int]] | None = None
    for readings, texts, used in ways:
        weights = np.full(len(used), _SINGLE if len(used) == 1 else _STACKED)
        bias = matching_bias(texts, weights, prior)
        loss = held_out_loss(readings, labels, weights=weights, bias=bias)
        if best is None or loss < best[0] - _GAIN:
            found = fit(readings, labels, weights=weights, bias=bias)
            best = (loss, found.weights, found.bias, used)
    assert best is not None, "there is always the own way"
    _, weights, bias, used = best
    by_view = np.zeros(views)
    for weight, way in zip(weights, used, strict=True):
        if way == 0:
            by_view[0] = weight
        else:
            by_view[1:] = weight / (views - 1)
    offsets = bias - np.einsum("v,vo->o", by_view, means)
    return Correction(_floats(offsets - offsets.mean()), _floats(by_view))


def _without_idle_views(
    views: Sequence[View], corrections: dict[str, Correction], origin: str
) -> Adaptation:
    """Leave out the views that no question takes anything from."""
    used = [
        place for place in range(len(views)) if any(c.weights[place] for c in corrections.values())
    ]
    return Adaptation(
        views=tuple(views[place] for place in used),
        corrections={
            name: Correction(c.offsets, tuple(c.weights[place] for place in used))
            for name, c in corrections.items()
        },
        origin=origin,
    )


def _spread(texts: Sequence[str]) -> tuple[str, ...]:
    step = max(1.0, len(texts) / MOST_TEXTS)
    return tuple(texts[int(i * step)] for i in range(min(len(texts), MOST_TEXTS)))


def _logs(probabilities: Sequence[float] | None, options: int) -> Floats:
    """An unanswered question says nothing: all its options are as likely."""
    if probabilities is None:
        return np.zeros(options)
    logs = np.log(np.maximum(np.array(probabilities), 1e-45))
    return logs - logs.mean()


def _floats(values: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
