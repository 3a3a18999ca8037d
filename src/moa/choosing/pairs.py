"""Pairs: which models are tried as the small and as the large one of a pattern that has both.

Of thousands of pairs, those are left out whose small or large one is no better than a lighter one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from moa.catalogue import BUILT_IN
from moa.choosing.members import INSTRUCTIONS, Member
from moa.choosing.qualities import quality
from moa.choosing.task import Task


class Judged(NamedTuple):
    """A member, and how good it is at a job."""

    member: Member
    value: float


def small_ones(task: Task, members: Iterable[Member]) -> list[Judged]:
    """Pick small ones, by what they are asked: on one GPU, or where there is none, elsewhere.

    The model that is built in is always among them.
    """
    able = [m for m in members if m.model.tier == "slm" and m.place and m.place.count == 1]
    driven = [member for member in able if member.place and member.place.gpu] or able
    judged = [Judged(member, quality(member, task).value) for member in driven]
    found = frontier(task, judged, by=_effort)
    built_in = [m for m in able if m.model.name == BUILT_IN and m not in driven]
    return [*found, *(Judged(m, quality(m, task).value) for m in built_in[:1])]


def large_ones(task: Task, judged: list[Judged]) -> list[Judged]:
    """Pick large ones: at vendors, and on each number of GPUs; without GPUs, elsewhere."""
    sold = [one for one in judged if not one.member.local]
    here = [one for one in judged if one.member.local]
    driven = [one for one in here if one.member.place and one.member.place.gpu] or here
    found = frontier(task, sold, by=_price)
    for count in sorted({one.member.place.count for one in driven if one.member.place}):
        same = [one for one in driven if one.member.place and one.member.place.count == count]
        found += frontier(task, same, by=_effort)
    return found


def frontier(task: Task, judged: list[Judged], *, by: Callable[[Member], float]) -> list[Judged]:
    """Keep those that are better than every lighter one, and long enough for the task."""
    tokens = INSTRUCTIONS + task.reads + task.writes
    kept: list[Judged] = []
    for one in sorted(judged, key=lambda it: (by(it.member), -it.value)):
        long_enough = one.member.model.context is None or one.member.model.context >= tokens
        if long_enough and (not kept or one.value > kept[-1].value):
            kept.append(one)
    return kept


def _effort(member: Member) -> float:
    """Bytes that are read for a token: the active part of the weights."""
    if member.fit is None:
        return float("inf")
    every = member.model.parameters or 1
    return member.fit.weights * (member.model.active_parameters or every) / every


def _price(member: Member) -> float:
    price = member.price
    if price.input is None or price.output is None:
        return float("inf")
    return float(price.input + price.output)
