"""Learning: what the labels of a question gain, what more would, and what can be guaranteed.

Of a question with labels the scorer is fitted to all of them, and, to see how much labels gain, to
each half, which is looked at on the other one. From these two points on the curve of learning,
straight over the logarithm of the labels, follows what the next ones would gain; of a few dozen
labels that is an estimate, and no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

from moa._async import map_async
from moa.agents.deciding import DecidingAgent
from moa.calibration import Guarantee, Learn, explain_too_few_rows
from moa.calibration.adapt import has_enough_labels, labels_of
from moa.calibration.defaults import calibrate_by_words
from moa.calibration.features import ENCODER, Progress
from moa.calibration.file import Calibration, ReachedMeasures
from moa.calibration.fit import calibrate
from moa.calibration.labelled import Labelled, normalise_text
from moa.calibration.scorer import measure
from moa.context import RunContext
from moa.decisions import ENOUGH
from moa.decisions.arrays import np
from moa.decisions.relevance import has_words
from moa.endpoints import Example
from moa.endpoints.encoders import feeds_heads
from moa.evals.calibrations import detector
from moa.evals.labelling import MAX_CONCURRENCY
from moa.questions import Question

LABELS_MORE = 50
"""Labels of which it is estimated what they would gain."""
_OFTEN_ENOUGH = 20
"""Over the risk, how many labels drawn at random it takes before a guarantee is worth a look: each
look takes half of them away from learning, and spends a part of the confidence."""
HALVES = (0, 1)
_FOLDS = 8


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is to be guaranteed, and how it is tested."""

    guarantee: Guarantee
    by_label: bool = False
    learn: Learn = "split"
    latency_penalty: float | None = None
    limit_s: float | None = None
    insists: bool = False
    """Whether a guarantee is tested as soon as that is possible, though it hardly can hold."""

    def wanted(self, question: Question, rows: Sequence[Labelled]) -> int:
        """Say how many more labels drawn at random it takes before a guarantee is tested.

        Of a yes-or-no question a guarantee over both answers says little where one of them is rare,
        so it takes `by_label`.
        """
        drawn = sum(not row.chosen for row in rows)
        if question.kind == "predicate" and not self.by_label:
            return -1
        possible = (
            explain_too_few_rows(drawn, len(question.options), self.guarantee, learn=self.learn)
            is None
        )
        if possible and self.insists:
            return 0
        return max(0 if possible else 1, math.ceil(_OFTEN_ENOUGH / self.guarantee.risk) - drawn)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What the labels of one question gain."""

    question: Question
    labels: int
    drawn: int
    """Labels of texts that were drawn at random: figures are of these, where there are any."""
    before: float
    """Share that was right before anything was learned."""
    half: float | None
    """Share that is right where half of the labels were learned from; `None`: too few for that."""
    gained: int
    """How many more of all labels, those of chosen texts too, are right with half of them."""
    made: Calibration
    """What was learned from all of them."""
    as_before: bool = False
    """Whether labels are read as the agent's own examples were before: more of them seldom hurt."""
    halves: tuple[Calibration, ...]
    """What was learned from each half."""
    tested: Calibration | None = None
    """What a guarantee was tested with, if one was."""
    more: int = 0
    """Labels drawn at random that are missing before a guarantee is tested; -1: none is."""

    @property
    def after(self) -> float:
        """Share that is right by cross-validation, with all labels."""
        assert self.made.reached is not None, "it was fitted to labels"
        return self.made.reached.accuracy

    @property
    def gain_of_more(self) -> float | None:
        """What the next labels would add to the share that is right."""
        if self.half is None:
            return None
        by_doubling = max(0.0, self.after - self.half)
        return min(1 - self.after, by_doubling * math.log2(1 + LABELS_MORE / self.labels))

    @property
    def guarantees(self) -> bool:
        """Whether a guarantee holds."""
        bound = None if self.tested is None else self.tested.bound
        return bound is not None and bound.threshold is not None

    @property
    def taken(self) -> Calibration | None:
        """What is to decide from now on; `None`: what decided before, which is no worse.

        It counts how many are right of the texts drawn at random with all labels, and of all texts
        with half of them: of the first there are often too few to tell by them alone.
        """
        if self.guarantees:
            return self.tested
        gain = round((self.after - self.before) * (self.drawn or self.labels)) + self.gained
        return self.made if gain > 0 or (self.as_before and gain == 0) else None


