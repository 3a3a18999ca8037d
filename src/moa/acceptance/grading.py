"""Grading: an acceptance policy fitted on replies that someone graded as good enough or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moa.acceptance import Judgement, Policy, all_of
from moa.context import RunContext
from moa.errors import InputError
from moa.guarantees import Bound, Guarantee

if TYPE_CHECKING:
    from moa.decisions.arrays import Bools, Ints

_FEWEST = 10
_PARTS = 5
_ASKED_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """A reply of the small model, and whether it was good enough."""

    request: Any
    reply: Any
    good: bool
    case: str | None = None
    """What it belongs to, where several replies belong together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted(Policy):
    """A policy whose score is the probability that the reply is good enough.

    It needs no other library to be applied.
    """

    policies: tuple[Policy, ...]
    """Those whose scores and signs it is made from. All are asked, side by side."""
    signs: tuple[str, ...]
    """Names of what it reads, in order."""
    weights: tuple[float, ...]
    """What each adds to the log odds."""
    bias: float
    bound: Bound
    """From which probability on a reply is accepted, and what is promised of those."""

    async def judge(self, request: Any, reply: Any, context: RunContext) -> Judgement:
        """Ask all policies, and weigh what they say."""
        found = await all_of(p.judge(request, reply, context) for p in self.policies)
        return self.weigh(found)

    def weigh(self, found: Sequence[Judgement]) -> Judgement:
        """Make one judgement from those of the policies."""
        read = signs_of(found)
        odds = self.bias + sum(
            weight * read.get(name, 0.0)
            for name, weight in zip(self.signs, self.weights, strict=True)
        )
        good = 1.0 / (1.0 + math.exp(-max(-700.0, odds)))
        least = self.bound.threshold
        wanted = "nothing is accepted" if least is None else f"{least:.3f} is needed"
        reasons = [reason for judgement in found for reason in judgement.reasons]
        summary = f"good enough with a probability of {good:.3f}, {wanted}"
        return Judgement(good, self.bound.accepts(good), (summary, *reasons))


async def fit(
    policy: Policy,
    graded: Sequence[Graded],
    guarantee: Guarantee,
    *,
    context: RunContext,
    seed: int = 0,
) -> Fitted:
    """Fit a policy on graded replies: half for a logistic regression, half for its bound.

    The parts of the policy are what is weighed; how they were combined doesn't matter then.

    Args:
        policy: Whose parts are weighed.
        graded: Replies of the small model, and whether each was good enough.
        guarantee: What is promised of the replies that are accepted.
        context: Budget, deadline and ledger of the calls to models.
        seed: Another one splits the replies otherwise.

    Raises:
        InputError: there are fewer than 10 graded replies, or they are about too few cases.
        MoaError: a model was asked, and that failed.
        MissingDependency: numpy is not installed.
    """
    from moa.decisions.arrays import np
    from moa.decisions.heads import fit_head
    from moa.guarantees.bounds import Outcome, find_bound

    if len(graded) < _FEWEST:
        raise InputError(f"{len(graded)} graded replies are too few: it takes at least {_FEWEST}")
    held, inside = _sides(graded, seed)
    read = await _read(policy, graded, context)
    names = tuple(dict.fromkeys(name for row in read for name in row))
    table = np.array([[row.get(name, 0.0) for name in names] for row in read])
    good = np.array([g.good for g in graded], int)
    spread = table[~held].std(0)
    scale = np.where(spread > 0, spread, 1.0)
    fitted = fit_head(table[~held] / scale, good[~held], 2, inside)
    probability = np.exp(fitted.head(table / scale))[:, 1]
    probability[~held] = np.exp(fitted.held_out)[:, 1]
    outcomes = [
        Outcome(confidence=float(min(1.0, p)), correct=g.good, case=g.case)
        for p, g in zip(probability, graded, strict=True)
    ]
    sides = ([o for o, out in zip(outcomes, held, strict=True) if out == side] for side in (0, 1))
    odds = (fitted.head.weights[:, 1] - fitted.head.weights[:, 0]) / scale
    return Fitted(
        policies=policy.parts,
        signs=names,
        weights=tuple(float(w) for w in odds),
        bias=float(fitted.head.bias[1] - fitted.head.bias[0]),
        bound=find_bound(next(sides), next(sides), guarantee),
    )


def _sides(graded: Sequence[Graded], seed: int) -> tuple[Bools, Ints]:
    """Tell which replies are held out, and which fold each of the others is in."""
    from moa.decisions.arrays import np
    from moa.decisions.folds import folds, split

    good = np.array([g.good for g in graded], int)
    cases = [str(place) if g.case is None else f"case {g.case}" for place, g in enumerate(graded)]
    # The halves must be exchangeable. Were each given as many good replies, the errors of the one
    # would tell those of the other, and a bound takes them for independent.
    held = split(cases, 0.5, seed=seed)
    known = [case for case, out in zip(cases, held.tolist(), strict=True) if not out]
    inside = folds(known, good[~held], _PARTS, seed=seed)
    if not held.any() or len(set(inside.tolist())) < 2:
        raise InputError(
            f"{len(graded)} graded replies are about {len(set(cases))} cases, which are too few to "
            f"fit to some and hold others out: give replies of at least {_FEWEST} cases"
        )
    return held, inside


def signs_of(judgements: Sequence[Judgement]) -> dict[str, float]:
    """Everything that some judgements tell, by the place of the policy and the name of the sign."""
    return {
        f"{place} {name}": value
        for place, judgement in enumerate(judgements)
        for name, value in {"score": judgement.score, **judgement.signs}.items()
    }


async def _read(
    policy: Policy, graded: Sequence[Graded], context: RunContext
) -> list[dict[str, float]]:
    read: list[dict[str, float]] = []
    for start in range(0, len(graded), _ASKED_AT_ONCE):
        some = graded[start : start + _ASKED_AT_ONCE]
        read += await all_of(_signs(policy, one, context) for one in some)
    return read


async def _signs(policy: Policy, graded: Graded, context: RunContext) -> dict[str, float]:
    asked = (part.judge(graded.request, graded.reply, context) for part in policy.parts)
    return signs_of(await all_of(asked))
