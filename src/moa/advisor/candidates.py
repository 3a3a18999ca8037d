"""Candidates: the models that a task can be given to on a machine, and how good each is at it.

A model runs at a place of the machine, or is asked at the vendor that sells it. How good it is at a
job is known before it is measured only as far as the catalogue's hints (1 to 5) go: they are taken
down where a model was not made for the language or is kept in few bits, and up where there are
labels to fit it with. All of it is a judgement: a figure of one's own data replaces it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from math import log2, sqrt
from pathlib import Path
from typing import Literal

from moa.advisor import Job, Quantisation, Skill
from moa.advisor.bench import Measurement, measured
from moa.advisor.catalogue import BUILT_IN, Model, models
from moa.advisor.hardware import Machine
from moa.advisor.performance import SPARE, LocalModel, Place, places, quantisations
from moa.advisor.task import Task, vendor_name
from moa.config import EMBEDDED, Config, EndpointConfig
from moa.endpoints.client import is_loopback
from moa.endpoints.dialects import Dialect
from moa.endpoints.weights import SMOLLM2
from moa.usage import Price

INSTRUCTIONS = 200
"""Tokens of instructions and examples before an item: the same each time, so that one's own
server has them cached, and a vendor is paid for them."""
LABELS_FOR_A_HEAD = 128
"""From about so many labels on, a model fitted to them did best in our measurements."""
_FEW_LABELS = 32
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
_LITTLE = {"int4": 0.2, "q4_k_m": 0.2}
"""What four bits take from a model of some billions; from one below a billion, twice that."""
_BILLION = 10**9
_SCORED = 0.5
"""What a small model gains where its labels are scored, not written, and its bias is taken out on
unlabelled texts: .41 to .77 on ten intents, in our measurements."""
_BEST_FITTED = 4.0
"""Beyond it, labels alone bring no small model."""
_USUAL_SIZE, _MOST_BY_SIZE = 7 * _BILLION, 0.4
"""The hints are whole numbers: of two models with the same one, the larger does better, by this at
most. In a mixture of experts, the geometric mean of all and of the active parameters counts."""
_BUILT_IN_AS: Quantisation = "q4_k_m"
"""What the weights of the built-in model come to; they are Q4_1, also 4 bits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VendorModel:
    """A model at the vendor that sells it by the token."""

    model: Model
    vendor: Dialect

    @property
    def price(self) -> Price:
        """What the vendor charges a token, as far as that is known."""
        return self.model.price

    def __str__(self) -> str:
        return f"{self.model.name} (API)"


