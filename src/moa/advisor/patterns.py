"""Patterns: who is asked for what in each, how good that is, and what argues for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import Literal, NamedTuple

from moa.advisor.candidates import (
    INSTRUCTIONS,
    LABELS_FOR_A_HEAD,
    Member,
    VendorModel,
    beside,
    quality,
)
from moa.advisor.catalogue import BUILT_IN
from moa.advisor.estimate import Stage
from moa.advisor.performance import LocalModel
from moa.advisor.task import Task

Pattern = Literal["slm", "cascade", "hybrid", "llm", "mixture"]
"""`slm` and `llm`: one model alone, small or large. `cascade`: small first, large if not accepted.
`hybrid`: a graph in which the small one decides and the large one writes. `mixture`: several
answers, of which the large one makes one."""
BUILT: tuple[Pattern, ...] = ("slm", "hybrid", "llm")
"""Patterns that `--write` writes. A cascade takes a calibration besides; the rest is one's own."""
_CASCADES = ("classify", "recommend", "extract", "reason")
_HYBRIDS = ("converse", "answer-from-documents")
_MIXTURES = ("reason", "create")

LABELS_FOR_A_BOUND = 59
"""Accepted labels without an error that bound the errors at 5 % with 95 % confidence: the least n
with 0.95^n below 0.05 (Clopper and Pearson, 1934)."""
_LABEL_AS_TEXT = 10
"""Tokens in which a vendor's model writes a label."""
_PROPOSERS = 3
_DECISIONS = 3
"""Questions that a hybrid graph asks about an item: is it wanted, what is it, what is felt."""
_QUESTION = 25
"""Tokens of one."""
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
_HEAD_MEASURED = (
    "with 512 labels and a target of 95 % right, a fitted small model kept 55 % of film reviews "
    "and all spam and intents in our measurements"
)
_BOUND_ASSUMED = (
    f"assumed; {LABELS_FOR_A_BOUND} accepted labels without an error bound errors at 5 %"
)
_UNBOUNDED = f"assumed, and bounded by nothing: a threshold needs {LABELS_FOR_A_BOUND} labels"
_ESCALATED = (
    (512, 0.35, 0.9, _HEAD_MEASURED),
    (LABELS_FOR_A_HEAD, 0.45, 0.85, "assumed; fewer labels than 512 accept less"),
    (LABELS_FOR_A_BOUND, 0.6, 0.8, _BOUND_ASSUMED),
    (0, 0.5, 0.6, _UNBOUNDED),
)
"""Of a cascade that decides, by the least labels: the share that goes on to the large one, the part
of the gap in quality that is recovered, and where that is from."""
_CHECKED = (
    "assumed; answers that can be checked (a schema, arithmetic, agreement of three) recovered "
    ".81 to .83 of the gap on GSM8K in our measurements"
)
"""Where the same figures of a cascade that writes are from."""


def members_of(stages: Iterable[Stage]) -> tuple[Member, ...]:
    """Give the models of some stages, each once."""
    return tuple(dict.fromkeys(stage.member for stage in stages))


def named(pattern: Pattern, members: tuple[Member, ...]) -> str:
    """Name a pattern with its models."""
    return f"{pattern}: {' + '.join(map(str, members))}"


class Draft(NamedTuple):
    """A pattern with its models, before it is timed and priced."""

    pattern: Pattern
    stages: tuple[Stage, ...]
    """One after the other."""
    quality: float
    why: str
    """What argues for the pattern."""

    @property
    def members(self) -> tuple[Member, ...]:
        """The models, the small one first."""
        return members_of(self.stages)

    def __str__(self) -> str:
        return named(self.pattern, self.members)


_Judged = tuple[Member, float]
"""A member, and how good it is at a job."""


def drafts(task: Task, members: list[Member]) -> Iterator[Draft]:
    """Put every member, and every pair that makes sense, into the patterns of the task's job."""
    judged = [(member, quality(member, task)[0]) for member in members]
    for member, value in judged:
        yield _alone(member, task, value)
        if task.job in _MIXTURES and member.model.tier == "llm":
            yield _mixture(member, task, value)
    if task.job not in (*_CASCADES, *_HYBRIDS):
        return
    paired, least = (_cascade, _GAIN_AT_LEAST) if task.job in _CASCADES else (_hybrid, 0.0)
    writers = _large_ones(task, judged)
    for small, low in _small_ones(task, members):
        for large, high in writers:
            if large.model.name != small.model.name and high >= low + least:
                yield paired(small, beside(large, small), task, low, high)


