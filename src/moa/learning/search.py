"""Search: chooses the features of a scorer, their weights and the signs, by cross-validation.

Signs are kept if they improve the separation of right and wrong decisions; see
`moa.decisions.scorer`, which applies what is found here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Self

from moa.decisions.arrays import (
    Bools,
    Floats,
    Ints,
    calibration_error,
    calibration_error_by_chance,
    coverage_at_risk,
    log_loss,
    macro_f1,
    np,
)
from moa.decisions.features import ENCODER, Feature, LabelFeature, WordsFeature
from moa.decisions.file import Candidate, Measures, Uncertainty
from moa.decisions.heads import Blend, Head
from moa.decisions.regression import class_prior, cross_validate, fit_blend, matching_bias
from moa.decisions.scorer import average_blend, predict_right, sign_columns
from moa.learning.reader import FeatureReading

_HEADS_BIAS_SD = 0.1
_CHANCE = 0.3
"""Reduction of the log loss, times the number of labels, attributed to chance."""
_GAIN, _GAIN_BY_SIGNS = 0.002, 0.005
"""Minimum reduction of the log loss to add a feature, and to keep signs."""
_FEW = 16
"""Number of labels at which a fitted head gets the weight of an unfitted feature."""
_ENDS = 1e-6
"""Smaller differences count as none."""


def measure(probabilities: Floats, labels: Ints) -> Measures:
    """Compare probabilities (texts, options) with the index of each text's right option."""
    guesses, confidences = probabilities.argmax(1), probabilities.max(1)
    return Measures(
        accuracy=float((guesses == labels).mean()),
        macro_f1=macro_f1(guesses, labels),
        ece=calibration_error(confidences, guesses == labels),
        ece_by_chance=calibration_error_by_chance(confidences),
    )


@dataclass(frozen=True, slots=True, eq=False)
class FittedFeature:
    """A feature, fitted to some labels if it has a head."""

    reading: FeatureReading
    logs: Floats
    """Log-probabilities of each text by a fit without its own label: texts, options."""
    head: Head | None = None
    penalty: float | None = None


def stack_logs(parts: Sequence[FittedFeature]) -> Floats:
    """Stack the log-probabilities of features: texts, features, options."""
    return np.stack([part.logs for part in parts], 1)


def blend_parts(parts: Sequence[FittedFeature], labels: Ints) -> Blend:
    """Find the most probable weights and bias, given labels and a prior around a plain average."""
    blend = _fit_parts(parts, stack_logs(parts), labels)
    return Blend(tuple(part.head for part in parts), blend.weights, blend.bias)


def predict_held_out(parts: Sequence[FittedFeature], labels: Ints, folds: Ints) -> Floats:
    """Return probabilities of each text by weights and a bias fitted to other folds."""
    logs = stack_logs(parts)

    def predict(out: Bools) -> Floats:
        return np.exp(_fit_parts(parts, logs[~out], labels[~out]).logs(logs[out]))

    return cross_validate(folds, predict)


def _fit_parts(parts: Sequence[FittedFeature], logs: Floats, labels: Ints) -> Blend:
    """Fit the blend around a plain average.

    Heads already account for the option frequencies, and the words of a question favour no option.
    A head fitted to few labels counts for less than an unfitted feature.
    """
    heads = np.array([part.head is not None for part in parts])
    if any(isinstance(part.reading.feature, LabelFeature) for part in parts):
        return fit_around_average(logs, labels, heads)
    weights = _discount_heads(average_blend(*logs.shape[1:]).weights, heads, len(labels))
    bias, sd = np.zeros(logs.shape[2]), _HEADS_BIAS_SD if heads.all() else 1.0
    return fit_blend(logs, labels, weights=weights, bias=bias, bias_sd=sd, positive=True)


