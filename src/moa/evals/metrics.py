"""Metrics of labels and texts, with confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from math import sqrt
from statistics import NormalDist
from types import ModuleType
from typing import NamedTuple

from moa._text import words_in
from moa.calibration.reply_signs import find_final_answer
from moa.decisions.arrays import (
    Bools,
    Floats,
    calibration_error,
    calibration_error_by_chance,
    coverage_at_risk,
    macro_f1,
    np,
)
from moa.errors import require_package
from moa.evals.cases import DesignAnswer
from moa.node import Frozen


class Interval(NamedTuple):
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def signed(self) -> str:
        """Written as a difference."""
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def stats() -> ModuleType:
    """Import `scipy.stats`, at first use."""
    with require_package("scipy", extra="calibration", purpose="to measure"):
        return import_module("scipy.stats")


def mean_of(scores: Sequence[float] | Floats) -> Interval:
    """Return the mean of scores from 0 to 1, of independent cases; none leave every mean possible.

    If each is 0 or 1 the interval is Wilson's (1927, JASA 22), which stays inside 0 to 1 and
    has a width at 0 and 1 too. Scores between are adjusted as in `difference`.
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
    """Return how much better the first is on average than the second, on the same cases.

    The interval is the adjusted Wald interval for paired proportions (Bonett and Price 2012,
    Journal of Educational and Behavioral Statistics 37): one case more that only the first gets
    right and one that only the second does, so that a few cases without a difference leave room
    for one. Scores between 0 and 1 are taken in the same way; none leave every difference possible.
    So many differences `together` all lie in their intervals with 95 % confidence (Bonferroni).
    """
    differences = np.asarray(first, float) - np.asarray(second, float)
    return _adjusted_interval(differences, (-1.0, 1.0), together)


def _adjusted_interval(values: Floats, ends: tuple[float, float], together: int = 1) -> Interval:
    """Take a Wald interval of values and, once more each, of the ends of their range."""
    sample = np.append(values, ends)
    middle = float(sample.mean())
    reach = NormalDist().inv_cdf(1 - 0.025 / together) * float(sample.std()) / sqrt(len(sample))
    value = float(values.mean()) if values.size else middle
    return Interval(value, max(ends[0], middle - reach), min(ends[1], middle + reach))


def mcnemar(first: Sequence[bool] | Bools, second: Sequence[bool] | Bools) -> float:
    """Return the probability of a difference as large if both are as good: McNemar's exact test.

    By whether the first, and the second, was right on each case.
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
    """Mean over the labels that are right, or given, at least once."""
    ece: float | None
    """Expected calibration error, in 10 bins; `None`, as the four below, without confidences."""
    ece_by_chance: float | None
    """The error that perfectly calibrated confidences would show by chance; see `Measures`."""
    brier: float | None
    """Mean squared distance of the probabilities from the right answer, 0 to 2 (Brier 1950)."""
    coverage_at_risk: float | None
    """Largest share of these cases, by `rank_answers`, of which at most `risk` are wrong. It is
    no guarantee: that takes `moa learn`."""
    risk: float
    """The risk of `coverage_at_risk`."""
    coverage: float | None
    """Share that the design accepts; `None`, as the next, if it doesn't say."""
    accepted_error: float | None
    """Share of wrong ones among the accepted; `None` if none is."""


def label_metrics(
    answers: Sequence[DesignAnswer], expected: Sequence[str], *, risk: float
) -> LabelMetrics:
    """Measure the labels of a design against the right ones; coverage is that at `risk`."""
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
    """Return sort keys of the answers: accepted ones first, then the surest first.

    Answers that aren't accepted have confidences of another fit, so the two can't be compared.
    `None` if an answer has no confidence.
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
    """Return 1 if both have the same words, in small letters and without punctuation."""
    return float(words_in(reply) == words_in(reference))


def numeric_match(reply: str, reference: str) -> float:
    """Return 1 if both have the same final number: the one behind a mark, else the last."""
    expected = find_final_answer(reference).number
    return float(expected is not None and find_final_answer(reply).number == expected)


def rouge_l(reply: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, "ROUGE", ACL workshop).

    Words are compared in small letters and not stemmed.
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
"""By the name that the command line knows them by; a reply and a reference in, 0 to 1 out."""


def metric_for(references: Sequence[str]) -> str:
    """Choose a metric by the references: a few words with a number, a few words, or texts."""
    if any(len(words_in(reference)) > 4 for reference in references):
        return "rouge-l"
    numbers = all(find_final_answer(reference).number is not None for reference in references)
    return "numeric" if numbers else "exact"
