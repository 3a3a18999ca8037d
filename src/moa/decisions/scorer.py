"""Scorer: computes probabilities from the features of a text, and the confidence in them.

A `Blend` combines the features: a head on each vector, then one weight for each feature and one
bias for each option, which accounts for the class frequencies. For a single feature that is a
temperature and a bias; for several it is stacking on held-out log-probabilities (Wolpert 1992,
"Stacked generalization", Neural Networks 5). `moa.learning.search` fits it.

Acceptance uses the confidence, and other signs that cost no extra call: the label mass, the
disagreement of the features (including two orders of the options), and the probability of "none of
these".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from moa.core.errors import CapabilityError
from moa.core.questions import NONE_OF_THESE, Answer
from moa.decisions.arrays import Floats, Ints, log_softmax, logit, np
from moa.decisions.bounds import Outcome
from moa.decisions.features import Feature, LabelFeature, TextReading
from moa.decisions.file import Calibration, Uncertainty
from moa.decisions.heads import Blend

MASS, DISAGREEMENT, NONE = "label mass", "disagreement", "none of these"
_LEAST_MASS = 1e-3
"""Smaller label masses count as this one."""


def average_blend(parts: int, options: int) -> Blend:
    """Average features that give probabilities, without any label."""
    return Blend.of(np.full(parts, 1.0 / parts), np.zeros(options))


def predict_right(uncertainty: Uncertainty, p: Floats, signs: Mapping[str, Floats]) -> Floats:
    """Return the probability that each decision is right."""
    columns = sign_columns(p, signs, uncertainty.signs)
    columns[:, 1:] = (columns[:, 1:] - np.array(uncertainty.means)) / np.array(uncertainty.spreads)
    return 1 / (1 + np.exp(-(columns @ np.array(uncertainty.weights) + uncertainty.constant)))


def sign_columns(p: Floats, signs: Mapping[str, Floats], names: Sequence[str]) -> Floats:
    """Return what the chance to be right is computed from: log-odds of the best option, signs."""
    return np.stack([logit(p.max(1)), *(signs[name] for name in names)], 1)


class Judgements(NamedTuple):
    """The decisions of a fit on some texts."""

    probabilities: Floats
    """Texts, options."""
    sure: Floats
    """Compared with the threshold; the highest probability unless signs are used."""
    mass: Floats | None = None
    """Label mass, as the geometric mean of the features that read labels; `None` without any."""

    @classmethod
    def from_signs(cls, p: Floats, confidences: Floats, signs: Mapping[str, Floats]) -> Self:
        """Build it from probabilities, confidences and signs."""
        return cls(p, confidences, np.exp(signs[MASS]) if MASS in signs else None)

    def outcomes(
        self, labels: Ints, names: Sequence[str], cases: Sequence[str | None]
    ) -> list[Outcome]:
        """Compare the decisions with the right options, given by index."""
        guesses = self.probabilities.argmax(1)
        decisions = zip(
            map(int, guesses), map(int, labels), map(float, self.sure), cases, strict=True
        )
        return [
            Outcome(
                confidence=min(1.0, confidence),
                correct=index == right,
                label=names[index],
                case=case,
            )
            for index, right, confidence, case in decisions
        ]


def judge_readings(calibration: Calibration, readings: Sequence[Floats]) -> Judgements:
    """Apply the accepting fit, or the only one, and signs of uncertainty if there are any.

    Without a fit there is one feature, whose probabilities are used unchanged.
    """
    fit, uncertainty = calibration.accepting or calibration.full, calibration.uncertainty
    average = average_blend(len(readings), readings[0].shape[1])
    scorer = average if fit is None else fit.blend
    logs = scorer.stack(readings)
    p = np.exp(scorer.logs(logs))
    signs = signs_of(logs, p, calibration.features, calibration.labels)
    return Judgements.from_signs(
        p, p.max(1) if uncertainty is None else predict_right(uncertainty, p, signs), signs
    )


def signs_of(
    logs: Floats, p: Floats, features: Sequence[Feature], labels: Sequence[str]
) -> dict[str, Floats]:
    """Compute all available signs from probabilities and the `logs` behind them, by name.

    The shape of `logs` is texts, features, options; the probabilities of a feature that reads
    labels sum to the label mass.
    """
    signs: dict[str, Floats] = {}
    indices = [index for index, feature in enumerate(features) if isinstance(feature, LabelFeature)]
    if indices:
        signs[MASS] = np.log(np.exp(logs[:, indices]).sum(2)).mean(1)
    if len(features) > 1:
        agreement = np.exp(log_softmax(logs))[np.arange(len(p)), :, p.argmax(1)]
        signs[DISAGREEMENT] = 1 - agreement.mean(1)
    if NONE_OF_THESE in labels:
        signs[NONE] = p[:, labels.index(NONE_OF_THESE)]
    return signs


def logs_of(answer: Answer) -> Floats:
    """Return log-probabilities of the options; their probabilities sum to the label mass.

    Raises:
        CapabilityError: the label was written, so there are none.
    """
    n = len(answer.question.options)
    if answer.source == "text":
        raise CapabilityError(
            f"the answer to {answer.question.name!r} was written, so there are no probabilities "
            "to calibrate"
        )
    if answer.probabilities is None:  # refused: all options are equally unlikely
        return np.full(n, np.log(_LEAST_MASS / n))
    mass = 1.0 if answer.label_mass is None else max(answer.label_mass, _LEAST_MASS)
    return np.log(np.maximum(np.array(answer.probabilities), 1e-45)) + np.log(mass)


def values_of(feature: Feature, read: TextReading, text: str) -> Floats:
    """Convert a feature's reading of a text to numbers.

    Prompt variants are averaged, except those that show the text itself, if there are others.
    """
    if not isinstance(feature, LabelFeature):
        return np.array(read.vector)
    shows_text = [
        any(example.text == text for example in variant) for variant in feature.prompt_variants
    ]
    logs = [logs_of(answer) for answer in read.answers]
    fair = [values for values, is_shown in zip(logs, shows_text, strict=True) if not is_shown]
    mean: Floats = np.mean(fair or logs, 0)
    return mean[::-1] if feature.turned else mean
