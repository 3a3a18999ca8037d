"""Qualities: how well a model does a job, as far as that is known before it is measured.

The catalogue's hints (1 to 5) are taken down where a model was not made for the language or is
kept in few bits, and up where there are labels to fit it with. All of it is a judgement: a figure
of one's own data replaces it.
"""

from __future__ import annotations

from math import log2, sqrt
from typing import NamedTuple

from moa.catalogue import Job as Skill
from moa.catalogue import Model
from moa.choosing.members import Member
from moa.choosing.task import Job, Risk, Task

NEEDED: dict[Risk, float] = {"low": 2.0, "medium": 3.0, "high": 4.0}
"""What a wrong answer's price asks for, on the catalogue's scale."""
SLACK = 0.5
"""How much less is still shown, as weaker than wanted."""
LABELS_FOR_A_BOUND = 59
"""Accepted labels without an error that bound the errors at 5 % with 95 % confidence: the least n
with 0.95^n below 0.05 (Clopper and Pearson, 1934)."""
LABELS_FOR_A_HEAD = 128
"""From about so many labels on, a model fitted to them did best in our measurements."""
LABELS_AT_HIGH_RISK = 256
"""With so many, six errors among those accepted still hold the same bound."""

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
_FEW_LABELS = 32
_LITTLE = {"int4": 0.2, "q4_k_m": 0.2}
"""What four bits take from a model of some billions; from one below a billion, twice that."""
_BILLION = 10**9
_SCORED = 0.5
"""What a small model gains where its labels are scored, not written, and its lean is taken out on
unlabelled texts: .41 to .77 on ten intents, in our measurements."""
_BEST_FITTED = 4.0
"""Beyond it, labels alone bring no small model."""
_USUAL_SIZE, _MOST_BY_SIZE = 7 * _BILLION, 0.4
"""The hints are whole numbers: of two models with the same one, the larger does better, by this at
most. In a mixture of experts, the geometric mean of all and of the active parameters counts."""


class Quality(NamedTuple):
    """A hint, and what was taken into account."""

    value: float
    """1 to 5; 0: it can't do the job at all."""
    why: tuple[str, ...] = ()


def quality(member: Member, task: Task) -> Quality:
    """Judge how well one model does the task alone."""
    model = member.model
    hints = [model.quality.get(skill, 0) for skill in _SKILLS[task.job]]
    if not all(hints):
        return Quality(0.0)
    value, why = min(hints) + _by_size(model), list[str]()
    foreign = unspoken(model, task)
    if foreign and (model.parameters or _BILLION) < _BILLION:
        return Quality(0.5, (f"it is small, and was not made for {', '.join(foreign)}",))
    if foreign:
        value -= 1.0
        why.append(f"its makers don't name {', '.join(foreign)} among its languages (-1)")
    lost = _LITTLE.get(member.quantisation or "bf16", 0.0)
    lost *= 2 if (model.parameters or _BILLION) < _BILLION else 1
    if lost:
        value -= lost
        why.append(f"{member.quantisation} may cost a little (-{lost:g})")
    gained, how = _scored(member, task)
    if gained and value < _BEST_FITTED:
        value = min(_BEST_FITTED, value + gained)
        why.append(f"{how} (+{gained:g})")
    return Quality(max(0.5, min(5.0, value)), tuple(why))


def _by_size(model: Model) -> float:
    if model.parameters is None:
        return 0.0
    size = sqrt(model.parameters * (model.active_parameters or model.parameters))
    return min(_MOST_BY_SIZE, max(0.0, 0.15 * log2(size / _USUAL_SIZE)))


def unspoken(model: Model, task: Task) -> list[str]:
    """List the task's languages that a model is not made for, as far as its makers say."""
    if not model.languages or any(code.endswith("+") for code in model.languages):
        return []
    return [code for code in task.languages if code not in model.languages]


def _scored(member: Member, task: Task) -> tuple[float, str]:
    """What scoring labels adds, and labelled items, where scores can be read: not at a vendor."""
    if not task.decides or not member.local or member.model.tier == "llm":
        return 0.0, ""
    if task.labels >= LABELS_FOR_A_HEAD:
        return _SCORED + 1.0, f"{task.labels} labelled items to fit it with"
    if task.labels >= _FEW_LABELS:
        return _SCORED + 0.5, f"{task.labels} labelled items to fit it with"
    return _SCORED, "its labels are scored, and its lean is taken out on unlabelled items"
