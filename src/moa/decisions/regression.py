"""Regression: logistic regressions of labels on readings of texts, with cross-validation.

Stacked log-probabilities have the shape texts, readings, options. A reading's mean over unlabelled
texts is its bias.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from moa.core._blas import one_blas_thread
from moa.core.errors import require_package
from moa.decisions.arrays import Bools, Floats, Ints, log_loss, log_softmax, np
from moa.decisions.heads import Blend, Head

PENALTIES = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
"""L2 penalties of a head, tried in order until the held-out loss rises; for vectors with a mean
distance of 1 from their centre."""
_WORSE = 1.01
_BLIND = 4.0
_WEIGHT_SD = 0.5
_BIAS_SD = 1.0


def folds(cases: Sequence[str], labels: Ints, parts: int, *, seed: int = 0) -> Ints:
    """Deal texts out to folds, with about equal numbers of every label.

    Texts of one case are in one fold.
    """
    first: dict[str, int] = {}
    for case, label in zip(cases, labels.tolist(), strict=True):
        first.setdefault(case, label)
    dealer = random.Random(seed)
    order: list[str] = []
    for label in sorted(set(first.values())):
        mixed = [case for case, case_label in first.items() if case_label == label]
        dealer.shuffle(mixed)
        order += mixed
    part = {case: dealt % parts for dealt, case in enumerate(order)}
    return np.array([part[case] for case in cases], dtype=np.intp)


def split(cases: Sequence[str], share: float, *, seed: int = 0) -> Bools:
    """Return which texts are held out: a random `share` of the cases.

    Labels are ignored, as the proofs of bounds require.
    """
    unique_cases = sorted(set(cases))
    held_out = set(random.Random(seed).sample(unique_cases, round(share * len(unique_cases))))
    return np.array([case in held_out for case in cases], bool)


def cross_validate(folds: Ints, predict: Callable[[Bools], Floats]) -> Floats:
    """Predict each fold by `predict`, which gets the texts to leave out of the fit."""
    outs = [folds == fold for fold in np.unique(folds)]
    fold_values = [predict(out) for out in outs]
    predictions = np.zeros((len(folds), *fold_values[0].shape[1:]))
    for out, values in zip(outs, fold_values, strict=True):
        predictions[out] = values
    return predictions


@dataclass(frozen=True, slots=True)
class FittedHead:
    """A head, with its cross-validated predictions."""

    head: Head
    held_out: Floats
    """Log-probabilities of each vector by a fit without it: vectors, options."""
    penalty: float


def fit_head(
    vectors: Floats,
    labels: Ints,
    options: int,
    folds: Ints,
    *,
    penalties: Sequence[float] = PENALTIES,
    labelled: tuple[Floats, Ints] | None = None,
) -> FittedHead:
    """Fit a head by multinomial logistic regression, with the penalty of lowest held-out log loss.

    Penalties are tried in order, strong ones first. `labelled` are further vectors with the index
    of the right option, which are fitted to but never measured on.
    """
    extra, extra_labels = labelled or (vectors[:0], labels[:0])
    everything = np.concatenate([vectors, extra])
    centre = everything.mean(0)
    scale = float(np.linalg.norm(everything - centre, axis=1).mean()) or 1.0
    # Fit in the directions in which the vectors differ: there are never more than vectors.
    _, sizes, basis = np.linalg.svd((everything - centre) / scale, full_matrices=False)
    basis = basis[sizes > 1e-6 * max(1.0, sizes[0])].T / scale
    inside, extra = (vectors - centre) @ basis, (extra - centre) @ basis
    ends: dict[int, Head] = {}

    def fit_rows(rows: Bools, penalty: float) -> Head:
        """Fit to all rows, or all but one fold, starting from the fit at the last penalty."""
        fold = int(folds[~rows][0]) if not rows.all() else -1
        fit_labels = np.concatenate([labels[rows], extra_labels])
        prior = np.log(class_prior(labels[rows], options))
        start = ends.get(fold, Head(np.zeros((inside.shape[1], options)), prior))
        ends[fold] = _fit(np.concatenate([inside[rows], extra]), fit_labels, start, penalty)
        return ends[fold]

    best: FittedHead | None = None
    lowest = np.inf
    for penalty in penalties:
        held_out = cross_validate(
            folds, lambda out, penalty=penalty: fit_rows(~out, penalty)(inside[out])
        )
        head = fit_rows(np.ones(len(labels), bool), penalty)
        loss = log_loss(held_out, labels)
        if loss < lowest:
            weights = basis @ head.weights
            full_head = Head(weights, head.bias - centre @ weights)
            best, lowest = FittedHead(full_head, held_out, penalty), loss
        elif loss > lowest * _WORSE:  # weaker ones are worse still
            break
    assert best is not None, "there is a penalty"
    return best


def _fit(vectors: Floats, labels: Ints, start: Head, penalty: float) -> Head:
    n, size = vectors.shape
    options = len(start.bias)
    cut = size * options
    target = np.eye(options)[labels]
    # Scaled by the curvature of the loss, no direction is much longer than another.
    units = ((vectors**2).mean(0) / options + penalty)[:, None] ** -0.5

    def loss(point: Floats) -> tuple[float, Floats]:
        weights = point[:cut].reshape(size, options) * units
        logs = log_softmax(vectors @ weights + point[cut:])
        error = (np.exp(logs) - target) / n
        along = (vectors.T @ error + penalty * weights) * units
        slope = np.concatenate([along.ravel(), error.sum(0)])
        value = -float((target * logs).sum()) / n + penalty / 2 * float((weights**2).sum())
        return value, slope

    point = np.concatenate([(start.weights / units).ravel(), start.bias])
    point = _minimise(loss, point, steps=100, tolerance=1e-4)
    return Head(point[:cut].reshape(size, options) * units, point[cut:])


def _minimise(
    loss: Callable[[Floats], tuple[float, Floats]],
    start: Floats,
    *,
    steps: int,
    tolerance: float,
    positive: int = 0,
) -> Floats:
    """Minimise a smooth convex loss with its gradient; keep the first `positive` at least 0."""
    minimize = _load_minimize()
    limits = {"gtol": tolerance, "ftol": 0.0, "maxiter": steps, "maxcor": 12}
    # With many weights, a list without any bound takes as long as some steps.
    all_bounds = [(0.0, None)] * positive + [(None, None)] * (len(start) - positive)
    bounds = all_bounds if positive else None
    with one_blas_thread():
        return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=limits).x


class _Minimum(Protocol):
    x: Floats


class _Minimize(Protocol):
    """SciPy's `minimize`, which has no types."""

    def __call__(
        self,
        loss: Callable[[Floats], tuple[float, Floats]],
        start: Floats,
        /,
        *,
        jac: bool,
        method: str,
        bounds: Sequence[tuple[float | None, float | None]] | None,
        options: Mapping[str, float],
    ) -> _Minimum: ...


