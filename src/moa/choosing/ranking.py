"""Ranking: tries every pattern with every model that fits, and ranks what keeps the limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from math import ceil
from typing import Final

from moa.choosing.costs import Rates, Spent, cost_of
from moa.choosing.limits import Broken, after_timing, before_timing
from moa.choosing.measured import hourly_usd as hourly_as_measured
from moa.choosing.members import Member, at_vendors, on
from moa.choosing.patterns import Draft, drafts
from moa.choosing.plans import Cause, Cost, Latency, Pattern, Plan, Ranking, Rejected
from moa.choosing.qualities import NEEDED
from moa.choosing.reasons import reasons
from moa.choosing.scores import score
from moa.choosing.task import Task
from moa.choosing.timing import Times, timed
from moa.config import Config
from moa.machine import Machine, machine

_SHOWN: Final = 6
_IDLE = 0.1
"""Share of the busiest time up to which one server is enough, and a second saves no wait."""
_RARE = 0.05
"""Share of the items below which a stage doesn't show in the slowest 5 of 100."""


def choose(
    task: Task,
    on_machine: Machine | None = None,
    *,
    config: Config | None = None,
    hourly_usd: Decimal | None = None,
    usd_per_kwh: Decimal | None = None,
) -> Ranking:
    """Choose models and a pattern for a task, from what the machine has.

    Every pattern is tried with every model of the catalogue that fits. What breaks a limit of the
    task (memory, time, dollars, privacy, risk) is rejected with the reason; the rest is ranked by
    quality, cost, time and what there is to look after. Nothing is started, fetched or sent.

    Args:
        task: What is to be done.
        on_machine: Where; `None`: on this machine, as `moa.machine.machine` reads it.
        config: The configuration, whose endpoints may have been measured by `moa bench`: measured
            speeds replace estimates. `None`: estimates alone.
        hourly_usd: What the machine costs an hour, in US dollars; `None`: as `moa bench` was told
            on it, else not known.
        usd_per_kwh: What electricity costs; taken where `hourly_usd` is not given.

    Raises:
        MissingDependency: psutil is needed to read this machine, and not installed.
        ConfigError: what was measured can't be read.
    """
    from moa.choosing.remedies import remedies

    there = on_machine or machine(online=not task.offline)
    if hourly_usd is None and usd_per_kwh is None:
        hourly_usd = hourly_as_measured(config, there)
    rates = Rates(hourly_usd=hourly_usd, usd_per_kwh=usd_per_kwh)
    ranking = ranked(task, there, config=config, rates=rates)
    best = ranking.best
    if best is not None and best.good_enough:
        return ranking
    return replace(ranking, remedies=remedies(task, there, config=config, rates=rates))


def ranked(task: Task, there: Machine, *, config: Config | None, rates: Rates) -> Ranking:
    """Rank the plans, and look for no remedy where there is none."""
    found = [*on(there, task, config=config), *at_vendors(task)]
    rejected = [one for one in found if isinstance(one, Rejected)]
    kept: list[_Kept] = []
    for draft in drafts(task, [one for one in found if isinstance(one, Member)]):
        tried = _tried(draft, task, there, rates)
        if isinstance(tried, Rejected):
            rejected.append(tried)
        else:
            kept.append(tried)
    plans = tuple(_plan(one, task, there) for one in _best(kept))
    return Ranking(task=task, machine=there, plans=plans, rejected=_nearest(rejected), remedies=())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    draft: Draft
    spent: list[Spent]
    latency: Latency | None
    cost: Cost
    score: float


def _tried(draft: Draft, task: Task, there: Machine, rates: Rates) -> _Kept | Rejected:
    for broken in before_timing(draft, task, there):
        return _rejected(draft, broken)
    spent: list[Spent] = [
        (member, work, timed(member, work, rate=task.rate, together=task.concurrency))
        for member, work in draft.stages
    ]
    latency = _latency(spent)
    cost = cost_of(spent, task, rates)
    for broken in after_timing(task, spent=spent, latency=latency, cost=cost):
        return _rejected(draft, broken)
    weighed = score(draft, task, there, cost=cost, latency=latency)
    return _Kept(draft=draft, spent=spent, latency=latency, cost=cost, score=weighed)


def _plan(kept: _Kept, task: Task, there: Machine) -> Plan:
    in_flight = ceil(task.rate * kept.latency.mean_s) if kept.latency else 1
    return Plan(
        pattern=kept.draft.pattern,
        members=kept.draft.members,
        quality=kept.draft.quality,
        needed_quality=NEEDED[task.risk],
        latency=kept.latency,
        cost=kept.cost,
        concurrency=task.concurrency or max(1, in_flight),
        servers=tuple(_servers(member, kept, task) for member in kept.draft.members),
        reasons=reasons(
            kept.draft, task, there, spent=kept.spent, latency=kept.latency, cost=kept.cost
        ),
        score=kept.score,
    )


def _servers(member: Member, kept: _Kept, task: Task) -> int:
    """Count the servers of a member: all that there is room for, or one where that is idle."""
    if member.place is None:
        return 0
    most = member.place.replicas
    busy = sum(times.busy for asked, _, times in kept.spent if asked is member and times)
    return 1 if busy * most < _IDLE and (task.concurrency or 1) == 1 else most


def _latency(spent: Sequence[Spent]) -> Latency | None:
    """Add up the stages; those that few items reach don't show in the slowest 5 of 100."""
    stages: list[tuple[float, Times]] = []
    for _, work, times in spent:
        if times is None:
            return None
        stages.append((work.share, times))
    *before, (_, last) = stages
    return Latency(
        first_s=sum(times.mean_s for _, times in before) + last.first_s,
        mean_s=sum(share * times.mean_s for share, times in stages),
        p95_s=sum(times.p95_s for share, times in stages if share > _RARE),
        first_p95_s=sum(times.p95_s for _, times in before) + last.first_p95_s,
        measured=all(member.speed is not None and member.speed.measured for member, *_ in spent),
    )


def _best(kept: Iterable[_Kept]) -> list[_Kept]:
    """Take the best few: two of the best pattern; of the others, one here and one at a vendor."""
    ordered = sorted(kept, key=lambda it: (-it.score, str(it.draft.members[0])))
    shown: list[_Kept] = []
    counts: dict[tuple[Pattern, bool], int] = {}
    seen: set[tuple[Pattern, tuple[str, ...]]] = set()
    for one in ordered:
        pattern = one.draft.pattern
        kind = (pattern, all(member.local for member in one.draft.members))
        models = (pattern, tuple(member.model.name for member in one.draft.members))
        most = 2 if pattern == ordered[0].draft.pattern else 1
        if models in seen or counts.get(kind, 0) >= most:
            continue
        seen.add(models)
        counts[kind] = counts.get(kind, 0) + 1
        shown.append(one)
    return shown[:_SHOWN]


def _rejected(draft: Draft, broken: Broken) -> Rejected:
    what = f"{draft.pattern}: {' + '.join(map(str, draft.members))}"
    return Rejected(what=what, cause=broken.cause, why=broken.why, miss=broken.miss)


def _nearest(rejected: Iterable[Rejected]) -> tuple[Rejected, ...]:
    """Keep one for each cause: the one that misses by least."""
    by_cause: dict[Cause, list[Rejected]] = {}
    for one in rejected:
        by_cause.setdefault(one.cause, []).append(one)
    return tuple(
        replace(min(same, key=lambda it: it.miss), also=len(same) - 1) for same in by_cause.values()
    )
