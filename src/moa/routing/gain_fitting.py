"""Gain fitting: candidates that predict the strong model's gain, fitted by scikit-learn.

What comes out are the parts of `gain_parts`, which are applied without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from moa.calibration.reply_signs import reply_features
from moa.decisions.arrays import Floats, Ints, np
from moa.errors import MissingDependency
from moa.routing.cases import Table
from moa.routing.features import DETAIL
from moa.routing.gain_parts import Grams, Groups, Kernel, Linear, Part, Scaled, Tree, Trees
from moa.routing.grams import BUCKETS, grams


class Truth(NamedTuple):
    """Whether the models were right on cases: 1 or 0 each."""

    weak: Floats
    strong: Floats

    @property
    def gains(self) -> Floats:
        """What the strong model gains: 1, 0 or -1."""
        return self.strong - self.weak

    def of(self, places: Ints) -> Truth:
        """The same of some of the cases."""
        return Truth(self.weak[places], self.strong[places])


Fitter = Callable[[Table, Truth], Part]
"""Fits a part to cases and what is known of them."""

GROUPS = "groups of "
"""The name of a candidate that groups by a field begins so."""
_DIGITS = 6
"""Significant digits that a file keeps of a number."""
_PENALTY = 300.0
"""Of the linear part, whose features have spread 1."""
_DOUBT: Mapping[str, Any] = {
    "n_estimators": 80,
    "max_features": 0.6,
    "min_samples_leaf": 6,
    "random_state": 0,
}
_REPLY = frozenset(reply_features("", ""))
_KERNEL_PENALTY, _KERNEL_WIDTH = 1.0, 0.3
"""The width is for one feature: with more of them it is shared."""
_GRAMS_PENALTY, _LEAST_TEXTS = 3.0, 2
_TREES: Mapping[str, Any] = {
    "n_estimators": 300,
    "learning_rate": 0.05,
    "max_depth": 4,
    "subsample": 0.5,
    "max_features": 0.3,
    "min_samples_leaf": 15,
}
_LEAST_FOR_TREES = 100
_GROVES = 2
"""Times that trees are grown, from other random samples: their mean is steadier."""
_GROUP_WEIGHT = 5.0
"""How many cases of the mean of all are added to every group."""


def candidates(table: Table, fields: Sequence[str]) -> dict[str, Fitter]:
    """Name the parts that can be fitted to such cases.

    Args:
        table: The cases: where they have replies, those are looked at too.
        fields: Other fields that group them.
    """
    found: dict[str, Fitter] = {
        "linear": _linear,
        "kernel": _kernel,
        "prompt grams": partial(_grams, "prompt"),
    }
    if table.cases[0].reply is not None:
        found |= {"doubt": _doubt, "reply grams": partial(_grams, "reply")}
    elif len(table.cases) >= _LEAST_FOR_TREES:
        found["trees"] = _trees
    return found | {GROUPS + name: partial(_groups, name) for name in fields}


def need_sklearn() -> None:
    """Make sure that fitting is possible.

    Raises:
        MissingDependency: scikit-learn is not installed.
    """
    try:
        import sklearn  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise MissingDependency(
            "scikit-learn", extra="calibration", purpose="to fit a router"
        ) from error


def _linear(table: Table, truth: Truth) -> Linear:
    from sklearn import linear_model

    ridge: Any = linear_model.Ridge
    scaled = _scaled(table)
    model = ridge(alpha=_PENALTY).fit(scaled(table), truth.gains)
    return Linear(scaled=scaled, weights=_kept(model.coef_), constant=_kept([model.intercept_])[0])


def _kernel(table: Table, truth: Truth) -> Kernel:
    from sklearn import kernel_ridge

    estimator: Any = kernel_ridge.KernelRidge
    scaled = _scaled(table)
    width = _KERNEL_WIDTH / len(scaled.features)
    centres = [_kept(row, 4) for row in scaled(table)]
    mean = float(truth.gains.mean())
    model = estimator(alpha=_KERNEL_PENALTY, kernel="rbf", gamma=width)
    model.fit(np.array(centres), truth.gains - mean)
    return Kernel(
        scaled=scaled,
        width=width,
        centres=tuple(centres),
        weights=_kept(model.dual_coef_),
        constant=mean,
    )


def _trees(table: Table, truth: Truth) -> Trees:
    from sklearn import ensemble

    estimator: Any = ensemble.GradientBoostingRegressor
    names = tuple(name for name in table.names if not name.startswith(DETAIL))
    values = table.columns(names)
    fitted = [
        estimator(**_TREES, random_state=seed).fit(values, truth.gains) for seed in range(_GROVES)
    ]
    return Trees(
        names=names,
        trees=tuple(_tree(stage[0].tree_) for model in fitted for stage in model.estimators_),
        rate=_TREES["learning_rate"] / _GROVES,
        constant=float(truth.gains.mean()),
    )


def _doubt(table: Table, truth: Truth) -> Trees:
    """How likely the weak model is wrong, from its reply alone, moved to the mean of the gains.

    Failure is a worse guide than gain, but is learnt from more rows, and so adds to the others.
    """
    from sklearn import ensemble

    estimator: Any = ensemble.ExtraTreesRegressor
    names = tuple(name for name in table.names if name in _REPLY)
    wrong = 1 - truth.weak
    model = estimator(**_DOUBT).fit(table.columns(names), wrong)
    return Trees(
        names=names,
        trees=tuple(_tree(grown.tree_) for grown in model.estimators_),
        rate=1 / len(model.estimators_),
        constant=float(truth.gains.mean() - wrong.mean()),
    )


def _tree(fitted: Any) -> Tree:
    inner = fitted.children_left >= 0
    return Tree(
        features=tuple(np.where(inner, fitted.feature, -1).tolist()),
        thresholds=tuple(float(f"{t:.9g}") for t in np.where(inner, fitted.threshold, 0.0)),
        left=tuple(np.maximum(fitted.children_left, 0).tolist()),
        right=tuple(np.maximum(fitted.children_right, 0).tolist()),
        values=_kept(fitted.value[:, 0, 0]),
    )


def _grams(text: Literal["prompt", "reply"], table: Table, truth: Truth) -> Grams:
    from scipy import sparse
    from sklearn import linear_model
    from sklearn.feature_extraction import text as extraction

    sparse_rows: Any = sparse.csr_matrix
    rare: Any = extraction.TfidfTransformer
    ridge: Any = linear_model.Ridge
    texts = [(case.prompt if text == "prompt" else case.reply) or "" for case in table.cases]
    found = [grams(one) for one in texts]
    rows = np.repeat(np.arange(len(found)), [len(one) for one in found])
    buckets = np.array([bucket for one in found for bucket in one], dtype=int)
    counts = np.array([count for one in found for count in one.values()])
    used = np.flatnonzero(np.bincount(buckets, minlength=BUCKETS) >= _LEAST_TEXTS)
    matrix = sparse_rows((counts, (rows, buckets)), shape=(len(found), BUCKETS))[:, used]
    weighted = rare().fit(matrix)
    model = ridge(alpha=_GRAMS_PENALTY).fit(weighted.transform(matrix), truth.gains)
    return Grams(
        text=text,
        rarity=dict(zip(used.tolist(), _kept(weighted.idf_), strict=True)),
        weights=dict(zip(used.tolist(), _kept(model.coef_, 4), strict=True)),
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
            value: (sum(found) + _GROUP_WEIGHT * mean) / (len(found) + _GROUP_WEIGHT)
            for value, found in by_value.items()
            if value
        },
        constant=mean,
    )


def _scaled(table: Table) -> Scaled:
    """Leave out features that are the same in all cases."""
    names, values = table.names, table.values
    spreads = values.std(0)
    used = np.flatnonzero(spreads > 1e-9)
    return Scaled(
        features=tuple(names[place] for place in used.tolist()),
        means=_kept(values.mean(0)[used]),
        spreads=_kept(spreads[used]),
    )


def _kept(values: Any, digits: int = _DIGITS) -> tuple[float, ...]:
    return tuple(float(f"{value:.{digits}g}") for value in np.asarray(values).tolist())
