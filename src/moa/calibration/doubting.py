"""Doubting: how sure a decision is, by its probabilities and by cheap signs of doubt.

Signs are what was read anyway: how much probability falls on the labels at all, how far the members
(two orders of the options among them) disagree, and the weight on "none of these". They are kept
where cross-validation says that they tell wrong decisions from right ones better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict

from moa.calibration.members import LabelMember, Member
from moa.calibration.scorers import Fit
from moa.decisions.arrays import Floats, Ints, log_softmax, np
from moa.decisions.fitting import fit

MASS, DISAGREEMENT, NONE = "label mass", "disagreement", "none of these"
_GAIN = 0.005
"""Least fall of the log loss for which signs are kept."""
_ENDS = 1e-6
"""Probabilities are kept so far from 0 and 1; what moves less is taken to be the same."""


class Doubt(BaseModel):
    """A logistic regression of whether a decision is right, on its confidence and on signs."""

    model_config = ConfigDict(frozen=True)

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
        """Fit it.

        Args:
            p: Probabilities of each decision: texts, options.
            signs: By name.
            names: Of those to use.
            right: 1 where the decision is, else 0.
        """
        found = _columns(p, signs, names)
        means, spreads = found[:, 1:].mean(0), found[:, 1:].std(0)
        spreads = np.where(spreads > _ENDS, spreads, 1.0)
        found[:, 1:] = (found[:, 1:] - means) / spreads
        readings = np.stack([np.zeros_like(found), found], 2)
        start = np.array([1.0] + [0.0] * len(names))
        made = fit(readings, right, weights=start, bias=np.zeros(2))
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
    """How much probability falls on the labels, on the geometric mean of the members that read
    them; `None` where no member does."""

    def of(self, rows: Ints) -> Judged:
        """What it says of some of the texts."""
        mass = None if self.mass is None else self.mass[rows]
        return Judged(self.probabilities[rows], self.sure[rows], mass)


def judged(
    scorer: Fit, doubt: Doubt | None, readings: Sequence[Floats], kinds: Sequence[Member], none: int
) -> Judged:
    """Apply a fit, and the signs of doubt where there are some.

    Args:
        scorer: Made for the members.
        doubt: Made for it; `None` uses no signs.
        readings: What each member read of the texts.
        kinds: The members.
        none: Place of "none of these" among the options; below 0 where it is none of them.
    """
    logs = scorer.stacked(readings)
    p = scorer.blended(logs)
    signs = signs_of(logs, p, kinds, none)
    return Judged(p, p.max(1) if doubt is None else doubt.sure(p, signs), mass_of(signs))


def mass_of(signs: Mapping[str, Floats]) -> Floats | None:
    """Give the label mass, where it is among the signs."""
    return np.exp(signs[MASS]) if MASS in signs else None


def signs_of(logs: Floats, p: Floats, kinds: Sequence[Member], none: int) -> dict[str, Floats]:
    """Give all signs there are, by name.

    Args:
        logs: Texts, members, options; of a member that reads labels they add up to the label mass.
        p: Probabilities made of them.
        kinds: The members.
        none: Place of "none of these" among the options; below 0 where it is none of them.
    """
    found: dict[str, Floats] = {}
    read = [place for place, member in enumerate(kinds) if isinstance(member, LabelMember)]
    if read:
        found[MASS] = np.log(np.exp(logs[:, read]).sum(2)).mean(1)
    if len(kinds) > 1:
        given = p.argmax(1)
        own = np.exp(log_softmax(logs))[np.arange(len(p)), :, given]
        found[DISAGREEMENT] = 1 - own.mean(1)
    if none >= 0:
        found[NONE] = p[:, none]
    return found


def doubting(
    p: Floats, signs: Mapping[str, Floats], labels: Ints, folds: Ints
) -> tuple[Doubt, Floats] | None:
    """Choose the signs with which wrong decisions are told best, by cross-validation.

    Args:
        p: Probabilities of each text by a fit without its label.
        signs: Of the same texts, by name.
        labels: Index of the right option of each.
        folds: Number of the part that each text belongs to.

    Returns:
        What was fitted to all, and how sure each decision is by a fit without it; `None` where no
        sign helps, or all decisions are right.
    """
    right = (p.argmax(1) == labels).astype(np.intp)
    moving = [name for name, values in signs.items() if float(values.std()) > _ENDS]
    if not moving or len(set(right.tolist())) < 2:
        return None
    base = _loss(_held_out(p, signs, (), right, folds), right)
    tried = {
        names: _held_out(p, signs, names, right, folds)
        for size in range(1, len(moving) + 1)
        for names in combinations(moving, size)
    }
    best = min(tried, key=lambda names: _loss(tried[names], right))
    reached = _loss(tried[best], right)
    if reached > base - _GAIN:
        return None
    made = Doubt.of(p, signs, best, right)
    losses = {"log_loss": reached, "log_loss_without": base}
    return made.model_copy(update=losses), tried[best]


def _held_out(
    p: Floats, signs: Mapping[str, Floats], names: Sequence[str], right: Ints, folds: Ints
) -> Floats:
    sure = np.zeros(len(p))
    for fold in np.unique(folds):
        out = folds == fold
        made = Doubt.of(p[~out], {n: v[~out] for n, v in signs.items()}, names, right[~out])
        sure[out] = made.sure(p[out], {name: values[out] for name, values in signs.items()})
    return sure


def _loss(sure: Floats, right: Ints) -> float:
    safe = np.clip(sure, _ENDS, 1 - _ENDS)
    return float(-np.where(right == 1, np.log(safe), np.log(1 - safe)).mean())


def _columns(p: Floats, signs: Mapping[str, Floats], names: Sequence[str]) -> Floats:
    top = np.clip(p.max(1), _ENDS, 1 - _ENDS)
    return np.stack([np.log(top / (1 - top)), *(signs[name] for name in names)], 1)
