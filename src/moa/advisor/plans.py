"""Plans: the models that a task can be given to on a machine, how good each is, and who is asked.

A model runs at a place of the machine, or is asked at the vendor that sells it. How good it is at a
job is known before it is measured only as far as the catalogue's hints (1 to 5) go: they are taken
down where a model was not made for the language or is kept in few bits, and up where there are
labels to fit it with. All of it is a judgement: a figure of one's own data replaces it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, inf, log2, sqrt
from typing import Literal

from moa.advisor.catalogue import BUILT_IN, Model, VendorModel, models
from moa.advisor.estimate import NO_COST, Cost, Latency, Member, Stage, Timed, latency_of
from moa.advisor.fit import SPARE, LocalModel, Placement, places, quantisations
from moa.advisor.hardware import Machine
from moa.advisor.task import Task, vendor_name
from moa.advisor.words import Job, Risk, Skill

Pattern = Literal["slm", "cascade", "hybrid", "llm", "mixture"]
"""`slm` and `llm`: one model alone, small or large. `cascade`: small first, large if not accepted.
`hybrid`: a graph in which the small one decides and the large one writes. `mixture`: several
answers, of which the large one makes one."""
BUILT: tuple[Pattern, ...] = ("slm", "hybrid", "llm")
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
_CASCADES = ("classify", "recommend", "extract", "reason")
_HYBRIDS = ("converse", "answer-from-documents")
_MIXTURES = ("reason", "create")

NEEDED: dict[Risk, float] = {"low": 2.0, "medium": 3.0, "high": 4.0}
"""What a wrong answer's price asks for, on the catalogue's scale."""
INSTRUCTIONS = 200
"""Tokens of instructions and examples before an item: the same each time, so that one's own
server has them cached, and a vendor is paid for them."""
LABELS_FOR_A_HEAD = 128
"""From about so many labels on, a model fitted to them did best in our measurements."""
LABELS_FOR_A_BOUND = 59
"""Accepted labels without an error that bound the errors at 5 % with 95 % confidence: the least n
with 0.95^n below 0.05 (Clopper and Pearson, 1934)."""
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
_IDLE = 0.1
"""Share of the busiest time up to which one server is enough, and a second saves no wait."""
_LABEL_AS_TEXT = 10
"""Tokens in which a vendor's model writes a label."""
_PROPOSERS = 3
_DECISIONS, _QUESTION = 3, 25
"""Questions that a hybrid graph asks about an item (is it wanted, what is it, what is felt), and
the tokens of one."""
_TO_WRITER = 0.5
"""Part of a mixed inbox that needs a writer; the rest is dropped, routed, or has a fixed reply."""
_GAIN_AT_LEAST = 0.5
"""How much better the large one of a cascade has to be, to be asked what the small one was."""

