"""Choice: the models that can do a task on a machine, ranked.

A model runs at a place of the machine, or at its vendor. A model that breaks a limit of the task is
left out with the reason; the rest is sorted by `Task.prefer`. All figures are estimates: quality is
a hint, and time comes from the roofline of `fit.py`, without queueing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from math import inf
from typing import Literal, NamedTuple

from moa.advisor.fit import LocalModel, quantisations
from moa.advisor.hardware import Machine, Placement, list_placements, machine
from moa.advisor.task import Task
from moa.config.catalogue import Model, models
from moa.core.usage import Amount

Cause = Literal["other language", "too weak", "too long", "too big", "too slow", "too dear"]

_SCORED, _FITTED, _BEST_FITTED = 0.5, 1.0, 4.0
"""Quality points that a deciding small model gains by scoring labels instead of writing them, and
by fitting to labelled items; and its maximum quality (docs/benchmarks.md, Decisions)."""
_LABELLED = 32
"""Minimum labelled items to fit a model to."""
_FOUR_BITS = 0.2
"""Points lost by weights in four bits."""
_CHEAP_USD = Decimal("0.1")
"""US dollars per thousand items below which the price makes no difference."""
_VENDOR_FIRST_S, _VENDOR_TOKEN_S = 0.8, 1 / 70
"""Assumed seconds to the first token, and per token, as vendors publish no latency."""
_VENDOR_WRITES = 10
"""Minimum tokens that a vendor's model writes, even for a label."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One model for a task, and where it runs."""

    task: Task
    model: Model
    served: LocalModel | None = None
    """The model at a place of the machine; `None`: it is asked at its vendor."""
    hourly_usd: Decimal | None = None
    """US dollars per hour for the machine; `None`: unknown."""

    @cached_property
    def quality(self) -> float:
        """1 (poor) to 5 (as good as the best), for this task: a hint. 0: it can't do the job."""
        value = float(min(self.model.quality.get(skill, 0) for skill in self.task.profile.skills))
        if self.served is None or not value:
            return value
        if self.served.quantisation in ("int4", "q4_k_m"):
            value -= _FOUR_BITS
        if self.task.decides and self.model.tier == "slm" and value < _BEST_FITTED:
            gained = _SCORED + (_FITTED if self.task.labels >= _LABELLED else 0)
            value = min(_BEST_FITTED, value + gained)
        return value

    @cached_property
    def seconds(self) -> float | None:
        """Seconds of an item alone; `None`: the hardware's speed is unknown."""
        if self.served is None:
            return _VENDOR_FIRST_S + max(self.task.profile.writes, _VENDOR_WRITES) * _VENDOR_TOKEN_S
        return self.served.seconds(self.task.profile.reads, self.task.profile.writes)

    @cached_property
    def hours(self) -> float | None:
        """Hours that the machine works on `Task.items`; `None`: unknown, as for a vendor's."""
        if self.served is None or self.served.place.throughput is None:
            return None
        busy_s = self.served.busy_s(self.task.profile.reads, self.task.profile.writes)
        return self.task.items * busy_s / self.served.place.replicas / 3600

    @cached_property
    def usd_per_thousand(self) -> Decimal | None:
        """US dollars for a thousand items; `None`: unknown.

        The machine is paid for all day if `per_day` is known, else only while it works.
        """
        if self.served is None:
            writes = max(self.task.profile.writes, _VENDOR_WRITES)
            tokens = Amount(input_tokens=1000 * self.task.prompt, output_tokens=1000 * writes)
            return self.model.price.of(tokens)
        hours = 24 if self.task.per_day else self.hours
        if self.hourly_usd is None or hours is None:
            return None
        return self.hourly_usd * Decimal(repr(hours)) * 1000 / self.task.items

    @property
    def order(self) -> tuple[object, ...]:
        """Its sort key: what fits first, then by the task's preference, then the rest.

        The balance of time and price is their product. An unknown price counts as nothing.
        """
        seconds = inf if self.seconds is None else self.seconds
        usd, depth = self.usd_per_thousand or Decimal(0), -round(self.quality, 2)
        keys = {
            "speed": (seconds, usd, depth),
            "balance": (seconds * float(max(usd, _CHEAP_USD)), seconds, depth),
            "depth": (depth, usd, seconds),
        }
        lacking = self.served.lacking_bytes if self.served else 0
        return lacking, *keys[self.task.prefer], str(self)

    def broken_limits(self) -> Iterator[LeftOut]:
        """Yield the limits that it breaks: those of its place, then those of the task."""
        task, name, usd = self.task, self.model.name, self.usd_per_thousand
        context = self.model.context
        if self.quality < task.needed_quality:
            yield LeftOut(name, "too weak", f"{self.quality:.1f}")
        if context is not None and task.tokens > context:
            yield LeftOut(name, "too long", f"{task.tokens} tokens of {context}")
        if self.served is not None and not self.served.fits:
            yield LeftOut(name, "too big", format_memory(self.served))
        if self.hours is not None and task.per_day and self.hours > 24:
            yield LeftOut(name, "too slow", f"{self.hours:,.0f} hours a day")
        if task.latency_s and self.seconds is not None and self.seconds > task.latency_s:
            yield LeftOut(name, "too slow", format_seconds(self.seconds))
        if task.max_usd_per_thousand is not None and (usd or 0) > task.max_usd_per_thousand:
            yield LeftOut(name, "too dear", format_usd(usd))

    def values(self) -> dict[str, object]:
        """Return it as JSON values; `null` is unknown."""
        served, usd = self.served, self.usd_per_thousand
        return {
            "model": self.model.name,
            "tier": self.model.tier,
            "place": None if served is None else str(served.place),
            "quantisation": None if served is None else served.quantisation,
            "memory_bytes": None if served is None else served.total_bytes,
            "vendor_model": self.model.vendor_model if served is None else None,
            "quality": round(self.quality, 2),
            "seconds": self.seconds,
            "hours": self.hours,
            "usd_per_thousand": None if usd is None else float(usd),
        }

    def __str__(self) -> str:
        return f"{self.model.name} (API)" if self.served is None else str(self.served)