Member = LocalModel | VendorModel
"""A model of a plan."""

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

    A model is left out where the same vendor sells another one that is as good and no dearer.
    """
    offered = [
        VendorModel(model=model, vendor=model.vendor)
        for model in models().values()
        if model.vendor is not None and not model.retired
    ]
    sold = [one for one in offered if not any(_outdone(one, other) for other in offered)]
    barred: tuple[Cause, str] | None = None
    if task.private:
        barred = "leaves the house", "the items would leave the house"
    elif task.offline:
        barred = "needs a network", "there is none while it runs"
    elif not task.api:
        barred = "no API", "no vendor may be asked"
    if barred is not None:
        yield Rejected(f"{len(sold)} models of vendors", *barred)
        return
    named = task.vendors
    yield from (one for one in sold if not named or vendor_name(one.vendor) in named)


def _outdone(one: VendorModel, other: VendorModel) -> bool:
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


def local_models(
    machine: Machine, task: Task, *, config: Config | None = None
) -> Iterator[LocalModel | Rejected]:
    """List the models that fit a machine alone, and the others with what they would take.

    Raises:
        ConfigError: the file of measurements can't be read.
    """
    known = _measurements(config, machine)
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
        for one in fitting:
            own = [measurement for entry, measurement in known if _is_of(entry, one)]
            yield replace(one, measured=max(own, key=lambda it: it.date, default=None))
        if found and not fitting:
            least = min(found, key=lambda it: it.needed - it.budget)
            yield Rejected(
                model.name,
                "too big",
                f"{least.quantisation} takes {least.needed / 1e9:.1f} GB with one sequence of "
                f"{tokens} tokens, and {least.place} gives {least.budget / 1e9:.1f} GB",
                least.needed / max(least.budget, 1),
            )


def beside(member: Member, other: Member) -> Member:
    """Give what is left for a member where another one has its memory already."""
    if isinstance(member, VendorModel) or isinstance(other, VendorModel):
        return member
    if _memory(member.place) != _memory(other.place):
        return member
    taken = other.needed * (member.place.count if member.place.gpu else 1)
    if other.place.engine == "vllm":  # which is given a share with something to spare
        taken = int(taken * SPARE)
    return replace(member, taken=taken)


def _memory(place: Place) -> str:
    return place.gpu.name if place.gpu and not place.gpu.shared else "RAM"


def measured_hourly_usd(config: Config | None, machine: Machine) -> Decimal | None:
    """Give what an hour of the machine was last measured with; `None`: with no price.

    Raises:
        ConfigError: the file of measurements can't be read.
    """
    priced = [found for _, found in _measurements(config, machine) if found.hourly_usd]
    return max(priced, key=lambda it: it.date).hourly_usd if priced else None


def _measurements(
    config: Config | None, machine: Machine
) -> list[tuple[EndpointConfig | None, Measurement]]:
    """Find what `moa bench` measured on a machine, of endpoints that run on it.

    The endpoint is `None` for the model that is built in. What was measured on another machine
    holds for none that is described, and what a server elsewhere does tells nothing of this one.
    """
    if config is None:
        return []
    here = {
        name: entry
        for name, entry in config.endpoints.items()
        if entry.serve is not None or (entry.urls and all(map(is_loopback, entry.urls)))
    }
    kept: list[tuple[EndpointConfig | None, Measurement]] = []
    for name, entry in [*here.items(), (EMBEDDED, None)]:
        asked = SMOLLM2.file.removesuffix(".gguf") if entry is None else entry.known_as
        found = measured(name, config.file)
        if found and (found.model, found.machine) == (asked, machine.hardware):
            kept.append((entry, found))
    return kept


def _is_of(entry: EndpointConfig | None, one: LocalModel) -> bool:
    """Whether an endpoint is this model, in this form, at this place."""
    model, kind, place = one.model, one.quantisation, one.place
    on_processor = place.engine == "llama.cpp" and place.gpu is None
    if entry is None:
        return on_processor and model.name == BUILT_IN and kind == _BUILT_IN_AS
    if entry.serve == "llama.cpp":
        file = model.files.get(kind)
        return on_processor and bool(file) and entry.known_as in (model.name, Path(file or "").stem)
    repository = model.weights[kind].repository
    named = entry.known_as in (model.name, repository or model.hub)
    if not entry.serve:  # how it was started isn't known
        return named
    made_while_loading = kind if repository is None and kind != "bf16" else None
    placed = place.engine == "vllm" and place.count == entry.vllm.gpus_each
    return named and placed and entry.vllm.quantization == made_while_loading


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
        lost = _LITTLE.get(member.quantisation, 0.0) * (2 if tiny else 1)
        if lost:
            value -= lost
            why.append(f"{member.quantisation} may cost a little (-{lost:g})")
        if task.decides and model.tier == "slm" and value < _BEST_FITTED:
            gained, how = _scored(task)
            value = min(_BEST_FITTED, value + gained)
            why.append(f"{how} (+{gained:g})")
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


def _scored(task: Task) -> tuple[float, str]:
    """What scoring labels adds, and labelled items; scores can be read but at a vendor."""
    if task.labels >= LABELS_FOR_A_HEAD:
        return _SCORED + 1.0, f"{task.labels} labelled items to fit it with"
    if task.labels >= _FEW_LABELS:
        return _SCORED + 0.5, f"{task.labels} labelled items to fit it with"
    return _SCORED, "its labels are scored, and its bias is taken out on unlabelled items"
