"""Audit: check a random share of accepted decisions, and withdraw a broken guarantee.

The evidence may be inspected after every observation. A gambler starts with a wealth of 1 and bets
against a claim at odds that are fair if it holds. The probability that the wealth ever reaches
`1 / alpha` is then at most `alpha`, however long the game lasts (Ville's inequality). See Ramdas,
Grünwald, Vovk and Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference",
Statistical Science 38.

A claim may hold for long and then fail. So half of the wealth is bet from the first observation,
and the other half is released over time, `1 / (t * (t - 1))` at observation `t`. Some wealth is
then fresh whenever a change occurs. The price is the logarithm of `t` twice (a mixture of starting
times, as in Shin, Ramdas and Rinaldo 2024, "E-detectors: a nonparametric framework for sequential
change detection").
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Self

from pydantic import Field

from moa.core.node import Frozen
from moa.decisions.guarantee import Bound, percent

_FIRST = 0.5
_ALTERNATIVES = (1.3, 1.6, 2.0, 3.0, 5.0, 10.0)
"""The multiples of the guaranteed risk that the bets assume."""


class Evidence(Frozen):
    """The wealth of several bets against one claim, each with an equal share of the stake."""

    steps: int = 0
    """Observations so far."""
    logs: tuple[float, ...] = ()
    """Logarithm of each bet's wealth for a stake of 1, without the part not released yet."""

    def update(self, factors: Sequence[float]) -> Evidence:
        """Return the evidence after an observation, given a factor for each bet's wealth.

        Factors are positive, with a mean of at most 1 if the claim holds.
        """
        step = self.steps + 1
        if step == 1:
            logs = tuple(math.log(_FIRST * factor) for factor in factors)
        else:
            fresh = math.log((1.0 - _FIRST) / (step * (step - 1)))
            logs = tuple(
                _sum_of_logs(log, fresh) + math.log(factor)
                for log, factor in zip(self.logs, factors, strict=True)
            )
        return Evidence.model_construct(steps=step, logs=logs)

    @property
    def log_wealth(self) -> float:
        """Logarithm of the wealth of all bets together, including the part not released yet."""
        if not self.steps:
            return 0.0
        top = max(self.logs)
        bet = top + math.log(sum(math.exp(log - top) for log in self.logs) / len(self.logs))
        return _sum_of_logs(bet, math.log((1.0 - _FIRST) / self.steps))

    def refutes(self, alpha: float) -> bool:
        """Return True if the claim is refuted, with false alarms in at most `alpha` of all runs."""
        return self.log_wealth >= -math.log(alpha)


class Audit(Frozen):
    """The state of a running audit: an immutable value that each step replaces.

    Each check is a bet against "the risk of this decision is at most `risk`", by the likelihood
    ratio of a larger risk to this one (a mixture of Wald's sequential probability ratio tests;
    Waudby-Smith and Ramdas 2023, "Estimating means of bounded random variables by betting", JRSS-B
    86). The probability of ever withdrawing a guarantee that holds is at most `alpha`, however
    long the audit runs and whenever it is inspected.

    In simulations with a risk and an `alpha` of 5 %, twice the risk from the start is detected
    after 170 checks on average, and three times the risk after 50. If the risk rises from 3 % to
    10 % after 500 checks, detection takes 540 more. With 2 % checked, a hundred checks take 5,000
    accepted decisions; a larger `share` detects sooner.

    Check every decision that was picked: if inconvenient ones are skipped, the audit is worthless.
    The checker can be wrong, too. If an LLM checks, the risk is that of disagreeing with it.
    """

    risk: float = Field(gt=0, lt=1)
    """The guaranteed maximum share of wrong decisions among the accepted."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Maximum probability of ever withdrawing a guarantee that holds."""
    share: float = Field(default=0.02, ge=0, le=1)
    """Share of the accepted decisions to check."""
    seed: int = 0
    """Seed of the picks. A process that restarts with the same seed makes the same picks."""
    accepted: int = 0
    """Number of accepted decisions so far."""
    checked: int = 0
    """Number of completed checks."""
    wrong: int = 0
    """Wrong decisions among the checked ones."""
    evidence: Evidence = Evidence()
    withdrawn: bool = False
    """True once the guarantee was found broken. It stays True."""

    @classmethod
    def of(cls, bound: Bound, *, share: float = 0.02, alpha: float = 0.05, seed: int = 0) -> Self:
        """Start the audit of a bound's risk.

        Use a new seed when a process restarts; with the old one it makes the same picks again.
        """
        return cls(risk=bound.guarantee.risk, share=share, alpha=alpha, seed=seed)

    def pick(self) -> tuple[Self, bool]:
        """Count one more accepted decision, and return whether to check it."""
        is_picked = random.Random(f"{self.seed}/{self.accepted}").random() < self.share
        return self.model_copy(update={"accepted": self.accepted + 1}), is_picked

    def record(self, *, correct: bool) -> Self:
        """Return the audit after the check of a picked decision."""
        factors: list[float] = []
        for times in _ALTERNATIVES:
            right = (1.0 - self.risk) ** times  # the larger risk is below 1, whatever the risk
            factors.append(right / (1.0 - self.risk) if correct else (1.0 - right) / self.risk)
        evidence = self.evidence.update(factors)
        return self.model_copy(
            update={
                "checked": self.checked + 1,
                "wrong": self.wrong + (not correct),
                "evidence": evidence,
                "withdrawn": self.withdrawn or evidence.refutes(self.alpha),
            }
        )

    @property
    def summary(self) -> str:
        """The state of the audit in words."""
        finding = f"{self.wrong} of {self.checked} checked decisions were wrong"
        if self.checked:
            finding += f" ({percent(self.wrong / self.checked)})"
        if self.withdrawn:
            return (
                f"the guarantee of at most {percent(self.risk)} wrong is withdrawn: {finding}. "
                "Everything is escalated until it is calibrated again"
            )
        return f"the guarantee of at most {percent(self.risk)} wrong stands: {finding}"


def _sum_of_logs(first: float, second: float) -> float:
    low, high = sorted((first, second))
    return high + math.log1p(math.exp(low - high))
