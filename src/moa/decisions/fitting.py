"""Fitting: corrections from the log-probabilities that a model gives to texts.

A reading is an array of log-probabilities, one row a text and one column an option. Readings of
the same texts in several views are stacked: texts, views, options.
"""

from __future__ import annotations

from dataclasses import dataclass

from moa.decisions.arrays import Floats, Ints, log_softmax, np
from moa.decisions.minimising import minimise

_BLIND = 4.0
_WEIGHT_SD = 0.5
_BIAS_SD = 1.0
_FOLDS = 8


@dataclass(frozen=True, slots=True)
class Fit:
    """`softmax(sum of weight * reading + bias)`."""

    weights: Floats
    bias: Floats

    def __call__(self, readings: Floats) -> Floats:
        """Probabilities of stacked readings."""
        return np.exp(self.logs(readings))

    def logs(self, readings: Floats) -> Floats:
        """Log-probabilities of stacked readings."""
        return log_softmax(_weighted(readings, self.weights) + self.bias)


def centred_mean(reading: Floats) -> Floats:
    """The lean: how far an option is above the others on the mean."""
    mean: Floats = reading.mean(0)
    return mean - mean.mean()


def shrunk_mean(reading: Floats) -> Floats:
    """How much of the lean on unlabelled texts is taken for bias: all but one part in `options`.

    Of two labels, one may really be rarer, so half of the lean stays; among many labels a lean is
    the model's.
    """
    return (1 - 1 / reading.shape[1]) * centred_mean(reading)


def is_blind(reading: Floats) -> bool:
    """Whether texts make no difference: the lean is over four standard deviations of them."""
    spread = float(reading.std(0).max())
    return spread > 0 and float(np.abs(centred_mean(reading)).max()) > _BLIND * spread


def agreement(readings: Floats) -> float:
    """Mean correlation of what the views read, beyond their leans; at least 0."""
    views = readings.shape[1]
    fair = (readings - readings.mean(0)).swapaxes(0, 1).reshape(views, -1)
    spread = np.sqrt((fair**2).sum(1))
    if views < 2 or not spread.all():
        return 0.0
    alike = (fair @ fair.T) / np.outer(spread, spread)
    return max(0.0, float(alike[np.triu_indices(views, 1)].mean()))


def class_prior(labels: Ints, options: int) -> Floats:
    """How frequent each option is, by the labels and half as many more of each as options.

    The more options there are, the less a few labels tell of how frequent each is.
    """
    counts = np.bincount(labels, minlength=options) + options / 2
    return counts / counts.sum()


def matching_bias(readings: Floats, weights: Floats, prior: Floats) -> Floats:
    """Find the bias with which unlabelled texts get each option as often as the prior says."""
    scores = _weighted(readings, weights)
    bias = np.log(prior)
    for _ in range(200):
        bias = bias + np.log(prior) - np.log(np.exp(log_softmax(scores + bias)).mean(0))
        bias = bias - bias.mean()
    return bias


def fit(
    readings: Floats, labels: Ints, *, weights: Floats, bias: Floats, bias_sd: float = _BIAS_SD
) -> Fit:
    """Find the most probable weights and bias, given labels and a Gaussian prior around a start.

    Args:
        readings: Texts, views, options.
        labels: Index of the right option of each text.
        weights: Start and mean of the prior; its standard deviation is 0.5.
        bias: Start and mean of the prior.
        bias_sd: Standard deviation of that prior.
    """
    n, views, options = readings.shape
    start = np.concatenate([weights, bias])
    precision = np.concatenate([np.full(views, _WEIGHT_SD**-2), np.full(options, bias_sd**-2)])
    target = np.eye(options)[labels]

    def loss(point: Floats) -> tuple[float, Floats]:
        logs = Fit(point[:views], point[views:]).logs(readings)
        error = np.exp(logs) - target
        slope = np.concatenate([np.einsum("tvo,to->v", readings, error), error.sum(0)])
        away = point - start
        value = float((precision * away**2).sum()) / 2 - float((target * logs).sum())
        return value / n, (slope + precision * away) / n

    point = minimise(loss, start)
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


def _weighted(readings: Floats, weights: Floats) -> Floats:
    return np.einsum("v,tvo->to", weights, readings)
