"""Estimate: how long an item takes at the models that are asked, and what a thousand items cost.

A server that reads prompts one after the other is a queue: its mean wait is that of M/G/1
(Pollaczek and Khinchine), the tail of the wait is taken as exponential (Kingman, 1961). Sequences
that are written together each get a token a step, so by Little's law as many are in flight as come
in while one is written. All figures are estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import ceil, log

from moa.advisor.candidates import Member, VendorModel
from moa.advisor.hardware import card
from moa.advisor.performance import LocalModel
from moa.advisor.task import Task
from moa.usage import Tier

_LONG = 1.8
"""How much longer than the mean 95 of 100 written answers are at most: lengths spread by about half
their mean."""
_SHORT = 1.15
_TEXT = 20
"""Tokens from which on an answer is a text, whose length differs."""
_ROUNDS = 30
_RARE = 0.05
"""Share of the items below which a stage doesn't show in the slowest 5 of 100."""
_VENDOR_FIRST_S: dict[Tier, float] = {"slm": 0.5, "llm": 0.8}
_VENDOR_TOKEN_S: dict[Tier, float] = {"slm": 1 / 120, "llm": 1 / 70}
_VENDOR_TAIL = 2.0
"""Vendors publish no latency. These stand for what users see; they differ by model, by hour and by
place, so measure: `moa bench`."""
_JOULES_A_KWH = 3_600_000
_DAY_H = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What one item asks of a model."""

    member: Member
    share: float = 1.0
    """Part of the items that get here."""
    calls: int = 1
    """Requests for one item, at once."""
    fresh: int
    """Tokens of a prompt that are not cached."""
    prompt: int
    """All tokens of a prompt."""
    writes: int
    """Tokens of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds that an item takes at the busiest time."""

    first_s: float
    """Until the first token, on the mean."""
    mean_s: float
    """Until the whole answer, on the mean."""
    p95_s: float
    """Until the whole answer, of 95 in 100."""
    first_p95_s: float
    """Until the first token, of 95 in 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times(Latency):
    """What an item takes at one stage."""

    in_flight: int
    """Sequences at once, in each server."""
    busy: float
    """Share of its time at the peak; close to 1 it doesn't keep up."""
    busy_s: float
    """Seconds of one server that an item takes for itself."""


Timed = tuple[Stage, Times | None]
"""A stage, and how long it takes; `None`: nothing is known of its speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """US dollars for a thousand items."""

    vendors: Decimal | None = Decimal(0)
    """To vendors; `None`: not known."""
    own: Decimal | None = Decimal(0)
    """For one's own machine; `None`: not known."""

    @property
    def total(self) -> Decimal | None:
        """All of it; `None`: not known."""
        if self.own is None or self.vendors is None:
            return None
        return self.vendors + self.own

    @property
    def known(self) -> Decimal:
        """The part that is known."""
        return (self.vendors or Decimal(0)) + (self.own or Decimal(0))

    def __str__(self) -> str:
        if self.total is not None:
            return f"US$ {self.total:.3g}"
        if not self.known:
            return "unknown"
        return f"US$ {self.known:.3g} + {'own machine' if self.own is None else 'a vendor'}"


def timed(stage: Stage, task: Task) -> Timed:
    """Work out the times of one stage, at the task's busiest time."""
    member = stage.member
    if isinstance(member, VendorModel):
        return stage, _at_vendor(stage, member.model.tier)
    if member.place.reached is None:
        return stage, None
    coming = task.rate * stage.share * stage.calls / member.place.replicas
    if task.concurrency is not None:
        each = ceil(task.concurrency * stage.calls / member.place.replicas)
        return stage, _closed(member, stage, each, coming)
    queued = _batched if member.place.engine == "vllm" else _one_by_one
    return stage, queued(member, stage, coming)


def latency_of(stages: Sequence[Timed]) -> Latency | None:
    """Add up the stages; those that few items reach don't show in the slowest 5 of 100."""
    known = [(stage.share, times) for stage, times in stages if times is not None]
    if len(known) < len(stages):
        return None
    *before, (_, last) = known
    return Latency(
        first_s=sum(times.mean_s for _, times in before) + last.first_s,
        mean_s=sum(share * times.mean_s for share, times in known),
        p95_s=sum(times.p95_s for share, times in known if share > _RARE),
        first_p95_s=sum(times.p95_s for _, times in before) + last.first_p95_s,
    )


def cost_of(
    stages: Sequence[Timed],
    task: Task,
    *,
    hourly_usd: Decimal | None = None,
    usd_per_kwh: Decimal | None = None,
) -> Cost:
    """Work out what a thousand items cost; what isn't known stays so, and is never nothing.

    Args:
        stages: What is asked of whom.
        task: How many items there are.
        hourly_usd: What the whole machine costs an hour, whether it works or not; it is paid for
            all day, where the task says how many items a day has.
        usd_per_kwh: What electricity costs, for what a GPU draws while it works.
    """
    vendors = _sum([_paid(stage) for stage, _ in stages if isinstance(stage.member, VendorModel)])
    own = [timed for timed in stages if isinstance(timed[0].member, LocalModel)]
    if own and hourly_usd is not None and task.per_day:
        return Cost(vendors=vendors, own=hourly_usd * _DAY_H / task.per_day * 1000)
    return Cost(vendors=vendors, own=_sum([_worked(*it, hourly_usd, usd_per_kwh) for it in own]))