def check_installed() -> None:
    """Check that SciPy is installed.

    Raises:
        MissingDependency: it isn't.
    """
    _load_minimize()


def _load_minimize() -> _Minimize:
    with require_package("scipy", extra="calibration", purpose="to fit to labelled texts"):
        return import_module("scipy.optimize").minimize


def fit_blend(
    readings: Floats,
    labels: Ints,
    *,
    weights: Floats,
    bias: Floats,
    bias_sd: float = _BIAS_SD,
    positive: bool = False,
) -> Blend:
    """Find the most probable weights and bias, given labels and a Gaussian prior around a start.

    Readings are log-probabilities: texts, readings, options. The prior's standard deviation is 0.5
    for the weights and `bias_sd` for the bias. With `positive` weights are at least 0: in
    cross-validation on few labels, an uninformative reading may seem to say the opposite.
    """
    n, sources, options = readings.shape
    start = np.concatenate([weights, bias])
    precision = np.concatenate([np.full(sources, _WEIGHT_SD**-2), np.full(options, bias_sd**-2)])
    target = np.eye(options)[labels]

    def loss(point: Floats) -> tuple[float, Floats]:
        logs = Blend.of(point[:sources], point[sources:]).logs(readings)
        error = np.exp(logs) - target
        slope = np.concatenate([np.einsum("tvo,to->v", readings, error), error.sum(0)])
        away = point - start
        value = float((precision * away**2).sum()) / 2 - float((target * logs).sum())
        return value / n, (slope + precision * away) / n

    point = _minimise(loss, start, steps=200, tolerance=1e-5, positive=sources if positive else 0)
    return Blend.of(point[:sources], point[sources:])


def centred_mean(reading: Floats) -> Floats:
    """Return the bias of a reading: the mean of each option relative to the others."""
    mean: Floats = reading.mean(0)
    return mean - mean.mean()


def shrunk_mean(reading: Floats) -> Floats:
    """Return the part of the mean on unlabelled texts that counts as bias: `1 - 1 / options`.

    One of two labels may really be rarer, so only half counts; with many labels, nearly all does.
    """
    return (1 - 1 / reading.shape[1]) * centred_mean(reading)


def is_blind(reading: Floats) -> bool:
    """Return True if texts make no difference: the bias exceeds four standard deviations."""
    spread = float(reading.std(0).max())
    return spread > 0 and float(np.abs(centred_mean(reading)).max()) > _BLIND * spread


def agreement(readings: Floats) -> float:
    """Return the mean correlation of stacked readings without their biases; at least 0."""
    sources = readings.shape[1]
    fair = (readings - readings.mean(0)).swapaxes(0, 1).reshape(sources, -1)
    if sources < 2 or not (fair**2).sum(1).all():
        return 0.0
    sizes = np.sqrt((fair**2).sum(1))
    alike = (fair @ fair.T) / np.outer(sizes, sizes)
    return max(0.0, float(alike[np.triu_indices(sources, 1)].mean()))


def class_prior(labels: Ints, options: int) -> Floats:
    """Return the option frequencies, smoothed by `options / 2` further labels of each.

    The more options there are, the less a few labels say about frequencies.
    """
    counts = np.bincount(labels, minlength=options) + options / 2
    return counts / counts.sum()


def matching_bias(readings: Floats, weights: Floats, prior: Floats) -> Floats:
    """Find the bias that makes unlabelled texts get each option as often as the prior."""
    scores: Floats = np.einsum("v,tvo->to", weights, readings)
    bias = np.log(prior)
    for _ in range(200):
        bias = bias + np.log(prior) - np.log(np.exp(log_softmax(scores + bias)).mean(0))
        bias = bias - bias.mean()
    return bias
