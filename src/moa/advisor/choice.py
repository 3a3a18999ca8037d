"""Choice: ranks models, alone or in pairs, for a task on a machine.

A model runs at a place of the machine, or at its vendor. Plans that break a limit of the task are
rejected with the reason. The rest is sorted by `Task.prefer`: good enough plans first, then by
time, price or quality. All figures are estimates: quality is a hint, and time comes from the
roofline of `fit.py`, without queueing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from math import inf
from typing import ClassVar, Literal

from moa.advisor.catalogue import Model, models
from moa.advisor.fit import SPARE, LocalModel, quantisations
from moa.advisor.hardware import GPU, Machine, list_placements, machine
from moa.advisor.task import VENDOR_NAMES, Task
from moa.core.usage import Amount
from moa.endpoints.dialects import Dialect

Pattern = Literal["slm", "llm", "cascade", "hybrid"]
"""`slm` and `llm`: one model alone, small or large. `cascade`: small first, large if not accepted.
`hybrid`: a graph in which the small one decides and the large one writes."""
Cause = Literal[
    "too big", "too slow", "too weak", "too long", "too dear", "no vendor", "other language"
]

_LARGE_SHARE = 0.5
"""Assumed share of the items that the large model of a pair sees: count your own."""
_SCORED, _FITTED, _BEST_FITTED = 0.5, 1.0, 4.0
"""Quality points that a deciding small model gains by scoring labels instead of writing them, and
by fitting to labelled items; and its maximum quality (docs/benchmarks.md, Decisions)."""
_LABELLED = 32
"""Minimum labelled items to fit a model to."""
_FOUR_BITS = 0.2
"""Points lost by weights in four bits."""
_SLACK = 0.5
"""Quality points that a plan may lack and still be shown, as weak."""
_CHEAP_USD = Decimal("0.1")
"""US dollars per thousand items below which the price makes no difference."""
_VENDOR_FIRST_S, _VENDOR_TOKEN_S = 0.8, 1 / 70
"""Assumed seconds to the first token, and per token, as vendors publish no latency."""
_VENDOR_WRITES = 10
"""Minimum tokens that a vendor's model writes, even for a label."""
_LADDER = ("T4", "L4", "L40S", "H100")
"""GPUs to suggest, smallest first."""
_DAY_S = 86_400


@dataclass(frozen=True, slots=True, eq=False)
class VendorModel:
    """A model at the vendor that sells it by the token."""

    model: Model
    vendor: Dialect
    place: ClassVar[None] = None

    @property
    def weight(self) -> float:
        """Price of tokens: US dollars for a million in and a million out."""
        return float(self.model.price.of(Amount(input_tokens=10**6, output_tokens=10**6)) or 0)

    def seconds(self, reads: int, writes: int) -> float:
        """Return the seconds of one item; the length of the input makes little difference."""
        return _VENDOR_FIRST_S + max(writes, _VENDOR_WRITES) * _VENDOR_TOKEN_S

    def __str__(self) -> str:
        return f"{self.model.name} (API)"


