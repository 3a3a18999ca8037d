"""Stacking: which groups of views a question is answered from, and with what weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moa.decisions import Correction
from moa.decisions.fitting import (
    Floats,
    Ints,
    class_prior,
    fit,
    held_out_loss,
    matching_bias,
)

Group = tuple[int, ...]
"""Places of the views that are averaged."""

_SINGLE, _STACKED, _GAIN = 1.2, 0.8, 0.02
"""Weights to start from with one group of views and with two; least gain in held-out loss for
which a later choice of them is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What the texts of one question read as: texts, views, options."""

    texts: Floats
    """Unlabelled ones, whose means are the model's lean."""
    labelled: Floats
    labels: Ints
    """Index of the right option of each labelled text."""
    seen: np.ndarray
    """Whether a labelled text is shown in a view: labelled texts, views."""

    @property
    def means(self) -> Floats:
        """The lean, by view and option."""
        return self.texts.mean(0)


@dataclass(frozen=True, slots=True)
class Stack:
    """Weights of the views, and a bias of the options, fitted to labelled texts."""

    weights: Floats
    bias: Floats
    """Of readings that the lean is taken out of."""

    def read(self, readings: Readings) -> Floats:
        """Give the unlabelled texts' corrected log-probabilities, but for a constant in each."""
        fair = readings.texts - readings.means
        return np.einsum("v,tvo->to", self.weights, fair) + self.bias

    def correction(self, readings: Readings) -> Correction:
        """Write it as a correction of probabilities as the model gives them."""
        offsets = self.bias - np.einsum("v,vo->o", self.weights, readings.means)
        return Correction(floats(offsets - offsets.mean()), floats(self.weights))


def best_stack(readings: Readings, choices: Sequence[tuple[Group, ...]]) -> Stack:
    """Fit each choice of groups, and keep the first unless a later one's held-out loss is lower.

    Few labels tell little: where losses are close, the earlier choice stays.
    """
    prior = class_prior(readings.labels, readings.texts.shape[2])
    best: tuple[float, Stack] | None = None
    for groups in choices:
        start = np.full(len(groups), _SINGLE if len(groups) == 1 else _STACKED)
        texts = np.stack([_texts_in(readings, group) for group in groups], 1)
        labelled = np.stack([_labelled_in(readings, group) for group in groups], 1)
        bias = matching_bias(texts, start, prior)
        loss = held_out_loss(labelled, readings.labels, weights=start, bias=bias)
        if best is None or loss < best[0] - _GAIN:
            found = fit(labelled, readings.labels, weights=start, bias=bias)
            weights = np.zeros(readings.texts.shape[1])
            for weight, group in zip(found.weights, groups, strict=True):
                weights[list(group)] = weight / len(group)
            best = (loss, Stack(weights, found.bias))
    assert best is not None, "there is a choice"
    return best[1]


def floats(values: Floats) -> tuple[float, ...]:
    """Leave numpy behind."""
    return tuple(float(value) for value in values)


def _texts_in(readings: Readings, group: Group) -> Floats:
    found: Floats = (readings.texts - readings.means)[:, list(group)].mean(1)
    return found


def _labelled_in(readings: Readings, group: Group) -> Floats:
    """Average the views of a group; a text that a view shows is not read in it."""
    fair = (readings.labelled - readings.means)[:, list(group)]
    weights = np.where(readings.seen[:, list(group)], 0.0, 1.0)
    weights = np.where(weights.sum(1, keepdims=True) == 0, 1.0, weights)
    weights = weights / weights.sum(1, keepdims=True)
    return np.einsum("tv,tvo->to", weights, fair)
