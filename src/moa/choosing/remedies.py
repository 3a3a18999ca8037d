"""Remedies: where nothing fits, what would; each is tried before it is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from moa.cards import GIB
from moa.choosing.costs import Rates
from moa.choosing.limits import seconds
from moa.choosing.plans import Plan
from moa.choosing.qualities import LABELS_AT_HIGH_RISK, LABELS_FOR_A_HEAD
from moa.choosing.ranking import ranked
from moa.choosing.task import Task
from moa.config import Config
from moa.machine import GPU, Machine

_LADDER = (("T4", 1), ("L4", 1), ("L40S", 1), ("H100", 1), ("H100", 2), ("H100", 4), ("H100", 8))
"""Smallest first; of some of them, several."""
_TIMES = (1.5, 2, 4, 10, 100, 1000)
"""How much longer than allowed an answer is let take, until something fits."""
_NOTHING = (
    "no single change helps: split the task into smaller ones, or loosen several of its limits "
    "(length, time, risk) at once"
)


def remedies(
    task: Task, machine: Machine, *, config: Config | None, rates: Rates
) -> tuple[str, ...]:
    """Change one thing at a time, and say which change makes a good enough plan possible.

    Args:
        task: For which nothing fits, or nothing that is good enough.
        machine: Where.
        config: As in `choose`.
        rates: As in `choose`.
    """

    def best(changed: Task) -> Plan | None:
        plan = ranked(changed, machine, config=config, rates=rates).best
        return plan if plan is not None and plan.good_enough else None

    def changes() -> Iterator[str]:
        if not task.outside:
            yield from _vendor(task, best(_opened(task)))
        yield from _card(task, machine, config=config, rates=rates)
        if task.latency_s is not None:
            slower = (best(_within(task, task.latency_s * times)) for times in _TIMES)
            yield from _slower(next((plan for plan in slower if plan is not None), None))
        if task.max_usd_per_thousand is not None:
            yield from _dearer(best(task.model_copy(update={"max_usd_per_thousand": None})))
        labels = LABELS_AT_HIGH_RISK if task.risk == "high" else LABELS_FOR_A_HEAD
        if task.decides and task.labels < labels:
            yield from _labelled(best(task.model_copy(update={"labels": labels})), labels)
        if task.risk != "low":
            yield from _riskier(best(task.model_copy(update={"risk": "low"})))

    found = tuple(changes())
    return found or (_NOTHING,)


def _within(task: Task, latency_s: float) -> Task:
    return task.model_copy(update={"latency_s": latency_s})


def _opened(task: Task) -> Task:
    return task.model_copy(update={"api": True, "private": False, "offline": False, "vendors": ()})


def _vendor(task: Task, plan: Plan | None) -> Iterator[str]:
    if plan is None or not plan.needs_network:
        return
    barred = [
        *(["the items may leave the house"] if task.private else []),
        *(["there is a network"] if task.offline else []),
        *(["a vendor may be asked"] if not task.api else []),
    ]
    yield f"if {' and '.join(barred)}: {plan}, at {plan.cost} for a thousand items"


def _card(task: Task, machine: Machine, *, config: Config | None, rates: Rates) -> Iterator[str]:
    for name, count in _LADDER:
        gpus = (GPU.named(name),) * count
        there = replace(machine, gpus=gpus, disk_free=None, battery=None)
        plan = ranked(task, there, config=config, rates=rates).best
        if (
            plan is not None
            and plan.good_enough
            and any(m.place and m.place.gpu for m in plan.members)
        ):
            of = f"{count} x {name}" if count > 1 else name
            size = f"{gpus[0].memory / GIB:.0f} GiB" + (" each" if count > 1 else "")
            yield f"with a GPU such as {of} ({size}): {plan}"
            return


def _slower(plan: Plan | None) -> Iterator[str]:
    if plan is not None and plan.latency is not None:
        yield f"if {seconds(plan.latency.p95_s)} an item are quick enough: {plan}"


def _dearer(plan: Plan | None) -> Iterator[str]:
    if plan is not None:
        yield f"if a thousand items may cost {plan.cost}: {plan}"


def _labelled(plan: Plan | None, labels: int) -> Iterator[str]:
    if plan is not None:
        yield f"with {labels} labelled items to fit it with: {plan}"


def _riskier(plan: Plan | None) -> Iterator[str]:
    if plan is not None:
        yield (
            f"if people check every answer, so that a wrong one does no harm (low risk): {plan}, "
            f"of quality {plan.quality:.1f} of 5"
        )