Member = LocalModel | VendorModel
"""A model of a plan, at a place of the machine or at its vendor."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One way to do a task."""

    task: Task
    pattern: Pattern
    members: tuple[Member, ...]
    """The models, the small one first."""
    quality: float
    """1 (poor) to 5 (as good as the best), for this task: a hint, to be measured."""
    hourly_usd: Decimal | None = None
    """US dollars per hour for the machine; `None`: unknown."""

    @property
    def good_enough(self) -> bool:
        """True if it is as good as the task's complexity asks for."""
        return self.quality >= self.task.needed_quality

    @property
    def shares(self) -> tuple[tuple[Member, float], ...]:
        """The models, and the share of the items that each sees."""
        return tuple(zip(self.members, (1.0, _LARGE_SHARE), strict=False))

    @cached_property
    def seconds(self) -> float | None:
        """Mean seconds of an item; `None`: the hardware's speed is unknown."""
        total = 0.0
        for member, share in self.shares:
            alone = member.seconds(self.task.reads, self.task.writes)
            if alone is None:
                return None
            total += share * alone
        return total

    @cached_property
    def vendors_usd(self) -> Decimal:
        """US dollars that vendors charge for a thousand items."""
        writes = max(self.task.writes, _VENDOR_WRITES)
        thousand = Amount(input_tokens=1000 * self.task.prompt, output_tokens=1000 * writes)
        sold = [
            (member.model.price.of(thousand), share)
            for member, share in self.shares
            if not member.place
        ]
        return sum((Decimal(repr(share)) * (usd or 0) for usd, share in sold), Decimal(0))

    @cached_property
    def usd_per_thousand(self) -> Decimal | None:
        """US dollars for a thousand items; `None`: unknown.

        The machine is paid for all day if `per_day` is known, else only while it works.
        """
        if not any(member.place for member in self.members):
            return self.vendors_usd
        day = self.task.per_day
        busy_s = _DAY_S / day if day else self.seconds
        if self.hourly_usd is None or busy_s is None:
            return None
        return self.vendors_usd + self.hourly_usd * 1000 * Decimal(repr(busy_s)) / 3600

    @property
    def exists(self) -> bool:
        """True if `--write` can write it; a cascade also needs a calibration."""
        return self.pattern != "cascade"

    @property
    def needs_network(self) -> bool:
        """True if it asks a vendor while it runs."""
        return any(member.place is None for member in self.members)

    def busy(self, member: LocalModel) -> float:
        """Estimate how many servers of a member a day's items keep busy; 0: unknown."""
        if member.place.throughput is None or not self.task.per_day:
            return 0.0
        item_s = member.busy_s(self.task.reads, self.task.writes)
        return self.task.per_day * dict(self.shares)[member] * item_s / _DAY_S

    @property
    def reasons(self) -> tuple[str, ...]:
        """Its merits and costs, in sentences with numbers."""
        return tuple(_reasons(self))

    def values(self) -> dict[str, object]:
        """Return it as JSON values; `null` is unknown."""
        usd = self.usd_per_thousand
        return {
            "pattern": self.pattern,
            "members": [
                {
                    "model": member.model.name,
                    "place": None if member.place is None else str(member.place),
                    "quantisation": None if member.place is None else member.quantisation,
                    "vendor_model": member.model.vendor_model if member.place is None else None,
                }
                for member in self.members
            ],
            "quality": round(self.quality, 2),
            "needed_quality": self.task.needed_quality,
            "seconds": self.seconds,
            "usd_per_thousand": None if usd is None else float(usd),
            "needs_network": self.needs_network,
            "reasons": list(self.reasons),
        }

    def __str__(self) -> str:
        return f"{self.pattern}: {' + '.join(map(str, self.members))}"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A plan, or a model, that breaks a limit of the task."""

    what: str
    cause: Cause
    why: str
    """A sentence, with numbers."""
    miss: float = 1.0
    """Its need as a multiple of the limit, to show the rejection closest to it."""

    def __str__(self) -> str:
        return f"{self.what}: {self.cause}: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Plans for a task on a machine, best first; empty if nothing fits."""

    task: Task
    machine: Machine
    plans: tuple[Plan, ...]
    rejected: tuple[Rejection, ...]
    """For each cause, the rejection closest to the limit."""
    suggestions: tuple[str, ...] = ()
    """Changes that would help if nothing is good enough; each was tried."""

    @property
    def best(self) -> Plan | None:
        """The best plan; `None`: nothing fits."""
        return self.plans[0] if self.plans else None

    def values(self) -> dict[str, object]:
        """Return the plans and rejections as JSON values."""
        return {
            "machine": str(self.machine),
            "plans": [plan.values() for plan in self.plans],
            "suggestions": list(self.suggestions),
            "rejected": [{"what": r.what, "cause": r.cause, "why": r.why} for r in self.rejected],
        }

    def __str__(self) -> str:
        lines = [f"{rank}. {plan}" for rank, plan in enumerate(self.plans, 1)]
        return "\n".join(lines or ["Nothing fits.", *self.suggestions])


