"""Estimate: how good a model is at a task, how long an item takes, what a thousand items cost.

How good it is is known before it is measured only as far as the catalogue's hints (1 to 5) go: they
are taken down where a model was not made for the language or is kept in few bits, and up where
there are labels to fit it with. That is a judgement: a figure of one's own data replaces it.

A server that reads prompts one after the other is a queue: its mean wait is that of M/D/1
(Pollaczek and Khinchine), the tail of the wait is taken as exponential (Kingman, 1961). Sequences
that are written together each get a token a step, so by Little's law as many are in flight as come
in while one is written. All figures are estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import ceil, inf, log, log2, sqrt
from typing import ClassVar, NamedTuple

from moa.advisor.catalogue import Model
from moa.advisor.fit import LocalModel
from moa.advisor.task import Task
from moa.advisor.words import Job, Skill
from moa.endpoints.dialects import Dialect
from moa.usage import Tier

LABELS_FOR_A_HEAD = 128
"""From about so many labels on, a model fitted to them did best in our measurements."""
_SKILLS: dict[Job, tuple[Skill, ...]] = {
    "classify": ("classify",),
    "recommend": ("classify",),
    "extract": ("extract",),
    "summarise": ("summarise",),
    "converse": ("converse",),
    "answer-from-documents": ("extract", "summarise"),
    "reason": ("reason",),
    "create": ("create",),
}
_BILLION = 10**9
_FOUR_BITS = 0.2
"""What they take from a model of some billions; from one below a billion, twice that."""
_FITTED = ((LABELS_FOR_A_HEAD, 1.5), (32, 1.0), (0, 0.5))
"""What a small model gains, by the least labels that there are: where it has none its labels are
scored, not written, and its bias is taken out: .41 to .77 on ten intents, in our measurements."""
_BEST_FITTED = 4.0
"""Beyond it, labels alone bring no small model."""
_USUAL_SIZE, _MOST_BY_SIZE = 7 * _BILLION, 0.4
"""The hints are whole numbers: of two models with the same one, the larger does better, by this at
most. In a mixture of experts, the geometric mean of all and of the active parameters counts."""

_REQUEST_S = 0.0015
"""Seconds of the server's own processor a request: HTTP, tokenizer, scheduling."""
_LONG, _SHORT = 1.8, 1.15
"""p95 of answers, as a multiple of the mean: lengths of texts spread by about half their mean."""
_TEXT = 20
"""Tokens from which on an answer is a text, whose length differs."""
_ROUNDS = 30
_BUSIEST = 0.95
"""Share of its time beyond which a server's waits are not worked out: the plan is refused."""
_RARE = 0.05
"""Share of the items below which a stage doesn't show in the p95."""
_VENDOR_FIRST_S: dict[Tier, float] = {"slm": 0.5, "llm": 0.8}
_VENDOR_TOKEN_S: dict[Tier, float] = {"slm": 1 / 120, "llm": 1 / 70}
_VENDOR_TAIL = 2.0
"""Vendors publish no latency. These stand for what users see; they differ by model, by hour and by
place."""


@dataclass(frozen=True, slots=True, eq=False)
class VendorModel:
    """A model at the vendor that sells it by the token."""

    model: Model
    vendor: Dialect
    place: ClassVar[None] = None
    quantisation: ClassVar[None] = None

    @property
    def weight(self) -> float:
        """What a token takes: dollars."""
        read, written = self.model.price.input, self.model.price.output
        return inf if read is None or written is None else float(read + written)

    def __str__(self) -> str:
        return f"{self.model.name} (API)"


Member = LocalModel | VendorModel
"""A model of a plan, at a place of the machine or at its vendor."""


def quality(member: Member, task: Task) -> tuple[float, list[str]]:
    """Judge how well one model does the task alone, 1 to 5, and what was taken into account.

    0 is a model that can't do the job at all.
    """
    model = member.model
    hints = [model.quality.get(skill, 0) for skill in _SKILLS[task.job]]
    if not all(hints):
        return 0.0, []
    value, why = float(min(hints)), list[str]()
    if model.parameters is not None:
        size = sqrt(model.parameters * (model.active_parameters or model.parameters))
        value += min(_MOST_BY_SIZE, max(0.0, 0.15 * log2(size / _USUAL_SIZE)))
    tiny = (model.parameters or _BILLION) < _BILLION
    foreign = [code for code in task.languages if not _speaks(model, code)]
    if foreign and tiny:
        return 0.5, [f"it is small, and was not made for {', '.join(foreign)}"]
    if foreign:
        value -= 1.0
        why.append(f"its makers don't name {', '.join(foreign)} among its languages (-1)")
    if member.place is not None:
        if member.quantisation in ("int4", "q4_k_m"):
            lost = _FOUR_BITS * (2 if tiny else 1)
            value -= lost
            why.append(f"{member.quantisation} may cost a little (-{lost:g})")
        if task.decides and model.tier == "slm" and value < _BEST_FITTED:
            gained = next(gain for labels, gain in _FITTED if task.labels >= labels)
            value = min(_BEST_FITTED, value + gained)
            why.append(f"its labels are scored, with {task.labels} labelled items (+{gained:g})")
    return max(0.5, min(5.0, value)), why


