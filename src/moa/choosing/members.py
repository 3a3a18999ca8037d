"""Members: a model at a place where it can run, or at the vendor that sells it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from moa.catalogue import Model, Quantisation, models
from moa.choosing.measured import Figures, figures, held
from moa.choosing.plans import Cause, Rejected
from moa.choosing.task import Task
from moa.config import Config, EndpointConfig, nearest
from moa.endpoints.dialects import VENDORS, Dialect
from moa.errors import ConfigError
from moa.machine import Machine
from moa.placing import SPARE
from moa.sizing import Fit, Place, fit, places, quantisations
from moa.speeds import Speed, speed
from moa.usage import UNKNOWN_PRICE, Price

INSTRUCTIONS = 200
"""Tokens of instructions and examples before an item: the same each time, so that one's own
server has them cached, and a vendor is paid for them."""
_LABEL_AS_TEXT = 10
"""Tokens in which a vendor's model writes a label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One model of a plan."""

    model: Model
    place: Place | None = None
    """`None`: at its vendor."""
    fit: Fit | None = None
    """`None`: at its vendor."""
    speed: Speed | None = None
    """`None`: not known."""
    price: Price = UNKNOWN_PRICE
    """Per token, at a vendor."""

    @property
    def quantisation(self) -> Quantisation | None:
        """How its weights are kept; `None` at a vendor."""
        return self.fit.quantisation if self.fit else None

    @property
    def local(self) -> bool:
        """Whether it runs on the machine."""
        return self.place is not None

    @property
    def vendor(self) -> Dialect | None:
        """Who is asked; `None`: nobody."""
        return vendor_of(self.model) if self.place is None else None

    def writes(self, task: Task) -> int:
        """Tokens that it writes for an answer; a label is one where it can be scored."""
        return _LABEL_AS_TEXT if task.decides and not self.local else task.writes

    def __str__(self) -> str:
        if self.place is None:
            return f"{self.model.name} (API)"
        return f"{self.model.name} ({self.quantisation}, {self.place})"


@cache
def _seller(vendor_model: str) -> Dialect | None:
    return EndpointConfig(tier="llm", model=vendor_model).vendor


def vendor_of(model: Model) -> Dialect | None:
    """Say who sells a model by the token."""
    return None if model.vendor_model is None else _seller(model.vendor_model)


def vendor_name(vendor: Dialect) -> str:
    """Name a vendor as `Task.vendors` does: the first word of its key's variable."""
    return vendor.api_key_env.split("_")[0].lower()


VENDOR_NAMES = tuple(vendor_name(vendor) for vendor in VENDORS)


def keys_set() -> tuple[str, ...]:
    """Name the vendors whose key is in the environment."""
    return tuple(vendor_name(v) for v in VENDORS if os.environ.get(v.api_key_env))


def at_vendors(task: Task) -> Iterator[Member | Rejected]:
    """List the models that vendors sell, or why none may be asked.

    A model is left out where the same vendor sells another one that is as good and no dearer.

    Raises:
        ConfigError: the task names a vendor that `moa` doesn't know.
    """
    unknown = [name for name in task.vendors if name not in VENDOR_NAMES]
    if unknown:
        raise ConfigError(
            f"there is no vendor {unknown[0]!r}{nearest(unknown[0], list(VENDOR_NAMES))}"
        )
    barred = _barred(task)
    if barred is not None:
        cause, why = barred
        yield Rejected(what=f"{len(_sold())} models of vendors", cause=cause, why=why)
        return
    for member in _sold():
        vendor = member.vendor
        if vendor is not None and (not task.vendors or vendor_name(vendor) in task.vendors):
            yield member


def _barred(task: Task) -> tuple[Cause, str] | None:
    if task.private:
        return "leaves the house", "the items would leave the house"
    if task.offline:
        return "needs a network", "there is none while it runs"
    return None if task.api else ("no API", "no vendor may be asked")


@cache
def _sold() -> tuple[Member, ...]:
    offered = [
        Member(model=model, price=model.price())
        for model in models().values()
        if vendor_of(model) is not None and not model.retired
    ]
    return tuple(one for one in offered if not any(_outdone(one, other) for other in offered))


def _outdone(one: Member, other: Member) -> bool:
    ours, theirs = one.price, other.price
    if one is other or one.vendor != other.vendor:
        return False
    if ours.input is None or ours.output is None or theirs.input is None or theirs.output is None:
        return False
    if theirs.input > ours.input or theirs.output > ours.output:
        return False
    hints, others = one.model.quality, other.model.quality
    if any(others.get(skill, 0) < hint for skill, hint in hints.items()):
        return False
    cheaper = theirs.input + theirs.output < ours.input + ours.output
    return cheaper or sum(others.values()) > sum(hints.values())


def on(
    machine: Machine, task: Task, *, config: Config | None = None
) -> Iterator[Member | Rejected]:
    """List the models that fit a machine alone, and the others with what they would take."""
    known = figures(config, machine)
    where = places(machine)
    for model in models().values():
        if model.parameters is None or model.retired:
            continue
        found = [
            _member(model, place, kind, task, known)
            for place in where
            for kind in quantisations(model, place)
        ]
        yield from (member for member in found if _alone(member))
        if found and not any(map(_alone, found)):
            yield _too_big(found)


def beside(member: Member, other: Member) -> Member:
    """Give what is left for a member where another one has its memory already."""
    if member.place is None or member.fit is None or other.place is None or other.fit is None:
        return member
    if not _share(member.place, other.place):
        return member
    taken = other.fit.needed * (member.place.count if member.place.gpu else 1)
    if other.place.engine == "vllm":  # which is given a share with something to spare
        taken = int(taken * SPARE)
    left = fit(
        member.model,
        member.place,
        quantisation=member.fit.quantisation,
        tokens=member.fit.tokens,
        concurrency=member.fit.asked,
        taken=taken,
    )
    return replace(member, fit=left)


def _share(one: Place, other: Place) -> bool:
    """Whether two places are of the same memory."""
    names = [
        place.gpu.name if place.gpu and not place.gpu.shared else "RAM" for place in (one, other)
    ]
    return names[0] == names[1]


def _alone(member: Member) -> bool:
    return member.fit is not None and member.fit.concurrency > 0


def _member(
    model: Model,
    place: Place,
    quantisation: Quantisation,
    task: Task,
    known: Sequence[Figures],
) -> Member:
    tokens = INSTRUCTIONS + task.reads + task.writes
    found = held(known, model, place, quantisation)
    return Member(
        model=model,
        place=place,
        fit=fit(model, place, quantisation=quantisation, tokens=tokens),
        speed=speed(model, place, quantisation=quantisation, tokens=tokens, measured=found),
    )


def _too_big(found: list[Member]) -> Rejected:
    fits = [(member.fit, member.place) for member in found if member.fit]
    least, place = min(fits, key=lambda pair: pair[0].needed - pair[0].budget)
    return Rejected.of(
        found[0].model,
        "too big",
        f"{least.quantisation} takes {least.needed / 1e9:.1f} GB with one sequence of "
        f"{least.tokens} tokens, and {place} gives {least.budget / 1e9:.1f} GB",
        miss=least.needed / max(least.budget, 1),
    )
