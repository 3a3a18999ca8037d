"""Machines on how like a text's vectors are to landmarks, and what their scores are worth.

The likeness is a radial kernel by landmarks (Nystroem 1930, as in Williams and Seeger 2001), and
the machines are ridge regressions on it, which are sums over texts: without a writer they are made
by taking that writer's sums away. Scores of texts by machines that were fitted without their writer
become probabilities by a logistic regression (Platt 1999, of several classes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from moa.decisions.arrays import log_softmax

GAMMA = 0.7
RIDGE = 0.5
SENTENCES = 0.7
"""How heavy the mean of the sentences is beside the whole, as `encode` makes it."""
STEPS = 40
"""Steps from 0 to the largest number of a landmark. More make the file larger, and nothing better:
what is fitted is fitted to landmarks as they are written."""


class Space:
    """The likeness of vectors to landmarks, and what whitens it.

    Args:
        vectors: Of the texts learnt from: texts, numbers.
        parts: How many numbers of a vector each encoder gives, of the whole, then of the sentences.
        landmarks: Texts that others are compared with, at most.
    """

    def __init__(self, vectors: Any, parts: Sequence[int], landmarks: int, seed: int = 0) -> None:
        self.centre = vectors.mean(0)
        far = vectors - self.centre
        self.scale = np.ones(vectors.shape[1], np.float32)
        ends = np.cumsum([*parts, *parts])
        weights = [1.0] * len(parts) + [SENTENCES] * len(parts)
        for end, width, weight in zip(ends, [*parts, *parts], weights, strict=True):
            own = slice(end - width, end)
            self.scale[own] = np.linalg.norm(far[:, own], axis=1).mean() / weight
        self.scale *= np.linalg.norm(far / self.scale, axis=1).mean()
        inside = far / self.scale
        few = np.random.RandomState(seed).permutation(len(inside))[:landmarks]
        points = inside[np.sort(few)]
        self.step = float(np.abs(points).max() / STEPS)
        self.points = np.round(points / self.step).astype(np.int8)
        values, axes = np.linalg.eigh(self._near(self.landmarks))
        used = values > 1e-5 * values[-1]
        self.whiten = axes[:, used] / np.sqrt(values[used])

    @property
    def landmarks(self) -> Any:
        return self.points.astype(np.float32) * np.float32(self.step)

    def _near(self, inside: Any) -> Any:
        far = (inside**2).sum(1)[:, None] + (self.landmarks**2).sum(1)
        return np.exp(-GAMMA * np.maximum(far - 2 * inside @ self.landmarks.T, 0))

    def likeness(self, vectors: Any) -> Any:
        """Give likeness to landmarks: texts, landmarks."""
        return self._near((vectors - self.centre) / self.scale)

    def features(self, vectors: Any) -> Any:
        """Give whitened likeness, and a 1 for the bias."""
        found = self.likeness(vectors) @ self.whiten
        return np.c_[found, np.ones(len(found))].astype(np.float32)


class Head(NamedTuple):
    """Weights on the likeness to landmarks, and biases, of the log-odds of all classes."""

    weights: Any
    bias: Any
    less: float | None = None
    """What a sentence's log-odds of the first class lose, where one sentence is enough."""

    def logs(self, likeness: Any) -> Any:
        """Log-probabilities of each class."""
        return log_softmax(likeness @ self.weights + self.bias)

    def moved(self, place: int, by: float) -> Head:
        """Take from the log-odds of a class."""
        bias = self.bias.copy()
        bias[place] -= by
        return self._replace(bias=bias)


class Sums:
    """What ridge regressions on the same texts share, with and without those of each writer.

    Args:
        features: Of the texts learnt from, by a `Space`.
        folds: The writer of each text.
    """

    def __init__(self, features: Any, folds: Any) -> None:
        self.features, self.folds, self.names = features, folds, np.unique(folds)
        grams = [own.T @ own for own in (features[folds == name] for name in self.names)]
        ridge = np.diag(np.r_[np.full(features.shape[1] - 1, RIDGE), 1e-3]).astype(np.float32)
        every = np.sum(grams, 0) + ridge
        self._factors = [cho_factor(every - gram) for gram in grams]
        self._factor = cho_factor(every)

    def solve(self, targets: Any) -> Any:
        """Solve for all texts."""
        return cho_solve(self._factor, self.features.T @ targets)

    def apart(self, targets: Any) -> dict[Any, Any]:
        """Solve for all texts but those of a writer, for each writer."""
        found: dict[Any, Any] = {}
        for name, factor in zip(self.names, self._factors, strict=True):
            rest = self.folds != name
            found[name] = cho_solve(factor, self.features[rest].T @ targets[rest])
        return found