def _small_ones(task: Task, members: list[Member]) -> list[_Judged]:
    """Pick small ones of pairs: on one GPU, or where there is none, elsewhere.

    They are judged by what they are asked, which in a hybrid graph is to decide. The model that is
    built in is always among them.
    """
    asked = task.model_copy(update={"job": "classify"}) if task.job in _HYBRIDS else task
    able = [
        (it, quality(it, asked)[0])
        for it in members
        if isinstance(it, LocalModel) and it.model.tier == "slm" and it.place.count == 1
    ]
    driven = [one for one in able if one[0].place.gpu] or able
    built_in = [one for one in able if one[0].model.name == BUILT_IN and one not in driven]
    return [*_frontier(asked, driven), *built_in[:1]]


def _large_ones(task: Task, judged: list[_Judged]) -> list[_Judged]:
    """Pick large ones of pairs: at vendors, and on each number of GPUs; without GPUs, elsewhere."""
    driven = any(isinstance(member, LocalModel) and member.place.gpu for member, _ in judged)
    by_count: dict[int, list[_Judged]] = {}
    for member, value in judged:
        if isinstance(member, VendorModel):
            by_count.setdefault(0, []).append((member, value))
        elif member.place.gpu or not driven:
            by_count.setdefault(member.place.count, []).append((member, value))
    return [one for _, same in sorted(by_count.items()) for one in _frontier(task, same)]


def _frontier(task: Task, judged: Sequence[_Judged]) -> list[_Judged]:
    """Keep those that are better than every lighter one, and long enough for the task.

    So some pairs are left of thousands.
    """
    tokens = INSTRUCTIONS + task.reads + task.writes
    kept: list[_Judged] = []
    for member, value in sorted(judged, key=lambda it: (_weight(it[0]), -it[1])):
        if (member.model.context or inf) >= tokens and (not kept or value > kept[-1][1]):
            kept.append((member, value))
    return kept


def _weight(member: Member) -> float:
    """What a token takes: bytes that are read on the machine, or dollars at a vendor."""
    if isinstance(member, LocalModel):
        return member.weights * member.active
    price = member.price
    return inf if price.input is None or price.output is None else float(price.input + price.output)


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


def _alone(member: Member, task: Task, value: float) -> Draft:
    small = member.model.tier == "slm"
    pattern: Pattern = "slm" if small else "llm"
    return Draft(pattern, (_whole(member, task),), value, _ALONE[pattern, task.decides])


def _cascade(small: Member, large: Member, task: Task, low: float, high: float) -> Draft:
    decided = (row[1:] for row in _ESCALATED if task.labels >= row[0])
    share, recovered, how = next(decided) if task.decides else (0.5, 0.8, _CHECKED)
    checks = 3 if task.job == "reason" else 1
    return Draft(
        "cascade",
        (_whole(small, task, calls=checks), _whole(large, task, share=share)),
        low + recovered * (high - low),
        f"the small one answers first, and {share:.0%} go on to the large one: {how}",
    )


def _hybrid(small: Member, large: Member, task: Task, low: float, high: float) -> Draft:
    tokens = task.reads + _DECISIONS * _QUESTION
    # in one request: the item is read once, and then each question
    asked = Stage(member=small, fresh=tokens, prompt=tokens, writes=_DECISIONS)
    return Draft(
        "hybrid",
        (asked, _whole(large, task, share=_TO_WRITER)),
        0.7 * high + 0.3 * min(low, high),
        f"the small one drops, routes and picks ({_DECISIONS} decisions an item, by label scores), "
        f"and the large one writes for {_TO_WRITER:.0%} of the items (assumed: count your own)",
    )


def _mixture(member: Member, task: Task, value: float) -> Draft:
    references = _PROPOSERS * task.writes
    joining = Stage(
        member=member,
        fresh=task.reads + references,
        prompt=INSTRUCTIONS + task.reads + references,
        writes=task.writes,
    )
    return Draft(
        "mixture",
        (_whole(member, task, calls=_PROPOSERS), joining),
        min(5.0, value + (0.4 if task.job == "reason" else 0.2)),
        f"{_PROPOSERS} answers of one strong model and a fourth that joins them: choosing by "
        "self-consistency gained up to 13 %, while committees of small models lost to one strong "
        "model; compare it with the model alone on your own data",
    )
