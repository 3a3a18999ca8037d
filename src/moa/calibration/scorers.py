"""Scorers: what gives a text numbers, and a fit that makes probabilities of them.

A scorer reads a text with one or more members: the probabilities of the labels in some views, or
a vector of the text. From what is read, a `Fit` makes probabilities: a head on each vector, then
one weight for each member and one bias for each option, which holds the frequency of the classes.
For a single member that is a temperature and a bias; for several it is stacking on held-out
log-probabilities (Wolpert 1992, "Stacked generalization", Neural Networks 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moa.decisions.arrays import Floats, Ints
from moa.decisions.fitting import Fit as Blend
from moa.decisions.fitting import class_prior, fit, matching_bias
from moa.decisions.heads import PENALTIES, Head, fit_head

_HEADS_BIAS_SD = 0.1


@dataclass(frozen=True, slots=True)
class Fit:
    """A scorer that was fitted to labels.

    It is given one array for each member, in order: texts and options of log-probabilities, or
    texts and parts of vectors.
    """

    heads: tuple[Head | None, ...]
    """One for each member; `None` for one that reads probabilities already."""
    weights: Floats
    """One for each member."""
    bias: Floats
    """One for each option."""

    @classmethod
    def plain(cls, members: int, options: int) -> Fit:
        """Average members that read probabilities, without any label."""
        return cls((None,) * members, np.full(members, 1.0 / members), np.zeros(options))

    def __call__(self, readings: Sequence[Floats], /) -> Floats:
        """Probabilities: texts, options."""
        return self.blended(self.stacked(readings))

    def stacked(self, readings: Sequence[Floats]) -> Floats:
        """Log-probabilities of each member: texts, members, options."""
        logs = [
            reading if head is None else head(reading)
            for head, reading in zip(self.heads, readings, strict=True)
        ]
        return np.stack(logs, 1)

    def blended(self, logs: Floats) -> Floats:
        """Probabilities of what is stacked: texts, options."""
        return Blend(self.weights, self.bias)(logs)


@dataclass(frozen=True, slots=True)
class Part:
    """A member, as far as it was fitted to some labels."""

    head: Head | None
    logs: Floats
    """Log-probabilities of each text, by a fit without its own label: texts, options."""
    penalty: float | None = None


def fit_part(
    reading: Floats,
    labels: Ints,
    options: int,
    folds: Ints,
    *,
    is_vector: bool,
    penalty: float | None = None,
    names: tuple[Floats, Ints] | None = None,
) -> Part:
    """Fit one member.

    Args:
        reading: Of the labelled texts.
        labels: Index of the right option of each.
        options: How many there are.
        folds: Number of the part that each text belongs to.
        is_vector: Whether it takes a head.
        penalty: Of the head, where it is known already; `None` chooses one.
        names: What it reads of the names of the options, each a text that nobody had to label.
    """
    if not is_vector:
        return Part(None, reading)
    penalties = PENALTIES if penalty is None else (penalty,)
    fitted = fit_head(reading, labels, options, folds, penalties=penalties, known=names)
    return Part(fitted.head, fitted.held_out, fitted.penalty)


def blend(parts: Sequence[Part], labels: Ints) -> Fit:
    """Find the most probable weights and bias, given labels and a prior around a plain average.

    Args:
        parts: Fitted to the same labels.
        labels: Index of the right option of each text.
    """
    found = _blended(parts, np.stack([part.logs for part in parts], 1), labels)
    return Fit(tuple(part.head for part in parts), found.weights, found.bias)


def held_out(parts: Sequence[Part], labels: Ints, folds: Ints) -> Floats:
    """Probabilities of each text under weights and a bias that were fitted to other folds."""
    logs = np.stack([part.logs for part in parts], 1)
    found = np.zeros((len(labels), logs.shape[2]))
    for fold in np.unique(folds):
        out = folds == fold
        found[out] = _blended(parts, logs[~out], labels[~out])(logs[out])
    return found


def _blended(parts: Sequence[Part], logs: Floats, labels: Ints) -> Blend:
    """Fit the blend; heads have found the frequency of each option already."""
    if any(part.head is None for part in parts):
        return fit_blend(logs, labels)
    members, options = logs.shape[1:]
    weights, bias = np.full(members, 1.0 / members), np.zeros(options)
    return fit(logs, labels, weights=weights, bias=bias, bias_sd=_HEADS_BIAS_SD)


def fit_blend(logs: Floats, labels: Ints) -> Blend:
    """Fit one weight for each member and one bias for each option, around a plain average."""
    members, options = logs.shape[1:]
    weights = np.full(members, 1.0 / members)
    bias = matching_bias(logs, weights, class_prior(labels, options))
    return fit(logs, labels, weights=weights, bias=bias)
