"""Metrics of labels and texts, with confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from math import sqrt
from statistics import NormalDist
from types import ModuleType
from typing import NamedTuple

from moa.core._text import words_in
from moa.core.errors import require_package
from moa.core.node import Frozen
from moa.decisions.arrays import (
    Bools,
    Floats,
    calibration_error,
    calibration_error_by_chance,
    coverage_at_risk,
    macro_f1,
    np,
)
from moa.evals.cases import DesignAnswer
from moa.guards.reply_signs import find_final_answer


class Interval(NamedTuple):
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def signed(self) -> str:
        """Formatted as a difference."""
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def stats() -> ModuleType:
    """Import `scipy.stats` on first use."""
    with require_package("scipy", extra="calibration", purpose="to measure"):
        return import_module("scipy.stats")


def mean_of(scores: Sequence[float] | Floats) -> Interval:
    """Return the mean of scores from 0 to 1 of independent cases; without cases, 0 to 1.

    If each is 0 or 1, the interval is Wilson's (1927, JASA 22), which stays within 0 to 1 and has a
    width at 0 and 1 too. Other scores are treated as in `difference`.
    """
    values = np.asarray(scores, float)
    if not values.size:
        return Interval(0.0, 0.0, 1.0)
    if not np.isin(values, (0.0, 1.0)).all():
        return _adjusted_interval(values, (0.0, 1.0))
    test = stats().binomtest(int(values.sum()), len(values))
    low, high = test.proportion_ci(method="wilson")
    return Interval(float(values.mean()), float(low), float(high))


def difference(
    first: Sequence[float] | Floats, second: Sequence[float] | Floats, *, together: int = 1
) -> Interval:
    """Return the mean of the first scores minus the second, on the same cases.

    The interval is the adjusted Wald interval for paired proportions (Bonett and Price 2012,
    Journal of Educational and Behavioral Statistics 37): it adds one case that only the first gets
    right and one that only the second does, so that the interval has a width even if all cases are
    equal. Scores between 0 and 1 are treated the same. No cases give the interval -1 to 1.
    With 95 % confidence, `together` differences all lie in their intervals (Bonferroni).
    """
    differences = np.asarray(first, float) - np.asarray(second, float)
    return _adjusted_interval(differences, (-1.0, 1.0), together)


def _adjusted_interval(values: Floats, ends: tuple[float, float], together: int = 1) -> Interval:
    """Return a Wald interval of the values plus both ends of their range."""
    sample = np.append(values, ends)
    middle = float(sample.mean())
    reach = NormalDist().inv_cdf(1 - 0.025 / together) * float(sample.std()) / sqrt(len(sample))
    value = float(values.mean()) if values.size else middle
    return Interval(value, max(ends[0], middle - reach), min(ends[1], middle + reach))


def mcnemar(first: Sequence[bool] | Bools, second: Sequence[bool] | Bools) -> float:
    """Return the p-value of McNemar's exact test, for both being equally good.

    The arguments state whether the first, and the second, was right on each case.
    """
    first_right, second_right = np.asarray(first, bool), np.asarray(second, bool)
    discordant = int((first_right != second_right).sum())
    return (
        float(stats().binomtest(int((first_right & ~second_right).sum()), discordant).pvalue)
        if discordant
        else 1.0
    )


class LabelMetrics(Frozen):
    """Metrics of a design's labels. A case without an answer counts as wrong."""

    accuracy: float
    macro_f1: float
    """Mean over the labels that are expected or given at least once."""
    ece: float | None
    """Expected calibration error, in 10 bins; `None` without confidences, as are the next four."""
    ece_by_chance: float | None
    """Error that perfectly calibrated confidences would show by chance; see `Measures`."""
    brier: float | None
    """Mean squared distance of the probabilities from the right answer, 0 to 2 (Brier 1950)."""
    coverage_at_risk: float | None
    """Largest share of these cases, by `rank_answers`, with at most `risk` wrong. It is no
    guarantee: that takes `moa learn`."""
    risk: float
    """Risk of `coverage_at_risk`."""
    coverage: float | None
    """Share that the design accepts; `None` if it doesn't say, as is the next."""
    accepted_error: float | None
    """Share of wrong answers among the accepted; `None` if none is accepted."""


