"""Timing: how long an item takes at a member that others ask too.

A server that reads prompts one after the other is a queue: its mean wait is that of M/G/1
(Pollaczek and Khinchine), the tail of the wait is taken as exponential (Kingman, 1961). Sequences
that are written together each get a token a step, so by Little's law as many are in flight as come
in while one is written. All figures are estimates.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log

from moa.choosing.members import Member
from moa.speeds import Speed

MOST_BUSY = 0.85
"""Share of its time that a server may be busy at the peak; beyond it, waits explode."""
_LONG = 1.8
"""How much longer than the mean 95 of 100 written answers are at most: lengths spread by about half
their mean."""
_SHORT = 1.15
_ROUNDS = 30
_TEXT = 20
"""Tokens from which on an answer is a text, whose length differs."""
_VENDOR_FIRST_S = {"slm": 0.5, "llm": 0.8}
_VENDOR_TOKEN_S = {"slm": 1 / 120, "llm": 1 / 70}
_VENDOR_TAIL = 2.0
"""Vendors publish no latency. These stand for what users see; they differ by model, by hour and by
place, so measure: `moa bench`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one item asks of a member."""

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
class Times:
    """What an item takes at one member."""

    first_s: float
    mean_s: float
    p95_s: float
    first_p95_s: float
    in_flight: int
    """Sequences at once, in each server."""
    busy: float
    """Share of its time at the peak; above `MOST_BUSY` it doesn't keep up."""
    most_per_s: float
    """Items a second that it keeps up with; infinite at a vendor."""
    busy_s: float
    """Seconds of one server that an item takes for itself."""


def timed(member: Member, work: Work, *, rate: float, together: int | None = None) -> Times | None:
    """Work out the times of one member.

    Args:
        member: Who is asked.
        work: What of it.
        rate: Items a second at the busiest time, before `work.share`.
        together: Items in flight at once, where that is given instead of a rate.

    Returns:
        `None`: nothing is known of its speed.
    """
    if member.place is None:
        return _at_vendor(member, work)
    if member.speed is None or member.fit is None:
        return None
    slots = max(1, min(member.speed.slots, member.fit.concurrency))
    coming = rate * work.share * work.calls / member.place.replicas
    if together is not None:
        each = ceil(together * work.calls / member.place.replicas)
        return _closed(member.speed, work, each, slots)
    if member.place.engine == "vllm":
        return _batched(member.speed, work, coming, slots)
    return _queued(member.speed, work, coming, slots)


def _at_vendor(member: Member, work: Work) -> Times:
    tier = member.model.tier
    first = _VENDOR_FIRST_S[tier]
    mean = first + work.writes * _VENDOR_TOKEN_S[tier]
    return Times(
        first_s=first,
        mean_s=mean,
        p95_s=mean * _VENDOR_TAIL,
        first_p95_s=first * _VENDOR_TAIL,
        in_flight=1,
        busy=0.0,
        most_per_s=float("inf"),
        busy_s=0.0,
    )


def _batched(speed: Speed, work: Work, coming: float, slots: int) -> Times:
    """Times of a server that writes many sequences together, and reads prompts between."""
    read = _reads(speed, work)
    most = 1 / max(speed.request_s, read + work.writes * speed.write_s(slots) / slots)
    busy = coming / most
    reading = min(coming * read, 0.95)
    batch = 1.0
    for _ in range(_ROUNDS):  # of in flight and seconds each follows from the other
        alone = read + work.writes * speed.write_s(batch)
        before, batch = batch, min(float(slots), max(1.0, coming * alone / (1 - reading)))
        if batch <= before * 1.01:
            break
    alone = read + work.writes * speed.write_s(batch)
    served = alone / (1 - reading) + speed.request_s
    wait, tail = _waits(read, min(max(busy, reading), 0.95), spread=0.0)
    return _times(work, read + speed.write_s(batch) + speed.request_s, served, wait, tail).of(
        in_flight=ceil(batch), busy=busy, most=most / (work.share * work.calls), busy_s=1 / most
    )


def _queued(speed: Speed, work: Work, coming: float, slots: int) -> Times:
    """Times of an engine whose few slots share one processor."""
    read = _reads(speed, work) + speed.request_s
    served = read + work.writes * speed.write_s(1)
    busy = coming * served
    spread = 0.25 if work.writes > _TEXT else 0.0
    wait, tail = _waits(served, min(busy, 0.95), spread=spread)
    in_flight = min(slots, ceil(max(1.0, coming * (served + wait))))
    return _times(work, read + speed.write_s(1), served, wait, tail).of(
        in_flight=in_flight,
        busy=busy,
        most=1 / served / (work.share * work.calls),
        busy_s=served,
    )


def _reads(speed: Speed, work: Work) -> float:
    """Seconds for a prompt; a decision that was measured is taken as it was."""
    found = speed.decision_s if work.writes == 1 else None
    return speed.read_s(work.fresh) if found is None else found


def _closed(speed: Speed, work: Work, together: int, slots: int) -> Times:
    """Times where so many are always in flight, and the next comes when one is done."""
    batch = min(together, slots)
    rounds = ceil(together / slots)
    read = _reads(speed, work) + speed.request_s
    writing = work.writes * speed.write_s(batch)
    served = (read * (batch + 1) / 2 + writing) * rounds
    last = (read * batch + writing) * rounds
    first = read * (batch + 1) / 2 + speed.write_s(batch) + (rounds - 1) * served / rounds
    return _times(work, first, served, 0.0, last - served).of(
        in_flight=batch, busy=0.0, most=batch / served, busy_s=served / together
    )


@dataclass(frozen=True, slots=True)
class _Seconds:
    first: float
    first_p95: float
    mean: float
    p95: float

    def of(self, *, in_flight: int, busy: float, most: float, busy_s: float) -> Times:
        return Times(
            first_s=self.first,
            mean_s=self.mean,
            p95_s=self.p95,
            first_p95_s=self.first_p95,
            in_flight=in_flight,
            busy=busy,
            most_per_s=most,
            busy_s=busy_s,
        )


def _times(work: Work, first: float, served: float, wait: float, tail: float) -> _Seconds:
    longer = _LONG if work.writes > _TEXT else _SHORT
    first = min(first, served)
    return _Seconds(
        first=first + wait,
        first_p95=first * _SHORT + tail,
        mean=served + wait,
        p95=served * longer + tail,
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
