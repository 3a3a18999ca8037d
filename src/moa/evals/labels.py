"""Label metrics: how good labels are, and how far their confidence can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from moa.calibration.measures import (
    calibration_error,
    calibration_error_by_chance,
    coverage_at_risk,
    macro_f1,
)
from moa.decisions.arrays import Floats, np
from moa.evals.answers import Answer


class LabelMetrics(BaseModel):
    """How good the labels of a design are. A case without an answer counts as wrong."""

    model_config = ConfigDict(frozen=True)

    accuracy: float
    macro_f1: float
    """Mean over the labels that are right, or given, at least once."""
    ece: float | None
    """Expected calibration error, in 10 bins; `None`, as the four below, without confidences."""
    ece_by_chance: float | None
    """What perfectly calibrated confidences would show on so few cases; see `Measured`."""
    brier: float | None
    """Mean squared distance of the probabilities from the right answer, 0 to 2 (Brier 1950)."""
    coverage_at_risk: float | None
    """Largest share of these cases, in the order of `ranked`, among which at most `risk` are wrong.
    What was seen here, and no promise: a promise takes `moa calibrate`."""
    risk: float
    """The risk of `coverage_at_risk`."""
    coverage: float | None
    """Share that the design accepts; `None`, as the next, where it doesn't say."""
    accepted_error: float | None
    """Share of wrong ones among the accepted; `None` where none is."""


def label_metrics(
    answers: Sequence[Answer], expected: Sequence[str], *, risk: float
) -> LabelMetrics:
    """Measure the labels of a design against the right ones.

    Args:
        answers: One for each case.
        expected: The right label of each case.
        risk: At which coverage is asked for.
    """
    names = sorted({*expected, *(a.text for a in answers if a.text is not None)})
    place = {name: number for number, name in enumerate(names)}
    labels = np.array([place[name] for name in expected])
    given = np.array([len(names) if a.text is None else place[a.text] for a in answers])
    correct = given == labels
    says = [a.accepted for a in answers if a.accepted is not None]
    taken = np.array([a.accepted is True for a in answers])
    sure, ranks = confidences(answers), ranked(answers)
    return LabelMetrics(
        accuracy=float(correct.mean()),
        macro_f1=macro_f1(given, labels),
        ece=None if sure is None else calibration_error(sure, correct),
        ece_by_chance=None if sure is None else calibration_error_by_chance(sure),
        brier=_brier(answers, expected),
        coverage_at_risk=None if ranks is None else coverage_at_risk(ranks, correct, risk),
        risk=risk,
        coverage=float(taken.mean()) if says else None,
        accepted_error=float((~correct)[taken].mean()) if taken.any() else None,
    )


def confidences(answers: Sequence[Answer]) -> Floats | None:
    """Give the confidences, 0 for a case without an answer; `None` where an answer has none."""
    if any(a.text is not None and a.confidence is None for a in answers):
        return None
    return np.array([a.confidence or 0.0 for a in answers])


def ranked(answers: Sequence[Answer]) -> Floats | None:
    """Give numbers that order the answers: what a design accepts first, then the surest first.

    What a calibration does not accept has the confidence of another fit, so the two can't be
    compared. `None` where an answer has no confidence.
    """
    sure = confidences(answers)
    return None if sure is None else sure + np.array([a.accepted is True for a in answers])


def _brier(answers: Sequence[Answer], expected: Sequence[str]) -> float | None:
    answered = [
        (a.probabilities, label)
        for a, label in zip(answers, expected, strict=True)
        if a.text is not None
    ]
    if not answered or any(not given for given, _ in answered):
        return None
    distances = [
        sum(p * p for name, p in given.items() if name != label)
        + (1.0 - given.get(label, 0.0)) ** 2
        for given, label in answered
    ]
    return sum(distances) / len(distances)
