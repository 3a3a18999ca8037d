"""Choice: which models, alone or in pairs, do a task on a machine; ranked by named options.

A model runs at a place of the machine, or is asked at the vendor that sells it. What breaks a limit
of the task is rejected with the reason. The rest is ordered by `Task.prefer`: those that are good
enough first, then by time, price or quality. All figures are estimates: of quality a hint, of time
the roofline of `fit.py`, without what a request waits for others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from math import ceil, inf
from typing import ClassVar, Literal

from moa.advisor.catalogue import Model, models
from moa.advisor.fit import SPARE, LocalModel, quantisations
from moa.advisor.hardware import GPU, Machine, machine, places
from moa.advisor.task import VENDOR_NAMES, Task, vendor_name
from moa.advisor.words import Job, Skill
from moa.endpoints.dialects import Dialect
from moa.usage import Tier

Pattern = Literal["slm", "llm", "cascade", "hybrid"]
"""`slm` and `llm`: one model alone, small or large. `cascade`: small first, large if not accepted.
`hybrid`: a graph in which the small one decides and the large one writes."""
Cause = Literal["too big", "too slow", "too weak", "too long", "too dear", "no vendor"]

_PAIRED: dict[Job, Pattern] = {
    "classify": "cascade",
    "recommend": "cascade",
    "extract": "cascade",
    "reason": "cascade",
    "converse": "hybrid",
    "answer-from-documents": "hybrid",
}
_SHARES: dict[Pattern, float] = {"cascade": 0.5, "hybrid": 0.5}
"""Assumed share of the items that the large model sees: count your own."""
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
_FITTED = ((128, 1.5), (32, 1.0), (0, 0.5))
"""Points that a small model that decides gains, by the least labels that it is fitted to: where
there are none its labels are scored, not written (docs/benchmarks.md, Decisions)."""
_BEST_FITTED = 4.0
_FOREIGN, _FOUR_BITS, _TINY = 1.0, 0.2, 10**9
"""Points lost by a language that a model's makers don't name, and by weights in four bits. A model
below a billion parameters loses twice as many bits, and all of a foreign language."""
_SLACK = 0.5
"""How much less quality is still shown, as weak."""
_CHEAP_USD = Decimal("0.1")
"""US dollars for a thousand items, below which a price makes no difference."""
_DAY_S = 86_400
_VENDOR_FIRST_S: dict[Tier, float] = {"slm": 0.5, "llm": 0.8}
_VENDOR_TOKEN_S: dict[Tier, float] = {"slm": 1 / 120, "llm": 1 / 70}
"""Vendors publish no latency: these stand for what users see."""
_LABEL_AS_TEXT = 10
"""Tokens in which a vendor's model writes a label."""
_LADDER = ("T4", "L4", "L40S", "H100")
"""GPUs that are suggested, the smallest first."""
_SHOWN = 6


