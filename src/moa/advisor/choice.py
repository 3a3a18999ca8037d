"""Choice: tries every pattern with every model that fits, and ranks what keeps the limits.

The score has weights that stand here to be argued with. The latency that is allowed is no part of
it, only a limit: so a tighter one takes plans away, and never changes the order of those that are
left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache, partial
from math import log10, sqrt

from moa.advisor.catalogue import BUILT_IN, VendorModel, models
from moa.advisor.estimate import Member, cost_of, shown_seconds
from moa.advisor.fit import LocalModel
from moa.advisor.hardware import GPU, Machine, machine
from moa.advisor.plans import (
    LABELS_FOR_A_BOUND,
    LABELS_FOR_A_HEAD,
    Cause,
    Pattern,
    Plan,
    Rejected,
    local_models,
    plans_for,
    quality,
    too_big,
    vendor_models,
)
from moa.advisor.task import PEAK, Task, vendor_name
from moa.advisor.words import Risk

_SLACK = 0.5
"""How much less is still shown, as weaker than wanted."""
_LABELS_AT_HIGH_RISK = 256
"""With so many, six errors among those accepted still hold the same bound."""
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
_PARTS: dict[Pattern, float] = {
    "slm": 0.0,
    "llm": 0.0,
    "hybrid": 0.1,
    "cascade": 0.1,
    "mixture": 0.2,
}
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
    ranked = partial(rank, hourly_usd=hourly_usd, usd_per_kwh=usd_per_kwh)
    ranking = ranked(task, there)
    if ranking.best is not None and ranking.best.good_enough:
        return ranking
    helpful = tuple(_suggestions(task, there, ranked))
    return replace(ranking, suggestions=helpful or (_NOTHING_HELPS,))


def rank(
    task: Task,
    there: Machine,
    *,
    hourly_usd: Decimal | None = None,
    usd_per_kwh: Decimal | None = None,
) -> Ranking:
    """Rank what can be done, as `choose` does, without looking for what else would help."""
    found = [*local_models(there, task), *vendor_models(task)]
    members: list[Member] = [one for one in found if not isinstance(one, Rejected)]
    rejected = [one for one in found if isinstance(one, Rejected)]
    plans: list[Plan] = []
    for plan in plans_for(task, members):
        cost = cost_of(plan.stages, task, hourly_usd=hourly_usd, usd_per_kwh=usd_per_kwh)
        priced = replace(plan, cost=cost)
        broken = next(_broken_limits(priced), None)
        if broken is None:
            plans.append(replace(priced, score=_score(priced)))
        else:
            rejected.append(broken)
    shown = tuple(replace(plan, reasons=tuple(_argued(plan))) for plan in _best(plans))
    return Ranking(task=task, machine=there, plans=shown, rejected=_nearest_misses(rejected))


def _suggestions(
    task: Task, there: Machine, ranked: Callable[[Task, Machine], Ranking]
) -> Iterator[str]:
    """Change one thing at a time, and say which change makes a good enough plan possible."""

    def good(on: Machine = there, **changes: object) -> Plan | None:
        best = ranked(task.model_copy(update=changes), on).best
        return best if best is not None and best.good_enough else None

    yield from _at_a_vendor(task, good)
    yield from _on_a_gpu(there, good)
    yield from _slower(task, good)
    if task.max_usd_per_thousand is not None and (plan := good(max_usd_per_thousand=None)):
        yield f"if a thousand items may cost {plan.cost}: {plan}"
    labels = _LABELS_AT_HIGH_RISK if task.risk == "high" else LABELS_FOR_A_HEAD
    if task.decides and task.labels < labels and (plan := good(labels=labels)):
        yield f"with {labels} labelled items to fit it with: {plan}"
    if task.risk != "low" and (plan := good(risk="low")):
        yield (
            "if people check every answer, so that a wrong one does no harm (low risk): "
            f"{plan}, of quality {plan.quality:.1f} of 5"
        )


def _at_a_vendor(task: Task, good: Callable[..., Plan | None]) -> Iterator[str]:
    barred = {
        "the items may leave this machine": task.private,
        "there is a network": task.offline,
        "a vendor may be asked": not task.api,
    }
    changed = " and ".join(words for words, bars in barred.items() if bars)
    plan = good(api=True, private=False, offline=False, vendors=()) if changed else None
    if plan is not None and plan.needs_network:
        yield f"if {changed}: {plan}, at {plan.cost} for a thousand items"


def _on_a_gpu(there: Machine, good: Callable[..., Plan | None]) -> Iterator[str]:
    for name, count in _LADDER:
        plan = good(replace(there, gpus=(GPU.named(name),) * count))
        if plan is not None and plan.on_gpu:
            yield f"with a GPU such as {count} x {name}: {plan}"
            return


def _slower(task: Task, good: Callable[..., Plan | None]) -> Iterator[str]:
    for times in _SLOWER if task.latency_s else ():
        plan = good(latency_s=(task.latency_s or 0) * times)
        if plan is not None and plan.latency is not None:
            yield f"if {shown_seconds(plan.latency.p95_s)} an item are quick enough: {plan}"
            return


def _best(plans: Iterable[Plan]) -> list[Plan]:
    """Take the best few: two of the best pattern; of the others, one here and one at a vendor."""
    ordered = sorted(plans, key=lambda it: (-it.score, str(it.members[0])))
    shown: list[Plan] = []
    counts: dict[tuple[Pattern, bool], int] = {}
    seen: set[tuple[Pattern, tuple[str, ...]]] = set()
    for plan in ordered:
        kind = (plan.pattern, not plan.needs_network)
        models_of = (plan.pattern, tuple(member.model.name for member in plan.members))
        most = 2 if plan.pattern == ordered[0].pattern else 1
        if models_of not in seen and counts.get(kind, 0) < most:
            seen.add(models_of)
            counts[kind] = counts.get(kind, 0) + 1
            shown.append(plan)
    return shown[:_SHOWN]


def _nearest_misses(rejected: Iterable[Rejected]) -> tuple[Rejected, ...]:
    """Keep one for each cause: the one that misses by least."""
    by_cause: dict[Cause, list[Rejected]] = {}
    for one in rejected:
        by_cause.setdefault(one.cause, []).append(one)
    return tuple(
        replace(min(same, key=lambda it: it.miss), also=len(same) - 1) for same in by_cause.values()
    )


def _broken_limits(plan: Plan) -> Iterator[Rejected]:
    """Check a plan against the task's limits: risk, length, memory, time, dollars."""
    yield from _quality_and_risk(plan)
    for stage, times in plan.stages:
        model, tokens = stage.member.model, stage.prompt + stage.writes
        if model.context is not None and tokens > model.context:
            why = f"{tokens} tokens are more than the {model.context} of {model.name}"
            yield Rejected(str(plan), "too long", why, tokens / model.context)
        if isinstance(stage.member, LocalModel):
            there = replace(stage.member, concurrency=times.in_flight if times else 1)
            if not there.fits:
                yield too_big(str(plan), there)
    yield from _too_slow(plan)
    limit, known = plan.task.max_usd_per_thousand, plan.cost.known
    if limit is not None and known > limit:
        why = f"US$ {known:.3g} for a thousand items, where at most US$ {limit:.3g} are to be paid"
        yield Rejected(str(plan), "over budget", why, float(known / max(limit, Decimal("1e-6"))))