_ALONE: dict[tuple[Pattern, bool], str] = {
    ("slm", True): "labels are scored by a small model, not written: SmolLM2-135M, scored, was "
    "right on .87 of film reviews in our measurements, and on .57 where it wrote its labels",
    ("slm", False): "one small model does it all; small models write and reason worse than large "
    "ones",
    ("llm", True): "a large model labels well without examples; its answers carry no calibrated "
    "bound",
    ("llm", False): "one large model does it all: the plainest way to the quality of a large model",
}
"""What argues for a model alone, where it decides and where it writes."""
_ESCALATED = (
    (
        512,
        0.35,
        0.9,
        (
            "with 512 labels and a target of 95 % right, a fitted small model kept 55 % of film "
            "reviews and all spam and intents in our measurements"
        ),
    ),
    (LABELS_FOR_A_HEAD, 0.45, 0.85, "assumed; fewer labels than 512 accept less"),
    (
        LABELS_FOR_A_BOUND,
        0.6,
        0.8,
        f"assumed; {LABELS_FOR_A_BOUND} accepted labels without an error bound errors at 5 %",
    ),
    (
        0,
        0.5,
        0.6,
        f"assumed, and bounded by nothing: a threshold needs {LABELS_FOR_A_BOUND} labels",
    ),
)
"""Of a cascade that decides, by the least labels: the share that goes on to the large one, the part
of the gap in quality that is recovered, and where that is from."""
_CHECKED = (
    0.5,
    0.8,
    (
        "assumed; answers that can be checked (a schema, arithmetic, agreement of three) recovered "
        ".81 to .83 of the gap on GSM8K in our measurements"
    ),
)
"""The same of a cascade that writes."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One way to do a task."""

    task: Task
    pattern: Pattern
    stages: tuple[Timed, ...]
    """Who is asked for what, one after the other, and how long each takes."""
    quality: float
    """1 (poor) to 5 (as good as the best), for this task: a judgement, to be measured."""
    reasons: tuple[str, ...]
    """Why, with numbers."""
    cost: Cost = NO_COST
    score: float = 0.0
    """By which plans are ranked; higher is better, and it means nothing by itself."""

    @property
    def members(self) -> tuple[Member, ...]:
        """The models, each once, the small one first."""
        return tuple(dict.fromkeys(stage.member for stage, _ in self.stages))

    @property
    def needed_quality(self) -> float:
        """What the task's risk asks for."""
        return NEEDED[self.task.risk]

    @property
    def good_enough(self) -> bool:
        """Whether it is as good as the task's risk asks for; else it is weaker than wanted."""
        return self.quality >= self.needed_quality

    @cached_property
    def latency(self) -> Latency | None:
        """At the busiest time; `None`: nothing is known of the hardware's speed."""
        return latency_of(self.stages)

    @property
    def concurrency(self) -> int:
        """Items in flight at the busiest time, for which memory is reserved."""
        in_flight = ceil(self.task.rate * self.latency.mean_s) if self.latency else 1
        return self.task.concurrency or max(1, in_flight)

    @property
    def exists(self) -> bool:
        """Whether it can be written into `moa.toml`."""
        return self.pattern in BUILT

    @property
    def needs_network(self) -> bool:
        """Whether it asks a vendor while it runs."""
        return any(isinstance(member, VendorModel) for member in self.members)

    @property
    def on_gpu(self) -> bool:
        """Whether one of its models runs on a GPU of the machine."""
        return any(isinstance(it, LocalModel) and it.place.gpu for it in self.members)

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
            "members": list(map(_values, self.members)),
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


def _values(member: Member) -> dict[str, str | None]:
    found = {"model": member.model.name, "place": None, "quantisation": None, "vendor_model": None}
    if isinstance(member, LocalModel):
        return found | {"place": str(member.place), "quantisation": member.quantisation}
    return found | {"vendor_model": member.model.vendor_model}


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


def vendor_models(task: Task) -> Iterator[VendorModel | Rejected]:
    """List the models that vendors sell, or why none may be asked.

    A model is left out where the same vendor sells a cheaper one that is as good.
    """
    all_sold = [
        VendorModel(it, it.vendor) for it in models().values() if it.vendor and not it.retired
    ]
    sold = [one for one in all_sold if not any(_outdone(one, other) for other in all_sold)]
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
    return one.vendor == other.vendor and better and _weight(other) < _weight(one)


def local_models(machine: Machine, task: Task) -> Iterator[LocalModel | Rejected]:
    """List the models that fit a machine alone, and the others with what they would take."""
    where = places(machine)
    tokens = INSTRUCTIONS + task.reads + task.writes
    for model in models().values():
        if model.parameters is None or model.retired:
            continue
        found = [
            LocalModel(model=model, place=place, quantisation=kind, tokens=tokens)
            for place in where
            for kind in quantisations(model, place)
        ]
        fitting = [one for one in found if one.fits]
        yield from fitting
        if found and not fitting:
            least = min(found, key=lambda it: it.needed - it.budget)
            yield too_big(model.name, least)


