"""Choice: tries every pattern with every model that fits, and ranks what keeps the limits.

A model runs at a place of the machine, or is asked at the vendor that sells it; a pattern
(`patterns.py`) says who is asked for what. The score has weights that stand here to be argued with.
The latency that is allowed is no part of it, only a limit: so a tighter one takes plans away, and
never changes the order of those that are left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache, cached_property, partial
from itertools import islice
from math import ceil, log10, sqrt
from typing import Literal

from moa.advisor.catalogue import BUILT_IN, Model, models
from moa.advisor.estimate import (
    LABELS_FOR_A_HEAD,
    NO_PRICES,
    Cost,
    Latency,
    Member,
    Prices,
    Timed,
    Times,
    VendorModel,
    cost_of,
    latency_of,
    quality,
    shown_seconds,
)
from moa.advisor.fit import LocalModel, quantisations
from moa.advisor.hardware import GPU, Machine, machine, places
from moa.advisor.patterns import TO_BOUND, Pattern, tokens_of, ways
from moa.advisor.task import PEAK, Task, vendor_name
from moa.advisor.words import Risk

_BUILT: tuple[Pattern, ...] = ("slm", "hybrid", "llm")
"""Patterns that `--write` writes. A cascade takes a calibration besides; the rest is one's own."""
Cause = Literal[
    "too big",
    "too slow",
    "too weak",
    "too long",
    "too risky",
    "over budget",
    "local only",
    "needs a network",
    "no API",
]
_NEEDED: dict[Risk, float] = {"low": 2.0, "medium": 3.0, "high": 4.0}
"""What a wrong answer's price asks for, on the catalogue's scale."""
_LABELS_AT_HIGH_RISK = 256
"""With so many, six errors among those accepted still hold the same bound."""
_IDLE = 0.1
"""Share of the busiest time up to which one server is enough, and a second saves no wait."""
_SLACK = 0.5
"""How much less is still shown, as weaker than wanted."""
_MOST_BUSY = 0.85
"""Share of its time that a server may be busy at the peak; beyond it, waits explode."""
_READING_PER_S = 6.0
"""Tokens a second that a person reads along with, about 250 words a minute."""
_SHOWN = 6

_SHORT_OF = 4.0
_MORE: dict[Risk, float] = {"low": 0.1, "medium": 0.2, "high": 0.6}
_MORE_TEXT = 0.2
"""Weight of a point of quality that is missing, and of one beyond what is needed; more where a text
is written or reasoned, since readers notice."""
_TEN_TIMES_COST, _ROOT_COST, _TEN_TIMES_LATENCY = 0.25, 0.06, 0.2
"""Ten times the dollars a day, from one on; their root, so that a thousand dollars a day saved are
worth building something for; and ten times the seconds, from a tenth of a second on."""
_UNPRICED, _UNKNOWN_SPEED = 0.5, 0.5
"""What a vendor takes is a risk where it isn't known; one's own machine is there anyway."""
_BOUNDED = 0.35
"""That a cascade's errors can be bounded, where risk is high."""
_LARGE_FOR_LABELS = 0.15
"""A large model on one's own machine for labels, where risk isn't high: it takes the room and the
time of many small ones."""
_PARTS: dict[Pattern, float] = {"slm": 0, "llm": 0, "hybrid": 0.1, "cascade": 0.1, "mixture": 0.2}
"""What there is to build."""
_VENDOR, _SERVER, _PROCESSOR, _OWN_SERVER, _MORE_GPUS, _YEAR = 0.25, 0.12, 0.08, 0.15, 0.05, 0.04
"""What there is to look after: a vendor has limits, changes its models and sees the items; a server
has to run; a model made to decide comes with one that `moa` doesn't start; twice as many GPUs; and
a year of age, since of two models with the same hints the newer one does better."""
_USUAL_A_DAY = 1000

