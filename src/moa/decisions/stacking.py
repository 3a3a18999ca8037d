"""Stacking: which groups of views a question is answered from, and with what weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moa.decisions import Correction
from moa.decisions.arrays import Floats, Ints
from moa.decisions.fitting import class_prior, fit, held_out_loss, matching_bias

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
    shown: NDArray[np.bool_]
    """Whether an unlabelled text is shown in a view, which says little then: texts, views."""
    labelled_shown: NDArray[np.bool_]
    """The same of the labelled texts."""

    @property
    def means(self) -> Floats:
        """The lean, by view and option."""
        read = np.where(self.shown, 0.0, 1.0)
        return np.einsum("tv,tvo->vo", read / read.sum(0), self.texts)

    def fair(self, groups: Sequence[Group]) -> tuple[Floats, Floats]:
        """Read unlabelled and labelled texts in groups of views, without the lean."""
        means = self.means
        texts = [_averaged(self.texts - means, self.shown, group) for group in groups]
        labelled = [_averaged(self.labelled - means, self.labelled_shown, g) for g in groups]
        return np.stack(texts, 1), np.stack(labelled, 1)


@dataclass(frozen=True, slots=True)
class Stack:
    """Weights of groups of views, and a bias of the options, fitted to labelled texts."""

    groups: tuple[Group, ...]
    weights: Floats
    bias: Floats
    """Of readings that the lean is taken out of."""

    def read(self, readings: Readings) -> Floats:
        """Give the unlabelled texts' log-probabilities, without lean and bias: texts, options.

        Without the bias, a rare option has its most probable texts too.
        """
        texts, _ = readings.fair(self.groups)
        return np.einsum("v,tvo->to", self.weights, texts)

    def correction(self, readings: Readings) -> Correction:
        """Write it as a correction of probabilities as the model gives them."""
        by_view = np.zeros(len(readings.means))
        for weight, group in zip(self.weights, self.groups, strict=True):
            by_view[list(group)] = weight / len(group)
        offsets = self.bias - np.einsum("v,vo->o", by_view, readings.means)
        return Correction(floats(offsets - offsets.mean()), floats(by_view))


def best_stack(readings: Readings, choices: Sequence[tuple[Group, ...]]) -> Stack:
    """Fit each choice of groups, and keep the first unless a later one's held-out loss is lower.

    Few labels tell little: where losses are close, the earlier choice stays.
    """
    prior = class_prior(readings.labels, readings.texts.shape[2])
    best: tuple[float, Stack] | None = None
    for groups in choices:
        start = np.full(len(groups), _SINGLE if len(groups) == 1 else _STACKED)
        texts, labelled = readings.fair(groups)
        bias = matching_bias(texts, start, prior)
        loss = held_out_loss(labelled, readings.labels, weights=start, bias=bias)
        if best is None or loss < best[0] - _GAIN:
            found = fit(labelled, readings.labels, weights=start, bias=bias)
            best = (loss, Stack(groups, found.weights, found.bias))
    assert best is not None, "there is a choice"
    return best[1]


def floats(values: Floats) -> tuple[float, ...]:
    """Leave numpy behind."""
    return tuple(float(value) for value in values)


def _averaged(readings: Floats, shown: NDArray[np.bool_], group: Group) -> Floats:
    """Average the views of a group but those that show the text, unless all of them do."""
    weights = np.where(shown[:, list(group)], 0.0, 1.0)
    weights = np.where(weights.sum(1, keepdims=True) == 0, 1.0, weights)
    weights = weights / weights.sum(1, keepdims=True)
    return np.einsum("tv,tvo->to", weights, readings[:, list(group)])