def too_big(what: str, wanted: LocalModel) -> Rejected:
    """Say what a model takes, and what its place has."""
    why = (
        f"{wanted.model.name} in {wanted.quantisation} takes {wanted.needed / 1e9:.1f} GB with "
        f"{wanted.concurrency} sequences of {wanted.tokens} tokens, and {wanted.place} has "
        f"{wanted.budget / 1e9:.1f} GB left"
    )
    return Rejected(what, "too big", why, wanted.needed / max(wanted.budget, 1))


def quality(member: Member, task: Task) -> tuple[float, list[str]]:
    """Judge how well one model does the task alone, 1 to 5, and what was taken into account.

    0 is a model that can't do the job at all.
    """
    model = member.model
    hints = [model.quality.get(skill, 0) for skill in _SKILLS[task.job]]
    if not all(hints):
        return 0.0, []
    value, why = min(hints) + _by_size(model), list[str]()
    tiny = (model.parameters or _BILLION) < _BILLION
    foreign = [code for code in task.languages if not _speaks(model, code)]
    if foreign and tiny:
        return 0.5, [f"it is small, and was not made for {', '.join(foreign)}"]
    if foreign:
        value -= 1.0
        why.append(f"its makers don't name {', '.join(foreign)} among its languages (-1)")
    if isinstance(member, LocalModel):
        if member.quantisation in ("int4", "q4_k_m"):
            lost = _FOUR_BITS * (2 if tiny else 1)
            value -= lost
            why.append(f"{member.quantisation} may cost a little (-{lost:g})")
        if task.decides and model.tier == "slm" and value < _BEST_FITTED:
            gained = next(gain for labels, gain in _FITTED if task.labels >= labels)
            value = min(_BEST_FITTED, value + gained)
            why.append(f"its labels are scored, with {task.labels} labelled items (+{gained:g})")
    return max(0.5, min(5.0, value)), why


def _by_size(model: Model) -> float:
    if model.parameters is None:
        return 0.0
    size = sqrt(model.parameters * (model.active_parameters or model.parameters))
    return min(_MOST_BY_SIZE, max(0.0, 0.15 * log2(size / _USUAL_SIZE)))


def _speaks(model: Model, language: str) -> bool:
    """Whether a model is made for a language, as far as its makers say."""
    many = any(code.endswith("+") for code in model.languages)
    return many or not model.languages or language in model.languages


_Judged = tuple[Member, float]
"""A member, and how good it is at a job."""


def plans_for(task: Task, members: list[Member]) -> Iterator[Plan]:
    """Put every member, and every pair that makes sense, into the patterns of the task's job."""
    judged = [(member, quality(member, task)[0]) for member in members]
    for member, value in judged:
        yield _alone(member, task, value)
        if task.job in _MIXTURES and member.model.tier == "llm":
            yield _mixture(member, task, value)
    if task.job not in (*_CASCADES, *_HYBRIDS):
        return
    # the small one of a hybrid graph is judged by what it is asked, which is to decide
    asked = task.model_copy(update={"job": "classify"}) if task.job in _HYBRIDS else task
    small = [
        (it, quality(it, asked)[0])
        for it in members
        if isinstance(it, LocalModel) and it.model.tier == "slm" and it.place.count == 1
    ]
    paired, least = (_cascade, _GAIN_AT_LEAST) if task.job in _CASCADES else (_hybrid, 0.0)
    for one, low in _lightest(task, small):
        for other, high in _lightest(task, judged):
            if other.model.name != one.model.name and high >= low + least:
                yield paired(one, _beside(other, one), task, low, high)


def _lightest(task: Task, judged: Sequence[_Judged]) -> list[_Judged]:
    """Keep at each kind of place those better than every lighter one, and long enough for the task.

    So some pairs are left of thousands. Where there is a GPU, only the built-in model runs beside.
    """
    tokens = INSTRUCTIONS + task.reads + task.writes
    driven = any(isinstance(it, LocalModel) and it.place.gpu for it, _ in judged)
    best: dict[int, float] = {}
    kept: list[_Judged] = []
    for member, value in sorted(judged, key=lambda it: (_weight(it[0]), -it[1])):
        count = member.place.count if isinstance(member, LocalModel) else 0
        if count and driven and not (isinstance(member, LocalModel) and member.place.gpu):
            if member.model.name != BUILT_IN:
                continue
            count = -1
        if (member.model.context or inf) >= tokens and value > best.get(count, -1):
            best[count] = value
            kept.append((member, value))
    return kept