_LADDER = (("T4", 1), ("L4", 1), ("L40S", 1), ("H100", 1), ("H100", 2), ("H100", 4), ("H100", 8))
"""GPUs that are suggested, smallest first; of some of them, several."""
_SLOWER = (1.5, 2, 4, 10, 100, 1000)
"""How much longer than allowed an answer is let take, until something fits."""
_NOTHING_HELPS = (
    "no single change helps: split the task into smaller ones, or loosen several of its limits "
    "(length, time, risk) at once"
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One way to do a task."""

    task: Task
    pattern: Pattern
    stages: tuple[Timed, ...]
    """Who is asked for what, one after the other, and how long each takes."""
    quality: float
    """1 (poor) to 5 (as good as the best), for this task: a judgement, to be measured."""
    why: str
    """What argues for the pattern."""
    prices: Prices

    @property
    def members(self) -> tuple[Member, ...]:
        """The models, each once, the small one first."""
        return tuple(dict.fromkeys(stage.member for stage, _ in self.stages))

    @property
    def needed_quality(self) -> float:
        """What the task's risk asks for."""
        return _NEEDED[self.task.risk]

    @property
    def good_enough(self) -> bool:
        """Whether it is as good as the task's risk asks for; else it is weaker than wanted."""
        return self.quality >= self.needed_quality

    @cached_property
    def latency(self) -> Latency | None:
        """At the busiest time; `None`: nothing is known of the hardware's speed."""
        return latency_of(self.stages)

    @cached_property
    def cost(self) -> Cost:
        """Of a thousand items."""
        return cost_of(self.stages, self.task, self.prices)

    @cached_property
    def score(self) -> float:
        """By which plans are ranked; higher is better, and it means nothing by itself."""
        return _score(self)

    @cached_property
    def reasons(self) -> tuple[str, ...]:
        """Why, and what speaks against it, with numbers."""
        return tuple(_reasons(self))

    @property
    def concurrency(self) -> int:
        """Items in flight at the busiest time, for which memory is reserved."""
        in_flight = ceil(self.task.rate * self.latency.mean_s) if self.latency else 1
        return self.task.concurrency or max(1, in_flight)

    @property
    def exists(self) -> bool:
        """Whether it can be written into `moa.toml`."""
        return self.pattern in _BUILT

    @property
    def needs_network(self) -> bool:
        """Whether it asks a vendor while it runs."""
        return any(member.place is None for member in self.members)

    @property
    def on_gpu(self) -> bool:
        """Whether one of its models runs on a GPU of the machine."""
        return any(it.place is not None and it.place.gpu for it in self.members)

    def servers(self, member: LocalModel) -> int:
        """Count the servers of a member: all that there is room for, or one where that is idle."""
        most = member.place.replicas
        busy = sum(times.busy for stage, times in self.stages if stage.member is member and times)
        return 1 if busy * most < _IDLE and (self.task.concurrency or 1) == 1 else most

    def __str__(self) -> str:
        return f"{self.pattern}: {' + '.join(map(str, self.members))}"

    def values(self) -> dict[str, object]:
        """Give it as JSON can write it; `null` is unknown."""
        latency, total = self.latency, self.cost.total
        return {
            "pattern": self.pattern,
            "exists": self.exists,
            "members": [
                {
                    "model": it.model.name,
                    "place": None if it.place is None else str(it.place),
                    "quantisation": it.quantisation,
                    "vendor_model": it.model.vendor_model if it.place is None else None,
                }
                for it in self.members
            ],
            "quality": round(self.quality, 2),
            "needed_quality": self.needed_quality,
            "usd_per_thousand": None if total is None else float(total),
            "known_usd_per_thousand": float(self.cost.known),
            "mean_s": latency.mean_s if latency else None,
            "p95_s": latency.p95_s if latency else None,
            "first_token_s": latency.first_s if latency else None,
            "measured": False,
            "concurrency": self.concurrency,
            "needs_network": self.needs_network,
            "score": round(self.score, 3),
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True, slots=True)
class Rejected:
    """A model, or a pattern of some, that breaks a limit of the task."""

    what: str
    """Pattern and models."""
    cause: Cause
    why: str
    """A sentence, with numbers."""
    miss: float = 1.0
    """How many times the limit, to show the one that misses by least."""
    also: int = 0
    """How many more were rejected for the same cause."""

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
    suggestions: tuple[str, ...] = ()
    """Where nothing fits, or nothing that is good enough: what would; each was tried."""

    @property
    def best(self) -> Plan | None:
        """The first; `None`: nothing fits."""
        return self.plans[0] if self.plans else None

    def values(self) -> dict[str, object]:
        """Give plans and what was rejected as JSON can write them; `null` is unknown."""
        return {
            "machine": str(self.machine),
            "plans": [plan.values() for plan in self.plans],
            "suggestions": list(self.suggestions),
            "rejected": [
                {"what": r.what, "cause": r.cause, "why": r.why, "also": r.also}
                for r in self.rejected
            ],
        }

    def __str__(self) -> str:
        lines = [f"{place}. {plan}" for place, plan in enumerate(self.plans, 1)]
        lines = lines or ["Nothing fits.", *self.suggestions]
        return "\n".join(lines)


def choose(
    task: Task,
    on_machine: Machine | None = None,
    *,
    hourly_usd: Decimal | None = None,
    usd_per_kwh: Decimal | None = None,
) -> Ranking:
    """Choose models and a pattern for a task, from what the machine has.

    Every pattern is tried with every model of the catalogue that fits. What breaks a limit of the
    task (memory, time, dollars, privacy, risk) is rejected with the reason; the rest is ranked by
    quality, cost, time and what there is to look after. Nothing is started, fetched or sent.

    Args:
        task: What is to be done.
        on_machine: Where; `None`: on this machine, as `moa.advisor.hardware.machine` reads it.
        hourly_usd: What the machine costs an hour, in US dollars; `None`: not known.
        usd_per_kwh: What electricity costs; taken where `hourly_usd` is not given.

    Examples:
        >>> from moa.advisor import Task
        >>> from moa.advisor.hardware import Machine
        >>> board = Machine(cores=4, ram=4 * 2**30, ram_free=3 * 2**30)
        >>> ranking = choose(Task(job="classify"), board)
        >>> ranking.plans[0].pattern
        'slm'
    """
    there = on_machine or machine()
    ranked = partial(rank, prices=Prices(hourly_usd, usd_per_kwh))
    ranking = ranked(task, there)
    if ranking.best is not None and ranking.best.good_enough:
        return ranking
    helpful = tuple(_suggestions(task, there, ranked))
    return replace(ranking, suggestions=helpful or (_NOTHING_HELPS,))


def rank(task: Task, there: Machine, *, prices: Prices = NO_PRICES) -> Ranking:
    """Rank what can be done, as `choose` does, without looking for what else would help."""
    found = [*_local_models(task, there), *_vendor_models(task)]
    rejected = [one for one in found if isinstance(one, Rejected)]
    plans: list[Plan] = []
    members = [one for one in found if not isinstance(one, Rejected)]
    for pattern, why, value, stages in ways(task, members):
        timed = tuple((stage, stage.times(task)) for stage in stages)
        plan = Plan(task=task, pattern=pattern, stages=timed, quality=value, why=why, prices=prices)
        if broken := next(_broken_limits(plan), None):
            rejected.append(Rejected(str(plan), *broken))
        else:
            plans.append(plan)
    return Ranking(task=task, machine=there, plans=_best(plans), rejected=_nearest_misses(rejected))


def _suggestions(
    task: Task, there: Machine, ranked: Callable[[Task, Machine], Ranking]
) -> Iterator[str]:
    """Change one thing at a time, and say which change makes a good enough plan possible."""

    def good(on: Machine = there, **changes: object) -> Iterator[Plan]:
        best = ranked(task.model_copy(update=changes), on).best
        if best is not None and best.good_enough:
            yield best

    bars = {
        "the items may leave this machine": task.private,
        "there is a network": task.offline,
        "a vendor may be asked": not task.api,
    }
    barred = " and ".join(words for words, bars_it in bars.items() if bars_it)
    for plan in good(api=True, private=False, offline=False, vendors=()) if barred else ():
        if plan.needs_network:
            yield f"if {barred}: {plan}, at {plan.cost} for a thousand items"
    on_gpu = (
        f"with a GPU such as {count} x {name}: {plan}"
        for name, count in _LADDER
        for plan in good(replace(there, gpus=(GPU.named(name),) * count))
        if plan.on_gpu
    )
    slower = (
        f"if {shown_seconds(plan.latency.p95_s)} an item are quick enough: {plan}"
        for times in (_SLOWER if task.latency_s else ())
        for plan in good(latency_s=(task.latency_s or 0) * times)
        if plan.latency is not None
    )
    yield from islice(on_gpu, 1)
    yield from islice(slower, 1)
    for plan in good(max_usd_per_thousand=None) if task.max_usd_per_thousand is not None else ():
        yield f"if a thousand items may cost {plan.cost}: {plan}"
    labels = _LABELS_AT_HIGH_RISK if task.risk == "high" else LABELS_FOR_A_HEAD
    for plan in good(labels=labels) if task.decides and task.labels < labels else ():
        yield f"with {labels} labelled items to fit it with: {plan}"
    for plan in good(risk="low") if task.risk != "low" else ():
        yield (
            "if people check every answer, so that a wrong one does no harm (low risk): "
            f"{plan}, of quality {plan.quality:.1f} of 5"
        )


def _best(plans: Iterable[Plan]) -> tuple[Plan, ...]:
    """Take the best few: two of the best pattern; of the others, one here and one at a vendor."""
    ordered = sorted(plans, key=lambda it: (-it.score, str(it.members[0])))
    shown: dict[tuple[Pattern, tuple[str, ...]], Plan] = {}
    counts: Counter[tuple[Pattern, bool]] = Counter()
    for plan in ordered:
        kind = plan.pattern, plan.needs_network
        names = plan.pattern, tuple(member.model.name for member in plan.members)
        most = 2 if plan.pattern == ordered[0].pattern else 1
        if names not in shown and counts[kind] < most:
            counts[kind] += 1
            shown[names] = plan
    return tuple(shown.values())[:_SHOWN]


def _nearest_misses(rejected: Iterable[Rejected]) -> tuple[Rejected, ...]:
    """Keep one for each cause: the one that misses by least."""
    by_cause: dict[Cause, list[Rejected]] = {}
    for one in rejected:
        by_cause.setdefault(one.cause, []).append(one)
    return tuple(
        replace(min(same, key=lambda it: it.miss), also=len(same) - 1) for same in by_cause.values()
    )


def _vendor_models(task: Task) -> Iterator[VendorModel | Rejected]:
    """List the models that vendors sell, or why none may be asked.

    A model is left out where the same vendor sells a cheaper one that is as good.
    """
    every = [VendorModel(it, it.vendor) for it in models().values() if it.vendor and not it.retired]
    sold = [one for one in every if not any(_outdone(one, other) for other in every)]
    what = f"{len(sold)} models of vendors"
    if task.private:
        yield Rejected(what, "local only", "the items would leave this machine")
    elif task.offline:
        yield Rejected(what, "needs a network", "there is none while it runs")
    elif not task.api:
        yield Rejected(what, "no API", "no vendor may be asked")
    else:
        named = task.vendors
        yield from (one for one in sold if not named or vendor_name(one.vendor) in named)


def _outdone(one: VendorModel, other: VendorModel) -> bool:
    better = all(other.model.quality.get(it, 0) >= hint for it, hint in one.model.quality.items())
    return one.vendor == other.vendor and better and other.weight < one.weight


def _local_models(task: Task, there: Machine) -> Iterator[LocalModel | Rejected]:
    """List the models that fit a machine alone, and the others with what they would take."""
    where = places(there)
    for model in models().values():
        if model.parameters is None or model.retired:
            continue
        found = [
            LocalModel(model=model, place=place, quantisation=kind, tokens=tokens_of(task))
            for place in where
            for kind in quantisations(model, place)
        ]
        fitting = [one for one in found if one.fits]
        yield from fitting
        if found and not fitting:
            yield Rejected(model.name, *_too_big(min(found, key=LocalModel.lacking)))


_Broken = tuple[Cause, str, float]
"""Why a plan is rejected, in a sentence, and how many times the limit it takes."""


def _broken_limits(plan: Plan) -> Iterator[_Broken]:
    """Check a plan against the task's limits: risk, length, memory, time, dollars."""
    yield from _quality_and_risk(plan)
    for stage, times in plan.stages:
        member, tokens = stage.member, stage.prompt + stage.writes
        most = member.model.context
        if most is not None and tokens > most:
            why = f"{tokens} tokens are more than the {most} of {member.model.name}"
            yield "too long", why, tokens / most
        if member.place is not None and not (there := _at_peak(member, times)).fits:
            yield _too_big(there)
    yield from _too_slow(plan)
    limit, known = plan.task.max_usd_per_thousand, plan.cost.known
    if limit is not None and known > limit:
        why = f"US$ {known:.3g} for a thousand items, where at most US$ {limit:.3g} are to be paid"
        yield "over budget", why, float(known / max(limit, Decimal("1e-6")))


def _at_peak(member: LocalModel, times: Times | None) -> LocalModel:
    return replace(member, concurrency=times.in_flight if times else 1)


def _too_big(wanted: LocalModel) -> _Broken:
    """Say what a model takes, and what its place has."""
    why = (
        f"{wanted.model.name} in {wanted.quantisation} takes {wanted.needed / 1e9:.1f} GB with "
        f"{wanted.concurrency} sequences of {wanted.tokens} tokens, and {wanted.place} has "
        f"{wanted.budget / 1e9:.1f} GB left"
    )
    return "too big", why, wanted.needed / max(wanted.budget, 1)


def _quality_and_risk(plan: Plan) -> Iterator[_Broken]:
    task, needed, found, labels = plan.task, plan.needed_quality, plan.quality, plan.task.labels
    miss = needed / max(found, 0.1)
    if found < needed - _SLACK:
        why = f"about {found:.1f} of 5 at this job, where {task.risk} risk wants {needed:g}"
        yield "too weak", why, miss
    if task.risk != "high":
        return
    why = ""
    if not task.decides and plan.members[-1].model.tier == "slm" and plan.pattern != "mixture":
        why = "what a small model writes carries no probability, so nothing says when it is wrong"
    elif plan.pattern == "slm" and labels < _LABELS_AT_HIGH_RISK:
        why = (
            f"with {labels} labels nothing bounds how often a small model alone is wrong; at high "
            f"risk that takes {_LABELS_AT_HIGH_RISK}"
        )
    elif plan.pattern == "cascade" and task.decides and labels < TO_BOUND:
        why = f"a threshold with a bound takes {TO_BOUND} labels, and there are {labels}"
    if why:
        yield "too risky", why, miss


def _too_slow(plan: Plan) -> Iterator[_Broken]:
    """Check how busy each place is, how late an answer comes, and how fast it is written."""
    task = plan.task
    busy: dict[str, float] = {}
    for stage, times in plan.stages:
        place = stage.member.place
        if times is None or place is None:
            continue
        where = place.gpu.name if place.gpu else "the processor"
        busy[where] = busy.get(where, 0.0) + times.busy
        if busy[where] > _MOST_BUSY:
            why = (
                f"{place} would be busy for {busy[where]:.1%} of the busiest time, and "
                f"{_MOST_BUSY:.0%} is the most that leaves short waits"
            )
            yield "too slow", why, busy[where] / _MOST_BUSY
    if plan.latency is None or task.latency_s is None:
        return
    found = plan.latency.first_p95_s if task.streamed else plan.latency.p95_s
    if found > task.latency_s:
        what = "the first token comes" if task.streamed else "the answer is there"
        allowed = shown_seconds(task.latency_s)
        why = f"{what} within {shown_seconds(found)} at p95, where {allowed} are allowed"
        yield "too slow", why, found / task.latency_s
    stage, times = plan.stages[-1]
    if task.streamed and not task.decides and times is not None:
        pace = stage.writes / max(times.mean_s - times.first_s, 1e-9)
        if pace < _READING_PER_S:
            why = f"it writes {pace:.1f} tokens a second, where a person reads {_READING_PER_S:g}"
            yield "too slow", why, _READING_PER_S / pace


def _score(plan: Plan) -> float:
    """Weigh a plan; higher is better."""
    task = plan.task
    beyond = plan.quality - plan.needed_quality
    more = _MORE[task.risk] + (0.0 if task.decides else _MORE_TEXT)
    worth = beyond * (_SHORT_OF if beyond < 0 else more)
    if plan.pattern == "cascade" and task.risk == "high":
        worth += _BOUNDED
    daily = float(plan.cost.known) * (task.per_day or _USUAL_A_DAY) / 1000
    price = _TEN_TIMES_COST * log10(1 + daily) + _ROOT_COST * sqrt(daily)
    price += _UNPRICED if plan.cost.vendors is None else 0.0
    late = _UNKNOWN_SPEED
    if plan.latency is not None:
        late = _TEN_TIMES_LATENCY * log10(1 + 10 * plan.latency.p95_s)
    wasteful = task.decides and task.risk != "high" and plan.pattern == "llm"
    waste = _LARGE_FOR_LABELS * (wasteful and not plan.needs_network)
    burden = sum(map(_burden, plan.members))
    return worth - price - late - waste - burden - _PARTS[plan.pattern]


def _burden(member: Member) -> float:
    """What there is to look after for one model."""
    model = member.model
    burden = _YEAR * (_newest() - _years(model)) if model.released else 0.0
    if member.place is None:
        return burden + _VENDOR
    burden += _OWN_SERVER * (model.kind == "decision")
    burden += _SERVER if member.place.engine == "vllm" else _PROCESSOR
    return burden + _MORE_GPUS * (member.place.count.bit_length() - 1)


@cache
def _newest() -> float:
    return max(map(_years, models().values()))


def _years(model: Model) -> float:
    year, month = (model.released or "0-0").split("-")
    return int(year) + int(month) / 12


def _reasons(plan: Plan) -> Iterator[str]:
    """Argue for a plan, and against it where something speaks against it."""
    task, cost, latency = plan.task, plan.cost, plan.latency
    yield plan.why
    verdict = "enough" if plan.good_enough else "weaker than wanted"
    yield (
        f"quality about {plan.quality:.1f} of 5 for {task.job}, {verdict} where {task.risk} risk "
        f"wants {plan.needed_quality:g} (a judgement: measure it on your own data)"
    )
    for member in plan.members:
        yield from _of_member(member, plan)
    if task.per_day is not None:
        yield f"{task.per_day:,} a day are {task.rate:.3g}/s at the busiest time ({PEAK:g} x mean)"
    if latency is not None:
        yield (
            f"an item takes {shown_seconds(latency.mean_s)} on the mean, "
            f"{shown_seconds(latency.p95_s)} at p95; the first token comes after "
            f"{shown_seconds(latency.first_s)} (estimate)"
        )
    yield f"a thousand items cost {cost} (estimate)"
    if cost.own is None:
        yield "what your own machine costs is not known: give its price per hour, or per kWh"
    if plan.pattern == "cascade" and task.decides:
        yield "moa calibrate makes it of labelled rows, and moa run cascade runs it"
    elif not plan.exists:
        yield f"moa has no ready {plan.pattern} for this: it is a graph of your own"
    if task.decides and plan.pattern == "slm" and task.labels < LABELS_FOR_A_HEAD:
        yield (
            f"label {LABELS_FOR_A_HEAD} items: from there on a fitted small model did best, and "
            f"from {TO_BOUND} accepted ones on its errors can be bounded"
        )
    if task.risk == "high":
        yield "at high risk, have people look at a sample, and at all that it is not sure of"
    if task.offline and any(member.model.name != BUILT_IN for member in plan.members):
        yield "fetch the models while there is a network; at run time they need none"


def _of_member(member: Member, plan: Plan) -> Iterator[str]:
    model = member.model
    yield from (f"{model.name}: {why}" for why in quality(member, plan.task)[1])
    if member.place is None:
        yield (
            f"{model.name} is asked at {vendor_name(member.vendor)} (its key in "
            f"${member.vendor.api_key_env}): the items leave this machine, and need a network"
        )
        return
    times = [times for stage, times in plan.stages if stage.member is member][-1]
    taken = _at_peak(member, times)
    yield (
        f"{model.name} in {taken.quantisation} takes {taken.needed / 1e9:.1f} of "
        f"{taken.budget / 1e9:.1f} GB on {member.place}: weights {taken.weights / 1e9:.2f}, KV "
        f"cache of {taken.concurrency} x {taken.tokens} tokens {taken.kv / 1e9:.2f}, overhead "
        f"{taken.overhead / 1e9:.2f}; at most {taken.max_sequences} at once"
    )
    if times is None:
        yield f"how fast {member.place} is isn't known to moa"
        return
    yield (
        f"alone it writes {1 / member.write_s(1):.0f} tokens/s and reads "
        f"{1 / member.read_s(1):.0f}; at the busiest time it is busy for {times.busy:.0%}, with "
        f"{times.in_flight} in flight (estimate)"
    )