def _speaks(model: Model, language: str) -> bool:
    """Whether a model is made for a language, as far as its makers say."""
    many = any(code.endswith("+") for code in model.languages)
    return many or not model.languages or language in model.languages


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds that an item takes at the busiest time, on the mean and at p95."""

    first_s: float
    """Until the first token."""
    mean_s: float
    """Until the whole answer."""
    p95_s: float
    first_p95_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Times(Latency):
    """What an item takes at one stage."""

    in_flight: int = 1
    """Sequences at once, in each server."""
    busy: float = 0.0
    """Share of its time at the peak; close to 1 it doesn't keep up."""
    busy_s: float = 0.0
    """Seconds of one server that an item takes for itself."""


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

    def times(self, task: Task) -> Times | None:
        """Work out how long it takes at the task's busiest time; `None`: of an unknown GPU."""
        member = self.member
        if member.place is not None:
            return None if member.place.reached is None else self._served(member, task)
        first = _VENDOR_FIRST_S[member.model.tier]
        mean = first + self.writes * _VENDOR_TOKEN_S[member.model.tier]
        tail = _VENDOR_TAIL
        return Times(first_s=first, mean_s=mean, p95_s=mean * tail, first_p95_s=first * tail)

    def _served(self, member: LocalModel, task: Task) -> Times:
        """Work out the times of a server that writes `slots` sequences together."""
        servers, slots = member.place.replicas, member.slots
        coming = task.rate * self.share * self.calls / servers
        read = member.read_s(self.fresh) + _REQUEST_S
        busy_s = read + self.writes * member.write_s(slots) / slots
        batch = self._batch(member, task, coming, read)
        step = member.write_s(batch)
        together = ceil(batch) if task.concurrency else 1
        reading, writing = read * (together + 1) / 2, self.writes * step
        # prompts are read one after the other; of a server with one slot, whole items are done so
        blocked = read if slots > 1 else read + writing
        mean_wait, wait_p95 = _waits(blocked, coming * busy_s)
        longer = _LONG if self.writes > _TEXT else _SHORT
        slower = 1 - min(coming * read, _BUSIEST) if slots > 1 else 1.0  # while others are read
        first, whole = (reading + step) / slower, (reading + writing) / slower
        return Times(
            first_s=first + mean_wait,
            mean_s=whole + mean_wait,
            p95_s=whole * longer + wait_p95,
            first_p95_s=first * _SHORT + wait_p95,
            in_flight=ceil(batch),
            busy=coming * busy_s,
            busy_s=busy_s,
        )

    def _batch(self, member: LocalModel, task: Task, coming: float, read: float) -> float:
        """Sequences in flight in each server: as the task says, else by Little's law."""
        slots = float(member.slots)
        if task.concurrency:
            return min(slots, ceil(task.concurrency * self.calls / member.place.replicas))
        batch = 1.0
        for _ in range(_ROUNDS):  # of in flight and seconds each follows from the other
            alone = read + self.writes * member.write_s(batch)
            before, batch = batch, min(slots, max(1.0, coming * alone))
            if batch <= before * 1.01:
                break
        return batch


def _waits(served: float, busy: float) -> tuple[float, float]:
    """Mean wait, and p95 of the wait, of a queue with one server that takes `served` seconds."""
    busy = min(busy, _BUSIEST)
    mean = busy * served / (2 * (1 - busy))
    return mean, mean / busy * log(busy / 0.05) if busy > 0.05 else 0.0


Timed = tuple[Stage, Times | None]
"""A stage, and how long it takes; `None`: nothing is known of its speed."""


def latency_of(stages: Sequence[Timed]) -> Latency | None:
    """Add up the stages; those that few items reach don't show in the p95."""
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
        return None if self.own is None or self.vendors is None else self.known

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


class Prices(NamedTuple):
    """What one's own machine costs; `None`: not known."""

    hourly_usd: Decimal | None = None
    usd_per_kwh: Decimal | None = None


NO_PRICES = Prices()


def cost_of(stages: Sequence[Timed], task: Task, prices: Prices) -> Cost:
    """Work out what a thousand items cost; what isn't known stays so, and is never nothing.

    The hour is that of the whole machine, whether it works or not; it is paid for all day, where
    the task says how many items a day has. Electricity is what a GPU draws while it works.
    """
    vendors: list[Decimal | None] = []
    own: list[Decimal | None] = []
    for stage, times in stages:
        if stage.member.place is None:
            vendors.append(_tokens_usd(stage))
            continue
        hour, watts = prices.hourly_usd, stage.member.place.watts
        if hour is None and prices.usd_per_kwh is not None and watts is not None:
            hour = Decimal(repr(watts / 1000)) * prices.usd_per_kwh
        if hour is None or times is None:
            own.append(None)
        else:
            seconds = Decimal(repr(times.busy_s * stage.share * stage.calls))
            own.append(seconds * 1000 * hour / 3600)
    if own and prices.hourly_usd is not None and task.per_day:
        own = [prices.hourly_usd * 24 / task.per_day * 1000]
    return Cost(vendors=_sum(vendors), own=_sum(own))


def _sum(parts: Sequence[Decimal | None]) -> Decimal | None:
    known = [part for part in parts if part is not None]
    return sum(known, Decimal(0)) if len(known) == len(parts) else None


def _tokens_usd(stage: Stage) -> Decimal | None:
    """By the token; nothing is taken as cached, since vendors cache long prompts alone."""
    price = stage.member.model.price
    if price.input is None or price.output is None:
        return None
    tokens = price.input * stage.prompt + price.output * stage.writes  # priced by the million
    return Decimal(repr(stage.share)) * stage.calls * tokens * Decimal("0.001")


def shown_seconds(value: float) -> str:
    """Write seconds as a person would."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.3g} s" if value < 60 else f"{value / 60:.1f} min"
