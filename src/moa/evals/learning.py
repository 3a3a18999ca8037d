"""Learning: the gain from a question's labels and from more labels, and the guarantee.

The scorer is fitted to all labels of a question. To measure the gain from labels, it is also fitted
to each half and tested on the other. These two points of the learning curve, taken as linear in the
logarithm of the number of labels, give the gain from the next labels. With a few dozen labels, that
is only an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import TypeVar

from moa.agents.deciding import DecidingAgent
from moa.core._async import map_async
from moa.core.context import RunContext
from moa.core.questions import Question
from moa.decisions import ENOUGH
from moa.decisions.arrays import np
from moa.decisions.defaults import calibrate_by_words
from moa.decisions.encoders import feeds_heads, heads_of
from moa.decisions.features import ENCODER, Progress
from moa.decisions.file import Calibration, DataRecord, ReachedMeasures
from moa.decisions.guarantee import Guarantee, Learn, explain_too_few_rows
from moa.decisions.words import has_words
from moa.endpoints import Example
from moa.evals.calibrations import detector
from moa.evals.labelling import MAX_CONCURRENCY
from moa.learning.adapt import has_enough_labels, labels_of
from moa.learning.fit import calibrate
from moa.learning.labelled import CleanRows, Labelled, join_repeats, normalise_text
from moa.learning.search import measure

Out = TypeVar("Out")
LABELS_MORE = 50
"""Number of further labels whose gain is estimated."""
_OFTEN_ENOUGH = 20
"""Number of randomly drawn labels, as a multiple of 1 / risk, from which a guarantee is worth a
test: each test takes half of them from learning, and uses a part of the confidence."""
HALVES = (0, 1)
_FOLDS = 8


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The wanted guarantee, and how it is tested."""

    guarantee: Guarantee
    by_label: bool = False
    learn: Learn = "split"
    latency_penalty: float | None = None
    limit_s: float | None = None
    insists: bool = False
    """True if a guarantee is tested as soon as possible, even if it is unlikely to hold."""

    def count_missing(self, question: Question, rows: Sequence[Labelled]) -> int:
        """Return how many more randomly drawn labels a test of the guarantee needs.

        For a yes-or-no question, a guarantee over both answers says little if one is rare, so it
        needs `by_label`. -1: no guarantee is tested.
        """
        drawn_count = sum(not row.chosen for row in rows)
        if question.kind == "predicate" and not self.by_label:
            return -1
        possible = (
            explain_too_few_rows(
                drawn_count, len(question.options), self.guarantee, learn=self.learn
            )
            is None
        )
        if possible and self.insists:
            return 0
        return max(
            0 if possible else 1, math.ceil(_OFTEN_ENOUGH / self.guarantee.risk) - drawn_count
        )


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Gain from the labels of one question."""

    question: Question
    labels: int
    drawn: int
    """Number of labels of texts drawn at random. Figures are measured on these, if any."""
    before: float
    """Share of right answers before learning."""
    half: float | None
    """Share of right answers when learning from half of the labels; `None` with too few."""
    gained: int
    """Additional right answers when learning from half of the labels, on all texts, including
    chosen ones."""
    made: Calibration
    """Calibration from all labels."""
    as_before: bool = False
    """True if labels serve as examples, both before and after. More examples seldom hurt."""
    halves: tuple[Calibration, ...]
    """Calibrations from each half."""
    tested: Calibration | None = None
    """Calibration with a tested guarantee, if any."""
    more: int = 0
    """Number of randomly drawn labels missing for a test of the guarantee; -1 if none is tested."""

    @property
    def after(self) -> float:
        """Share of right answers with all labels, by cross-validation."""
        assert self.made.reached is not None, "it was fitted to labels"
        return self.made.reached.accuracy

    @property
    def gain_of_more(self) -> float | None:
        """Estimated gain in accuracy from the next labels."""
        if self.half is None:
            return None
        by_doubling = max(0.0, self.after - self.half)
        return min(1 - self.after, by_doubling * math.log2(1 + LABELS_MORE / self.labels))

    @property
    def guarantees(self) -> bool:
        """True if a guarantee holds."""
        bound = None if self.tested is None else self.tested.bound
        return bound is not None and bound.threshold is not None

    @property
    def new_calibration(self) -> Calibration | None:
        """Calibration to use from now on; `None` to keep the old one, which is no worse.

        It adds up gained right answers on random texts with all labels, and on all texts with half
        of them: random texts alone are often too few.
        """
        if self.guarantees:
            return self.tested
        gain = round((self.after - self.before) * (self.drawn or self.labels)) + self.gained
        return self.made if gain > 0 or (self.as_before and gain == 0) else None


async def learn_from(
    agent: DecidingAgent[Out],
    question: Question,
    rows: Sequence[Labelled],
    terms: Terms,
    *,
    context: RunContext,
    more_examples: Sequence[Labelled] = (),
    progress: Progress | None = None,
) -> Lesson | str:
    """Learn one question of an agent, and measure the gain.

    Args:
        agent: Agent that decides the question now. It has seen none of the labels.
        question: One of the agent's.
        rows: Labelled texts, both drawn and chosen.
        terms: The wanted guarantee.
        context: Budget, deadline and ledger.
        more_examples: Labelled texts for the fit only, such as those a model wrote.
        progress: Called with the progress of each feature.

    Returns:
        The gain; or, as text, why nothing can be learned, if labels are too few or all the same.
    """
    rows = [*join_repeats(rows).values()]
    if not _has_enough(question, rows):
        return _why_too_few(rows)
    extra = _for_training_only(rows, [*labels_of(question, agent.examples), *more_examples])
    fit = partial(_fit, agent, question, terms, context, extra)
    by_examples = _are_examples_only(agent, question, [*rows, *extra])
    if by_examples:
        calibration = await _fit_by_examples(agent, question, rows, extra, context)
    else:
        calibration = await fit(rows, learn="all", progress=progress)
    parts = [[row for row in rows if half_of(row.text) == half] for half in HALVES]
    halves = [await fit(part, learn="all") for part in parts if _has_enough(question, part)]
    before = await _check_answers(question, [(agent, row) for row in rows], context)
    after = before
    if len(halves) == len(HALVES):
        learned = [agent.calibrated({**agent.calibrations, question.name: half}) for half in halves]
        pairs = [(learned[1 - half_of(row.text)], row) for row in rows]
        after = await _check_answers(question, pairs, context)
    missing = terms.count_missing(question, rows)
    tested = None if missing else await fit(rows, learn=terms.learn, progress=progress)
    return Lesson(
        question=question,
        labels=len(rows),
        drawn=sum(not row.chosen for row in rows),
        before=_share_right(before, rows),
        half=_share_right(after, rows) if len(halves) == len(HALVES) else None,
        gained=sum(after) - sum(before),
        made=calibration,
        as_before=by_examples and question.name not in agent.calibrations,
        halves=tuple(halves) if len(halves) == len(HALVES) else (),
        tested=tested,
        more=missing,
    )


def _has_enough(question: Question, rows: Sequence[Labelled]) -> bool:
    return has_enough_labels(question, rows, by_words=False)


def half_of(text: str) -> int:
    """Return the half of a text. It depends only on its words, so all questions share it."""
    return _part_of(text, len(HALVES))


def _part_of(text: str, parts: int) -> int:
    return sha256(normalise_text(text).encode()).digest()[1] % parts


async def _fit(
    agent: DecidingAgent[Out],
    question: Question,
    terms: Terms,
    context: RunContext,
    extra: Sequence[Labelled],
    rows: Sequence[Labelled],
    *,
    learn: Learn,
    progress: Progress | None = None,
) -> Calibration:
    if learn == "all" and _are_examples_only(agent, question, [*rows, *extra]):
        return _decide_by_words(agent, question, [*rows, *extra])
    encoder = agent.encoder
    heads = {ENCODER: encoder} if feeds_heads(encoder) else {}
    further = {} if terms.latency_penalty is None else {"latency_penalty": terms.latency_penalty}
    return await calibrate(
        agent.endpoint,
        question,
        [*rows, *extra],
        guarantee=terms.guarantee,
        by_label=terms.by_label,
        learn=learn,
        asks=agent.asks_endpoint or agent.fits_model or not heads,
        embedders=heads,
        language=detector(),
        limit_s=terms.limit_s,
        context=context,
        progress=progress,
        **further,
    )


def _are_examples_only(
    agent: DecidingAgent[Out], question: Question, rows: Sequence[Labelled]
) -> bool:
    """Return True if labels are too few for a head, and serve as examples of a choice."""
    reads = feeds_heads(agent.encoder)
    scored = reads and question.kind == "choice" and has_words(question)
    return scored and not has_enough_labels(question, rows, by_words=True)


def _decide_by_words(
    agent: DecidingAgent[Out], question: Question, rows: Sequence[Labelled]
) -> Calibration:
    """Decide by the words of a question, with labelled texts as examples."""
    heads = heads_of(agent.encoder)
    assert heads is not None, "it has an encoder whose heads read words"
    examples = [Example(row.text, {question.name: row.label}) for row in rows]
    return calibrate_by_words(question, agent.endpoint, heads, examples).with_seal()


async def _fit_by_examples(
    agent: DecidingAgent[Out],
    question: Question,
    rows: Sequence[Labelled],
    extra: Sequence[Labelled],
    context: RunContext,
) -> Calibration:
    """Decide by examples, and measure the accuracy by cross-validation."""
    names = [option.name for option in question.options]
    test_rows = [row for row in rows if not row.chosen] or rows
    readers: list[DecidingAgent[Out]] = []
    for fold in range(_FOLDS):
        train_rows = [row for row in rows if _part_of(row.text, _FOLDS) != fold]
        fold_calibration = _decide_by_words(agent, question, [*train_rows, *extra])
        readers.append(agent.calibrated({**agent.calibrations, question.name: fold_calibration}))

    async def read(row: Labelled) -> Sequence[float]:
        answers = await readers[_part_of(row.text, _FOLDS)].answers(row.text, context)
        (answer,) = [answer for answer in answers if answer.question.name == question.name]
        return answer.probabilities or (1 / len(names),) * len(names)

    p = np.array(await map_async(read, test_rows, max_concurrency=MAX_CONCURRENCY))
    labels = np.array([names.index(row.label) for row in test_rows])
    reached = ReachedMeasures(
        **measure(p, labels).model_dump(),
        held_out_accuracy=None,
        coverage=0.0,
        seconds=0.0,
        tokens=0.0,
    )
    clean = CleanRows(rows=(*rows, *extra), notes=(), duplicates=0)
    data = DataRecord(
        rows=len(clean.rows),
        duplicates=0,
        fitted=len(clean.rows),
        held_out=0,
        labels=clean.counts,
        chosen=sum(row.chosen for row in clean.rows),
        labelled_by=clean.labellers,
        learn="all",
        sha256=clean.fingerprint,
    )
    calibration = _decide_by_words(agent, question, clean.rows)
    return calibration.model_copy(update={"data": data, "reached": reached}).with_seal()


def _for_training_only(rows: Sequence[Labelled], extra: Sequence[Labelled]) -> list[Labelled]:
    """Return rows that only train, marked as chosen, so that nothing is measured on them."""
    texts = {normalise_text(row.text) for row in rows}
    fresh = [row for row in extra if normalise_text(row.text) not in texts]
    return [row.model_copy(update={"chosen": True}) for row in fresh]


async def _check_answers(
    question: Question,
    decided: Iterable[tuple[DecidingAgent[Out], Labelled]],
    context: RunContext,
) -> list[bool]:
    async def is_right(pair: tuple[DecidingAgent[Out], Labelled]) -> bool:
        agent, row = pair
        answers = {
            answer.question.name: answer for answer in await agent.answers(row.text, context)
        }
        answer = answers[question.name]
        name = answer.question.options[answer.best].name if answer.status == "answered" else ""
        return name == row.label

    return await map_async(is_right, list(decided), max_concurrency=MAX_CONCURRENCY)


def _share_right(right: Sequence[bool], rows: Sequence[Labelled]) -> float:
    """Return the accuracy on texts drawn at random, or on all if there are none."""
    outcomes = [
        is_right for is_right, row in zip(right, rows, strict=True) if not row.chosen
    ] or right
    return sum(outcomes) / len(outcomes)


def _why_too_few(rows: Sequence[Labelled]) -> str:
    labels = {row.label for row in rows}
    if not rows:
        return "no labels"
    if len(rows) < ENOUGH:
        return f"{len(rows)} labels only, and it takes {ENOUGH}"
    if len(labels) == 1:
        return f"all {len(rows)} are labelled {labels.pop()!r}, so there is nothing to tell apart"
    return f"{len({row.text for row in rows})} different texts only, and it takes {ENOUGH}"
