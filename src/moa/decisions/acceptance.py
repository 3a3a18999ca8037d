"""Acceptance: policies that judge whether a small model's reply is good enough.

They combine: `Confident(0.9) & Arithmetic()` accepts if both accept, `|` if either does, and `~` if
the policy doesn't. Like Python's `and` and `or` they are lazy, so put the free ones first:
`Length(most=80) & Plausible(node)` asks no model about a text that is too long.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from moa.core._async import gather, map_async
from moa.core.context import RunContext
from moa.core.errors import ConfigError, InputError
from moa.core.questions import answers_in
from moa.decisions.guarantee import Bound, Guarantee

if TYPE_CHECKING:
    from moa.decisions.arrays import Bools, Ints

N = TypeVar("N")
_FEWEST = 10
_PARTS = 5
_ASKED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Judgement:
    """A policy's verdict on a reply."""

    score: float
    """From 0 to 1, higher is better. It is a probability only if the policy was fitted."""
    accepted: bool
    reasons: tuple[str, ...]
    """Reasons in words, one for each policy that was asked."""
    signs: Mapping[str, float] = field(default_factory=dict[str, float])
    """Further numbers, as features of a fitted policy."""


class Policy(ABC):
    """Base class of acceptance policies. Derive from it to write your own."""

    @abstractmethod
    async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
        """Judge a reply.

        Args:
            request: What the small model was asked.
            reply: The answer: a text, or any typed output of an agent.
            context: Budget, deadline and ledger for calls to models.

        Raises:
            MoaError: a call to a model failed; the reply is then not accepted.
        """

    @property
    def parts(self) -> tuple[Policy, ...]:
        """The policies that it combines; itself if it combines none."""
        return (self,)

    async def fit(
        self,
        graded: Sequence[GradedReply],
        guarantee: Guarantee,
        *,
        context: RunContext | None = None,
    ) -> FittedPolicy:
        """Fit one policy to graded replies, from the scores of the parts.

        Half of the replies fit a logistic regression, the other half find its bound. How the parts
        were combined is ignored.

        Args:
            graded: Replies of the small model with their grades.
            guarantee: The guarantee for accepted replies.
            context: Budget, deadline and ledger of the calls to models; `None` starts one.

        Raises:
            InputError: there are fewer than 10 graded replies, or they are about too few cases.
            MoaError: a call to a model failed.
            MissingDependency: numpy or SciPy is not installed.
        """
        from moa.decisions.arrays import np
        from moa.decisions.bounds import Outcome, find_bound
        from moa.decisions.regression import fit_head

        if len(graded) < _FEWEST:
            raise InputError(
                f"{len(graded)} graded replies are too few: it takes at least {_FEWEST}"
            )
        held_out, fold_indices = _split_graded(graded)
        run_context = context or RunContext()

        async def signs(graded_reply: GradedReply) -> dict[str, float]:
            judgements = (
                part.judge(graded_reply.request, graded_reply.reply, run_context)
                for part in self.parts
            )
            return signs_of(await gather(judgements))

        read = await map_async(signs, graded, max_concurrency=_ASKED_AT_ONCE)
        names = tuple(dict.fromkeys(name for row in read for name in row))
        table = np.array([[row.get(name, 0.0) for name in names] for row in read])
        good = np.array([g.good for g in graded], int)
        spread = table[~held_out].std(0)
        scale = np.where(spread > 0, spread, 1.0)
        head_fit = fit_head(table[~held_out] / scale, good[~held_out], 2, fold_indices)
        probability = np.exp(head_fit.head(table / scale))[:, 1]
        probability[~held_out] = np.exp(head_fit.held_out)[:, 1]
        fitting: list[Outcome] = []
        tested: list[Outcome] = []
        for p, g, out in zip(probability, graded, held_out, strict=True):
            outcome = Outcome(confidence=float(min(1.0, p)), correct=g.good, case=g.case)
            (tested if out else fitting).append(outcome)
        odds = (head_fit.head.weights[:, 1] - head_fit.head.weights[:, 0]) / scale
        return FittedPolicy(
            policies=self.parts,
            signs=names,
            weights=tuple(float(w) for w in odds),
            bias=float(head_fit.head.bias[1] - head_fit.head.bias[0]),
            bound=find_bound(fitting, tested, guarantee),
        )

    def __and__(self, other: Policy) -> Policy:
        return _Pair(self, other, both=True)

    def __or__(self, other: Policy) -> Policy:
        return _Pair(self, other, both=False)

    def __invert__(self) -> Policy:
        return _Not(self)


