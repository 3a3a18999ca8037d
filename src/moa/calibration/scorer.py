"""Scorer: what makes probabilities of the features of a text, and which features are worth it.

From what the features read, a `Blend` makes probabilities: a head on each vector, then one weight
for each feature and one bias for each option, which holds the frequency of the classes. For a
single feature that is a temperature and a bias; for several it is stacking on held-out
log-probabilities (Wolpert 1992, "Stacked generalization", Neural Networks 5). Features are chosen
by cross-validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moa.calibration.features import Reading
from moa.calibration.measures import Measures, coverage_at_risk, measure
from moa.decisions.arrays import Bools, Floats, Ints, np
from moa.decisions.heads import Blend, Head
from moa.decisions.regression import (
    class_prior,
    cross_validated,
    fit_blend,
    log_loss,
    matching_bias,
)

_HEADS_BIAS_SD = 0.1
_GAIN = 0.002
"""Least fall of the log loss for which a feature is added."""


@dataclass(frozen=True, slots=True)
class Part:
    """A feature, as far as it was fitted to some labels."""

    head: Head | None
    logs: Floats
    """Log-probabilities of each text, by a fit without its own label: texts, options."""
    penalty: float | None = None


def blend(parts: Sequence[Part], labels: Ints) -> Blend:
    """Find the most probable weights and bias, given labels and a prior around a plain average."""
    found = _blended(parts, np.stack([part.logs for part in parts], 1), labels)
    return Blend(tuple(part.head for part in parts), found.weights, found.bias)


def plain(parts: int, options: int) -> Blend:
    """Average features that read probabilities, without any label."""
    return Blend.of(np.full(parts, 1.0 / parts), np.zeros(options))


def held_out(parts: Sequence[Part], labels: Ints, folds: Ints) -> Floats:
    """Probabilities of each text under weights and a bias that were fitted to other folds."""
    logs = np.stack([part.logs for part in parts], 1)

    def predict(out: Bools) -> Floats:
        return np.exp(_blended(parts, logs[~out], labels[~out]).logs(logs[out]))

    return cross_validated(folds, predict)


def _blended(parts: Sequence[Part], logs: Floats, labels: Ints) -> Blend:
    """Fit the blend; heads have found the frequency of each option already."""
    if any(part.head is None for part in parts):
        return around_average(logs, labels)
    even = plain(*logs.shape[1:])
    return fit_blend(logs, labels, weights=even.weights, bias=even.bias, bias_sd=_HEADS_BIAS_SD)


def around_average(logs: Floats, labels: Ints) -> Blend:
    """Fit one weight for each feature and one bias for each option, around a plain average."""
    features, options = logs.shape[1:]
    weights = plain(features, options).weights
    bias = matching_bias(logs, weights, class_prior(labels, options))
    return fit_blend(logs, labels, weights=weights, bias=bias)


class Candidate(Measures):
    """Some features together, and what they reach and take."""

    name: str
    log_loss: float
    coverage: float
    """Share of the decisions, the surest first, of which no more than the risk are wrong."""
    seconds: float
    """Wall time of a decision, several being made at once."""
    tokens: float
    """Tokens of a decision that no cache had."""
    cost: float | None
    """US dollars of a decision; `None` is unknown."""
    utility: float
    """Minus the log loss, less the penalty on its time. The log loss tells candidates apart that
    accuracy and coverage, of a few hundred texts, leave to luck."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate, and the features it is made of."""

    candidate: Candidate
    places: tuple[int, ...]
    probabilities: Floats
    """Of each text, by fits without its label."""


def tried(
    readings: Sequence[Reading],
    parts: Sequence[Part],
    labels: Ints,
    folds: Ints,
    *,
    risk: float,
    latency_penalty: float,
) -> list[Tried]:
    """Try each feature alone, then add to the best what lowers the log loss, one at a time."""

    def of(places: tuple[int, ...]) -> Tried:
        p = held_out([parts[place] for place in places], labels, folds)
        read = [readings[place] for place in places]
        found = candidate(read, p, labels, risk=risk, latency_penalty=latency_penalty)
        return Tried(found, places, p)

    # The options in the opposite order are the same feature once more, and stand beside it.
    alone = [p for p, r in enumerate(readings) if not getattr(r.feature, "turned", False)]
    found = [of((place,)) for place in alone]
    best = min(found, key=lambda one: one.candidate.log_loss)
    while len(best.places) < len(parts):
        others = [
            of(tuple(sorted((*best.places, place))))
            for place in range(len(parts))
            if place not in best.places
        ]
        better = min(others, key=lambda one: one.candidate.log_loss)
        if better.candidate.log_loss > best.candidate.log_loss - _GAIN:
            break
        found.append(better)
        best = better
    return found


def chosen(found: Sequence[Tried], *, latency_penalty: float) -> tuple[Tried, str]:
    """Choose the candidate of the highest utility, and say why."""
    best = max(found, key=lambda one: one.candidate.utility)
    without = min(found, key=lambda one: one.candidate.log_loss)
    mine, other = best.candidate, without.candidate
    if best is without:
        return best, (
            f"{mine.name}: the best by cross-validation ({_figures(mine)}), and worth its "
            f"{_time(mine.seconds)} a decision at a penalty of {latency_penalty:g} a second"
        )
    return best, (
        f"{mine.name} ({_figures(mine)}): {other.name} is better ({_figures(other)}), but takes "
        f"{_time(other.seconds)} a decision instead of {_time(mine.seconds)}; at a penalty "
        f"of {latency_penalty:g} a second that is the worse bargain"
    )


def _figures(one: Candidate) -> str:
    return f"log loss {one.log_loss:.3f}, {one.accuracy:.3f} right, {one.coverage:.0%} acceptable"


def candidate(
    readings: Sequence[Reading],
    probabilities: Floats,
    labels: Ints,
    *,
    risk: float,
    latency_penalty: float,
) -> Candidate:
    """Measure what some features reach together; the arguments are those of `tried`."""
    right = probabilities.argmax(1) == labels
    coverage = coverage_at_risk(probabilities.max(1), right, risk)
    loss = log_loss(np.log(np.maximum(probabilities, 1e-12)), labels)
    seconds = sum(reading.seconds for reading in readings)
    costs = [reading.cost for reading in readings if reading.cost is not None]
    return Candidate(
        **measure(probabilities, labels).model_dump(),
        name=" + ".join(reading.feature.name for reading in readings),
        log_loss=loss,
        coverage=coverage,
        seconds=seconds,
        tokens=sum(reading.tokens for reading in readings),
        cost=float(sum(costs)) if len(costs) == len(readings) else None,
        utility=-loss - latency_penalty * seconds,
    )


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
