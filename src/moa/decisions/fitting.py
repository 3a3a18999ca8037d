"""Fitting: corrections from the log-probabilities that a model gives to texts.

A reading is an array of log-probabilities, one row a text and one column an option. Readings of
the same texts in several views are stacked: texts, views, options.
"""

from __future__ import annotations

from dataclasses import dataclass

from moa.errors import MissingDependency

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError as error:
    raise MissingDependency(
        "numpy", extra="local", purpose="to fit an agent to its task"
    ) from error

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

_WEIGHT_SD = 0.5
_BIAS_SD = 1.0
_STEPS, _NEAR = 50, 1e-6
_FOLDS = 8


@dataclass(frozen=True, slots=True)
class Fit:
    """`softmax(sum of weight * reading + bias)`."""

    weights: Floats
    bias: Floats

    def __call__(self, readings: Floats) -> Floats:
        """Probabilities of stacked readings."""
        return _softmax(_weighted(readings, self.weights) + self.bias)


def shrunk_mean(reading: Floats) -> Floats:
    """How much of the mean of unlabelled texts is taken for bias: all but one part in `options`.

    Of two labels, one may really be rarer, so half of the lean stays; among many labels a lean is
    the model's.
    """
    options = reading.shape[1]
    mean: Floats = reading.mean(0)
    return (1 - 1 / options) * (mean - mean.mean())


def class_prior(labels: Ints, options: int) -> Floats:
    """How frequent each option is, by the labels and one more of each."""
    counts = np.bincount(labels, minlength=options) + 1.0
    return counts / counts.sum()


def matching_bias(readings: Floats, weights: Floats, prior: Floats) -> Floats:
    """Find the bias with which unlabelled texts get each option as often as the prior says."""
    scores = _weighted(readings, weights)
    bias = np.log(prior)
    for _ in range(200):
        bias = bias + np.log(prior) - np.log(_softmax(scores + bias).mean(0))
        bias = bias - bias.mean()
    return bias


def fit(readings: Floats, labels: Ints, *, weights: Floats, bias: Floats) -> Fit:
    """Find the most probable weights and bias, given labels and a Gaussian prior around a start.

    Newton's method on a convex loss, with steps halved until they lower it.

    Args:
        readings: Texts, views, options.
        labels: Index of the right option of each text.
        weights: Start and mean of the prior; its standard deviation is 0.5.
        bias: Start and mean of the prior; its standard deviation is 1.
    """
    views, options = readings.shape[1:]
    start = np.concatenate([weights, bias])
    precision = np.concatenate([np.full(views, _WEIGHT_SD**-2), np.full(options, _BIAS_SD**-2)])
    target = np.eye(options)[labels]

    def loss(point: Floats) -> float:
        p = Fit(point[:views], point[views:])(readings)
        likely = np.log(np.maximum(p[np.arange(len(labels)), labels], 1e-300)).sum()
        return float((precision * (point - start) ** 2).sum() / 2 - likely)

    point = start.copy()
    for _ in range(_STEPS):
        p = Fit(point[:views], point[views:])(readings)
        error = p - target
        slope = np.concatenate([np.einsum("tvo,to->v", readings, error), error.sum(0)])
        slope = slope + precision * (point - start)
        step = np.linalg.solve(_curvature(readings, p) + np.diag(precision), slope)
        here = loss(point)
        while loss(point - step) > here and np.abs(step).max() > _NEAR:
            step = step / 2
        if np.abs(step).max() <= _NEAR:
            break
        point = point - step
    return Fit(point[:views], point[views:])


def held_out_loss(readings: Floats, labels: Ints, *, weights: Floats, bias: Floats) -> float:
    """Mean log loss of each text under a fit to the others, by eightfold cross-validation."""
    fold = np.zeros(len(labels), int)
    for option in np.unique(labels):
        rows = np.flatnonzero(labels == option)
        fold[rows] = (np.arange(len(rows)) + option) % _FOLDS
    losses: list[float] = []
    for number in np.unique(fold):
        out = fold == number
        found = fit(readings[~out], labels[~out], weights=weights, bias=bias)
        p = found(readings[out])[np.arange(out.sum()), labels[out]]
        losses += [float(loss) for loss in -np.log(np.maximum(p, 1e-6))]
    return float(np.mean(losses))


def _curvature(readings: Floats, p: Floats) -> Floats:
    """Second derivatives of the log loss by weights and bias."""
    spread = np.einsum("to,op->top", p, np.eye(p.shape[1])) - np.einsum("to,tp->top", p, p)
    by_view = np.einsum("top,tvp->tvo", spread, readings)
    weights = np.einsum("tvo,tuo->vu", by_view, readings)
    mixed = by_view.sum(0)
    return np.block([[weights, mixed], [mixed.T, spread.sum(0)]])


def _weighted(readings: Floats, weights: Floats) -> Floats:
    return np.einsum("v,tvo->to", weights, readings)


def _softmax(scores: Floats) -> Floats:
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)