class LeftOut(NamedTuple):
    """A model that breaks a limit of the task."""

    model: str
    cause: Cause
    figure: str
    """What it needs, such as `40.2 GB of 13.0 GB`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The models for a task on a machine, best first; empty if nothing fits."""

    task: Task
    machine: Machine
    plans: tuple[Plan, ...]
    left_out: tuple[LeftOut, ...]
    """The models that break a limit, each with the first one."""

    def values(self) -> dict[str, object]:
        """Return the plans and what is left out as JSON values."""
        return {
            "machine": str(self.machine),
            "items": self.task.items,
            "plans": [plan.values() for plan in self.plans],
            "left_out": [entry._asdict() for entry in self.left_out],
        }


def choose(
    task: Task, on_machine: Machine | None = None, *, hourly_usd: Decimal | None = None
) -> Ranking:
    """Rank the models for a task on a machine. Nothing is started, downloaded or sent.

    Args:
        task: The job, its complexity, its limits, and the preference: speed, balance or depth.
        on_machine: The machine; `None`: this one, as `moa.advisor.hardware.machine` reads it.
        hourly_usd: US dollars per hour for the machine; `None`: unknown.

    Examples:
        >>> from moa.advisor.choice import choose
        >>> from moa.advisor.hardware import Machine
        >>> from moa.advisor.task import Task
        >>> board = Machine(cores=4, ram=4 * 2**30, ram_free=3 * 2**30)
        >>> ranking = choose(Task(job="classify", complexity="simple"), board)
        >>> ranking.plans[0].model.tier
        'slm'
    """
    host = on_machine or machine()
    placements = list_placements(host)
    plans: list[Plan] = []
    left_out: list[LeftOut] = []
    for model in models().values():
        ways = [
            Plan(task=task, model=model, served=served, hourly_usd=hourly_usd)
            for served in _places(model, task, placements)
        ]
        ways = sorted((plan for plan in ways if plan.quality), key=lambda plan: plan.order)
        if model.retired or not ways:
            continue
        if foreign := _not_spoken(model, task):
            left_out.append(LeftOut(model.name, "other language", ", ".join(foreign)))
        elif best := next((plan for plan in ways if not any(plan.broken_limits())), None):
            plans.append(best)
        else:
            left_out.append(next(ways[0].broken_limits()))
    plans.sort(key=lambda plan: plan.order)
    return Ranking(task=task, machine=host, plans=tuple(plans), left_out=tuple(left_out))


def _places(model: Model, task: Task, placements: list[Placement]) -> Iterator[LocalModel | None]:
    """Yield the model at each kind of place and in each format, and `None` for its vendor.

    It takes as few GPUs as it fits, since more aren't needed.
    """
    if model.vendor and model.vendor.name.lower() in task.vendors and model.price.known:
        yield None
    served: dict[object, LocalModel] = {}
    for place in placements:
        for kind in quantisations(model, place):
            key = kind, place.gpu and place.gpu.name
            if key not in served or not served[key].fits:
                served[key] = LocalModel(
                    model=model, place=place, quantisation=kind, tokens=task.tokens
                )
    yield from served.values()


def _not_spoken(model: Model, task: Task) -> list[str]:
    """List the languages of a task that a model's makers don't name, if they name any."""
    if not model.languages or any(code.endswith("+") for code in model.languages):
        return []
    return [code for code in task.languages if code not in model.languages]


def format_memory(served: LocalModel) -> str:
    """Format the memory that a model takes, and that its place has."""
    return f"{served.total_bytes / 1e9:.1f} GB of {served.budget / 1e9:.1f} GB"


def format_seconds(value: float | None) -> str:
    """Format seconds for people."""
    if value is None:
        return "unknown"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.3g} s" if value < 60 else f"{value / 60:.1f} min"


def format_usd(value: Decimal | None) -> str:
    """Format US dollars to three digits, since they are estimates."""
    return "unknown" if value is None else f"US$ {float(value):.3g}"
