"""Limits: what a draft of a plan must not break, and the sentence where it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from moa.choosing.costs import Spent
from moa.choosing.patterns import Draft
from moa.choosing.plans import Cause, Cost, Latency
from moa.choosing.qualities import LABELS_AT_HIGH_RISK, LABELS_FOR_A_BOUND, NEEDED, SLACK
from moa.choosing.task import Task
from moa.choosing.timing import MOST_BUSY
from moa.machine import Machine
from moa.sizing import Place, widened

READING_PER_S = 6.0
"""Tokens a second that a person reads along with, about 250 words a minute."""


class Broken(NamedTuple):
    """A limit that a draft breaks."""

    cause: Cause
    why: str
    miss: float = 1.0
    """How many times the limit."""


def before_timing(draft: Draft, task: Task, machine: Machine) -> Iterator[Broken]:
    """Check what doesn't depend on speed: quality, risk, length, disk."""
    needed = NEEDED[task.risk]
    if draft.quality < needed - SLACK:
        yield Broken(
            "too weak",
            f"about {draft.quality:.1f} of 5 at this job, where {task.risk} risk wants {needed:g}",
            needed / max(draft.quality, 0.1),
        )
    yield from _too_risky(draft, task)
    for member, work in draft.stages:
        tokens = work.prompt + work.writes
        if member.model.context is not None and tokens > member.model.context:
            yield Broken(
                "too long",
                f"{tokens} tokens are more than the {member.model.context} of {member.model.name}",
                tokens / member.model.context,
            )
    weights = sum(member.fit.weights for member in draft.members if member.fit)
    if machine.disk_free is not None and weights > machine.disk_free:
        yield Broken(
            "no disk",
            f"the weights take {weights / 1e9:.1f} GB on disk, and "
            f"{machine.disk_free / 1e9:.1f} GB are free",
            weights / max(machine.disk_free, 1),
        )


def after_timing(
    task: Task, *, spent: Sequence[Spent], latency: Latency | None, cost: Cost
) -> Iterator[Broken]:
    """Check what follows from speed and price: memory at that concurrency, time, dollars."""
    yield from _too_full(spent)
    yield from _too_busy(spent, task)
    if latency is not None and task.latency_s is not None:
        yield from _too_late(spent, task, latency)
    limit = task.max_usd_per_thousand
    if limit is not None and cost.known > limit:
        yield Broken(
            "over budget",
            f"US$ {cost.known:.3g} for a thousand items, where at most US$ {limit:.3g} are to be "
            "paid",
            float(cost.known / limit) if limit else float(cost.known) * 1e6,
        )


def _too_risky(draft: Draft, task: Task) -> Iterator[Broken]:
    if task.risk != "high":
        return
    written_by_small = not task.decides and draft.members[-1].model.tier == "slm"
    if written_by_small and draft.pattern != "mixture":
        yield Broken(
            "too risky",
            "what a small model writes carries no probability, so nothing says when it is wrong",
            NEEDED["high"] / draft.quality,
        )
    elif draft.pattern == "slm" and task.labels < LABELS_AT_HIGH_RISK:
        yield Broken(
            "too risky",
            f"with {task.labels} labels nothing bounds how often a small model alone is wrong; "
            f"at high risk that takes {LABELS_AT_HIGH_RISK}",
            NEEDED["high"] / draft.quality,
        )
    if draft.pattern == "cascade" and task.decides and task.labels < LABELS_FOR_A_BOUND:
        yield Broken(
            "too risky",
            f"a threshold with a bound takes at least {LABELS_FOR_A_BOUND} labels, and there are "
            f"{task.labels}",
        )


def _too_full(spent: Sequence[Spent]) -> Iterator[Broken]:
    for member, _, times in spent:
        if member.fit is None:
            continue
        wanted = widened(member.fit, times.in_flight if times else 1)
        if not wanted.fits:
            yield Broken(
                "too big",
                f"{member.model.name} in {wanted.quantisation} takes {wanted.needed / 1e9:.1f} GB "
                f"with {wanted.asked} sequences of {wanted.tokens} tokens, and {member.place} has "
                f"{wanted.budget / 1e9:.1f} GB left",
                wanted.needed / max(wanted.budget, 1),
            )


def _too_busy(spent: Sequence[Spent], task: Task) -> Iterator[Broken]:
    busy: dict[str, float] = {}
    for member, _, times in spent:
        if times is None or member.place is None:
            continue
        if times.most_per_s < task.rate:
            yield Broken(
                "too slow",
                f"{member} keeps up with {times.most_per_s:.3g} items a second, and "
                f"{task.rate:.3g} come at the busiest time",
                task.rate / times.most_per_s,
            )
            return
        where = _hardware(member.place)
        busy[where] = busy.get(where, 0.0) + times.busy
        if busy[where] > MOST_BUSY:
            yield Broken(
                "too slow",
                f"{member.place} would be busy for {busy[where]:.1%} of the busiest time, and "
                f"{MOST_BUSY:.0%} is the most that leaves short waits",
                busy[where] / MOST_BUSY,
            )
            return


def _hardware(place: Place) -> str:
    return place.gpu.name if place.gpu else "the processor"


def _too_late(spent: Sequence[Spent], task: Task, latency: Latency) -> Iterator[Broken]:
    assert task.latency_s is not None, "asked only with a limit"
    found = latency.first_p95_s if task.streamed else latency.p95_s
    if found > task.latency_s:
        what = "the first token comes" if task.streamed else "the answer is there"
        yield Broken(
            "too slow",
            f"{what} within {seconds(found)} for 95 of 100, where {seconds(task.latency_s)} are "
            "allowed",
            found / task.latency_s,
        )
    if not task.streamed or task.decides:
        return
    _, work, times = spent[-1]
    pace = work.writes / max(times.mean_s - times.first_s, 1e-9) if times else READING_PER_S
    if pace < READING_PER_S:
        yield Broken(
            "too slow",
            f"it writes {pace:.1f} tokens a second, where a person reads {READING_PER_S:g}",
            READING_PER_S / pace,
        )


def seconds(value: float) -> str:
    """Write seconds as a person would."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.3g} s" if value < 60 else f"{value / 60:.1f} min"
