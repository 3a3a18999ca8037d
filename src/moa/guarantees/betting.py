"""Betting: evidence against a claim that may be looked at after every observation.

Someone starts with a wealth of 1 and bets against the claim at odds that are fair if it holds. Then
the wealth ever reaches `1 / alpha` with a probability of at most `alpha`, however long it goes on
(Ville's inequality). See Ramdas, Grünwald, Vovk and Shafer 2023, "Game-theoretic statistics and
safe anytime-valid inference", Statistical Science 38.

A claim may hold for long and then fail. So half of the wealth is bet from the first observation on,
and the other half is kept back and laid out bit by bit, as much at observation `t` as
`1 / (t * (t - 1))`: whatever the moment of a change, some wealth is fresh then, and the price is
the logarithm of `t` twice (a mixture of starting times, as in Shin, Ramdas and Rinaldo 2024,
"E-detectors: a nonparametric framework for sequential change detection").
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

_FIRST = 0.5


class Evidence(BaseModel):
    """The wealth of several bets against one claim, each with the same share of the start."""

    model_config = ConfigDict(frozen=True)

    steps: int = 0
    """Observations so far."""
    logs: tuple[float, ...] = ()
    """Logarithm of what each bet has made of a wealth of 1, without what is still kept back."""

    def after(self, factors: Sequence[float]) -> Evidence:
        """Let each bet win or lose.

        Args:
            factors: What each bet multiplies its stake by at this observation: positive, and 1 or
                less on average where the claim holds.
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


def _sum_of_logs(first: float, second: float) -> float:
    low, high = sorted((first, second))
    return high + math.log1p(math.exp(low - high))
