"""Reasons: sentences with the numbers that a plan rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moa.catalogue import BUILT_IN
from moa.choosing.costs import Spent
from moa.choosing.limits import seconds
from moa.choosing.members import Member, vendor_name
from moa.choosing.patterns import Draft
from moa.choosing.plans import BUILT, Cost, Latency
from moa.choosing.qualities import (
    LABELS_FOR_A_BOUND,
    LABELS_FOR_A_HEAD,
    NEEDED,
    quality,
)
from moa.choosing.task import Task
from moa.choosing.timing import Times
from moa.machine import Machine
from moa.sizing import widened


def reasons(
    draft: Draft,
    task: Task,
    machine: Machine,
    *,
    spent: Sequence[Spent],
    latency: Latency | None,
    cost: Cost,
) -> tuple[str, ...]:
    """Argue for a plan, and against it where something speaks against it."""
    times = {member.model.name: timing for member, _, timing in spent}
    return (
        draft.why,
        *_judged(draft, task),
        *(line for m in draft.members for line in _about(m, times.get(m.model.name), machine)),
        *_load(task, spent),
        *_latency(latency),
        *_cost(cost, task, draft),
        *_advice(draft, task),
    )


def _judged(draft: Draft, task: Task) -> Iterator[str]:
    needed = NEEDED[task.risk]
    verdict = "weaker than wanted" if draft.quality < needed else "enough"
    yield (
        f"quality about {draft.quality:.1f} of 5 for {task.job}, {verdict} where {task.risk} risk "
        f"wants {needed:g} (a judgement from the catalogue's hints: measure it on your own data)"
    )
    for member in draft.members:
        for why in quality(member, task).why:
            yield f"{member.model.name}: {why}"


def _about(member: Member, times: Times | None, machine: Machine) -> Iterator[str]:
    model = member.model
    if member.place is None or member.fit is None:
        vendor = member.vendor
        key = f" (its key in ${vendor.api_key_env})" if vendor else ""
        name = vendor_name(vendor) if vendor else "its vendor"
        yield f"{model.name} is asked at {name}{key}: the items leave the house, and need a network"
        return
    taken = widened(member.fit, times.in_flight if times else 1)
    yield (
        f"{model.name} in {taken.quantisation} takes {taken.needed / 1e9:.1f} of "
        f"{taken.budget / 1e9:.1f} GB on {member.place}: weights {taken.weights / 1e9:.2f}, KV "
        f"cache of {taken.asked} x {taken.tokens} tokens {taken.kv / 1e9:.2f}, overhead "
        f"{taken.overhead / 1e9:.2f}; at most {taken.concurrency} at once, or one of "
        f"{taken.max_model_len} tokens"
    )
    if member.speed is None:
        yield f"how fast {member.place} is isn't known to moa: measure it with moa bench"
    else:
        how = "measured" if member.speed.measured else "estimate"
        yield (
            f"alone it writes {member.speed.tokens_per_s:.0f} tokens/s and reads "
            f"{1 / max(member.speed.read_s(1000) / 1000, 1e-9):.0f} ({how})"
        )
    if model.gated:
        yield f"the weights of {model.name} are given to who accepts {model.licence} on the hub"
    if not machine.online and model.name != BUILT_IN:
        yield f"fetch {model.name} while there is a network; at run time it needs none"


def _load(task: Task, spent: Sequence[Spent]) -> Iterator[str]:
    if task.per_day is None:
        return
    yield (
        f"{task.per_day:,} a day are {task.rate:.3g}/s at the busiest time "
        f"({task.peak_factor:g} times the mean)"
    )
    for member, _, times in spent:
        if times is not None and member.place is not None:
            of = f" each of {member.place.replicas} servers" if member.place.replicas > 1 else ""
            yield (
                f"{member.model.name} is busy for {times.busy:.0%} of it{of}, with "
                f"{times.in_flight} in flight"
            )


def _latency(latency: Latency | None) -> Iterator[str]:
    if latency is None:
        return
    how = "measured" if latency.measured else "estimate"
    yield (
        f"an item takes {seconds(latency.mean_s)} on the mean, {seconds(latency.p95_s)} for 95 of "
        f"100; the first token comes after {seconds(latency.first_s)} ({how})"
    )


def _cost(cost: Cost, task: Task, draft: Draft) -> Iterator[str]:
    if cost.known or cost.total is not None:
        yield f"a thousand items cost {cost} (estimate)"
    if cost.own is None:
        yield "what your own machine costs is not known: give its price per hour, or per kWh"
    if cost.vendors is None:
        yield "what the vendor takes is not known"
        if task.max_usd_per_thousand is not None:
            yield f"so that it stays within US$ {task.max_usd_per_thousand} can't be said"
    if task.per_day and cost.known and not all(member.local for member in draft.members):
        yield f"that is US$ {float(cost.known) * task.per_day / 1000:.3g} a day"


def _advice(draft: Draft, task: Task) -> Iterator[str]:
    if draft.pattern == "cascade" and task.decides:
        yield "moa promote or moa calibrate makes it of labelled rows, and moa run cascade runs it"
    elif draft.pattern not in BUILT:
        yield f"moa has no ready {draft.pattern} for this: it is a graph of your own"
    if task.decides and draft.pattern == "slm" and task.labels < LABELS_FOR_A_HEAD:
        yield (
            f"label {LABELS_FOR_A_HEAD} items: from there on a fitted small model did best, and "
            f"from {LABELS_FOR_A_BOUND} accepted ones on its errors can be bounded"
        )
    if task.risk == "high":
        yield "at high risk, have people look at a sample, and at all that it is not sure of"
