"""Scores: one number by which plans are ranked, of weights that stand here to be argued with.

The latency budget is no part of it, only a limit: so a tighter one takes plans away, and never
changes the order of those that are left.
"""

from __future__ import annotations

from functools import cache
from math import log10, sqrt

from moa.catalogue import models
from moa.choosing.patterns import Draft
from moa.choosing.plans import Cost, Latency, Pattern
from moa.choosing.qualities import NEEDED
from moa.choosing.task import Risk, Task
from moa.machine import Machine

_SHORT_OF = 4.0
"""A point of quality that is missing."""
_MORE: dict[Risk, float] = {"low": 0.1, "medium": 0.2, "high": 0.6}
"""A point of quality beyond what is needed."""
_MORE_TEXT = 0.2
"""The same, in addition, where a text is written or reasoned: readers notice."""
_TEN_TIMES_COST, _ROOT_COST = 0.25, 0.06
"""Ten times the dollars a day, from one dollar a day on; and their root, so that a thousand dollars
a day saved are worth building something for."""
_TEN_TIMES_LATENCY = 0.2
"""Ten times the seconds, from a tenth of a second on."""
_BOUNDED = 0.35
"""That a cascade's errors can be bounded, where risk is high."""
_PARTS: dict[Pattern, float] = {
    "slm": 0.0,
    "llm": 0.0,
    "hybrid": 0.1,
    "cascade": 0.1,
    "mixture": 0.2,
}
"""What there is to build and to look after."""
_VENDOR, _SERVER, _PROCESSOR = 0.25, 0.12, 0.08
"""A vendor has limits, changes its models and sees the items; a server has to be looked after."""
_UNPRICED, _UNKNOWN_SPEED = 0.5, 0.5
"""What a vendor takes is a risk where it isn't known; one's own machine is there anyway."""
_MORE_GPUS = 0.05
"""Twice as many GPUs for one model."""
_LARGE_FOR_LABELS = 0.15
"""A large model on one's own machine for labels, where risk isn't high: it takes the room and the
time of many small ones."""
_OWN_SERVER = 0.15
"""A model made to decide comes with a server of its own, which `moa` doesn't start."""
_GATED = 0.03
"""A licence to accept before the weights can be had."""
_YEAR = 0.04
"""A year of a model's age: of two with the same hints, the newer one does better."""
_ON_BATTERY = 0.1
"""Ten times the parameters, from 100 million on, where every token drains a battery."""
_USUAL_A_DAY = 1000


def score(
    draft: Draft, task: Task, machine: Machine, *, cost: Cost, latency: Latency | None
) -> float:
    """Weigh a plan; higher is better."""
    wasteful = task.decides and task.risk != "high" and draft.pattern == "llm"
    waste = _LARGE_FOR_LABELS if wasteful and draft.members[0].local else 0.0
    spent = _price(cost, task) + _time(latency) + _burden(draft, machine)
    return _worth(draft, task) - spent - waste


def _worth(draft: Draft, task: Task) -> float:
    beyond = draft.quality - NEEDED[task.risk]
    bounded = _BOUNDED if draft.pattern == "cascade" and task.risk == "high" else 0.0
    if beyond < 0:
        return bounded + beyond * _SHORT_OF
    return bounded + beyond * (_MORE[task.risk] + (0.0 if task.decides else _MORE_TEXT))


def _price(cost: Cost, task: Task) -> float:
    daily = float(cost.known) * (task.per_day or _USUAL_A_DAY) / 1000
    unpriced = _UNPRICED if cost.vendors is None else 0.0
    return _TEN_TIMES_COST * log10(1 + daily) + _ROOT_COST * sqrt(daily) + unpriced


def _time(latency: Latency | None) -> float:
    if latency is None:
        return _UNKNOWN_SPEED
    return _TEN_TIMES_LATENCY * log10(1 + 10 * latency.p95_s)


def _burden(draft: Draft, machine: Machine) -> float:
    burden = _PARTS[draft.pattern]
    for member in draft.members:
        burden += _GATED * (member.local and member.model.gated) + _age(member.model.released)
        burden += _OWN_SERVER * (member.local and member.model.kind == "decision")
        if member.place is None:
            burden += _VENDOR
            continue
        burden += _SERVER if member.place.engine == "vllm" else _PROCESSOR
        burden += _MORE_GPUS * (member.place.count.bit_length() - 1)
        if machine.battery and not machine.battery.plugged:
            burden += _ON_BATTERY * max(0.0, log10((member.model.parameters or 1) / 1e8))
    return burden


def _age(released: str | None) -> float:
    return _YEAR * (_newest() - _years(released)) if released else 0.0


@cache
def _newest() -> float:
    return max(_years(model.released) for model in models().values() if model.released)


def _years(released: str) -> float:
    year, month = released.split("-")
    return int(year) + int(month) / 12