@dataclass(frozen=True, slots=True, eq=False)
class VendorModel:
    """A model at the vendor that sells it by the token."""

    model: Model
    vendor: Dialect
    place: ClassVar[None] = None

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
    """What the machine costs an hour; `None`: not known."""

    @property
    def good_enough(self) -> bool:
        """Whether it is as good as the task's complexity asks for."""
        return self.quality >= self.task.needed_quality

    @property
    def shares(self) -> tuple[tuple[Member, float], ...]:
        """The models, and the share of the items that each sees."""
        rest = _SHARES.get(self.pattern, 1.0)
        return tuple((it, rest if place else 1.0) for place, it in enumerate(self.members))

    @cached_property
    def seconds(self) -> float | None:
        """Seconds of an item, on the mean; `None`: nothing is known of the hardware's speed."""
        times = [(share, _seconds(member, self.task)) for member, share in self.shares]
        known = [share * it for share, it in times if it is not None]
        return sum(known) if len(known) == len(times) else None

    @cached_property
    def usd_per_thousand(self) -> Decimal | None:
        """US dollars for a thousand items; `None`: not known.

        The machine's hour is paid for all day, where `per_day` is known, else while it works.
        """
        own = any(member.place is not None for member in self.members)
        vendors = [
            _tokens_usd(it, self.task, share) for it, share in self.shares if it.place is None
        ]
        if (own and self.hourly_usd is None) or None in vendors:
            return None
        sold = sum((it for it in vendors if it is not None), Decimal(0))
        if not own or self.hourly_usd is None:
            return sold
        if self.task.per_day:
            return sold + self.hourly_usd * 24 * 1000 / self.task.per_day
        return None if self.seconds is None else sold + _hours(self.seconds) * self.hourly_usd

    @property
    def exists(self) -> bool:
        """Whether `--write` can write it; a cascade takes a calibration besides."""
        return self.pattern != "cascade"

    @property
    def needs_network(self) -> bool:
        """Whether it asks a vendor while it runs."""
        return any(member.place is None for member in self.members)

    def servers(self, member: LocalModel) -> int:
        """Count the servers that the task takes of a member, among those there is room for."""
        busy = _busy(member, self.task, dict(self.shares)[member])
        return min(member.place.replicas, max(1, ceil(busy)))

    @property
    def reasons(self) -> tuple[str, ...]:
        """What it takes and gives, in sentences with numbers."""
        return tuple(_reasons(self))

    def values(self) -> dict[str, object]:
        """Give it as JSON can write it; `null` is unknown."""
        usd = self.usd_per_thousand
        return {
            "pattern": self.pattern,
            "members": [
                {
                    "model": it.model.name,
                    "place": None if it.place is None else str(it.place),
                    "quantisation": None if it.place is None else it.quantisation,
                    "vendor_model": it.model.vendor_model if it.place is None else None,
                }
                for it in self.members
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
class Rejected:
    """A plan, or a model, that breaks a limit of the task."""

    what: str
    cause: Cause
    why: str
    """A sentence, with numbers."""
    miss: float = 1.0
    """How many times the limit it takes, to show the one that misses by least."""

    def __str__(self) -> str:
        return f"{self.what}: {self.cause}: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Plans for a task on a machine, best first; empty where nothing fits."""

    task: Task
    machine: Machine
    plans: tuple[Plan, ...]
    rejected: tuple[Rejected, ...]
    """One for each cause, the nearest miss."""
    suggestions: tuple[str, ...] = ()
    """Where nothing is good enough: what would be; each was tried."""

    @property
    def best(self) -> Plan | None:
        """The first; `None`: nothing fits."""
        return self.plans[0] if self.plans else None

    def values(self) -> dict[str, object]:
        """Give plans and what was rejected as JSON can write them."""
        return {
            "machine": str(self.machine),
            "plans": [plan.values() for plan in self.plans],
            "suggestions": list(self.suggestions),
            "rejected": [{"what": r.what, "cause": r.cause, "why": r.why} for r in self.rejected],
        }

    def __str__(self) -> str:
        lines = [f"{place}. {plan}" for place, plan in enumerate(self.plans, 1)]
        return "\n".join(lines or ["Nothing fits.", *self.suggestions])


def choose(
    task: Task, on_machine: Machine | None = None, *, hourly_usd: Decimal | None = None
) -> Ranking:
    """Choose models for a task, from what the machine has. Nothing is started, fetched or sent.

    Args:
        task: What is to be done, how hard it is, and what decides: speed, price or depth.
        on_machine: Where; `None`: on this machine, as `moa.advisor.hardware.machine` reads it.
        hourly_usd: What the machine costs an hour, in US dollars; `None`: not known.

    Examples:
        >>> from moa.advisor import Task
        >>> from moa.advisor.choice import choose
        >>> from moa.advisor.hardware import Machine
        >>> board = Machine(cores=4, ram=4 * 2**30, ram_free=3 * 2**30)
        >>> ranking = choose(Task(job="classify"), board)
        >>> ranking.plans[0].pattern
        'slm'
    """
    there = on_machine or machine()
    ranking = _rank(task, there, hourly_usd)
    if ranking.best is not None and ranking.best.good_enough:
        return ranking
    return replace(ranking, suggestions=tuple(_suggestions(task, there, hourly_usd)))


def _rank(task: Task, there: Machine, hourly_usd: Decimal | None) -> Ranking:
    members, rejected = _members(task, there)
    plans: list[Plan] = []
    for plan in _plans(task, members, hourly_usd):
        if broken := next(_broken_limits(plan), None):
            rejected.append(Rejected(str(plan), *broken))
        else:
            plans.append(plan)
    plans.sort(key=_order)
    return Ranking(
        task=task, machine=there, plans=_varied(plans), rejected=_nearest_misses(rejected)
    )


def _order(plan: Plan) -> tuple[object, ...]:
    """Order plans: good enough first, then by what the task prefers, and then by the rest.

    The balance of time and price is their product. What one's own machine costs counts as nothing
    where it isn't known: it is there anyway.
    """
    seconds = inf if plan.seconds is None else plan.seconds
    sold = sum(
        (_tokens_usd(it, plan.task, share) or Decimal(0) for it, share in plan.shares), Decimal(0)
    )
    usd = sold if plan.usd_per_thousand is None else plan.usd_per_thousand
    depth = -round(plan.quality, 2)
    ways = {
        "speed": (seconds, usd, depth),
        "balance": (seconds * float(max(usd, _CHEAP_USD)), seconds, depth),
        "depth": (depth, usd, seconds),
    }
    short = max(0.0, plan.task.needed_quality - plan.quality)
    return short, *ways[plan.task.prefer], str(plan)


def _varied(plans: Iterable[Plan]) -> tuple[Plan, ...]:
    """Keep the best few: of a pattern at most two, and of the same models one."""
    kept: dict[tuple[str, ...], Plan] = {}
    counts: dict[Pattern, int] = {}
    for plan in plans:
        names = plan.pattern, *(it.model.name for it in plan.members)
        if names not in kept and counts.get(plan.pattern, 0) < 2:
            counts[plan.pattern] = counts.get(plan.pattern, 0) + 1
            kept[names] = plan
    return tuple(kept.values())[:_SHOWN]


def _nearest_misses(rejected: Iterable[Rejected]) -> tuple[Rejected, ...]:
    nearest: dict[Cause, Rejected] = {}
    for one in sorted(rejected, key=lambda it: it.miss):
        nearest.setdefault(one.cause, one)
    return tuple(nearest.values())


def _members(task: Task, there: Machine) -> tuple[list[Member], list[Rejected]]:
    """List the models that may be asked, and those that don't fit with what they would take."""
    members: list[Member] = []
    rejected: list[Rejected] = []
    where = places(there)
    for model in models().values():
        if model.retired:
            continue
        if model.vendor and vendor_name(model.vendor) in task.vendors:
            members.append(VendorModel(model, model.vendor))
        if model.parameters is None:
            continue
        found = [
            LocalModel(
                model=model, place=place, quantisation=kind, tokens=task.prompt + task.writes
            )
            for place in where
            for kind in quantisations(model, place)
        ]
        members += _on_fewest(one for one in found if one.fits)
        if found and not any(one.fits for one in found):
            rejected.append(Rejected(model.name, *_too_big(min(found, key=LocalModel.lacking))))
    if not task.vendors:
        rejected.append(Rejected("models of vendors", "no vendor", "none may be asked"))
    return members, rejected


def _on_fewest(fitting: Iterable[LocalModel]) -> Iterator[LocalModel]:
    """Keep, of each form of a model, the place with the fewest GPUs: the others serve it too."""
    kept = set[object]()
    for one in fitting:  # in the order of `places`, few GPUs first
        form = one.quantisation, one.place.gpu and one.place.gpu.name
        if form not in kept:
            kept.add(form)
            yield one


def _plans(task: Task, members: Iterable[Member], hourly_usd: Decimal | None) -> Iterator[Plan]:
    """Take every model alone, and every pair of a small and a large one for the task's job."""
    judged = [(member, _quality(member, task)) for member in members]
    for member, quality in judged:
        alone: Pattern = "slm" if member.model.tier == "slm" else "llm"
        yield Plan(
            task=task, pattern=alone, members=(member,), quality=quality, hourly_usd=hourly_usd
        )
    pattern = _PAIRED.get(task.job)
    if pattern is None:
        return
    asked = task.model_copy(update={"job": "classify"}) if pattern == "hybrid" else task
    small = [
        (one, _quality(one, asked))
        for one, _ in judged
        if one.model.tier == "slm" and one.place is not None
    ]
    large = [(one, quality) for one, quality in judged if one.model.tier == "llm"]
    for one, low in _lightest(small):
        for other, high in _lightest(large):
            beside = _beside(other, one)
            if high > low and (beside.place is None or beside.fits):
                share = _SHARES[pattern]
                yield Plan(
                    task=task,
                    pattern=pattern,
                    members=(one, beside),
                    quality=share * high + (1 - share) * min(low, high),
                    hourly_usd=hourly_usd,
                )


def _lightest(judged: Iterable[tuple[Member, float]]) -> list[tuple[Member, float]]:
    """Keep those that are better than every lighter one, so that few pairs are left."""
    kept: list[tuple[Member, float]] = []
    for kind in (True, False):
        best = 0.0
        those = [(it, value) for it, value in judged if (it.place is None) == kind]
        for member, value in sorted(those, key=lambda it: (_weight(it[0]), -it[1])):
            if value > best:
                best = value
                kept.append((member, value))
    return kept


def _weight(member: Member) -> float:
    """Say what a token takes: bytes that are read, or dollars."""
    if member.place is not None:
        return member.weights * member.active
    price = member.model.price
    return inf if price.input is None or price.output is None else float(price.input + price.output)


def _beside(member: Member, other: Member) -> Member:
    """Give what is left for a member where another one has some of its place's memory."""
    if member.place is None or other.place is None:
        return member
    here, there = (it.gpu.name if it.gpu else "" for it in (member.place, other.place))
    if here != there:
        return member
    copies = member.place.count if member.place.gpu else 1
    return replace(member, taken=int(other.needed * copies * SPARE))


def _quality(member: Member, task: Task) -> float:
    """Judge how well a model does the task alone, from 1 to 5; 0: it can't do the job at all."""
    model = member.model
    hints = [model.quality.get(it, 0) for it in _SKILLS[task.job]]
    if not all(hints):
        return 0.0
    value, tiny = float(min(hints)), (model.parameters or _TINY) < _TINY
    many = not model.languages or any(code.endswith("+") for code in model.languages)
    if not many and not set(task.languages) <= set(model.languages):
        value -= value if tiny else _FOREIGN
    if member.place is not None and member.quantisation in ("int4", "q4_k_m"):
        value -= _FOUR_BITS * (2 if tiny else 1)
    fitted = task.decides and model.tier == "slm" and member.place is not None
    if fitted and 0 < value < _BEST_FITTED:
        gained = next(gain for labels, gain in _FITTED if task.labels >= labels)
        value = min(_BEST_FITTED, value + gained)
    return max(0.5, min(5.0, value))


def _seconds(member: Member, task: Task) -> float | None:
    """Estimate the seconds of one item, alone; `None`: of an unknown GPU."""
    if member.place is None:
        writes = _LABEL_AS_TEXT if task.decides else task.writes
        tier = member.model.tier
        return _VENDOR_FIRST_S[tier] + writes * _VENDOR_TOKEN_S[tier]
    if member.place.reached is None:
        return None
    return member.read_s(task.reads) + task.writes * member.write_s(1)


def _busy(member: LocalModel, task: Task, share: float) -> float:
    """Estimate how many servers a day's items keep busy; 0: of an unknown GPU."""
    if member.place.reached is None:
        return 0.0
    return (task.per_day or 0) * share * member.busy_s(task.reads, task.writes) / _DAY_S


def _tokens_usd(member: Member, task: Task, share: float) -> Decimal | None:
    """Price a thousand items by the token; `None`: the vendor's price isn't known."""
    if member.place is not None:
        return Decimal(0)
    price, writes = member.model.price, _LABEL_AS_TEXT if task.decides else task.writes
    if price.input is None or price.output is None:
        return None
    tokens = price.input * task.prompt + price.output * writes  # priced by the million
    return Decimal(repr(share)) * tokens / 1000


def _hours(seconds: float) -> Decimal:
    """Give the hours of a thousand items."""
    return Decimal(repr(seconds)) * 1000 / 3600


_Broken = tuple[Cause, str, float]
"""Why a plan is rejected, in a sentence, and how many times the limit it takes."""


def _too_big(wanted: LocalModel) -> _Broken:
    why = (
        f"{wanted.model.name} in {wanted.quantisation} takes {wanted.needed / 1e9:.1f} GB for "
        f"{wanted.concurrency} x {wanted.tokens} tokens, and {wanted.place} has "
        f"{wanted.budget / 1e9:.1f} GB left"
    )
    return "too big", why, wanted.needed / max(wanted.budget, 1)


def _broken_limits(plan: Plan) -> Iterator[_Broken]:
    """Check a plan against the task's limits."""
    task, tokens = plan.task, plan.task.prompt + plan.task.writes
    if plan.quality < task.needed_quality - _SLACK:
        why = f"about {plan.quality:.1f} of 5, where {task.needed_quality:g} are asked for"
        yield "too weak", why, task.needed_quality / plan.quality if plan.quality else inf
    for member, share in plan.shares:
        most = member.model.context
        if most is not None and tokens > most:
            yield "too long", f"{tokens} tokens, and {member} takes {most}", tokens / most
        if member.place is None:
            continue
        busy = _busy(member, task, share) / member.place.replicas
        if busy > 1:
            yield "too slow", f"{member} can do about {(task.per_day or 0) / busy:,.0f} a day", busy
    if task.latency_s and plan.seconds is not None and plan.seconds > task.latency_s:
        why = f"{shown_seconds(plan.seconds)}, where {shown_seconds(task.latency_s)} are allowed"
        yield "too slow", why, plan.seconds / task.latency_s
    limit, usd = task.max_usd_per_thousand, plan.usd_per_thousand
    if limit is not None and usd is not None and usd > limit:
        why = f"US$ {usd:.3g} for a thousand items, where US$ {limit:.3g} are allowed"
        yield "too dear", why, float(usd / max(limit, Decimal("1e-6")))


def _suggestions(task: Task, there: Machine, hourly_usd: Decimal | None) -> Iterator[str]:
    """Change one thing at a time, and say which change makes a good enough plan possible."""

    def best(on: Machine = there, **changes: object) -> Iterator[Plan]:
        plan = _rank(task.model_copy(update=changes), on, hourly_usd).best
        if plan is not None and plan.good_enough:
            yield plan

    for plan in best(vendors=VENDOR_NAMES) if not task.vendors else ():
        yield f"if a vendor may be asked: {plan}"
    for name in _LADDER:
        found = [*best(replace(there, gpus=(GPU.named(name),)))]
        if found:
            yield f"with a GPU such as {name}: {found[0]}"
            break
    for plan in best(latency_s=None) if task.latency_s else ():
        if plan.seconds is not None:
            yield f"if an item may take {shown_seconds(plan.seconds)}: {plan}"
    for plan in best(max_usd_per_thousand=None) if task.max_usd_per_thousand is not None else ():
        yield f"if a thousand items may cost US$ {plan.usd_per_thousand or 0:.3g}: {plan}"
    labels = _FITTED[0][0]
    for plan in best(labels=labels) if task.decides and task.labels < labels else ():
        yield f"with {labels} labelled items to fit it with: {plan}"


def _reasons(plan: Plan) -> Iterator[str]:
    task, usd = plan.task, plan.usd_per_thousand
    verdict = "enough" if plan.good_enough else "weaker than wanted"
    yield (
        f"quality about {plan.quality:.1f} of 5 for {task.job}, {verdict}: {task.complexity} tasks "
        f"want {task.needed_quality:g}. It is a hint: measure it on your own data"
    )
    if len(plan.members) > 1:
        share = f"{_SHARES[plan.pattern]:.0%} of the items (assumed: count your own)"
        does = "answers first" if plan.pattern == "cascade" else "decides"
        yield f"the small model {does}, and the large one sees {share}"
    for member in plan.members:
        yield from _of_member(member, plan)
    if plan.seconds is not None:
        yield f"an item takes about {shown_seconds(plan.seconds)}, without waiting for others"
    yield (
        "what a thousand items cost isn't known: give the price of the machine's hour"
        if usd is None
        else f"a thousand items cost US$ {usd:.3g}"
    )


def _of_member(member: Member, plan: Plan) -> Iterator[str]:
    if member.place is None:
        yield (
            f"{member.model.name} is asked at {vendor_name(member.vendor)} (its key in "
            f"${member.vendor.api_key_env}): the items leave this machine"
        )
        return
    yield (
        f"{member.model.name} in {member.quantisation} takes {member.needed / 1e9:.1f} of "
        f"{member.budget / 1e9:.1f} GB on {member.place}; at most {member.max_sequences} items at "
        "once"
    )
    if member.place.reached is None:
        yield f"how fast {member.place} is isn't known to moa"
        return
    yield (
        f"alone it writes {1 / member.write_s(1):.0f} tokens/s and reads "
        f"{1 / member.read_s(1):.0f} (estimate)"
    )


def shown_seconds(value: float) -> str:
    """Write seconds as a person would."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.3g} s" if value < 60 else f"{value / 60:.1f} min"