class Machine:
    """Tells classes of texts: one ridge regression a class.

    Args:
        space: The likeness that it reads.
        sums: Of the texts learnt from.
        labels: The place of each text's class.
        beside: Labels of other questions, whose scores are read too: who waits is rarely pleased.
    """

    def __init__(self, space: Space, sums: Sums, labels: Any, beside: Sequence[Any] = ()) -> None:
        self.space, self.sums, self.labels = space, sums, labels
        classes = [np.eye(one.max() + 1, dtype=np.float32)[one] for one in (labels, *beside)]
        self._targets = 2 * np.hstack(classes) - 1

    @cached_property
    def _apart(self) -> dict[Any, Any]:
        return self.sums.apart(self._targets)

    def _scores(self, features: Any, folds: Any) -> Any:
        """Score texts for all classes, each by a machine without its writer."""
        found = np.zeros((len(features), self._targets.shape[1]))
        for name, solved in self._apart.items():
            own = folds == name
            found[own] = features[own] @ solved
        return found

    @cached_property
    def scores(self) -> Any:
        """Scores of each text for all classes, by a machine without its writer."""
        return self._scores(self.sums.features, self.sums.folds)

    def logs_of(self, features: Any, folds: Any) -> Any:
        """Log-probabilities of the classes of other texts, by a machine without their writer."""
        slopes, bias = self.slopes
        return log_softmax(self._scores(features, folds) @ slopes + bias)

    @cached_property
    def slopes(self) -> tuple[Any, Any]:
        """What turns scores into log-odds: scores, classes; and a bias."""
        from sklearn.linear_model import LogisticRegression

        found = LogisticRegression(C=1.0, max_iter=1000).fit(self.scores, self.labels)
        slopes, bias = found.coef_.T, found.intercept_
        if len(found.classes_) == 2:  # scikit-learn gives the second class alone
            slopes, bias = np.hstack([-slopes, slopes]) / 2, np.r_[-bias, bias] / 2
        return slopes, bias

    @cached_property
    def logs(self) -> Any:
        """Log-probabilities of each text's classes, by a machine without its writer."""
        slopes, bias = self.slopes
        return log_softmax(self.scores @ slopes + bias)

    @cached_property
    def head(self) -> Head:
        """Give the head that is fitted to all texts."""
        slopes, bias = self.slopes
        solved = self.sums.solve(self._targets) @ slopes
        return Head(self.space.whiten @ solved[:-1], solved[-1] + bias)


def strongest(above: Any, pieces: Any, of: Any, less: float) -> Any:
    """Give how far a class is above the others in a text, or in one of its sentences.

    Args:
        above: Of each text.
        pieces: Of each sentence.
        of: The place of each sentence's text.
        less: What a sentence's loses.
    """
    found = above.copy()
    np.maximum.at(found, of, pieces - less)
    return found


def rival(logs: Any, place: int) -> Any:
    """Tell how far a class is above the likeliest other."""
    return logs[:, place] - np.delete(logs, place, 1).max(1)


def cut(above: Any, is_class: Any, groups: Any, mean: float, worst: float) -> float:
    """Choose how much is taken from the log-odds of a class, so that few others are called it.

    Args:
        above: How far each text's class is above the others.
        is_class: Whether it is of that class.
        groups: The business of each text.
        mean: Share of the others that may be called it, as the mean over businesses.
        worst: The same of any one business with at least 50 others.
    """
    others = [above[(groups == one) & ~is_class] for one in np.unique(groups)]
    found = 0.0
    for candidate in np.sort(above[~is_class])[::-1]:
        shares = [(one > candidate).mean() for one in others if len(one)]
        large = [(one > candidate).mean() for one in others if len(one) >= 50]
        if np.mean(shares) > mean or max(large, default=0.0) > worst:
            break
        found = float(candidate)
    return found


def save(path: Path, space: Space, heads: Mapping[str, Head]) -> None:
    """Write heads as `moa.local.heads.shipped_heads` reads them."""
    arrays: dict[str, Any] = {
        "centre": space.centre.astype(np.float32),
        "scale": space.scale.astype(np.float32),
        "landmarks": space.points,
        "step": space.step,
        "gamma": GAMMA,
    }
    for question, head in heads.items():
        arrays[f"weights {question}"] = head.weights.astype(np.float32)
        arrays[f"bias {question}"] = head.bias.astype(np.float32)
        if head.less is not None:
            arrays[f"less {question}"] = head.less
    np.savez_compressed(path, **arrays)
    print(path, path.stat().st_size // 1000, "kB")