def _weight(member: Member) -> float:
    """What a token takes: bytes that are read on the machine, or dollars at a vendor."""
    if isinstance(member, LocalModel):
        return member.weights * member.active
    price = member.model.price
    return inf if price.input is None or price.output is None else float(price.input + price.output)


def _beside(member: Member, other: Member) -> Member:
    """Give what is left for a member where another one has its memory already."""
    if isinstance(member, VendorModel) or isinstance(other, VendorModel):
        return member
    if _memory(member.place) != _memory(other.place):
        return member
    taken = other.needed * (member.place.count if member.place.gpu else 1)
    if other.place.engine == "vllm":  # which is given a share with something to spare
        taken = int(taken * SPARE)
    return replace(member, taken=taken)


def _memory(place: Placement) -> str:
    return place.gpu.name if place.gpu and not place.gpu.shared else "RAM"


def _plan(task: Task, pattern: Pattern, why: str, quality: float, *stages: Stage) -> Plan:
    timed = tuple((stage, stage.times(task)) for stage in stages)
    return Plan(task=task, pattern=pattern, stages=timed, quality=quality, reasons=(why,))


def _whole(member: Member, task: Task, *, share: float = 1.0, calls: int = 1) -> Stage:
    """Give a model the whole item; a label is one token where its score can be read."""
    as_text = task.decides and isinstance(member, VendorModel)
    return Stage(
        member=member,
        share=share,
        calls=calls,
        fresh=task.reads,
        prompt=INSTRUCTIONS + task.reads,
        writes=_LABEL_AS_TEXT if as_text else task.writes,
    )


def _alone(member: Member, task: Task, value: float) -> Plan:
    pattern: Pattern = "slm" if member.model.tier == "slm" else "llm"
    return _plan(task, pattern, _ALONE[pattern, task.decides], value, _whole(member, task))


def _cascade(small: Member, large: Member, task: Task, low: float, high: float) -> Plan:
    decided = (row[1:] for row in _ESCALATED if task.labels >= row[0])
    share, recovered, how = next(decided) if task.decides else _CHECKED
    return _plan(
        task,
        "cascade",
        f"the small one answers first, and {share:.0%} go on to the large one: {how}",
        low + recovered * (high - low),
        _whole(small, task, calls=3 if task.job == "reason" else 1),
        _whole(large, task, share=share),
    )


def _hybrid(small: Member, large: Member, task: Task, low: float, high: float) -> Plan:
    tokens = task.reads + _DECISIONS * _QUESTION
    return _plan(
        task,
        "hybrid",
        f"the small one drops, routes and picks ({_DECISIONS} decisions an item, by label scores), "
        f"and the large one writes for {_TO_WRITER:.0%} of the items (assumed: count your own)",
        0.7 * high + 0.3 * min(low, high),
        # in one request: the item is read once, and then each question
        Stage(member=small, fresh=tokens, prompt=tokens, writes=_DECISIONS),
        _whole(large, task, share=_TO_WRITER),
    )


def _mixture(member: Member, task: Task, value: float) -> Plan:
    read = task.reads + _PROPOSERS * task.writes
    return _plan(
        task,
        "mixture",
        f"{_PROPOSERS} answers of one strong model and a fourth that joins them: choosing by "
        "self-consistency gained up to 13 %, while committees of small models lost to one strong "
        "model; compare it with the model alone on your own data",
        min(5.0, value + (0.4 if task.job == "reason" else 0.2)),
        _whole(member, task, calls=_PROPOSERS),
        Stage(member=member, fresh=read, prompt=INSTRUCTIONS + read, writes=task.writes),
    )