def label_metrics(
    answers: Sequence[DesignAnswer], expected: Sequence[str], *, risk: float
) -> LabelMetrics:
    """Measure the labels of a design against the right ones, with coverage at `risk`."""
    names = sorted({*expected, *(a.text for a in answers if a.text is not None)})
    index_by_name = {name: number for number, name in enumerate(names)}
    labels = np.array([index_by_name[name] for name in expected])
    predictions = np.array(
        [len(names) if a.text is None else index_by_name[a.text] for a in answers]
    )
    correct = predictions == labels
    says = any(a.accepted is not None for a in answers)
    is_accepted = np.array([a.accepted is True for a in answers])
    confidence, ranks = confidences(answers), rank_answers(answers)
    return LabelMetrics(
        accuracy=float(correct.mean()),
        macro_f1=macro_f1(predictions, labels),
        ece=None if confidence is None else calibration_error(confidence, correct),
        ece_by_chance=None if confidence is None else calibration_error_by_chance(confidence),
        brier=_brier(answers, expected),
        coverage_at_risk=None if ranks is None else coverage_at_risk(ranks, correct, risk),
        risk=risk,
        coverage=float(is_accepted.mean()) if says else None,
        accepted_error=float((~correct)[is_accepted].mean()) if is_accepted.any() else None,
    )


def confidences(answers: Sequence[DesignAnswer]) -> Floats | None:
    """Return the confidences, 0 for a case without an answer; `None` if an answer has none."""
    if any(a.text is not None and a.confidence is None for a in answers):
        return None
    return np.array([a.confidence or 0.0 for a in answers])


def rank_answers(answers: Sequence[DesignAnswer]) -> Floats | None:
    """Return a rank for each answer: higher if accepted, then by confidence.

    Accepted and other answers have confidences of different fits, which can't be compared. `None`
    if an answer has no confidence.
    """
    confidence = confidences(answers)
    return (
        None if confidence is None else confidence + np.array([a.accepted is True for a in answers])
    )


def _brier(answers: Sequence[DesignAnswer], expected: Sequence[str]) -> float | None:
    answered = [
        (a.probabilities, label)
        for a, label in zip(answers, expected, strict=True)
        if a.text is not None
    ]
    if not answered or any(not probabilities for probabilities, _ in answered):
        return None
    distances = [
        sum(p * p for name, p in probabilities.items() if name != label)
        + (1.0 - probabilities.get(label, 0.0)) ** 2
        for probabilities, label in answered
    ]
    return sum(distances) / len(distances)


def exact_match(reply: str, reference: str) -> float:
    """Return 1 if both have the same words, ignoring case and punctuation."""
    return float(words_in(reply) == words_in(reference))


def numeric_match(reply: str, reference: str) -> float:
    """Return 1 if both have the same final number: the one after a mark, else the last."""
    expected = find_final_answer(reference).number
    return float(expected is not None and find_final_answer(reply).number == expected)


def rouge_l(reply: str, reference: str) -> float:
    """Return the F1 of the longest common subsequence of words (Lin 2004, "ROUGE", ACL workshop).

    Words are compared in lower case and not stemmed.
    """
    reply_words, reference_words = words_in(reply), words_in(reference)
    if not reply_words or not reference_words:
        return float(reply_words == reference_words)
    lengths = [0] * (len(reference_words) + 1)
    for word in reply_words:
        diagonal = 0
        for index, reference_word in enumerate(reference_words, start=1):
            above = lengths[index]
            lengths[index] = (
                diagonal + 1 if word == reference_word else max(above, lengths[index - 1])
            )
            diagonal = above
    return 2 * lengths[-1] / (len(reply_words) + len(reference_words))


TEXT_METRICS: Mapping[str, Callable[[str, str], float]] = {
    "exact": exact_match,
    "numeric": numeric_match,
    "rouge-l": rouge_l,
}
"""Metrics by name on the command line. Each takes a reply and a reference, and returns 0 to 1."""


def metric_for(references: Sequence[str]) -> str:
    """Choose a metric: `rouge-l` if a reference has over 4 words, else `numeric` or `exact`."""
    if any(len(words_in(reference)) > 4 for reference in references):
        return "rouge-l"
    numbers = all(find_final_answer(reference).number is not None for reference in references)
    return "numeric" if numbers else "exact"