def choose(
    task: Task, on_machine: Machine | None = None, *, hourly_usd: Decimal | None = None
) -> Ranking:
    """Choose models for a task on a machine. Nothing is started, downloaded or sent.

    Args:
        task: The job, its complexity, its limits, and the preference: speed, balance or depth.
        on_machine: The machine; `None`: this one, as `moa.advisor.hardware.machine` reads it.
        hourly_usd: US dollars per hour for the machine; `None`: unknown.

    Examples:
        >>> from moa.advisor.choice import choose
        >>> from moa.advisor.hardware import Machine
        >>> from moa.advisor.task import Task
        >>> board = Machine(cores=4, ram=4 * 2**30, ram_free=3 * 2**30)
        >>> ranking = choose(Task(job="classify"), board)
        >>> ranking.plans[0].pattern
        'slm'
    """
    host = on_machine or machine()
    ranking = _rank(task, host, hourly_usd)
    if ranking.best is not None and ranking.best.good_enough:
        return ranking
    return replace(ranking, suggestions=tuple(_suggestions(task, host, hourly_usd)))


def _rank(task: Task, machine: Machine, hourly_usd: Decimal | None) -> Ranking:
    members, rejected = _members(task, machine)
    plans: list[Plan] = []
    for plan in _plans(task, members, hourly_usd):
        if broken := next(_broken_limits(plan), None):
            rejected.append(broken)
        else:
            plans.append(plan)
    plans.sort(key=_order)
    nearest: dict[Cause, Rejection] = {}
    for rejection in sorted(rejected, key=lambda rejection: rejection.miss):
        nearest.setdefault(rejection.cause, rejection)
    misses = tuple(nearest.values())
    return Ranking(task=task, machine=machine, plans=_keep_varied(plans), rejected=misses)


def _order(plan: Plan) -> tuple[object, ...]:
    """Return a plan's sort key: good enough first, then by the task's preference, then the rest.

    The balance of time and price is their product. An unknown price of one's own machine counts as
    nothing.
    """
    seconds = inf if plan.seconds is None else plan.seconds
    usd = plan.vendors_usd if plan.usd_per_thousand is None else plan.usd_per_thousand
    depth = -round(plan.quality, 2)
    ways = {
        "speed": (seconds, usd, depth),
        "balance": (seconds * float(max(usd, _CHEAP_USD)), seconds, depth),
        "depth": (depth, usd, seconds),
    }
    short = max(0.0, plan.task.needed_quality - plan.quality)
    return short, *ways[plan.task.prefer], str(plan)


def _keep_varied(plans: Iterable[Plan]) -> tuple[Plan, ...]:
    """Keep the best plans: at most two per pattern, and one with the same models."""
    plans_by_models: dict[tuple[str, ...], Plan] = {}
    for plan in plans:
        names = plan.pattern, *(member.model.name for member in plan.members)
        if sum(kept_plan.pattern == plan.pattern for kept_plan in plans_by_models.values()) < 2:
            plans_by_models.setdefault(names, plan)
    return tuple(plans_by_models.values())


def _members(task: Task, machine: Machine) -> tuple[list[Member], list[Rejection]]:
    """List the usable models, and the rejected ones with the reason."""
    members: list[Member] = []
    rejected: list[Rejection] = []
    placements = list_placements(machine)
    for model in models().values():
        if model.retired:
            continue
        if foreign := _not_spoken(model, task):
            reason = f"its makers don't name {', '.join(foreign)}"
            rejected.append(Rejection(model.name, "other language", reason))
            continue
        if model.vendor and model.vendor.name.lower() in task.vendors and model.price.known:
            members.append(VendorModel(model, model.vendor))
        candidates = [
            LocalModel(
                model=model, place=place, quantisation=kind, tokens=task.prompt + task.writes
            )
            for place in placements
            for kind in quantisations(model, place)
        ]
        fitting: dict[object, Member] = {}
        for candidate in candidates:  # fewest GPUs first: more aren't needed
            if candidate.fits:
                fitting.setdefault(
                    (candidate.quantisation, candidate.place.gpu and candidate.place.gpu.name),
                    candidate,
                )
        members += fitting.values()
        if candidates and not fitting:
            rejected.append(_reject_too_big(min(candidates, key=LocalModel.missing_bytes)))
    if not task.vendors:
        rejected.append(Rejection("models of vendors", "no vendor", "none may be asked"))
    return members, rejected


