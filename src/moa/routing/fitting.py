"""Router fitting: from recorded answers of two models to a router that predicts the gain.

What is predicted is the gain of the strong model (right or not, less the same of the weak one), not
the weak one's failure: a request that both get wrong is no reason to pay more. Several parts are
fitted, and stacked on their predictions for rows that took no part in fitting (Breiman 1996,
"Stacked regressions": weights that aren't negative), drawn towards equal weights.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import NormalDist
from typing import Any

from moa.decisions.arrays import Floats, Ints, np
from moa.decisions.regression import folds
from moa.errors import InputError
from moa.routing import Candidate, Kind, Origin, Router, Rung, Weighted
from moa.routing.cases import Table, describe
from moa.routing.gain_fitting import GROUPS, Fitter, Truth, candidates, need_sklearn
from moa.routing.recorded import Recorded
from moa.routing.recovery import Recovery, recovery

LEAST_ROWS = 40
"""Fewer rows than these say too little."""
LEAST_GAINS = 8
"""As many rows must have the strong model alone right, and as many must not."""
RECOVERED = 0.8
"""Part of the quality gap that the threshold of a new router is chosen for."""
_FOLDS, _REPEATS = 5, 2
_EQUAL, _LEAST_WEIGHT = 0.3, 0.02
"""How hard weights are drawn towards equal ones; share of the sum below which one is none."""
_RUNGS = 100
LEAST_IN_GROUP = 5
"""A field groups rows where its values stand in at least so many of them, on average."""
NEVER = 2.0
"""No gain is as large: the threshold that lets nothing through."""

Weights = Mapping[str, float]
"""By candidate; their sum is 1."""
Progress = Callable[[int, int], None]
"""Called with the steps done so far, and those to do in all."""


@dataclass(slots=True)
class Trial:
    """Candidates, and what each predicts for rows that took no part in its fitting."""

    table: Table
    truth: Truth
    fitters: Mapping[str, Fitter]
    held_out: dict[str, list[Floats]] = field(default_factory=dict[str, list[Floats]])
    """By candidate: predictions, once for each deal of folds."""

    def hold_out(self, progress: Progress | None) -> None:
        """Fit every candidate to all folds but one, and predict that one."""
        prompts = [case.prompt for case in self.table.cases]
        kinds = (self.truth.gains + 1).astype(np.intp)
        done, total = 0, _REPEATS * _FOLDS
        for deal in range(_REPEATS):
            dealt = folds(prompts, kinds, _FOLDS, seed=deal)
            for name in self.fitters:
                self.held_out.setdefault(name, []).append(np.zeros(len(prompts)))
            for number in range(_FOLDS):
                self._predict(
                    deal, np.flatnonzero(dealt != number), np.flatnonzero(dealt == number)
                )
                done += 1
                if progress is not None:
                    progress(done, total)

    def _predict(self, deal: int, inside: Ints, outside: Ints) -> None:
        fitted, asked = self.table[inside], self.table[outside]
        for name, fitter in self.fitters.items():
            if len(outside):
                part = fitter(fitted, self.truth.of(inside))
                self.held_out[name][deal][outside] = part.predict(asked)

    def blend(self, weights: Weights, deal: int) -> Floats:
        """Predict for held-out rows by several candidates."""
        total = np.zeros(len(self.table.cases))
        for name, weight in weights.items():
            total = total + weight * self.held_out[name][deal]
        return total

    def recovery(self, weights: Weights, deal: int) -> Recovery:
        """What a blend recovers on held-out rows."""
        return recovery(self.blend(weights, deal), *self.truth)

    def apgr(self, weights: Weights) -> float:
        """Mean over the deals, of a blend."""
        found = [self.recovery(weights, deal).apgr or 0.0 for deal in range(_REPEATS)]
        return sum(found) / len(found)


def fit_router(
    recorded: Sequence[Recorded],
    *,
    fields: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Router:
    """Fit a router, or a cascade where the rows have the weak model's reply.

    Its threshold is one that is shown to recover 80 % of the quality gap on held-out rows; see
    `Router.at_share` and `Router.at_quality` for others.

    Args:
        recorded: Rows in any order. Rows with the same prompt are held out together.
        fields: Fields of cases to group by; `None` takes those whose values come often enough.
        progress: Told how far it is.

    Raises:
        InputError: there are too few rows, only some have a reply, or there is nothing to learn:
            the strong model is no better, or right on the very same rows, or nothing tells where
            it gains.
        MissingDependency: scikit-learn is not installed.
    """
    need_sklearn()
    rows = list({_key(row): row for row in recorded}.values())
    _check(rows)
    kind: Kind = "router" if rows[0].case.reply is None else "cascade"
    trial = _trial(rows, _grouping(rows) if fields is None else fields)
    trial.hold_out(progress)
    weights = _stacked(trial)
    return Router(
        name=kind,
        kind=kind,
        fields=tuple(name.removeprefix(GROUPS) for name in weights if name.startswith(GROUPS)),
        target="",
        threshold=0.0,
        ladder=ladder_of(trial.blend(weights, 0), trial.truth),
        candidates=_report(trial, weights),
        origin=_origin(rows, trial, weights, left_out=len(recorded) - len(rows)),
        parts=tuple(
            Weighted(name=name, weight=w, part=trial.fitters[name](trial.table, trial.truth))
            for name, w in weights.items()
        ),
    ).at_quality(RECOVERED)


def _key(row: Recorded) -> tuple[str, str | None, bool, bool]:
    return row.case.prompt, row.case.reply, row.weak_correct, row.strong_correct


def _check(rows: Sequence[Recorded]) -> None:
    """Make sure that there is something to learn, and enough to learn it from."""
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


def _grouping(rows: Sequence[Recorded]) -> list[str]:
    """Find the fields that all rows have, and whose values come often enough to tell something."""
    names = [n for n in rows[0].case.fields if all(n in row.case.fields for row in rows)]
    different = {name: len({row.case.fields[name] for row in rows}) for name in names}
    return [n for n, values in different.items() if 2 <= values <= len(rows) / LEAST_IN_GROUP]


def _trial(rows: Sequence[Recorded], fields: Sequence[str]) -> Trial:
    table = describe([row.case for row in rows])
    weak = np.array([row.weak_correct for row in rows], dtype=float)
    strong = np.array([row.strong_correct for row in rows], dtype=float)
    return Trial(table, Truth(weak, strong), candidates(table, fields))


def _stacked(trial: Trial) -> Weights:
    """Weigh the candidates by least squares on held-out predictions, the heaviest first.

    Raises:
        InputError: they aren't shown to predict anything.
    """
    from scipy import optimize

    solve: Any = getattr(optimize, "nnls")  # noqa: B009 - its types are not known
    names, gains = list(trial.fitters), trial.truth.gains - trial.truth.gains.mean()
    told = np.array([np.mean(trial.held_out[name], axis=0) for name in names]).T
    told = told - told.mean(0)
    pull = np.sqrt(_EQUAL * (told**2).sum(0).mean())
    left = np.vstack([told, pull * np.eye(len(names))])
    right = np.concatenate([gains, np.full(len(names), pull / len(names))])
    found: list[float] = solve(left, right)[0].tolist()
    if not any(found) or not _tells(told, gains):
        raise InputError(
            f"nothing in the prompts of {len(gains)} rows is shown to tell where the strong "
            "model gains: held-out rows are predicted no better than chance does in 1 of 20 runs, "
            "so routing by them isn't shown to pay. Use one model for all, or give more rows"
        )
    least = _LEAST_WEIGHT * sum(found)
    kept = {name: weight for name, weight in zip(names, found, strict=True) if weight >= least}
    heaviest = sorted(kept, key=lambda name: -kept[name])
    return {name: round(kept[name] / sum(kept.values()), 4) for name in heaviest}


def _tells(told: Floats, gains: Floats) -> bool:
    """Whether held-out predictions go with the gains, and not by chance.

    Each candidate, and the mean of all, is one look, so each has its part of the 5 % (Bonferroni).
    Where a row teaches about another, that one teaches about it too, so what cross-validation finds
    by chance has up to twice the variance of a permutation.

    Args:
        told: Rows, candidates; the mean of each is 0.
        gains: Their mean is 0.
    """
    looks = np.column_stack([told, told.mean(1)])
    spread = np.sqrt(2 * (looks**2).sum(0) * (gains @ gains) / (len(gains) - 1))
    return bool((gains @ looks > NormalDist().inv_cdf(1 - 0.05 / looks.shape[1]) * spread).any())


def _why(trial: Trial, weights: Weights) -> str:
    single = {name: trial.apgr({name: 1.0}) for name in trial.fitters}
    best = max(single, key=lambda name: single[name])
    alone = f"{best} alone reaches an APGR of {single[best]:.3f} by cross-validation"
    if len(weights) == 1:
        return f"{alone}; the others add nothing"
    return f"{alone}, the weighted mean of {', '.join(weights)} {trial.apgr(weights):.3f}"


def _report(trial: Trial, weights: Weights) -> tuple[Candidate, ...]:
    found = [
        Candidate(
            name=name,
            apgr=round(trial.apgr({name: 1.0}), 4),
            weight=weights.get(name, 0.0),
        )
        for name in trial.fitters
    ]
    return tuple(sorted(found, key=lambda candidate: -candidate.apgr))


def ladder_of(scores: Floats, truth: Truth) -> tuple[Rung, ...]:
    """Thresholds for shares of strong calls, and what held-out rows reach at each.

    Args:
        scores: Of rows that took no part in fitting what scores them.
        truth: Of the same rows.
    """
    line, apart = recovery(scores, *truth), recovery(scores, 0 * truth.gains, abs(truth.gains))
    inner = [
        (place / _RUNGS, float(np.quantile(scores, 1 - place / _RUNGS)))
        for place in range(1, _RUNGS)
    ]
    return tuple(
        Rung(
            share=share,
            threshold=round(threshold, 6),
            quality=round(line.quality_at(share), 4),
            apart=round(apart.quality_at(share), 4),
        )
        for share, threshold in [(0.0, NEVER), *inner, (1.0, -NEVER)]
    )


def _origin(rows: Sequence[Recorded], trial: Trial, weights: Weights, *, left_out: int) -> Origin:
    read = hashlib.sha256()
    for row in rows:
        read.update(repr(_key(row)).encode("utf-8", errors="surrogatepass"))
    return Origin(
        moa=version("mixture-of-agents"),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        rows=len(rows),
        left_out=left_out,
        fingerprint=read.hexdigest(),
        weak_quality=round(float(trial.truth.weak.mean()), 4),
        strong_quality=round(float(trial.truth.strong.mean()), 4),
        apgr=round(trial.apgr(weights), 4),
        why=_why(trial, weights),
    )
