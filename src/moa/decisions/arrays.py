"""Arrays: numpy, names for its array types, and figures computed from arrays."""

from __future__ import annotations

from moa.core.errors import MissingDependency

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError as error:
    raise MissingDependency(
        "numpy", extra="local", purpose="to fit an agent to its task"
    ) from error

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]
_BINS, _DRAWS = 10, 100
_FEWEST, _POINTS = 20, 100
_ENDS = 1e-6
_LEAST = 1e-12


def unit(vectors: Floats) -> Floats:
    """Scale vectors to length 1; zeros stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def log_softmax(scores: Floats) -> Floats:
    """Return logarithms of probabilities that sum to 1 along the last axis."""
    shifted = scores - scores.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def logit(p: Floats) -> Floats:
    """Return log-odds of probabilities, clipped to a millionth from 0 and 1."""
    safe = np.clip(p, _ENDS, 1 - _ENDS)
    return np.log(safe / (1 - safe))


def log_loss(logs: Floats, labels: Ints) -> float:
    """Return the mean negative log-probability of the right option, clipped at `_LEAST`."""
    right = logs[np.arange(len(labels)), labels]
    return float(-np.maximum(right, np.log(_LEAST)).mean())


def macro_f1(predicted: Ints, labels: Ints) -> float:
    """Return the mean F1 score of the options that are right, or given, at least once."""
    scores: list[float] = []
    for option in np.union1d(predicted, labels):
        true_positives = int(((predicted == option) & (labels == option)).sum())
        scores.append(
            2 * true_positives / int((predicted == option).sum() + (labels == option).sum())
        )
    return float(np.mean(scores))


def bins_of(confidences: Floats) -> Ints:
    """Return the index of each confidence among 10 bins of equal width."""
    return np.minimum((confidences * _BINS).astype(np.intp), _BINS - 1)


def calibration_error(confidences: Floats, correct: Bools) -> float:
    """Return the mean distance of confidence and accuracy over the bins, weighted by size."""
    gaps = np.bincount(bins_of(confidences), confidences - correct)
    return float(np.abs(gaps).sum()) / len(confidences)


def calibration_error_by_chance(confidences: Floats) -> float:
    """Return the mean calibration error of perfectly calibrated decisions.

    By consistency resampling (Bröcker and Smith 2007, "Increasing the reliability of reliability
    diagrams", Weather and Forecasting 22; Vaicenavicius et al. 2019, arXiv 1902.06977).
    """
    draw = np.random.default_rng(0)
    samples = (draw.random(len(confidences)) < confidences for _ in range(_DRAWS))
    return float(np.mean([calibration_error(confidences, correct) for correct in samples]))


def coverage_line(confidences: Floats, correct: Bools) -> tuple[Floats, Floats]:
    """Return the share of cases that each confidence accepts, and their error rate.

    Cases of one confidence are accepted together.
    """
    order = np.argsort(-confidences, kind="stable")
    ranked = confidences[order]
    wrong = np.cumsum(1.0 - correct[order].astype(float))
    counts = np.arange(1, len(order) + 1)
    ends = np.append(ranked[1:] != ranked[:-1], True)
    return counts[ends] / len(order), (wrong / counts)[ends]


def expected_curve(scores: Floats, correct: Bools) -> tuple[tuple[float, float], ...]:
    """Return rising confidences, each with the share right of the cases at least as sure.

    It ends when fewer than 20 cases are left. One more right and one more wrong case are counted,
    so that a share of few isn't 1.
    """
    shares, errors = coverage_line(scores, correct)
    counts = np.round(shares * len(scores))
    mask = counts >= _FEWEST
    right = ((1 - errors) * counts + 1) / (counts + 2)
    confidences = np.sort(np.unique(scores))[mask[::-1]]
    rising = np.maximum.accumulate(right[mask][::-1])
    step = max(1, len(rising) // _POINTS)
    return tuple(zip(confidences[::step].tolist(), rising[::step].tolist(), strict=True))


def coverage_at_risk(confidences: Floats, correct: Bools, risk: float) -> float:
    """Return the largest share of the surest cases with at most `risk` wrong."""
    shares, errors = coverage_line(confidences, correct)
    coverages = shares[errors <= risk]
    return float(coverages.max()) if coverages.size else 0.0
