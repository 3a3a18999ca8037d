"""Learning: answers inputs in a cascade whose small node learns from its large one."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Generic

from moa.agents.base import In, Out
from moa.agents.filter import Verdict
from moa.core.context import RunContext
from moa.core.errors import InputError, MoaError
from moa.core.node import Node
from moa.core.telemetry import Span, names
from moa.graphs.cascade import LearnedAnswer
from moa.graphs.mixing.answer_extraction import answer_of
from moa.learning.labelled import label_of
from moa.learning.student import SET_UP_WRONG, Consideration, Learn, Student


class Learner(Generic[In, Out]):
    """A small node that learns from the answers of a large one.

    Args:
        name: Name of the cascade, for errors.
        small: Node that asks one question.
        large: Node that gives the labels.
        learn: Storage of the rows, and which node's answer to return.

    Raises:
        ConfigError: the small node asks no question, or several.
    """

    def __init__(
        self,
        name: str,
        small: Node[In, Out],
        large: Node[In, Out],
        learn: Learn,
    ) -> None:
        self.student = Student(name, small, learn)
        self.large = large

    async def answer(self, request: In, nested: RunContext) -> LearnedAnswer[Out]:
        """Answer an input, and store what can be learned from it.

        Raises:
            InputError: the text is empty.
            MoaError: the large model is set up wrong, or both models failed; or the answers can't
                be opened. Later, an input is answered although they can't be written.
        """
        text, student = str(request), self.student
        if not text.strip():
            name = student.small.name
            raise InputError(f"{name}: the text is empty, so there is nothing to decide")
        student.check(self.large)
        consideration = await student.consider(text, nested, case=getattr(request, "case", None))
        small = student.may_answer(consideration) and not consideration.held
        if consideration.head is not None and isinstance(nested.tracer, Span):
            nested.tracer.set(names.DECISION_BOUND, consideration.head.bound.guarantee.risk)
        index = await student.add(consideration, nested, by_small=small)
        if small and student.is_stored(index):
            return self._answer_small(consideration, accepted=True)
        why = _explain_escalation(consideration, is_stored=student.is_stored(index))
        nested.note("escalated", f"to {self.large.name!r}: {why}")
        ask = partial(self.large.run, request)
        try:
            result = await student.teach(
                index,
                ask,
                self._label,
                nested,
                repeat=ask if consideration.held and consideration.side.is_asked_twice else None,
            )
        except SET_UP_WRONG:
            raise
        except MoaError as error:
            if not error.recoverable or consideration.read is None:
                raise
            nested.note("failed", f"{self.large.name!r} gave no answer: {error}")
            return self._answer_small(consideration, accepted=False)
        except (Exception, asyncio.CancelledError):  # a waiting row would block later tests
            await student.record_failure(index, nested)
            raise
        return LearnedAnswer(result.output, False, True)

    def _label(self, output: object) -> str | None:
        """Return the option that the large model chose; `None` if it chose none."""
        if getattr(output, "status", "answered") != "answered":
            return None
        answer = output.met if isinstance(output, Verdict) else answer_of(output)
        try:
            return label_of(self.student.question, answer)
        except InputError:
            return None

    def _answer_small(self, consideration: Consideration, *, accepted: bool) -> LearnedAnswer[Out]:
        answer = self.student.answer(consideration, accepted=accepted)
        assert answer is not None, "it was read"
        return LearnedAnswer(self.student.small.read([answer]), True, accepted)


def _explain_escalation(consideration: Consideration, *, is_stored: bool) -> str:
    head, judgement = consideration.head, consideration.judged
    if not is_stored:
        return "answers can't be recorded, so no head is used"
    if consideration.held:
        return "held out, to test what is learned"
    if head is None:
        return "nothing is guaranteed yet, and its answer is learned from"
    if judgement is None:
        return "the text could not be read"
    if judgement.accepted:
        return "answer = 'large'"
    if judgement.passes:
        return "it was seen to answer this text otherwise"
    return f"confidence {judgement.sure:.3f}, {head.bound.threshold:.3f} is needed"