@dataclass(frozen=True, slots=True)
class _Pair(Policy):
    """`first & second`, or `first | second`; lazy, as `and` and `or` are."""

    first: Policy
    second: Policy
    both: bool
    """True for `&`, which takes the lower score; False for `|`, which takes the higher."""

    @property
    def parts(self) -> tuple[Policy, ...]:
        """The parts of both policies."""
        return (*self.first.parts, *self.second.parts)

    async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
        """Ask the second policy only if the first doesn't settle the result."""
        first = await self.first.judge(request, reply, context)
        if first.accepted != self.both:
            return first
        second = await self.second.judge(request, reply, context)
        score = (min if self.both else max)(first.score, second.score)
        return Judgement(score, second.accepted, (*first.reasons, *second.reasons))


@dataclass(frozen=True, slots=True)
class _Not(Policy):
    """The negation of a policy, written `~policy`."""

    policy: Policy

    @property
    def parts(self) -> tuple[Policy, ...]:
        """The parts of the policy."""
        return self.policy.parts

    async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
        """Invert the judgement."""
        judgement = await self.policy.judge(request, reply, context)
        reasons = tuple(f"turned around: {reason}" for reason in judgement.reasons)
        return Judgement(1.0 - judgement.score, not judgement.accepted, reasons)


@dataclass(frozen=True, slots=True)
class Confident(Policy):
    """Accepts decisions with a minimum confidence; of several questions the least sure counts.

    If an answer has its own calibration, that decides instead of the bound. The confidence of an
    answer that it rejects comes from another fit, which has no bound.

    Args:
        threshold: A confidence, or the bound found for the scorer. A number not derived from your
            own labels guarantees nothing.

    Raises:
        ConfigError: the threshold is not between 0 and 1.
    """

    threshold: float | Bound

    def __post_init__(self) -> None:
        if not isinstance(self.threshold, Bound):
            check_share(self.threshold, "threshold")

    async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
        """Compare the confidence; a written label has none and is not accepted."""
        answers, bound = _answers(reply), self.threshold
        confidences = _confidences(answers)
        if not confidences:
            return Judgement(0.0, False, ("it has no confidence",))
        confidence = min(confidences)
        if isinstance(bound, Bound):
            acceptances = [_read_accepted(answer) for answer in answers]
            accepts = [
                bound.accepts(value) if acceptance is None else acceptance
                for value, acceptance in zip(confidences, acceptances, strict=True)
            ]
            if any(acceptance is not None for acceptance in acceptances):
                does = "accepted" if all(accepts) else "not accepted"
                return Judgement(confidence, all(accepts), (f"{does} by its calibration",))
            threshold = bound.threshold
        else:
            accepts, threshold = [confidence >= bound], bound
        requirement = "nothing is accepted" if threshold is None else f"{threshold:.3f} is needed"
        return Judgement(confidence, all(accepts), (f"confidence {confidence:.3f}, {requirement}",))


def _read_accepted(answer: object) -> bool | None:
    """Return the answer's own acceptance; `None` if there is no guarantee."""
    accepted = getattr(answer, "accepted", None)
    return accepted if isinstance(accepted, bool) else None


def confidence_of(reply: object) -> float | None:
    """Return a decision's confidence, the lowest of several questions; `None` without one."""
    return min(_confidences(_answers(reply)), default=None)


