"""Plans: what `choose` proposes, what it rejects, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from moa.catalogue import Model
from moa.choosing.task import Task
from moa.machine import Machine

if TYPE_CHECKING:
    from moa.choosing.members import Member

Pattern = Literal["slm", "cascade", "hybrid", "llm", "mixture"]
"""`slm` and `llm`: one model alone, small or large. `cascade`: small first, large if not accepted.
`hybrid`: a graph in which the small one decides and the large one writes. `mixture`: several
answers, of which the large one makes one."""
Cause = Literal[
    "too big",
    "too slow",
    "too weak",
    "too long",
    "too risky",
    "over budget",
    "leaves the house",
    "needs a network",
    "no API",
    "no disk",
]

BUILT: tuple[Pattern, ...] = ("slm", "hybrid", "llm")
"""Patterns that `--write` writes. A cascade takes a calibration besides; the rest is one's own."""


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
    measured: bool = False
    """Whether it follows from what `moa bench` measured; else it is an estimate."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One way to do a task."""

    pattern: Pattern
    members: tuple[Member, ...]
    """Small one first."""
    quality: float
    """1 (poor) to 5 (as good as the best), for this task: a judgement, to be measured."""
    needed_quality: float
    """What the task's risk asks for."""
    latency: Latency | None
    """`None`: nothing is known of the hardware's speed."""
    cost: Cost
    concurrency: int
    """Items in flight at the busiest time, for which memory is reserved."""
    servers: tuple[int, ...]
    """Of each member on the machine, those that its figures take; 0 at a vendor."""
    reasons: tuple[str, ...]
    """Why, with numbers."""
    score: float
    """By which plans are ranked; higher is better, and it means nothing by itself."""

    @property
    def good_enough(self) -> bool:
        """Whether it is as good as the task's risk asks for; else it is weaker than wanted."""
        return self.quality >= self.needed_quality

    @property
    def exists(self) -> bool:
        """Whether it can be written into `moa.toml`."""
        return self.pattern in BUILT

    @property
    def needs_network(self) -> bool:
        """Whether it asks a vendor while it runs."""
        return any(not member.local for member in self.members)

    @property
    def measured(self) -> bool:
        """Whether its speed was measured; else it is an estimate."""
        return self.latency is not None and self.latency.measured

    def __str__(self) -> str:
        return f"{self.pattern}: {' + '.join(map(str, self.members))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """One way that breaks a limit of the task."""

    what: str
    """Pattern and models."""
    cause: Cause
    why: str
    """A sentence, with numbers."""
    also: int = 0
    """How many more were rejected for the same cause."""
    miss: float = 1.0
    """By how much it misses, to show the one that misses by least."""

    @classmethod
    def of(cls, model: Model, cause: Cause, why: str, *, miss: float = 1.0) -> Rejected:
        """Reject a model, in every pattern."""
        return cls(what=model.name, cause=cause, why=why, miss=miss)

    def __str__(self) -> str:
        also = f" (and {self.also} more)" if self.also else ""
        return f"{self.what}: {self.cause}: {self.why}{also}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Plans for a task on a machine, best first; empty where nothing fits."""

    task: Task
    machine: Machine
    plans: tuple[Plan, ...]
    rejected: tuple[Rejected, ...]
    """One for each cause, the nearest miss."""
    remedies: tuple[str, ...]
    """Where nothing fits, or nothing that is good enough: what would."""

    @property
    def best(self) -> Plan | None:
        """The first; `None`: nothing fits."""
        return self.plans[0] if self.plans else None

    def __iter__(self) -> Iterator[Plan]:
        return iter(self.plans)

    def __len__(self) -> int:
        return len(self.plans)

    def __str__(self) -> str:
        lines = [f"{place}. {plan}" for place, plan in enumerate(self.plans, 1)]
        lines = lines or ["Nothing fits.", *self.remedies]
        return "\n".join(lines)