def _quality_and_risk(plan: Plan) -> Iterator[Rejected]:
    task, needed, found, labels = plan.task, plan.needed_quality, plan.quality, plan.task.labels
    if found < needed - _SLACK:
        why = f"about {found:.1f} of 5 at this job, where {task.risk} risk wants {needed:g}"
        yield Rejected(str(plan), "too weak", why, needed / max(found, 0.1))
    why = ""
    if task.risk != "high":
        return
    written_by_small = not task.decides and plan.members[-1].model.tier == "slm"
    if written_by_small and plan.pattern != "mixture":
        why = "what a small model writes carries no probability, so nothing says when it is wrong"
    elif plan.pattern == "slm" and labels < _LABELS_AT_HIGH_RISK:
        why = (
            f"with {labels} labels nothing bounds how often a small model alone is wrong; at high "
            f"risk that takes {_LABELS_AT_HIGH_RISK}"
        )
    elif plan.pattern == "cascade" and task.decides and labels < LABELS_FOR_A_BOUND:
        why = f"a threshold with a bound takes {LABELS_FOR_A_BOUND} labels, and there are {labels}"
    if why:
        yield Rejected(str(plan), "too risky", why, needed / max(found, 0.1))


def _too_slow(plan: Plan) -> Iterator[Rejected]:
    """Check how busy each place is, how late an answer comes, and how fast it is written."""
    task = plan.task
    busy: dict[str, float] = {}
    for stage, times in plan.stages:
        if times is None or isinstance(stage.member, VendorModel):
            continue
        place = stage.member.place
        where = place.gpu.name if place.gpu else "the processor"
        busy[where] = busy.get(where, 0.0) + times.busy
        if busy[where] > _MOST_BUSY:
            why = (
                f"{place} would be busy for {busy[where]:.1%} of the busiest time, and "
                f"{_MOST_BUSY:.0%} is the most that leaves short waits"
            )
            yield Rejected(str(plan), "too slow", why, busy[where] / _MOST_BUSY)
    if plan.latency is None or task.latency_s is None:
        return
    found = plan.latency.first_p95_s if task.streamed else plan.latency.p95_s
    if found > task.latency_s:
        what = "the first token comes" if task.streamed else "the answer is there"
        allowed = shown_seconds(task.latency_s)
        why = f"{what} within {shown_seconds(found)} at p95, where {allowed} are allowed"
        yield Rejected(str(plan), "too slow", why, found / task.latency_s)
    stage, times = plan.stages[-1]
    if task.streamed and not task.decides and times is not None:
        pace = stage.writes / max(times.mean_s - times.first_s, 1e-9)
        if pace < _READING_PER_S:
            why = f"it writes {pace:.1f} tokens a second, where a person reads {_READING_PER_S:g}"
            yield Rejected(str(plan), "too slow", why, _READING_PER_S / pace)


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
    burden = _YEAR * (_newest() - _years(model.released)) if model.released else 0.0
    if isinstance(member, VendorModel):
        return burden + _VENDOR
    burden += _OWN_SERVER * (model.kind == "decision")
    burden += _SERVER if member.place.engine == "vllm" else _PROCESSOR
    return burden + _MORE_GPUS * (member.place.count.bit_length() - 1)