def fit_around_average(logs: Floats, labels: Ints, heads: Bools | None = None) -> Blend:
    """Fit one weight for each feature and one bias for each option, around a plain average."""
    features, options = logs.shape[1:]
    weights = average_blend(features, options).weights
    weights = weights if heads is None else _discount_heads(weights, heads, len(labels))
    bias = matching_bias(logs, weights, class_prior(labels, options))
    return fit_blend(logs, labels, weights=weights, bias=bias, positive=True)


def _discount_heads(weights: Floats, heads: Bools, labels: int) -> Floats:
    """Shift weight from heads fitted to few labels to unfitted features."""
    trust = min(1.0, 2 * labels / (labels + _FEW))
    if heads.all():
        return weights * trust
    shifted_weights = weights * np.where(heads, trust, 2 - trust if heads.any() else 1.0)
    return shifted_weights / shifted_weights.sum()


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """A candidate, with its features."""

    candidate: Candidate
    parts: tuple[FittedFeature, ...]
    probabilities: Floats
    """Probabilities of each text, by fits without its label."""

    @property
    def features(self) -> tuple[Feature, ...]:
        """The features of its parts."""
        return tuple(part.reading.feature for part in self.parts)

    @classmethod
    def of(
        cls,
        parts: Sequence[FittedFeature],
        probabilities: Floats,
        labels: Ints,
        *,
        risk: float,
        latency_penalty: float,
    ) -> Self:
        """Measure some features together; the penalty is per second of a decision."""
        readings = [part.reading for part in parts]
        loss = log_loss(np.log(np.maximum(probabilities, 1e-12)), labels)
        right = probabilities.argmax(1) == labels
        seconds = sum(reading.seconds for reading in readings)
        costs = [reading.cost for reading in readings if reading.cost is not None]
        candidate = Candidate(
            **measure(probabilities, labels).model_dump(),
            name=" + ".join(reading.feature.name for reading in readings),
            log_loss=loss,
            coverage=coverage_at_risk(probabilities.max(1), right, risk),
            seconds=seconds,
            tokens=sum(reading.tokens for reading in readings),
            cost=float(sum(costs)) if len(costs) == len(readings) else None,
            utility=-loss - latency_penalty * seconds,
        )
        return cls(candidate, tuple(parts), probabilities)


def search_features(
    parts: Sequence[FittedFeature],
    labels: Ints,
    folds: Ints,
    *,
    risk: float,
    latency_penalty: float,
) -> list[FeatureSet]:
    """Try each feature alone, then add the one that lowers the log loss most, step by step."""

    def measure_set(*members: FittedFeature) -> FeatureSet:
        p = predict_held_out(members, labels, folds)
        return FeatureSet.of(members, p, labels, risk=risk, latency_penalty=latency_penalty)

    def loss(feature_set: FeatureSet) -> float:
        return feature_set.candidate.log_loss

    # The options in the opposite order are the same feature once more, beside it. A head
    # and the words of the question read one vector, and go together: of few labels each is unsure,
    # but for the words of a choice with examples, which are tried alone too.
    encoder_parts = tuple(part for part in parts if part.reading.feature.source == ENCODER)
    other_parts = [part for part in parts if part not in encoder_parts or reads_examples(part)]
    single_parts = [
        part for part in other_parts if not getattr(part.reading.feature, "turned", False)
    ]
    starts = [*([encoder_parts] if encoder_parts else []), *((part,) for part in single_parts)]
    feature_sets = [measure_set(*start) for start in starts]
    best, chance = min(feature_sets, key=loss), max(_GAIN, _CHANCE / len(labels))
    while unused_parts := [part for part in parts if part not in best.parts]:
        next_sets = [
            measure_set(*(p for p in parts if p in (*best.parts, added))) for added in unused_parts
        ]
        better = min(next_sets, key=loss)
        if loss(better) > loss(best) - chance:
            break
        feature_sets.append(better)
        best = better
    return feature_sets


def reads_examples(part: FittedFeature) -> bool:
    """Return True if a part learns from examples without a fitted head."""
    return isinstance(part.reading.feature, WordsFeature) and bool(part.reading.feature.examples)


