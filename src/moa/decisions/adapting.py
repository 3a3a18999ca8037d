"""Adapting: fits a deciding agent to its task from unlabelled texts, and labelled ones if any.

A small model that reads labels leans to some of them whatever the text. On unlabelled texts the
lean can be seen and taken out (as Zhao et al. 2021, arXiv 2102.09690, do with empty texts, and
Zhou et al. 2023, arXiv 2309.17249, with the batch). Texts that it is sure of, or labelled ones,
are shown to it as examples; reading each text in several such views steadies the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moa.context import RunContext
from moa.decisions import Adaptation, Correction, View
from moa.decisions.choosing import confident, halves
from moa.decisions.fitting import (
    Floats,
    class_prior,
    fit,
    held_out_loss,
    matching_bias,
    shrunk_mean,
)
from moa.decisions.reading import Progress, Reader
from moa.decisions.stand_ins import STAND_INS
from moa.endpoints import Endpoint, Example
from moa.questions import Question

ENOUGH_TEXTS = 32
"""Fewer unlabelled texts than these say too little of a lean: the shipped ones stand in."""
ENOUGH_LABELS = 8
"""Fewer labelled texts than these are shown, and nothing is fitted to them."""
MOST_TEXTS = 128
"""Most unlabelled texts that are read, evenly spread over those given."""
MOST_LABELS = 512
"""Most labelled texts that are fitted to, the first ones."""
_SINGLE, _STACKED, _GAIN = 1.2, 0.8, 0.005
"""Weights to start from with one group of views and with two; least gain in held-out loss for
which another choice of them is taken than the first."""


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

    Each text is read in the agent's own way, and in two views that show texts of which the model
    was sure. Without labels the lean it shows is taken out. With at least 8 labels these are
    shown too, in two halves; weights and a bias are fitted to them, around a bias that matches
    their frequency on the unlabelled texts. Kept are the own way and the texts it is sure of,
    unless the held-out log loss is lower with the labelled texts in place of one or both, or with
    the own way alone.

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
    reader = Reader(endpoint, tuple(questions), tuple(own), context or RunContext(), progress)
    plain = await reader.read([()], texts)
    labelled = tuple(labelled)[:MOST_LABELS]
    if reader.source == "text":
        return Adaptation(views=(labelled[:8],), origin="examples shown: it writes its labels")
    views = Views()
    if reader.source == "logprob":
        views.sure = confident(texts, plain, reader.questions) if enough else []
        if len(labelled) >= ENOUGH_LABELS:
            views.shown = halves(labelled, reader.questions)
        elif labelled:
            views.shown = [labelled]
    more = await reader.read(views.all[1:], texts)
    readings = {
        q.name: np.concatenate([plain[q.name], more[q.name]], axis=1) for q in reader.questions
    }
    origin = f"bias removed on {len(texts)} {'unlabelled' if enough else 'shipped'} texts"
    if len(labelled) < ENOUGH_LABELS:
        corrections = {name: _unbiased(reading) for name, reading in readings.items()}
    else:
        origin = f"fitted to {len(labelled)} labelled texts, {origin}"
        corrections = await _fitted(reader, views, labelled, readings)
    return _without_idle_views(views.all, corrections, origin)


@dataclass(slots=True)
class Views:
    """The views a text can be read in: the agent's own way first."""

    sure: Sequence[View] = ()
    """They show texts that the model is sure of."""
    shown: Sequence[View] = ()
    """They show labelled texts."""

    @property
    def all(self) -> tuple[View, ...]:
        """In order."""
        return ((), *self.sure, *self.shown)

    @property
    def groups(self) -> tuple[range, range, range]:
        """Positions of the own way, of what the model is sure of, of labelled texts."""
        middle = 1 + len(self.sure)
        return range(1), range(1, middle), range(middle, middle + len(self.shown))

    @property
    def choices(self) -> list[tuple[range, ...]]:
        """Groups that can be used together; the first is the choice in doubt."""
        own, sure, shown = self.groups
        choices = ((own, sure), (sure, shown), (own, shown), (shown,), (own,))
        return [groups for groups in choices if all(groups)]


def _unbiased(reading: Floats) -> Correction:
    """The own way has weight 1, and so have all other views together."""
    others = reading.shape[1] - 1
    weights = np.array([1.0] + [1.0 / others] * others) if others else np.array([1.0])
    lean = shrunk_mean(reading[:, 0])
    for view in range(1, others + 1):
        mean = reading[:, view].mean(0)
        lean = lean + weights[view] * (mean - mean.mean())
    return Correction(_floats(-lean), _floats(weights))


async def _fitted(
    reader: Reader,
    views: Views,
    labelled: Sequence[Example],
    unlabelled: Mapping[str, Floats],
) -> dict[str, Correction]:
    """Fit a correction for each question."""
    readings = await reader.read(views.all, [example.text for example in labelled])
    seen = np.array([[example in view for view in views.all] for example in labelled])
    found: dict[str, Correction] = {}
    for question in reader.questions:
        names = [option.name for option in question.options]
        given = [
            (row, names.index(example.labels[question.name]))
            for row, example in enumerate(labelled)
            if example.labels.get(question.name) in names
        ]
        labels = np.array([label for _, label in given], dtype=np.intp)
        rows = [row for row, _ in given]
        texts = unlabelled[question.name]
        if len(set(labels.tolist())) < 2:
            found[question.name] = _unbiased(texts)
            continue
        means = texts.mean(0)
        found[question.name] = _best(
            [
                (
                    np.stack([_together(texts - means, group) for group in groups], 1),
                    np.stack(
                        [
                            _together(readings[question.name][rows] - means, group, seen[rows])
                            for group in groups
                        ],
                        1,
                    ),
                    groups,
                )
                for groups in views.choices
            ],
            labels,
            means,
        )
    return found


def _together(readings: Floats, group: range, seen: np.ndarray | None = None) -> Floats:
    """Average the views of a group; a text that a view shows is not read in it."""
    weights = np.ones(readings.shape[:2])
    if seen is not None:
        weights = np.where(seen, 0.0, 1.0)
    weights = weights[:, list(group)]
    weights = np.where(weights.sum(1, keepdims=True) == 0, 1.0, weights)
    weights = weights / weights.sum(1, keepdims=True)
    return np.einsum("tv,tvo->to", weights, readings[:, list(group)])


def _best(
    choices: Sequence[tuple[Floats, Floats, tuple[range, ...]]],
    labels: np.ndarray,
    means: Floats,
) -> Correction:
    """Keep the first choice of views unless the held-out loss of another is clearly lower.

    Few labels tell little: where losses are close, the steadier choice stays.
    """
    prior = class_prior(labels, means.shape[1])
    best: tuple[float, Floats, Floats, tuple[range, ...]] | None = None
    for texts, readings, groups in choices:
        weights = np.full(len(groups), _SINGLE if len(groups) == 1 else _STACKED)
        bias = matching_bias(texts, weights, prior)
        loss = held_out_loss(readings, labels, weights=weights, bias=bias)
        if best is None or loss < best[0] - _GAIN:
            found = fit(readings, labels, weights=weights, bias=bias)
            best = (loss, found.weights, found.bias, groups)
    assert best is not None, "the own way is always there"
    _, weights, bias, groups = best
    by_view = np.zeros(len(means))
    for weight, group in zip(weights, groups, strict=True):
        by_view[list(group)] = weight / len(group)
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


def _floats(values: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
