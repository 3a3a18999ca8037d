"""Measures: how good decisions with known right answers are."""

from __future__ import annotations

from moa.decisions.arrays import Bools, Floats, Ints, np
from moa.node import Frozen

_BINS, _DRAWS = 10, 100


class Measures(Frozen):
    """How good some decisions are."""

    accuracy: float
    macro_f1: float
    """Mean over the options that are right, or given, at least once."""
    ece: float
    """Expected calibration error, in 10 bins of equal width: how far confidence and accuracy are
    apart, on average (Guo et al. 2017, arXiv 1706.04599). Few decisions make it larger than it
    is of many."""
    ece_by_chance: float | None = None
    """What it would be on average, of as many decisions of these confidences, were they perfectly
    calibrated. An `ece` that isn't above it shows no error. `None` in files made without it."""


def measure(probabilities: Floats, labels: Ints) -> Measures:
    """Measure probabilities (texts, options) against the index of each text's right option."""
    given = probabilities.argmax(1)
    return Measures(
        accuracy=float((given == labels).mean()),
        macro_f1=macro_f1(given, labels),
        ece=calibration_error(probabilities.max(1), given == labels),
        ece_by_chance=calibration_error_by_chance(probabilities.max(1)),
    )


def macro_f1(given: Ints, labels: Ints) -> float:
    """Mean of the F1 scores of the options that are right, or given, at least once."""
    scores: list[float] = []
    for option in np.union1d(given, labels):
        both = int(((given == option) & (labels == option)).sum())
        scores.append(2 * both / int((given == option).sum() + (labels == option).sum()))
    return float(np.mean(scores))


def calibration_error(confidences: Floats, correct: Bools) -> float:
    """Mean distance of confidence and accuracy over 10 bins of equal width, weighted by size."""
    bins = np.minimum((confidences * _BINS).astype(int), _BINS - 1)
    return float(np.abs(np.bincount(bins, confidences - correct)).sum()) / len(bins)


def calibration_error_by_chance(confidences: Floats) -> float:
    """Mean calibration error of decisions that are right as often as their confidence says.

    By consistency resampling (Bröcker and Smith 2007, "Increasing the reliability of reliability
    diagrams", Weather and Forecasting 22; Vaicenavicius et al. 2019, arXiv 1902.06977).
    """
    draw = np.random.default_rng(0)
    drawn = (draw.random(len(confidences)) < confidences for _ in range(_DRAWS))
    return float(np.mean([calibration_error(confidences, correct) for correct in drawn]))


def coverage_line(sure: Floats, correct: Bools) -> tuple[Floats, Floats]:
    """Give the share of cases that each confidence accepts, and the share of wrong ones in it.

    Cases of one confidence are accepted together.
    """
    order = np.argsort(-sure, kind="stable")
    ranked = sure[order]
    wrong = np.cumsum(1.0 - correct[order].astype(float))
    counts = np.arange(1, len(order) + 1)
    ends = np.append(ranked[1:] != ranked[:-1], True)
    return counts[ends] / len(order), (wrong / counts)[ends]


def coverage_at_risk(sure: Floats, correct: Bools, risk: float) -> float:
    """Give the largest share of cases, the surest first, with at most `risk` wrong in it."""
    shares, errors = coverage_line(sure, correct)
    held = shares[errors <= risk]
    return float(held.max()) if held.size else 0.0