def _confidences(answers: Sequence[object]) -> list[float]:
    """Return the confidence of each answer; none if one of them has none."""
    values: list[object] = [getattr(answer, "confidence", None) for answer in answers]
    confidences = [
        float(confidence) for confidence in values if isinstance(confidence, int | float)
    ]
    return confidences if len(confidences) == len(values) else []


def _answers(reply: object) -> list[object]:
    """Return the objects with a confidence: the reply itself, or the answers in it."""
    return [reply] if hasattr(reply, "confidence") else list(answers_in(reply).values())


def check_sampling(node: N, samples: int) -> N:
    """Return the node; raise `ConfigError` if several samples of it would all be the same."""
    if samples > 1 and getattr(node, "temperature", None) == 0:
        raise ConfigError(
            f"{getattr(node, 'name', node)!r} writes at temperature 0, so all {samples} samples "
            "would be the same: give it a temperature above 0, such as 0.7"
        )
    return node


def check_share(value: float, name: str) -> None:
    """Raise `ConfigError` unless a value lies between 0 and 1."""
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name}={value}, but it must lie between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedReply:
    """A reply of the small model with its grade."""

    request: object
    reply: object
    good: bool
    case: str | None = None
    """Groups replies that belong together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPolicy(Policy):
    """A policy whose score is the probability that the reply is good enough.

    It needs no other library to be applied.
    """

    policies: tuple[Policy, ...]
    """The policies whose scores and signs it reads; all are asked concurrently."""
    signs: tuple[str, ...]
    """Names of its features, in order."""
    weights: tuple[float, ...]
    """Weight of each feature in the log-odds."""
    bias: float
    bound: Bound
    """The minimum probability for acceptance, and its guarantee."""

    async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
        """Ask all policies, and combine their scores and signs."""
        judgements = await gather(p.judge(request, reply, context) for p in self.policies)
        signs = signs_of(judgements)
        odds = self.bias + sum(
            weight * signs.get(name, 0.0)
            for name, weight in zip(self.signs, self.weights, strict=True)
        )
        good = 1.0 / (1.0 + math.exp(-max(-700.0, odds)))
        threshold = self.bound.threshold
        requirement = "nothing is accepted" if threshold is None else f"{threshold:.3f} is needed"
        reasons = [reason for judgement in judgements for reason in judgement.reasons]
        summary = f"good enough with a probability of {good:.3f}, {requirement}"
        return Judgement(good, self.bound.accepts(good), (summary, *reasons))


def _split_graded(graded: Sequence[GradedReply]) -> tuple[Bools, Ints]:
    """Return which replies are held out, and the fold of each of the others."""
    from moa.decisions.arrays import np
    from moa.decisions.regression import folds, split

    good = np.array([g.good for g in graded], int)
    cases = [str(index) if g.case is None else f"case {g.case}" for index, g in enumerate(graded)]
    # The halves must be exchangeable. If each had as many good replies, the errors of one would
    # predict those of the other, but a bound assumes that they are independent.
    held_out = split(cases, 0.5, seed=0)
    fit_cases = [case for case, out in zip(cases, held_out.tolist(), strict=True) if not out]
    fold_indices = folds(fit_cases, good[~held_out], _PARTS, seed=0)
    if not held_out.any() or len(set(fold_indices.tolist())) < 2:
        raise InputError(
            f"{len(graded)} graded replies are about {len(set(cases))} cases, which are too few to "
            f"fit to some and hold others out: give replies of at least {_FEWEST} cases"
        )
    return held_out, fold_indices


def signs_of(judgements: Sequence[Judgement]) -> dict[str, float]:
    """Collect the scores and signs of judgements, keyed by the policy's index and their name."""
    return {
        f"{index} {name}": value
        for index, judgement in enumerate(judgements)
        for name, value in {"score": judgement.score, **judgement.signs}.items()
    }