async def learn_from(
    agent: DecidingAgent[Any],
    question: Question,
    rows: Sequence[Labelled],
    terms: Terms,
    *,
    context: RunContext,
    more: Sequence[Labelled] = (),
    progress: Progress | None = None,
) -> Lesson | str:
    """Learn one question of an agent, and find out what that gains.

    Args:
        agent: Who decides it as things are. It has seen none of the labels.
        question: One of the agent's.
        rows: Texts with labels, those chosen to be labelled among them.
        terms: What is to be guaranteed.
        context: Budget, deadline and ledger.
        more: Texts that are fitted to, and count for nothing else, such as what a model wrote.
        progress: Told how far each feature is.

    Returns:
        Why nothing can be learned, in words, where the labels are too few or all the same.
    """
    rows = list({normalise_text(row.text): row for row in reversed(rows)}.values())[::-1]
    if not _enough(question, rows):
        return _why_not(rows)
    beside = _beside(rows, [*labels_of(question, agent.examples), *more])
    fit = partial(_fit, agent, question, terms, context, beside)
    by_examples = _by_examples_alone(agent, question, [*rows, *beside])
    if by_examples:
        made = await _from_examples(agent, question, rows, beside, context)
    else:
        made = await fit(rows, learn="all", progress=progress)
    parts = [[row for row in rows if half_of(row.text) == half] for half in HALVES]
    halves = [await fit(part, learn="all") for part in parts if _enough(question, part)]
    before = await _right(question, [(agent, row) for row in rows], context)
    after = before
    if len(halves) == len(HALVES):
        learned = [agent.calibrated({**agent.calibrations, question.name: it}) for it in halves]
        others = [(learned[1 - half_of(row.text)], row) for row in rows]
        after = await _right(question, others, context)
    missing = terms.wanted(question, rows)
    tested = None if missing else await fit(rows, learn=terms.learn, progress=progress)
    return Lesson(
        question=question,
        labels=len(rows),
        drawn=sum(not row.chosen for row in rows),
        before=_share(before, rows),
        half=_share(after, rows) if len(halves) == len(HALVES) else None,
        gained=sum(after) - sum(before),
        made=made,
        as_before=by_examples and question.name not in agent.calibrations,
        halves=tuple(halves) if len(halves) == len(HALVES) else (),
        tested=tested,
        more=missing,
    )


def _enough(question: Question, rows: Sequence[Labelled]) -> bool:
    return has_enough_labels(question, rows, pairs=False)


def half_of(text: str) -> int:
    """Say in which half of the labels a text is: by its words alone, for all questions alike."""
    return _part_of(text, len(HALVES))


def _part_of(text: str, parts: int) -> int:
    return sha256(normalise_text(text).encode()).digest()[1] % parts


async def _fit(
    agent: DecidingAgent[Any],
    question: Question,
    terms: Terms,
    context: RunContext,
    beside: Sequence[Labelled],
    rows: Sequence[Labelled],
    *,
    learn: Learn,
    progress: Progress | None = None,
) -> Calibration:
    if learn == "all" and _by_examples_alone(agent, question, [*rows, *beside]):
        return _told_by(agent, question, [*rows, *beside])
    encoder = agent.encoder
    heads = {ENCODER: encoder} if feeds_heads(encoder) else {}
    further = {} if terms.latency_penalty is None else {"latency_penalty": terms.latency_penalty}
    return await calibrate(
        agent.endpoint,
        question,
        [*rows, *beside],
        guarantee=terms.guarantee,
        by_label=terms.by_label,
        learn=learn,
        asks=agent.asks_endpoint or not heads,
        embedders=heads,
        language=detector(),
        limit_s=terms.limit_s,
        context=context,
        progress=progress,
        **further,
    )


