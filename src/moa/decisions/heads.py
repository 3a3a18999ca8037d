"""Heads: models on the vectors of texts, fitted to labels and applied with numpy alone.

Multinomial logistic regression with an L2 penalty, whose strength is chosen by cross-validation;
heads that ship read how like the vector is to landmarks, instead of the vector itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moa.decisions.arrays import Bools, Floats, Ints, log_softmax
from moa.decisions.fitting import class_prior
from moa.decisions.minimising import minimise

PENALTIES = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
"""Tried in this order, each from where the one before ended, until the held-out loss rises; for
vectors whose mean distance from their centre is 1."""
_WORSE = 1.01
_STEPS, _NEAR = 100, 1e-4
_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True)
class Kernel:
    """How like vectors are to landmarks: `exp(-gamma |x - landmark|^2)`, x centred and scaled."""

    centre: Floats
    scale: Floats
    """What each part is divided by; infinite for parts that aren't looked at."""
    landmarks: Floats
    """Landmarks, parts of the vector: centred and scaled."""
    gamma: float
    unit: bool = False
    """Whether x is made one long after that, so that its direction alone counts; then x itself
    follows the likeness."""

    def __call__(self, vectors: Floats) -> Floats:
        """Likeness, and x where it is of unit length: vectors, landmarks and parts."""
        x = (vectors - self.centre) / self.scale
        if self.unit:
            x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
        far = (x**2).sum(1)[:, None] + (self.landmarks**2).sum(1) - 2 * x @ self.landmarks.T
        likeness: Floats = np.exp(-self.gamma * np.maximum(far, 0.0))
        return np.hstack([likeness, x]) if self.unit else likeness


@dataclass(frozen=True, slots=True)
class Head:
    """`log softmax(vector @ weights + bias)`, or of the vector's likeness to landmarks."""

    weights: Floats
    """Parts of the vector, or landmarks; options."""
    bias: Floats
    kernel: Kernel | None = None

    def __call__(self, vectors: Floats) -> Floats:
        """Log-probabilities of each option: vectors, options."""
        parts = vectors if self.kernel is None else self.kernel(vectors)
        return log_softmax(parts @ self.weights + self.bias)

    def probabilities(self, vector: Sequence[float]) -> tuple[float, ...]:
        """Probability of each option, of one vector."""
        return tuple(float(p) for p in np.exp(self(np.asarray(vector)[None])[0]))


@dataclass(frozen=True, slots=True)
class Blend:
    """Several heads of one question: `log softmax(sum of weight * log-probabilities + bias)`."""

    heads: tuple[Head, ...]
    weights: tuple[float, ...]
    bias: Floats

    def __call__(self, vectors: Floats) -> Floats:
        """Log-probabilities of each option: vectors, options."""
        read = zip(self.weights, self.heads, strict=True)
        logs: Floats = sum((w * head(vectors) for w, head in read), start=np.asarray(self.bias))
        return log_softmax(logs)

    def probabilities(self, vector: Sequence[float]) -> tuple[float, ...]:
        """Probability of each option, of one vector."""
        return tuple(float(p) for p in np.exp(self(np.asarray(vector)[None])[0]))


@dataclass(frozen=True, slots=True)
class Fitted:
    """A head, and what it would have said of each vector without that vector's label."""

    head: Head
    held_out: Floats
    """Log-probabilities by cross-validation: vectors, options."""
    penalty: float


def fit_head(
    vectors: Floats,
    labels: Ints,
    options: int,
    folds: Ints,
    *,
    penalties: Sequence[float] = PENALTIES,
    known: tuple[Floats, Ints] | None = None,
) -> Fitted:
    """Fit a head with the penalty whose held-out log loss is lowest.

    Args:
        vectors: One a text.
        labels: Index of the right option of each.
        options: How many there are.
        folds: Number of the part that each text belongs to.
        penalties: Strengths to choose from, strong ones first.
        known: Further vectors and the right option of each, which are always fitted to and never
            measured on.
    """
    more, their_labels = known or (vectors[:0], labels[:0])
    space = _Space.of(np.concatenate([vectors, more]))
    inside, more = space.inside(vectors), space.inside(more)
    parts = [folds == fold for fold in np.unique(folds)]
    ends = [_start(labels[~out], options, inside.shape[1]) for out in parts]
    end = _start(labels, options, inside.shape[1])

    def fitted(rows: Bools, start: Head, penalty: float) -> Head:
        given = np.concatenate([labels[rows], their_labels])
        return _fit(np.concatenate([inside[rows], more]), given, start, penalty)

    best: Fitted | None = None
    lowest = np.inf
    for penalty in penalties:
        held_out = np.zeros((len(labels), options))
        for place, out in enumerate(parts):
            ends[place] = fitted(~out, ends[place], penalty)
            held_out[out] = ends[place](inside[out])
        end = fitted(np.ones(len(labels), bool), end, penalty)
        loss = log_loss(held_out, labels)
        if loss < lowest:
            best, lowest = Fitted(space.outside(end), held_out, penalty), loss
        elif loss > lowest * _WORSE:  # weaker ones are worse still
            break
    assert best is not None, "there is a penalty"
    return best


def log_loss(logs: Floats, labels: Ints) -> float:
    """Mean of minus the log-probability of the right option, none taken for less than 1e-12."""
    right = logs[np.arange(len(labels)), labels]
    return float(-np.maximum(right, np.log(_SMALLEST)).mean())


@dataclass(frozen=True, slots=True)
class _Space:
    """The directions in which some vectors differ, centred and of mean length 1.

    There are never more of them than vectors, so fitting there is quick, and gives the same.
    """

    centre: Floats
    scale: float
    basis: Floats

    @classmethod
    def of(cls, vectors: Floats) -> _Space:
        centre = vectors.mean(0)
        moved = vectors - centre
        scale = float(np.linalg.norm(moved, axis=1).mean()) or 1.0
        _, sizes, basis = np.linalg.svd(moved / scale, full_matrices=False)
        return cls(centre, scale, basis[sizes > 1e-6 * max(1.0, sizes[0])].T)

    def inside(self, vectors: Floats) -> Floats:
        return (vectors - self.centre) / self.scale @ self.basis

    def outside(self, head: Head) -> Head:
        weights = self.basis @ head.weights / self.scale
        return Head(weights, head.bias - self.centre @ weights)


def _start(labels: Ints, options: int, size: int) -> Head:
    """Begin with a head that knows nothing but how frequent each option is."""
    return Head(np.zeros((size, options)), np.log(class_prior(labels, options)))


def _fit(vectors: Floats, labels: Ints, start: Head, penalty: float) -> Head:
    n, size = vectors.shape
    options = len(start.bias)
    cut = size * options
    target = np.eye(options)[labels]
    # Measured by how curved the loss is along it, no direction is much longer than another.
    units = ((vectors**2).mean(0) / options + penalty) ** -0.5

    def loss(point: Floats) -> tuple[float, Floats]:
        weights = point[:cut].reshape(size, options) * units[:, None]
        logs = log_softmax(vectors @ weights + point[cut:])
        error = (np.exp(logs) - target) / n
        along = (vectors.T @ error + penalty * weights) * units[:, None]
        slope = np.concatenate([along.ravel(), error.sum(0)])
        value = -float((target * logs).sum()) / n + penalty / 2 * float((weights**2).sum())
        return value, slope

    point = np.concatenate([(start.weights / units[:, None]).ravel(), start.bias])
    point = minimise(loss, point, steps=_STEPS, near=_NEAR)
    return Head(point[:cut].reshape(size, options) * units[:, None], point[cut:])