@cache
def _newest() -> float:
    return max(_years(model.released) for model in models().values() if model.released)


def _years(released: str) -> float:
    year, month = released.split("-")
    return int(year) + int(month) / 12


def _argued(plan: Plan) -> Iterator[str]:
    """Argue for a plan, and against it where something speaks against it."""
    task, cost, latency = plan.task, plan.cost, plan.latency
    yield from plan.reasons
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
            f"from {LABELS_FOR_A_BOUND} accepted ones on its errors can be bounded"
        )
    if task.risk == "high":
        yield "at high risk, have people look at a sample, and at all that it is not sure of"
    if task.offline and any(member.model.name != BUILT_IN for member in plan.members):
        yield "fetch the models while there is a network; at run time they need none"


def _of_member(member: Member, plan: Plan) -> Iterator[str]:
    model = member.model
    yield from (f"{model.name}: {why}" for why in quality(member, plan.task)[1])
    if isinstance(member, VendorModel):
        yield (
            f"{model.name} is asked at {vendor_name(member.vendor)} (its key in "
            f"${member.vendor.api_key_env}): the items leave this machine, and need a network"
        )
        return
    times = [times for stage, times in plan.stages if stage.member is member][-1]
    taken = replace(member, concurrency=times.in_flight if times else 1)
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