def _not_spoken(model: Model, task: Task) -> list[str]:
    """List the languages of a task that a model's makers don't name, if they name any."""
    if not model.languages or any(code.endswith("+") for code in model.languages):
        return []
    return [code for code in task.languages if code not in model.languages]


def _plans(task: Task, members: list[Member], hourly_usd: Decimal | None) -> Iterator[Plan]:
    """Yield each model alone, and pairs of a small and a large one that suit the job."""
    for member in members:
        yield Plan(
            task=task,
            pattern=member.model.tier,
            members=(member,),
            quality=_quality(member, task),
            hourly_usd=hourly_usd,
        )
    pattern = task.profile.pair
    if pattern is None:
        return
    small_task = task.model_copy(update={"job": "classify"}) if pattern == "hybrid" else task
    small = [
        member for member in members if member.model.tier == "slm" and member.place is not None
    ]
    large = [member for member in members if member.model.tier == "llm"]
    for small_member, small_quality in _lightest(small, small_task):
        for large_member, large_quality in _lightest(large, task):
            partner = _share_machine(large_member, small_member)
            if large_quality > small_quality and (partner.place is None or partner.fits):
                yield Plan(
                    task=task,
                    pattern=pattern,
                    members=(small_member, partner),
                    quality=_LARGE_SHARE * large_quality + (1 - _LARGE_SHARE) * small_quality,
                    hourly_usd=hourly_usd,
                )


def _lightest(members: Iterable[Member], task: Task) -> list[tuple[Member, float]]:
    """Return members better than all lighter ones, with their quality; vendors' models apart."""
    lightest: list[tuple[Member, float]] = []
    best = {True: 0.0, False: 0.0}
    judged = [(member, _quality(member, task)) for member in members]
    for member, value in sorted(judged, key=lambda pair: (pair[0].weight, -pair[1])):
        sold = member.place is None
        if value > best[sold]:
            best[sold] = value
            lightest.append((member, value))
    return lightest


def _share_machine(member: Member, neighbour: Member) -> Member:
    """Return a member with the memory that its neighbour at the same place leaves."""
    if member.place is None or neighbour.place is None:
        return member
    gpu, neighbour_gpu = (
        place.gpu.name if place.gpu else "" for place in (member.place, neighbour.place)
    )
    if gpu != neighbour_gpu:
        return member
    copies = member.place.count if member.place.gpu else 1
    return replace(member, taken=int(neighbour.total_bytes * copies * SPARE))


def _quality(member: Member, task: Task) -> float:
    """Rate how well a model does the task alone, from 1 to 5; 0: it can't do the job at all."""
    model = member.model
    value = float(min(model.quality.get(skill, 0) for skill in task.profile.skills))
    if member.place is None or not value:
        return value
    if member.quantisation in ("int4", "q4_k_m"):
        value -= _FOUR_BITS
    if task.decides and model.tier == "slm" and value < _BEST_FITTED:
        gained = _SCORED + (_FITTED if task.labels >= _LABELLED else 0)
        value = min(_BEST_FITTED, value + gained)
    return value


def _reject_too_big(candidate: LocalModel) -> Rejection:
    reason = (
        f"in {candidate.quantisation} it takes {candidate.total_bytes / 1e9:.1f} GB for "
        f"{candidate.tokens} tokens, and {candidate.place} has {candidate.budget / 1e9:.1f} GB left"
    )
    return Rejection(
        candidate.model.name, "too big", reason, candidate.total_bytes / max(candidate.budget, 1)
    )


