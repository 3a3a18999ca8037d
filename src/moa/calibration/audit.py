"""Audit: a random share of accepted decisions is checked, and a broken guarantee is withdrawn.

The evidence may be looked at after every observation: someone starts with a wealth of 1 and bets
against a claim at odds that are fair if it holds. Then the wealth ever reaches `1 / alpha` with a
probability of at most `alpha`, however long it goes on (Ville's inequality). See Ramdas, Grünwald,
Vovk and Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference", Statistical
Science 38.

A claim may hold for long and then fail. So half of the wealth is bet from the first observation on,
and the other half is kept back and laid out bit by bit, as much at observation `t` as
`1 / (t * (t - 1))`: whatever the moment of a change, some wealth is fresh then, and the price is
the logarithm of `t` twice (a mixture of starting times, as in Shin, Ramdas and Rinaldo 2024,
"E-detectors: a nonparametric framework for sequential change detection").
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Self

from pydantic import Field

from moa.calibration import Bound, percent
from moa.node import Frozen

_FIRST = 0.5
_ALTERNATIVES = (1.3, 1.6, 2.0, 3.0, 5.0, 10.0)
"""How many times as risky the decisions are, as each bet has it."""


class Evidence(Frozen):
    """The wealth of several bets against one claim, each with the same share of the start."""

    steps: int = 0
    """Observations so far."""
    logs: tuple[float, ...] = ()
    """Logarithm of what each bet has made of a wealth of 1, without what is still kept back."""

    def after(self, factors: Sequence[float]) -> Evidence:
        """Let each bet win or lose, by what it multiplies its stake by at this observation.

        That is positive, and 1 or less on average where the claim holds.
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
        """Logarithm of the wealth of all bets together, what is kept back included."""
        if not self.steps:
            return 0.0
        top = max(self.logs)
        bet = top + math.log(sum(math.exp(log - top) for log in self.logs) / len(self.logs))
        return _sum_of_logs(bet, math.log((1.0 - _FIRST) / self.steps))

    def refutes(self, alpha: float) -> bool:
        """Whether the claim is refuted, with a false alarm in at most `alpha` of all runs."""
        return self.log_wealth >= -math.log(alpha)


class Audit(Frozen):
    """The state of a running audit: a small value, which each step replaces by a new one.

    Each check is a bet against "the risk of this decision is at most `risk`", by the ratio of the
    likelihoods under a larger risk and under this one (a mixture of Wald's sequential probability
    ratio tests; Waudby-Smith and Ramdas 2023, "Estimating means of bounded random variables by
    betting", JRSS-B 86). A guarantee that holds is ever withdrawn with a probability of at most
    `alpha`, however long the audit runs and whenever it is looked at.

    Simulated with a risk of 5 % and an `alpha` of 5 %: decisions that are twice as risky from the
    start are found out after 170 checks on average, three times as risky ones after 50; where the
    risk rises from 3 % to 10 % only after 500 checks, it takes 540 more. At 2 % checked, a hundred
    checks take 5,000 accepted decisions; a larger `share` finds out sooner.

    It needs checks of decisions that were picked here, all of them: a check that is left out where
    it is inconvenient makes the audit worthless. Who checks can be wrong too. Where an LLM does,
    the risk is that of disagreeing with it.
    """

    risk: float = Field(gt=0, lt=1)
    """Largest share of wrong ones among the accepted decisions that was guaranteed."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Largest probability of ever withdrawing a guarantee that holds."""
    share: float = Field(default=0.02, ge=0, le=1)
    """Share of the accepted decisions that is checked."""
    seed: int = 0
    """Makes the picks repeatable: with the same seed they are the same in each process that doesn't
    go on from a state that was kept."""
    accepted: int = 0
    """Accepted decisions so far."""
    checked: int = 0
    """Those of them whose check is in."""
    wrong: int = 0
    """Wrong ones among the checked."""
    evidence: Evidence = Evidence()
    withdrawn: bool = False
    """Whether the guarantee was found broken. It stays so."""

    @classmethod
    def of(cls, bound: Bound, *, share: float = 0.02, alpha: float = 0.05, seed: int = 0) -> Self:
        """Start the audit of a bound's risk.

        Draw a seed where each process starts anew, so that not the same ones are picked in each.
        """
        return cls(risk=bound.guarantee.risk, share=share, alpha=alpha, seed=seed)

    def pick(self) -> tuple[Self, bool]:
        """Count one more accepted decision, and say whether it is to be checked."""
        picked = random.Random(f"{self.seed}/{self.accepted}").random() < self.share
        return self.model_copy(update={"accepted": self.accepted + 1}), picked

    def record(self, *, correct: bool) -> Self:
        """Take in the check of a decision that was picked."""
        factors: list[float] = []
        for times in _ALTERNATIVES:
            right = (1.0 - self.risk) ** times  # the larger risk is below 1, whatever the risk
            factors.append(right / (1.0 - self.risk) if correct else (1.0 - right) / self.risk)
        evidence = self.evidence.after(factors)
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
        """Where the audit stands, in words."""
        found = f"{self.wrong} of {self.checked} checked decisions were wrong"
        if self.checked:
            found += f" ({percent(self.wrong / self.checked)})"
        if self.withdrawn:
            return (
                f"the guarantee of at most {percent(self.risk)} wrong is withdrawn: {found}. "
                "Everything is escalated until it is calibrated again"
            )
        return f"the guarantee of at most {percent(self.risk)} wrong stands: {found}"


def _sum_of_logs(first: float, second: float) -> float:
    low, high = sorted((first, second))
    return high + math.log1p(math.exp(low - high))