def choose_features(
    sets: Sequence[FeatureSet], *, latency_penalty: float
) -> tuple[FeatureSet, str]:
    """Choose the candidate with the highest utility, and explain why."""
    best = max(sets, key=lambda feature_set: feature_set.candidate.utility)
    lowest_loss = min(sets, key=lambda feature_set: feature_set.candidate.log_loss)
    choice, rival = best.candidate, lowest_loss.candidate
    if best is lowest_loss:
        return best, (
            f"{choice.name}: the best by cross-validation ({_format_figures(choice)}), and worth "
            f"its {_format_time(choice.seconds)} a decision at a penalty of {latency_penalty:g} a "
            "second"
        )
    return best, (
        f"{choice.name} ({_format_figures(choice)}): {rival.name} is better "
        f"({_format_figures(rival)}), but takes {_format_time(rival.seconds)} a decision instead "
        f"of {_format_time(choice.seconds)}; at a penalty of {latency_penalty:g} a second that is "
        "the worse bargain"
    )


def _format_figures(candidate: Candidate) -> str:
    return (
        f"log loss {candidate.log_loss:.3f}, {candidate.accuracy:.3f} right, "
        f"{candidate.coverage:.0%} acceptable"
    )


def _format_time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def fit_uncertainty(
    p: Floats, signs: Mapping[str, Floats], names: Sequence[str], right: Ints
) -> Uncertainty:
    """Fit the regression to decisions, labelled 1 if right and 0 if wrong."""
    columns = sign_columns(p, signs, names)
    means, spreads = columns[:, 1:].mean(0), columns[:, 1:].std(0)
    spreads = np.where(spreads > _ENDS, spreads, 1.0)
    columns[:, 1:] = (columns[:, 1:] - means) / spreads
    readings = np.stack([np.zeros_like(columns), columns], 2)
    start = np.array([1.0] + [0.0] * len(names))
    blend = fit_blend(readings, right, weights=start, bias=np.zeros(2))
    return Uncertainty(
        signs=tuple(names),
        means=tuple(means.tolist()),
        spreads=tuple(spreads.tolist()),
        weights=tuple(blend.weights.tolist()),
        constant=float(blend.bias[1] - blend.bias[0]),
    )


def choose_signs(
    p: Floats, signs: Mapping[str, Floats], labels: Ints, folds: Ints
) -> tuple[Uncertainty | None, Floats]:
    """Choose the signs that separate right and wrong decisions best, by cross-validation.

    Returns:
        What was fitted to all, and how sure each decision is by a fit without it; `None`, and the
        confidences, if no sign helps, or all decisions are right.
    """
    right = (p.argmax(1) == labels).astype(np.intp)
    moving = [name for name, values in signs.items() if float(values.std()) > _ENDS]
    if not moving or len(set(right.tolist())) < 2:
        return None, p.max(1)

    def predict_by(names: Sequence[str]) -> Floats:
        def predict(out: Bools) -> Floats:
            fit_signs = {name: values[~out] for name, values in signs.items()}
            uncertainty = fit_uncertainty(p[~out], fit_signs, names, right[~out])
            return predict_right(
                uncertainty, p[out], {name: values[out] for name, values in signs.items()}
            )

        return cross_validate(folds, predict)

    def loss(p_right: Floats) -> float:
        return log_loss(
            np.log(np.clip(np.stack([1 - p_right, p_right], 1), _ENDS, 1 - _ENDS)), right
        )

    base_loss = loss(predict_by(()))
    sizes = range(1, len(moving) + 1)
    confidences = {
        names: predict_by(names) for size in sizes for names in combinations(moving, size)
    }
    best = min(confidences, key=lambda names: loss(confidences[names]))
    best_loss = loss(confidences[best])
    if best_loss > base_loss - _GAIN_BY_SIGNS:
        return None, p.max(1)
    uncertainty = fit_uncertainty(p, signs, best, right)
    losses = {"log_loss": best_loss, "log_loss_without": base_loss}
    return uncertainty.model_copy(update=losses), confidences[best]