def _broken_limits(plan: Plan) -> Iterator[Rejection]:
    """Yield a rejection for each limit of the task that a plan breaks."""
    task, tokens = plan.task, plan.task.prompt + plan.task.writes
    if plan.quality < task.needed_quality - _SLACK:
        reason = f"about {plan.quality:.1f} of 5, where {task.needed_quality:g} are asked for"
        miss = task.needed_quality / plan.quality if plan.quality else inf
        yield Rejection(str(plan), "too weak", reason, miss)
    for member in plan.members:
        context = member.model.context
        if context is not None and tokens > context:
            reason = f"{tokens} tokens, and {member} takes {context}"
            yield Rejection(str(plan), "too long", reason, tokens / context)
        if member.place is None:
            continue
        busy = plan.busy(member) / member.place.replicas
        if busy > 1:
            reason = f"{member} can do about {(task.per_day or 0) / busy:,.0f} a day"
            yield Rejection(str(plan), "too slow", reason, busy)
    if task.latency_s and plan.seconds is not None and plan.seconds > task.latency_s:
        reason = (
            f"{format_seconds(plan.seconds)}, where {format_seconds(task.latency_s)} are allowed"
        )
        yield Rejection(str(plan), "too slow", reason, plan.seconds / task.latency_s)
    limit, usd = task.max_usd_per_thousand, plan.usd_per_thousand
    if limit is not None and usd is not None and usd > limit:
        reason = f"{format_usd(usd)} for a thousand items, where {format_usd(limit)} are allowed"
        yield Rejection(str(plan), "too dear", reason, float(usd / max(limit, Decimal("1e-6"))))


def _suggestions(task: Task, machine: Machine, hourly_usd: Decimal | None) -> Iterator[str]:
    """Yield the single changes that make a good enough plan possible."""

    def best(on: Machine = machine, **changes: object) -> Plan | None:
        plan = _rank(task.model_copy(update=changes), on, hourly_usd).best
        return plan if plan is not None and plan.good_enough else None

    if not task.vendors and (plan := best(vendors=VENDOR_NAMES)):
        yield f"if a vendor may be asked: {plan}"
    for name in _LADDER:
        if plan := best(replace(machine, gpus=(GPU.from_name(name),))):
            yield f"with a GPU such as {name}: {plan}"
            break
    if task.latency_s and (plan := best(latency_s=None)) and plan.seconds is not None:
        yield f"if an item may take {format_seconds(plan.seconds)}: {plan}"
    if task.max_usd_per_thousand is not None and (plan := best(max_usd_per_thousand=None)):
        yield f"if a thousand items may cost {format_usd(plan.usd_per_thousand)}: {plan}"
    if task.decides and task.labels < _LABELLED and (plan := best(labels=_LABELLED)):
        yield f"with {_LABELLED} labelled items to fit it with: {plan}"


def _reasons(plan: Plan) -> Iterator[str]:
    task, usd = plan.task, plan.usd_per_thousand
    verdict = "enough" if plan.good_enough else "weaker than wanted"
    yield (
        f"quality about {plan.quality:.1f} of 5 for {task.job}, {verdict}: {task.complexity} tasks "
        f"want {task.needed_quality:g}. It is a hint: measure it on your own data"
    )
    if len(plan.members) > 1:
        share = f"{_LARGE_SHARE:.0%} of the items (assumed: count your own)"
        does = "answers first" if plan.pattern == "cascade" else "decides"
        yield f"the small model {does}, and the large one sees {share}"
    for member in plan.members:
        yield from _describe_member(member, plan)
    if plan.seconds is not None:
        yield f"an item takes about {format_seconds(plan.seconds)}, without waiting for others"
    yield (
        "what a thousand items cost isn't known: give the price of the machine's hour"
        if usd is None
        else f"a thousand items cost {format_usd(usd)}"
    )


def _describe_member(member: Member, plan: Plan) -> Iterator[str]:
    if member.place is None:
        yield (
            f"{member.model.name} is asked at {member.vendor.name} (its key in "
            f"${member.vendor.api_key_env}): the items leave this machine"
        )
        return
    yield (
        f"{member.model.name} in {member.quantisation} takes {member.total_bytes / 1e9:.1f} of "
        f"{member.budget / 1e9:.1f} GB on {member.place}; at most {member.max_sequences} items at "
        "once"
    )
    if member.place.throughput is None:
        yield f"how fast {member.place} is isn't known to moa"
        return
    yield (
        f"alone it writes {1 / member.write_s(1):.0f} tokens/s and reads "
        f"{1 / member.read_s(1):.0f} (estimate)"
    )


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