def _by_examples_alone(
    agent: DecidingAgent[Any], question: Question, rows: Sequence[Labelled]
) -> bool:
    """Whether labels serve as examples of a choice, since they are too few to fit a head to."""
    reads = feeds_heads(agent.encoder)
    scored = reads and question.kind == "choice" and has_words(question)
    return scored and not has_enough_labels(question, rows, pairs=True)


def _told_by(
    agent: DecidingAgent[Any], question: Question, rows: Sequence[Labelled]
) -> Calibration:
    """Decide by the words of a question, with labelled texts as its examples."""
    examples = [Example(row.text, {question.name: row.label}) for row in rows]
    return calibrate_by_words(question, agent.endpoint, examples).with_seal()


async def _from_examples(
    agent: DecidingAgent[Any],
    question: Question,
    rows: Sequence[Labelled],
    beside: Sequence[Labelled],
    context: RunContext,
) -> Calibration:
    """Decide by examples, and find out by cross-validation how often that is right."""
    names = [option.name for option in question.options]
    drawn = [row for row in rows if not row.chosen] or rows
    readers: list[DecidingAgent[Any]] = []
    for fold in range(_FOLDS):
        others = [row for row in rows if _part_of(row.text, _FOLDS) != fold]
        made = _told_by(agent, question, [*others, *beside])
        readers.append(agent.calibrated({**agent.calibrations, question.name: made}))

    async def read(row: Labelled) -> Sequence[float]:
        answers = await readers[_part_of(row.text, _FOLDS)].answers(row.text, context)
        (answer,) = [one for one in answers if one.question.name == question.name]
        return answer.probabilities or (1 / len(names),) * len(names)

    p = np.array(await map_async(read, drawn, max_concurrency=MAX_CONCURRENCY))
    labels = np.array([names.index(row.label) for row in drawn])
    reached = ReachedMeasures(
        **measure(p, labels).model_dump(),
        held_out_accuracy=None,
        coverage=0.0,
        seconds=0.0,
        tokens=0.0,
    )
    whole = _told_by(agent, question, [*rows, *beside])
    return whole.model_copy(update={"reached": reached}).with_seal()


def _beside(rows: Sequence[Labelled], others: Sequence[Labelled]) -> list[Labelled]:
    """Give what is fitted to beside the rows: somebody chose it, so nothing is measured on it."""
    known = {normalise_text(row.text) for row in rows}
    fresh = [row for row in others if normalise_text(row.text) not in known]
    return [row.model_copy(update={"chosen": True}) for row in fresh]


async def _right(
    question: Question,
    decided: Iterable[tuple[DecidingAgent[Any], Labelled]],
    context: RunContext,
) -> list[bool]:
    async def is_right(one: tuple[DecidingAgent[Any], Labelled]) -> bool:
        agent, row = one
        found = {one.question.name: one for one in await agent.answers(row.text, context)}
        answer = found[question.name]
        name = answer.question.options[answer.best].name if answer.status == "answered" else ""
        return name == row.label

    return await map_async(is_right, list(decided), max_concurrency=MAX_CONCURRENCY)


def _share(right: Sequence[bool], rows: Sequence[Labelled]) -> float:
    """Give the share that is right of the texts drawn at random, or of all where there are none."""
    drawn = [one for one, row in zip(right, rows, strict=True) if not row.chosen] or right
    return sum(drawn) / len(drawn)


def _why_not(rows: Sequence[Labelled]) -> str:
    labels = {row.label for row in rows}
    if not rows:
        return "no labels"
    if len(rows) < ENOUGH:
        return f"{len(rows)} labels only, and it takes {ENOUGH}"
    if len(labels) == 1:
        return f"all {len(rows)} are labelled {labels.pop()!r}, so there is nothing to tell apart"
    return f"{len({row.text for row in rows})} different texts only, and it takes {ENOUGH}"
