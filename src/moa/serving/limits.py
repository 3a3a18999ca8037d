"""Limits: what a key may use per minute, day or month, and how much is left."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

from moa.core.budget import Budget
from moa.core.errors import KeySpent
from moa.core.usage import Amount, Usage

Name = Literal["usd_per_day", "usd_per_month", "calls_per_day", "calls_per_month"]
_NAMES: tuple[Name, ...] = get_args(Name)
_VERY_MUCH = 2**62
_NANO = Decimal(1_000_000_000)
"""Dollars are stored as whole billionths, so that sums are exact, even in SQLite."""


class Limits(BaseModel):
    """Limits of a key. `None` switches one off. Days and months are in UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usd_per_day: Decimal | None = Field(default=None, ge=0, le=1_000_000, allow_inf_nan=False)
    """US dollars. With this limit, an endpoint without a known price is not asked."""
    usd_per_month: Decimal | None = Field(default=None, ge=0, le=1_000_000, allow_inf_nan=False)
    calls_per_day: int | None = Field(default=None, strict=True, ge=0, le=10**12)
    """Calls to models, also small ones. A run makes several."""
    calls_per_month: int | None = Field(default=None, strict=True, ge=0, le=10**12)
    requests_per_minute: int | None = Field(default=None, strict=True, ge=1, le=1_000_000)
    """Maximum number of runs that begin within any 60 seconds."""
    parallel: int | None = Field(default=None, strict=True, ge=1, le=1_000_000)
    """Maximum number of runs at once."""

    @property
    def budget(self) -> Budget:
        """Budget of a run that was granted nothing yet.

        Calls are reserved even without a limit on them, so that their usage is known if the process
        is killed.
        """
        has_cost = self.usd_per_day is not None or self.usd_per_month is not None
        return Budget(cost=Decimal(0) if has_cost else None, calls=0, strict=has_cost)


class Sums(NamedTuple):
    """Calls, dollars in billionths, and calls without a known price."""

    calls: int = 0
    nano: int = 0
    unpriced: int = 0

    @classmethod
    def of(cls, amount: Amount) -> Sums:
        """Convert an amount."""
        return cls(amount.calls, _nano(amount.priced_cost), amount.unpriced_calls)

    @classmethod
    def of_budget(cls, budget: Budget) -> Sums:
        """Convert the limits of a budget; a missing limit is 0."""
        return cls(budget.calls or 0, _nano(Decimal(str(budget.cost or 0))))

    @property
    def usd(self) -> Decimal:
        """US dollars of the calls with a known price."""
        return self.nano / _NANO

    def plus(self, other: Sums) -> Sums:
        """Add another one."""
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Sums) -> Sums:
        """Subtract another one."""
        return Sums(*(a - b for a, b in zip(self, other, strict=True)))

    def as_budget(self, budget: Budget) -> Budget:
        """Return a budget with the same limits, set to these sums."""
        return replace(
            budget,
            calls=None if budget.calls is None else self.calls,
            cost=None if budget.cost is None else self.usd,
        )


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """Usage and reservations of a key at a point in time."""

    at: datetime
    day: Sums
    """Settled since midnight UTC."""
    month: Sums
    held: Sums
    """Reserved for runs in flight, of this process or others."""
    waiting: Sums
    """Part of `held` of runs that can give nothing back before they get more."""
    runs: int
    """Number of runs in flight."""
    working: int
    """Number of runs that may still give dollars back."""

    def remaining(self, limits: Limits) -> dict[Name, int | float]:
        """Return what is left of each limit on calls and dollars, at least 0."""
        return {
            name: max(left, 0) if name.startswith("calls") else max(float(left / _NANO), 0.0)
            for name, left in self._remaining(limits, self.held)
        }

    def free(self, limits: Limits) -> Sums:
        """Return the calls and dollars that a run may still use, at least 0."""
        left = [*self._remaining(limits, self.held)]
        calls, nano = (
            min([max(left, 0) for name, left in left if name.startswith(kind)], default=_VERY_MUCH)
            for kind in ("calls", "usd")
        )
        return Sums(calls, nano)

    def short_limits(self, limits: Limits, want: Sums, held: Sums) -> set[Name]:
        """Return the limits that leave less than `want`, if others hold `held`."""
        return {
            name
            for name, left in self._remaining(limits, held)
            if left < (want.calls if name.startswith("calls") else want.nano)
        }

    def renews_at(self, names: Collection[Name]) -> datetime:
        """Return when the last of some limits renews."""
        today = self.at.replace(hour=0, minute=0, second=0, microsecond=0)
        if any(name.endswith("month") for name in names):
            return (today.replace(day=1) + timedelta(days=32)).replace(day=1)
        return today + timedelta(days=1)

    def _remaining(self, limits: Limits, held: Sums) -> Iterator[tuple[Name, int]]:
        """Yield what is left of each limit: calls, or billionths of dollars. It may be negative."""
        for name in _NAMES:
            limit = getattr(limits, name)
            spent = self.day if name.endswith("day") else self.month
            if limit is None:
                continue
            if name.startswith("calls"):
                yield name, limit - spent.calls - held.calls
            else:
                yield name, int(limit * _NANO) - spent.nano - held.nano


def spent_error(
    name: str,
    limits: Limits,
    usage: KeyUsage,
    names: Collection[Name],
    spent: Usage | None = None,
) -> KeySpent:
    """Make the error of a key whose limit is used up.

    Args:
        name: Name of the key.
        limits: Its limits.
        usage: Its usage.
        names: The limits that are used up, or leave too little.
        spent: Usage of the refused run.
    """
    left, renews_at = usage.remaining(limits), usage.renews_at(names)
    amounts = ", ".join(
        f"{left[key]:g} of {getattr(limits, key)} {_WORDS[key]}" for key in sorted(names)
    )
    return KeySpent(
        f"the key {name!r} has left: {amounts}. No further call was sent; it renews at "
        f"{renews_at:%Y-%m-%d %H:%M} UTC",
        spent=spent or Usage(),
        left={str(name): amount for name, amount in left.items()},
        renews_at=renews_at,
    )


_WORDS: Mapping[Name, str] = {
    "usd_per_day": "US dollars a day",
    "usd_per_month": "US dollars a month",
    "calls_per_day": "calls a day",
    "calls_per_month": "calls a month",
}


def _nano(usd: Decimal) -> int:
    return int((usd * _NANO).to_integral_value(ROUND_CEILING))