def _sum(parts: Sequence[Decimal | None]) -> Decimal | None:
    known = [part for part in parts if part is not None]
    return sum(known, Decimal(0)) if len(known) == len(parts) else None


def _paid(stage: Stage) -> Decimal | None:
    """By the token; nothing is taken as cached, since vendors cache long prompts alone."""
    price = stage.member.model.price
    if price.input is None or price.output is None:
        return None
    tokens = price.input * stage.prompt + price.output * stage.writes  # priced by the million
    return Decimal(repr(stage.share)) * stage.calls * tokens * Decimal("0.001")


def _worked(
    stage: Stage, times: Times | None, hourly_usd: Decimal | None, usd_per_kwh: Decimal | None
) -> Decimal | None:
    """For the seconds in which a server works for a thousand items."""
    if times is None:
        return None
    seconds = Decimal(repr(times.busy_s * stage.share * stage.calls)) * 1000
    if hourly_usd is not None:
        return seconds * hourly_usd / 3600
    place = stage.member.place if isinstance(stage.member, LocalModel) else None
    known = card(place.gpu.name) if place and place.gpu else None
    if usd_per_kwh is None or place is None or known is None:
        return None
    return seconds * Decimal(repr(known.watts)) * place.count / _JOULES_A_KWH * usd_per_kwh


def _at_vendor(stage: Stage, tier: Tier) -> Times:
    first = _VENDOR_FIRST_S[tier]
    mean = first + stage.writes * _VENDOR_TOKEN_S[tier]
    return Times(
        first_s=first,
        mean_s=mean,
        p95_s=mean * _VENDOR_TAIL,
        first_p95_s=first * _VENDOR_TAIL,
        in_flight=1,
        busy=0.0,
        busy_s=0.0,
    )


def _batched(member: LocalModel, stage: Stage, coming: float) -> Times:
    """Times of a server that writes many sequences together, and reads prompts between."""
    slots, read, writes = member.slots, _read_s(member, stage), stage.writes
    busy_s = max(member.request_s, read + writes * member.write_s(slots) / slots)
    busy = coming * busy_s
    reading = min(coming * read, 0.95)
    batch = 1.0
    for _ in range(_ROUNDS):  # of in flight and seconds each follows from the other
        alone = read + writes * member.write_s(batch)
        before, batch = batch, min(float(slots), max(1.0, coming * alone / (1 - reading)))
        if batch <= before * 1.01:
            break
    step = member.write_s(batch)
    served = (read + writes * step) / (1 - reading) + member.request_s
    wait, tail = _waits(read, min(max(busy, reading), 0.95), spread=0.0)
    first = read + step + member.request_s
    return _times(
        stage, first, served, wait, tail, in_flight=ceil(batch), coming=coming, busy_s=busy_s
    )


def _one_by_one(member: LocalModel, stage: Stage, coming: float) -> Times:
    """Times of an engine whose few slots share one processor."""
    read = _read_s(member, stage) + member.request_s
    served = read + stage.writes * member.write_s(1)
    busy = coming * served
    wait, tail = _waits(served, min(busy, 0.95), spread=0.25 if stage.writes > _TEXT else 0.0)
    in_flight = min(member.slots, ceil(max(1.0, coming * (served + wait))))
    first = read + member.write_s(1)
    return _times(
        stage, first, served, wait, tail, in_flight=in_flight, coming=coming, busy_s=served
    )


def _closed(member: LocalModel, stage: Stage, together: int, coming: float) -> Times:
    """Times where so many are always in flight, and the next comes when one is done."""
    slots = member.slots
    batch, rounds = min(together, slots), ceil(together / slots)
    read = _read_s(member, stage) + member.request_s
    writing = stage.writes * member.write_s(batch)
    served = (read * (batch + 1) / 2 + writing) * rounds
    tail = (read * batch + writing) * rounds - served
    first = read * (batch + 1) / 2 + member.write_s(batch) + (rounds - 1) * served / rounds
    busy_s = served / together
    return _times(stage, first, served, 0.0, tail, in_flight=batch, coming=coming, busy_s=busy_s)


def _read_s(member: LocalModel, stage: Stage) -> float:
    """Seconds for a prompt; a decision that was measured is taken as it was."""
    decided = member.decision_s if stage.writes == 1 else None
    return member.read_s(stage.fresh) if decided is None else decided


def _times(
    stage: Stage,
    first: float,
    served: float,
    wait: float,
    tail: float,
    *,
    in_flight: int,
    coming: float,
    busy_s: float,
) -> Times:
    longer = _LONG if stage.writes > _TEXT else _SHORT
    first = min(first, served)
    return Times(
        first_s=first + wait,
        mean_s=served + wait,
        p95_s=served * longer + tail,
        first_p95_s=first * _SHORT + tail,
        in_flight=in_flight,
        busy=coming * busy_s,
        busy_s=busy_s,
    )


def _waits(served: float, busy: float, *, spread: float) -> tuple[float, float]:
    """Mean wait, and the wait of 95 in 100, of a queue with one server.

    Args:
        served: Seconds of one item.
        busy: Share of the time that the server is busy, below 1.
        spread: Squared coefficient of variation of `served`.
    """
    mean = busy * served * (1 + spread) / (2 * (1 - busy))
    if busy <= 0.05:
        return mean, 0.0
    return mean, max(mean, mean / busy * log(busy / 0.05))


def shown_seconds(value: float) -> str:
    """Write seconds as a person would."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.3g} s" if value < 60 else f"{value / 60:.1f} min"
