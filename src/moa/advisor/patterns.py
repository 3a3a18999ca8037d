"""Patterns: who is asked for what, with one model or with two, and how good that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf
from typing import Literal

from moa.advisor.catalogue import BUILT_IN
from moa.advisor.estimate import LABELS_FOR_A_HEAD, Member, Stage, quality
from moa.advisor.fit import SPARE
from moa.advisor.hardware import Placement
from moa.advisor.task import Task

Pattern = Literal["slm", "cascade", "hybrid", "llm", "mixture"]
"""`slm` and `llm`: one model alone, small or large. `cascade`: small first, large if not accepted.
`hybrid`: a graph in which the small one decides and the large one writes. `mixture`: several
answers, of which the large one makes one."""

_CASCADES = ("classify", "recommend", "extract", "reason")
_HYBRIDS = ("converse", "answer-from-documents")
_MIXTURES = ("reason", "create")


_INSTRUCTIONS = 200
"""Tokens of instructions and examples before an item: the same each time, so that one's own
server has them cached, and a vendor is paid for them."""
TO_BOUND = 59
"""Accepted labels without an error that bound the errors at 5 % with 95 % confidence: the least n
with 0.95^n below 0.05 (Clopper and Pearson, 1934)."""

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
_KEPT = (
    "with 512 labels and a target of 95 % right, a fitted small model kept 55 % of film "
    "reviews and all spam and intents in our measurements"
)
_CHECKED = (
    "assumed; answers that can be checked (a schema, arithmetic, agreement of three) recovered "
    ".81 to .83 of the gap on GSM8K in our measurements"
)
_ESCALATED = (
    (512, 0.35, 0.9, _KEPT),
    (LABELS_FOR_A_HEAD, 0.45, 0.85, "assumed; fewer labels than 512 accept less"),
    (
        TO_BOUND,
        0.6,
        0.8,
        f"assumed; {TO_BOUND} accepted labels without an error bound errors at 5 %",
    ),
    (0, 0.5, 0.6, f"assumed, and bounded by nothing: a threshold needs {TO_BOUND} labels"),
)
"""Of a cascade that decides, by the least labels: the share that goes on to the large one, the part
of the gap in quality that is recovered, and where that is from; `_CHECKED`: of one that writes."""


def tokens_of(task: Task) -> int:
    """Count the tokens of an item: its instructions, what is read and what is written."""
    return _INSTRUCTIONS + task.reads + task.writes


_Way = tuple[Pattern, str, float, tuple[Stage, ...]]
"""A pattern, what argues for it, how good it is, and who is asked for what."""


def ways(task: Task, members: Sequence[Member]) -> Iterator[_Way]:
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
        if it.model.tier == "slm" and it.place is not None and it.place.count == 1
    ]
    paired, least = (_cascade, _GAIN_AT_LEAST) if task.job in _CASCADES else (_hybrid, 0.0)
    for one, low in _lightest(task, small):
        for other, high in _lightest(task, judged):
            if other.model.name != one.model.name and high >= low + least:
                yield paired(one, _beside(other, one), task, low, high)


def _lightest(task: Task, judged: Sequence[tuple[Member, float]]) -> list[tuple[Member, float]]:
    """Keep at each kind of place those better than every lighter one, and long enough for the task.

    So some pairs are left of thousands. Where there is a GPU, only the built-in model runs beside.
    """
    driven = any(it.place is not None and it.place.gpu for it, _ in judged)
    best: dict[int, float] = {}
    kept: list[tuple[Member, float]] = []
    for member, value in sorted(judged, key=lambda it: (it[0].weight, -it[1])):
        kind = 0 if member.place is None else member.place.count
        if driven and member.place is not None and member.place.gpu is None:
            if member.model.name != BUILT_IN:
                continue
            kind = -1
        if (member.model.context or inf) >= tokens_of(task) and value > best.get(kind, -1):
            best[kind] = value
            kept.append((member, value))
    return kept


def _beside(member: Member, other: Member) -> Member:
    """Give what is left for a member where another one has its memory already."""
    if member.place is None or other.place is None:
        return member
    if _memory(member.place) != _memory(other.place):
        return member
    taken = other.needed * (member.place.count if member.place.gpu else 1)
    if other.place.engine == "vllm":  # which is given a share with something to spare
        taken = int(taken * SPARE)
    return replace(member, taken=taken)


def _memory(place: Placement) -> str:
    return place.gpu.name if place.gpu and not place.gpu.shared else "RAM"


def _whole(member: Member, task: Task, *, share: float = 1.0, calls: int = 1) -> Stage:
    """Give a model the whole item; a label is one token where its score can be read."""
    as_text = task.decides and member.place is None
    return Stage(
        member=member,
        share=share,
        calls=calls,
        fresh=task.reads,
        prompt=_INSTRUCTIONS + task.reads,
        writes=_LABEL_AS_TEXT if as_text else task.writes,
    )


def _alone(member: Member, task: Task, value: float) -> _Way:
    pattern: Pattern = "slm" if member.model.tier == "slm" else "llm"
    return pattern, _ALONE[pattern, task.decides], value, (_whole(member, task),)


def _cascade(small: Member, large: Member, task: Task, low: float, high: float) -> _Way:
    decided = (row[1:] for row in _ESCALATED if task.labels >= row[0])
    share, recovered, how = next(decided) if task.decides else (0.5, 0.8, _CHECKED)
    why = f"the small one answers first, and {share:.0%} go on to the large one: {how}"
    first = _whole(small, task, calls=3 if task.job == "reason" else 1)
    value = low + recovered * (high - low)
    return "cascade", why, value, (first, _whole(large, task, share=share))


def _hybrid(small: Member, large: Member, task: Task, low: float, high: float) -> _Way:
    why = (
        f"the small one drops, routes and picks ({_DECISIONS} decisions an item, by label scores), "
        f"and the large one writes for {_TO_WRITER:.0%} of the items (assumed: count your own)"
    )
    # in one request: the item is read once, and then each question
    tokens = task.reads + _DECISIONS * _QUESTION
    decides = Stage(member=small, fresh=tokens, prompt=tokens, writes=_DECISIONS)
    value = 0.7 * high + 0.3 * min(low, high)
    return "hybrid", why, value, (decides, _whole(large, task, share=_TO_WRITER))


def _mixture(member: Member, task: Task, value: float) -> _Way:
    why = (
        f"{_PROPOSERS} answers of one strong model and a fourth that joins them: choosing by "
        "self-consistency gained up to 13 %, while committees of small models lost to one strong "
        "model; compare it with the model alone on your own data"
    )
    read = task.reads + _PROPOSERS * task.writes
    joins = Stage(member=member, fresh=read, prompt=_INSTRUCTIONS + read, writes=task.writes)
    better = min(5.0, value + (0.4 if task.job == "reason" else 0.2))
    return "mixture", why, better, (_whole(member, task, calls=_PROPOSERS), joins)
