"""Router fitting: fits a router that predicts the gain to recorded answers of two models.

The target is the gain of the strong model (1 if it is right, minus the same for the weak one), not
the weak one's failure: a request that both get wrong is no reason to pay more. Several parts are
fitted by scikit-learn and stacked on their predictions for held-out rows (Breiman 1996, "Stacked
regressions": non-negative weights), shrunk towards equal weights.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from math import sqrt
from statistics import NormalDist, fmean
from types import ModuleType
from typing import NamedTuple, Protocol

from moa.core.errors import ConfigError, InputError, require_package
from moa.decisions.arrays import Floats, Ints, np
from moa.decisions.regression import folds
from moa.routing.evaluation import recovery
from moa.routing.recorded import BUCKETS, RecordedRequest, Table, describe, grams
from moa.routing.router import (
    Grams,
    Groups,
    Origin,
    PartReport,
    Router,
    RouterKind,
    RouterPart,
    Tree,
    Trees,
    WeightedPart,
)

LEAST_ROWS = 40
"""Minimum number of rows."""
LEAST_GAINS = 8
"""Minimum number of rows on which only the strong model is right, and of other rows."""
RECOVERED = 0.8
"""Default part of the quality gap that the threshold is chosen to recover."""
_FOLDS, _REPEATS = 5, 2
_EQUAL, _LEAST_WEIGHT = 0.3, 0.02
"""Strength of the shrinkage towards equal weights, and minimum share of a weight in the sum."""
_SHARES = 100
"""Number of shares of strong calls that are tested for a part of the quality gap."""
_Z = NormalDist().inv_cdf(0.95)
LEAST_IN_GROUP = 5
"""Minimum number of rows per value of a field, on average, for it to group rows."""
NEVER = 2.0
"""Threshold that lets nothing through, since no gain is as large."""
GROUPS = "groups of "
"""Prefix of the name of a candidate that groups by a field."""
_DIGITS = 6
"""Significant digits of a number in a file."""
_DOUBT: Mapping[str, float] = {
    "n_estimators": 80,
    "max_features": 0.6,
    "min_samples_leaf": 6,
    "random_state": 0,
}
_GRAMS_PENALTY, _LEAST_TEXTS = 3.0, 2
_TREES: Mapping[str, float] = {
    "n_estimators": 300,
    "learning_rate": 0.05,
    "max_depth": 4,
    "subsample": 0.5,
    "max_features": 0.3,
    "min_samples_leaf": 15,
}
_LEAST_FOR_TREES = 100
_GROVES = 2
"""Number of times that trees are grown, from other random samples. Their mean is steadier."""
_GROUP_WEIGHT = 5.0
"""Number of cases with the mean gain that are added to each group."""

Weights = Mapping[str, float]
"""Weights by candidate; their sum is 1."""
Progress = Callable[[int, int], None]
"""Called with the number of steps done so far, and of all steps."""


class Truth(NamedTuple):
    """Correctness of both models on cases: 1 or 0 each."""

    weak: Floats
    strong: Floats

    @property
    def gains(self) -> Floats:
        """Gain of the strong model: 1, 0 or -1."""
        return self.strong - self.weak

    def of(self, indices: Ints) -> Truth:
        """Return the same for some of the cases."""
        return Truth(self.weak[indices], self.strong[indices])


Fitter = Callable[[Table, Truth], RouterPart]
"""Fits a part to cases and the correctness of both models."""


def fit_router(
    recorded: Sequence[RecordedRequest],
    *,
    share: float | None = None,
    quality: float | None = None,
    progress: Progress | None = None,
) -> Router:
    """Fit a router, or a cascade if the rows have the weak model's reply.

    Its threshold is chosen on held-out rows; `Router.at_threshold` sets another.

    Args:
        recorded: Rows in any order. Rows with the same prompt are held out together.
        share: Share of requests that go to the strong model, from 0 to 1.
        quality: Part of the quality gap to recover, from 0 to 1; see `threshold_for`. Without
            either it is 0.8.
        progress: Called with the progress.

    Raises:
        ConfigError: `share` and `quality` are both given, or not from 0 to 1.
        InputError: there are too few rows, only some have a reply, or there is nothing to learn:
            the strong model is no better, or is right on the same rows, or nothing predicts where
            it gains.
        MissingDependency: scikit-learn is not installed.
    """
    if share is not None and quality is not None:
        raise ConfigError("give a share or a quality, not both: each chooses the threshold")
    _sklearn("base")  # first, to report a missing package at once
    rows = list({_key(row): row for row in recorded}.values())
    _check(rows)
    kind: RouterKind = "router" if rows[0].case.reply is None else "cascade"
    trial = _run_trials(rows, _grouping(rows), progress)
    weights = _stack(trial)
    apgrs = {name: round(trial.apgr({name: 1.0}), 4) for name in trial.fitters}
    compared = [
        PartReport(name=name, apgr=apgr, weight=weights.get(name, 0.0))
        for name, apgr in sorted(apgrs.items(), key=lambda pair: -pair[1])
    ]
    held_out = trial.blend(weights)[0]
    threshold, target = threshold_for(held_out, trial.truth, share=share, quality=quality)
    return Router(
        name=kind,
        kind=kind,
        fields=tuple(name.removeprefix(GROUPS) for name in weights if name.startswith(GROUPS)),
        features=tuple(rows[0].features),
        target=target,
        threshold=threshold,
        candidates=tuple(compared),
        origin=_origin(rows, trial, weights, compared[0], left_out=len(recorded) - len(rows)),
        parts=tuple(
            WeightedPart(name=name, weight=w, part=trial.fitters[name](trial.table, trial.truth))
            for name, w in weights.items()
        ),
    )


def candidates(table: Table, fields: Sequence[str]) -> dict[str, Fitter]:
    """Return the fitters for such cases by name, with one for each of `fields`."""
    fitters: dict[str, Fitter] = {"prompt grams": _grams}
    if table.cases[0].reply is not None:
        fitters["doubt"] = _doubt
    elif len(table.cases) >= _LEAST_FOR_TREES:
        fitters["trees"] = _trees
    return fitters | {GROUPS + name: partial(_groups, name) for name in fields}


@dataclass(frozen=True, slots=True)
class _Trials:
    """Candidates, and their predictions for held-out rows."""

    table: Table
    truth: Truth
    fitters: Mapping[str, Fitter]
    held_out: Mapping[str, Floats]
    """Predictions by candidate, as an array of repeats and rows."""

    def blend(self, weights: Weights) -> Floats:
        """Return the weighted predictions for held-out rows, as an array of repeats and rows."""
        parts = [weight * self.held_out[name] for name, weight in weights.items()]
        return np.sum(parts, axis=0)

    def apgr(self, weights: Weights) -> float:
        """Return the mean APGR of a blend over the repeats."""
        return fmean(recovery(scores, *self.truth).apgr or 0.0 for scores in self.blend(weights))


def _run_trials(
    rows: Sequence[RecordedRequest], fields: Sequence[str], progress: Progress | None = None
) -> _Trials:
    """Fit each candidate to all folds but one, and predict that one."""
    table = describe([row.case for row in rows], tuple(rows[0].features))
    truth = Truth(
        np.array([row.weak_correct for row in rows], dtype=float),
        np.array([row.strong_correct for row in rows], dtype=float),
    )
    fitters = candidates(table, fields)
    held_out = {name: np.zeros((_REPEATS, len(rows))) for name in fitters}
    prompts, kinds = [row.case.prompt for row in rows], (truth.gains + 1).astype(np.intp)
    for deal in range(_REPEATS):
        dealt = folds(prompts, kinds, _FOLDS, seed=deal)
        for number in range(_FOLDS):
            train, test = np.flatnonzero(dealt != number), np.flatnonzero(dealt == number)
            for name, fitter in fitters.items() if len(test) else ():
                part = fitter(table[train], truth.of(train))
                held_out[name][deal, test] = part.predict(table[test])
            if progress is not None:
                progress(deal * _FOLDS + number + 1, _REPEATS * _FOLDS)
    return _Trials(table, truth, fitters, held_out)


def _key(row: RecordedRequest) -> tuple[str, str | None, bool, bool]:
    """Return the key of a row. Its features follow from the rest."""
    return row.case.prompt, row.case.reply, row.weak_correct, row.strong_correct


def _check(rows: Sequence[RecordedRequest]) -> None:
    """Check that there is something to learn, and enough rows to learn it from."""
    replied = sum(row.case.reply is not None for row in rows)
    if 0 < replied < len(rows):
        raise InputError(
            f"{replied} of {len(rows)} rows have a `weak_response`: give it in all of them for a "
            "cascade, or in none for a router"
        )
    if len(rows) < LEAST_ROWS:
        raise InputError(
            f"{len(rows)} different rows are too few to fit a router: it takes at least "
            f"{LEAST_ROWS}, and some hundreds to be of use"
        )
    better, worse = (sum(row.gain == gain for row in rows) for gain in (1, -1))
    if better <= worse:
        raise InputError(
            f"the strong model is no better on these rows: it alone is right on {better}, the weak "
            f"one alone on {worse}. Routing to it doesn't pay: use the weak model, or check that "
            "`weak_correct` and `strong_correct` aren't swapped"
        )
    if better < LEAST_GAINS or len(rows) - better < LEAST_GAINS:
        raise InputError(
            f"the strong model alone is right on {better} of {len(rows)} rows: to tell these from "
            f"the others, it takes at least {LEAST_GAINS} of both"
        )


def _grouping(rows: Sequence[RecordedRequest]) -> list[str]:
    """Find the fields that all rows have, and whose values occur often enough to be useful."""
    names = [n for n in rows[0].case.fields if all(n in row.case.fields for row in rows)]
    different = {name: len({row.case.fields[name] for row in rows}) for name in names}
    return [n for n, values in different.items() if 2 <= values <= len(rows) / LEAST_IN_GROUP]


def _stack(trial: _Trials) -> Weights:
    """Weight the candidates by least squares on held-out predictions, the heaviest first."""
    names, gains = list(trial.fitters), trial.truth.gains - trial.truth.gains.mean()
    predictions = np.array([trial.held_out[name].mean(0) for name in names]).T
    predictions = predictions - predictions.mean(0)
    pull = np.sqrt(_EQUAL * (predictions**2).sum(0).mean())
    left = np.vstack([predictions, pull * np.eye(len(names))])
    right = np.concatenate([gains, np.full(len(names), pull / len(names))])
    raw_weights: list[float] = import_module("scipy.optimize").nnls(left, right)[0].tolist()
    if not any(raw_weights) or not _beats_chance(predictions, gains):
        raise InputError(
            f"nothing in the prompts of {len(gains)} rows is shown to tell where the strong "
            "model gains: held-out rows are predicted no better than chance does in 1 of 20 runs, "
            "so routing by them isn't shown to pay. Use one model for all, or give more rows"
        )
    minimum = _LEAST_WEIGHT * sum(raw_weights)
    weights = {
        name: weight for name, weight in zip(names, raw_weights, strict=True) if weight >= minimum
    }
    heaviest = sorted(weights, key=lambda name: -weights[name])
    return {name: round(weights[name] / sum(weights.values()), 4) for name in heaviest}


def _beats_chance(predictions: Floats, gains: Floats) -> bool:
    """Return True if held-out predictions (rows, candidates) beat chance on the gains.

    Each candidate, and the mean of all, is one test, so each has its part of the 5 % (Bonferroni).
    If a row informs about another, the reverse is true too, so a chance result of cross-validation
    has up to twice the variance of a permutation. Both are centred, so its mean is 0.
    """
    looks = np.column_stack([predictions, predictions.mean(1)])
    spread = np.sqrt(2 * (looks**2).sum(0) * (gains @ gains) / (len(gains) - 1))
    return bool((gains @ looks > NormalDist().inv_cdf(1 - 0.05 / looks.shape[1]) * spread).any())


def threshold_for(
    scores: Floats, truth: Truth, *, share: float | None = None, quality: float | None = None
) -> tuple[float, str]:
    """Return the minimum score at which the strong model is asked, and its goal in words.

    For a part of the quality gap it takes the fewest strong calls that are shown to recover it.
    Shares are tested from all strong calls down, each at 95 % confidence, until the first that
    isn't shown to recover it (fixed-sequence testing, as in `moa.decisions.bounds`). The lowest
    of all that seem to would only be the luckiest.

    The scores are of held-out rows. A `share` takes precedence over a `quality`.
    """
    goal = quality if quality is not None else RECOVERED
    if not 0 <= (goal if share is None else share) <= 1:
        raise ConfigError(f"a share is from 0 to 1, not {goal if share is None else share}")
    if share is not None:
        return _threshold_at(scores, share), f"{share:.0%} of requests to the strong model"
    fewest = _fewest_calls(scores, truth, goal)
    target = f"{goal:.0%} of the quality gap recovered, by {fewest:.0%} strong calls"
    return _threshold_at(scores, fewest), target


def _threshold_at(scores: Floats, share: float) -> float:
    if share in (0, 1):
        return -NEVER if share else NEVER
    return round(float(np.quantile(scores, 1 - share)), _DIGITS)


def _fewest_calls(scores: Floats, truth: Truth, recovered: float) -> float:
    """Return the smallest share of strong calls shown to recover a part of the gap."""
    if not recovered:
        return 0.0
    fewest, gains = 1.0, truth.gains
    line, disagreement = recovery(scores, *truth), recovery(scores, 0 * gains, abs(gains))
    for step in reversed(range(1, _SHARES)):
        share = step / _SHARES
        # Per row: its gain if the strong model is asked, minus that part of its gain.
        over = line.quality_at(share) - line.weak - recovered * (line.strong - line.weak)
        strong_part = disagreement.quality_at(share)
        weak_part = disagreement.strong - strong_part
        variance = strong_part * (1 - recovered) ** 2 + weak_part * recovered**2 - over**2
        if over < _Z * sqrt(max(0.0, variance) / len(scores)):
            break
        fewest = share
    return fewest


def _origin(
    rows: Sequence[RecordedRequest],
    trial: _Trials,
    weights: Weights,
    best: PartReport,
    *,
    left_out: int,
) -> Origin:
    hasher = hashlib.sha256()
    for row in rows:
        hasher.update(repr(_key(row)).encode("utf-8", errors="surrogatepass"))
    apgr = trial.apgr(weights)
    mean = f"the weighted mean of {', '.join(weights)} {apgr:.3f}"
    remark = f", {mean}" if len(weights) > 1 else "; the others add nothing"
    return Origin(
        moa=version("mixture-of-agents"),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        rows=len(rows),
        left_out=left_out,
        fingerprint=hasher.hexdigest(),
        weak_quality=round(float(trial.truth.weak.mean()), 4),
        strong_quality=round(float(trial.truth.strong.mean()), 4),
        apgr=round(apgr, 4),
        why=f"{best.name} alone reaches an APGR of {best.apgr:.3f} by cross-validation{remark}",
    )


def _sklearn(module: str) -> ModuleType:
    """Import a module of scikit-learn on first use."""
    with require_package("scikit-learn", extra="routing", purpose="to fit a router"):
        return import_module(f"sklearn.{module}")


def _trees(table: Table, truth: Truth) -> Trees:
    boosting = _sklearn("ensemble").GradientBoostingRegressor
    models = [
        boosting(**_TREES, random_state=seed).fit(table.values, truth.gains)
        for seed in range(_GROVES)
    ]
    return Trees(
        names=table.names,
        trees=tuple(_tree(stage[0].tree_) for model in models for stage in model.estimators_),
        rate=_TREES["learning_rate"] / _GROVES,
        constant=float(truth.gains.mean()),
    )


def _doubt(table: Table, truth: Truth) -> Trees:
    """Fit the probability that the weak model is wrong, from its reply, shifted to the mean gain.

    Failure is a worse guide than gain, but more rows show it, so it adds to the others.
    """
    wrong = 1 - truth.weak
    model = _sklearn("ensemble").ExtraTreesRegressor(**_DOUBT).fit(table.values, wrong)
    return Trees(
        names=table.names,
        trees=tuple(_tree(tree.tree_) for tree in model.estimators_),
        rate=1 / len(model.estimators_),
        constant=float(truth.gains.mean() - wrong.mean()),
    )


class _FittedTree(Protocol):
    """A tree of scikit-learn: arrays with a value for each node."""

    feature: Ints
    threshold: Floats
    children_left: Ints
    children_right: Ints
    value: Floats


def _tree(tree: _FittedTree) -> Tree:
    inner = tree.children_left >= 0
    return Tree(
        features=tuple(np.where(inner, tree.feature, -1).tolist()),
        thresholds=tuple(float(f"{t:.9g}") for t in np.where(inner, tree.threshold, 0.0)),
        left=tuple(np.maximum(tree.children_left, 0).tolist()),
        right=tuple(np.maximum(tree.children_right, 0).tolist()),
        values=_round(tree.value[:, 0, 0]),
    )


def _grams(table: Table, truth: Truth) -> Grams:
    bags = [grams(case.prompt) for case in table.cases]
    rows = np.repeat(np.arange(len(bags)), [len(bag) for bag in bags])
    buckets = np.array([bucket for bag in bags for bucket in bag], dtype=int)
    counts = np.array([count for bag in bags for count in bag.values()])
    columns = np.flatnonzero(np.bincount(buckets, minlength=BUCKETS) >= _LEAST_TEXTS)
    sparse = import_module("scipy.sparse").csr_matrix
    matrix = sparse((counts, (rows, buckets)), shape=(len(bags), BUCKETS))[:, columns]
    weighted = _sklearn("feature_extraction.text").TfidfTransformer().fit(matrix)
    model = _sklearn("linear_model").Ridge(alpha=_GRAMS_PENALTY)
    model.fit(weighted.transform(matrix), truth.gains)
    return Grams(
        rarity=dict(zip(columns.tolist(), _round(weighted.idf_), strict=True)),
        weights=dict(zip(columns.tolist(), _round(model.coef_, 4), strict=True)),
        constant=float(model.intercept_),
    )


def _groups(field: str, table: Table, truth: Truth) -> Groups:
    mean = float(truth.gains.mean())
    by_value: dict[str, list[float]] = {}
    for case, gain in zip(table.cases, truth.gains.tolist(), strict=True):
        by_value.setdefault(case.fields.get(field, ""), []).append(gain)
    return Groups(
        field=field,
        gains={
            value: (sum(gains) + _GROUP_WEIGHT * mean) / (len(gains) + _GROUP_WEIGHT)
            for value, gains in by_value.items()
            if value
        },
        constant=mean,
    )


def _round(values: Floats, digits: int = _DIGITS) -> tuple[float, ...]:
    return tuple(float(f"{value:.{digits}g}") for value in values.tolist())
