"""Costs: US dollars for a thousand items, to vendors and for one's own machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from moa.cards import card
from moa.choosing.members import Member
from moa.choosing.plans import Cost
from moa.choosing.task import Task
from moa.choosing.timing import Times, Work

_MILLION, _THOUSAND = Decimal(1_000_000), Decimal(1000)
_JOULES_A_KWH = Decimal(3_600_000)
_DAY_H = Decimal(24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one's own machine costs; `None`: not known, and never taken as nothing."""

    hourly_usd: Decimal | None = None
    """US dollars an hour, for the whole machine, whether it works or not."""
    usd_per_kwh: Decimal | None = None
    """US dollars a kilowatt-hour, for what a GPU draws while it works."""


Spent = tuple[Member, Work, Times | None]
"""A member, what is asked of it, and how long that takes."""


def cost_of(spent: Sequence[Spent], task: Task, rates: Rates) -> Cost:
    """Work out what a thousand items cost; what isn't known stays so."""
    paid = [_paid(member, work) for member, work, _ in spent if not member.local]
    own = [entry for entry in spent if entry[0].local]
    return Cost(vendors=_sum(paid), own=_own(own, task, rates) if own else Decimal(0))


def _sum(parts: Sequence[Decimal | None]) -> Decimal | None:
    known = [part for part in parts if part is not None]
    return sum(known, Decimal(0)) if len(known) == len(parts) else None


def _own(spent: Sequence[Spent], task: Task, rates: Rates) -> Decimal | None:
    if rates.hourly_usd is not None and task.per_day:
        return rates.hourly_usd * _DAY_H / task.per_day * _THOUSAND  # it is paid for all day
    return _sum([_worked(*entry, rates) for entry in spent])


def _worked(member: Member, work: Work, times: Times | None, rates: Rates) -> Decimal | None:
    """For the seconds in which a server works for a thousand items."""
    if times is None:
        return None
    seconds = Decimal(repr(times.busy_s * work.share * work.calls)) * _THOUSAND
    if rates.hourly_usd is not None:
        return seconds * rates.hourly_usd / 3600
    if rates.usd_per_kwh is not None:
        watts = _watts(member)
        return None if watts is None else seconds * watts / _JOULES_A_KWH * rates.usd_per_kwh
    return None


def _watts(member: Member) -> Decimal | None:
    place = member.place
    known = card(place.gpu.name) if place and place.gpu else None
    return Decimal(repr(known.watts)) * place.count if known and place else None


def _paid(member: Member, work: Work) -> Decimal | None:
    """By the token; nothing is taken as cached, since vendors cache long prompts alone."""
    price = member.price
    if price.input is None or price.output is None:
        return None
    share = Decimal(repr(work.share)) * work.calls * _THOUSAND / _MILLION
    return share * (price.input * work.prompt + price.output * work.writes)
