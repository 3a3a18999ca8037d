"""Uncertainty: how sure a decision is, by its probabilities and by cheap signs beside them.

Signs are what was read anyway: how much probability falls on the labels at all, how far the
features (two orders of the options among them) disagree, and the weight on "none of these". They
are kept where cross-validation says that they tell wrong decisions from right ones better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple, Self

from moa.calibration.bounds import Outcome
from moa.calibration.features import Feature, LabelFeature
from moa.decisions.arrays import Bools, Floats, Ints, log_softmax, np
from moa.decisions.heads import Blend
from moa.decisions.regression import cross_validated, fit_blend
from moa.node import Frozen
from moa.questions import NONE_OF_THESE

MASS, DISAGREEMENT, NONE = "label mass", "disagreement", "none of these"
_GAIN = 0.005
"""Least fall of the log loss for which signs are kept."""
_ENDS = 1e-6
"""Probabilities are kept so far from 0 and 1; what moves less is taken to be the same."""


class Uncertainty(Frozen):
    """A logistic regression of whether a decision is right, on its confidence and on signs."""

    signs: tuple[str, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    weights: tuple[float, ...]
    """Of the log-odds of the confidence, and of each sign."""
    constant: float
    log_loss: float
    """By cross-validation."""
    log_loss_without: float
    """Of the confidence alone."""

    def sure(self, p: Floats, signs: Mapping[str, Floats]) -> Floats:
        """Probability that each decision is right."""
        found = _columns(p, signs, self.signs)
        found[:, 1:] = (found[:, 1:] - np.array(self.means)) / np.array(self.spreads)
        return 1 / (1 + np.exp(-(found @ np.array(self.weights) + self.constant)))

    @classmethod
    def of(cls, p: Floats, signs: Mapping[str, Floats], names: Sequence[str], right: Ints) -> Self:
        """Fit it to decisions of which some are right, 1, and others aren't, 0."""
        found = _columns(p, signs, names)
        means, spreads = found[:, 1:].mean(0), found[:, 1:].std(0)
        spreads = np.where(spreads > _ENDS, spreads, 1.0)
        found[:, 1:] = (found[:, 1:] - means) / spreads
        readings = np.stack([np.zeros_like(found), found], 2)
        start = np.array([1.0] + [0.0] * len(names))
        made = fit_blend(readings, right, weights=start, bias=np.zeros(2))
        return cls(
            signs=tuple(names),
            means=tuple(means.tolist()),
            spreads=tuple(spreads.tolist()),
            weights=tuple(made.weights.tolist()),
            constant=float(made.bias[1] - made.bias[0]),
            log_loss=0.0,
            log_loss_without=0.0,
        )


class Judged(NamedTuple):
    """What a fit says of some texts."""

    probabilities: Floats
    """Texts, options."""
    sure: Floats
    """What is compared with the threshold; the highest probability where no signs are used."""
    mass: Floats | None
    """How much probability falls on the labels, on the geometric mean of the features that
    read them; `None` where none does."""

    def of(self, rows: Ints) -> Judged:
        """What it says of some of the texts."""
        mass = None if self.mass is None else self.mass[rows]
        return Judged(self.probabilities[rows], self.sure[rows], mass)

    def outcomes(
        self, labels: Ints, names: Sequence[str], cases: Sequence[str | None]
    ) -> list[Outcome]:
        """Compare the decisions with the right options, given by index."""
        given = self.probabilities.argmax(1)
        found = zip(map(int, given), map(int, labels), map(float, self.sure), cases, strict=True)
        return [
            Outcome(
                confidence=min(1.0, sure), correct=place == right, label=names[place], case=case
            )
            for place, right, sure, case in found
        ]


def judged(
    scorer: Blend,
    uncertainty: Uncertainty | None,
    readings: Sequence[Floats],
    features: Sequence[Feature],
    labels: Sequence[str],
) -> Judged:
    """Apply a scorer to what its features read, and signs of uncertainty where there are some."""
    logs = scorer.stacked(readings)
    p = np.exp(scorer.logs(logs))
    signs = signs_of(logs, p, features, labels)
    sure = p.max(1) if uncertainty is None else uncertainty.sure(p, signs)
    return Judged(p, sure, mass_of(signs))


def mass_of(signs: Mapping[str, Floats]) -> Floats | None:
    """Give the label mass, where it is among the signs."""
    return np.exp(signs[MASS]) if MASS in signs else None


def signs_of(
    logs: Floats, p: Floats, features: Sequence[Feature], labels: Sequence[str]
) -> dict[str, Floats]:
    """Give all signs there are of probabilities and the `logs` they were made of, by name.

    The log-probabilities are of texts, features and options; of a feature that reads labels they
    add up to the label mass.
    """
    found: dict[str, Floats] = {}
    read = [place for place, feature in enumerate(features) if isinstance(feature, LabelFeature)]
    if read:
        found[MASS] = np.log(np.exp(logs[:, read]).sum(2)).mean(1)
    if len(features) > 1:
        given = p.argmax(1)
        own = np.exp(log_softmax(logs))[np.arange(len(p)), :, given]
        found[DISAGREEMENT] = 1 - own.mean(1)
    if NONE_OF_THESE in labels:
        found[NONE] = p[:, labels.index(NONE_OF_THESE)]
    return found


def uncertainty_of(
    p: Floats, signs: Mapping[str, Floats], labels: Ints, folds: Ints
) -> tuple[Uncertainty, Floats] | None:
    """Choose the signs with which wrong decisions are told best, by cross-validation.

    Returns:
        What was fitted to all, and how sure each decision is by a fit without it; `None` where no
        sign helps, or all decisions are right.
    """
    right = (p.argmax(1) == labels).astype(np.intp)
    moving = [name for name, values in signs.items() if float(values.std()) > _ENDS]
    if not moving or len(set(right.tolist())) < 2:
        return None

    def tried(names: Sequence[str]) -> Floats:
        def predict(out: Bools) -> Floats:
            others = {name: values[~out] for name, values in signs.items()}
            made = Uncertainty.of(p[~out], others, names, right[~out])
            return made.sure(p[out], {name: values[out] for name, values in signs.items()})

        return cross_validated(folds, predict)

    base = _loss(tried(()), right)
    sizes = range(1, len(moving) + 1)
    found = {names: tried(names) for size in sizes for names in combinations(moving, size)}
    best = min(found, key=lambda names: _loss(found[names], right))
    reached = _loss(found[best], right)
    if reached > base - _GAIN:
        return None
    made = Uncertainty.of(p, signs, best, right)
    losses = {"log_loss": reached, "log_loss_without": base}
    return made.model_copy(update=losses), found[best]


def _loss(sure: Floats, right: Ints) -> float:
    safe = np.clip(sure, _ENDS, 1 - _ENDS)
    return float(-np.where(right == 1, np.log(safe), np.log(1 - safe)).mean())


def _columns(p: Floats, signs: Mapping[str, Floats], names: Sequence[str]) -> Floats:
    top = np.clip(p.max(1), _ENDS, 1 - _ENDS)
    return np.stack([np.log(top / (1 - top)), *(signs[name] for name in names)], 1)
