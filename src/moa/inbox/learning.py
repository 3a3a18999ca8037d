"""Support that learns: the large model labels each message, and the intent learns from that.

The large model also labels sentiment, urgency and spam. These are decided as usual. But if a
decision differs from the large model's label so that the outcome of the message would change, it
counts as a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from moa.agents.base import TypedNode
from moa.agents.classifier import Classifier
from moa.agents.deciding import DecidingAgent
from moa.agents.filter import Filter, Verdict
from moa.agents.sentiment import Mood, Sentiment
from moa.core.context import RunContext, quiet
from moa.core.errors import ConfigError, MoaError, OutputError, check_recoverable
from moa.core.node import Frozen, Reply, Result, Text
from moa.core.questions import Answer, Choice, Question
from moa.endpoints.known import can_write
from moa.graphs.engine.types import Skipped
from moa.inbox.reading import URGENT, Reading, Urgency
from moa.inbox.replies import Labelled, Letter, ReplyWriter
from moa.learning.student import SET_UP_WRONG, Decision, Learn, Student


class OpenMessage(Frozen):
    """A message with its decided intent and its side."""

    intent: Choice[str | None]
    """Intent, accepted if a guarantee covers it."""
    place: int
    """Index of its stored answer."""
    held: bool
    """True if it is held out: the large model labels it in any case."""
    twice: bool
    """True if the large model is asked twice."""


class Lesson(Frozen):
    """A message for the large model. Its letter doesn't show what was decided."""

    letter: Letter
    opened: OpenMessage | None
    """`None` if there was nothing to read."""
    moot: bool
    """True if the intent doesn't change whether the large model writes."""
    reading: Reading | None = None
    """The decisions; `None` if there was nothing to read."""


class Label(Frozen):
    """Label of a message that the large model doesn't reply to."""

    label: str | None = None
    """`None`: the large model wasn't asked, or gave no label."""


class LearningIntent(TypedNode[Text, OpenMessage]):
    """Decides the intent, by what was learned if a guarantee holds, and tosses the coin."""

    def __init__(self, student: Student[Choice[str | None]], labeller: ReplyWriter) -> None:
        super().__init__(name="intent")
        self.student, self.agent, self.labeller = student, student.small, labeller

    async def answer(self, request: Text, context: RunContext) -> OpenMessage:
        """Decide, and store the message before the large model is asked."""
        student, model = self.student, self.labeller.endpoint.model
        student.check(self.labeller)
        if not can_write(model):
            raise ConfigError(
                f"learn takes a large model whose labels are worth learning from, and {model} "
                "writes too badly. Configure one: moa models add --help"
            )
        consideration = await student.consider(request.text, context)
        index = await student.add(consideration, context)
        accepted = student.may_answer(consideration) and student.is_stored(index)
        answer = student.answer(consideration, accepted=accepted)
        intent = student.small.read([answer or Answer(question=student.question, status="missing")])
        twice = consideration.held and consideration.side.is_asked_twice
        return OpenMessage(intent=intent, place=index, held=consideration.held, twice=twice)


class LearningWriter(TypedNode[Lesson, Reply]):
    """Writes the reply, with the labels that the intent learns from, in one call.

    Args:
        student: Student that learns.
        writer: Writes the reply and the labels.
        base_writer: Writes only the reply, if the output of `writer` is not valid.
        labeller: Like `writer`, but stops after the labels. It is asked for the second labels.
    """

    def __init__(
        self, student: Student, writer: ReplyWriter, base_writer: ReplyWriter, labeller: ReplyWriter
    ) -> None:
        super().__init__(name="reply")
        self.student, self.labeller = student, labeller
        self.writer, self.plain = writer, base_writer

    async def answer(self, request: Lesson, context: RunContext) -> Reply:
        """Write the reply, and store the label."""
        opened = _require_opened(request)
        ask_again = partial(_ask_for_labels, self.labeller, request.letter)
        try:
            result = await self.student.teach(
                opened.place,
                partial(self.writer.run, request.letter),
                partial(_label_in, self.student, request),
                context,
                repeat=ask_again if opened.twice else None,
                moot=request.moot,
            )
        except OutputError as error:
            context.note("failed", f"it has no label: {error}")
            return (await self.plain.run(request.letter, context)).output
        return result.output


class HeldOutLabels(TypedNode[Lesson, Label]):
    """Labels a held-out message that gets no written reply.

    The labeller has the writer's prompt, and stops after the labels: another prompt would be
    another large model.
    """

    def __init__(self, student: Student, labeller: ReplyWriter) -> None:
        super().__init__(name="labels")
        self.student, self.labeller = student, labeller

    async def answer(self, request: Lesson, context: RunContext) -> Label:
        """Label a held-out message. For any other, store that the large model wasn't asked."""
        opened = _require_opened(request)
        if not opened.held:
            await self.student.spare(opened.place, context, moot=request.moot)
            return Label()
        context.note("audited", "it is held out, so that the large model labels it too")
        ask = partial(_ask_for_labels, self.labeller, request.letter)
        label = partial(_label_in, self.student, request)
        try:
            result = await self.student.teach(
                opened.place,
                ask,
                label,
                context,
                repeat=ask if opened.twice else None,
                moot=request.moot,
            )
        except SET_UP_WRONG:
            raise
        except MoaError as error:
            check_recoverable(error)
            context.note("failed", f"it has no label: {error}")
            return Label()
        return Label(label=label(result.output))


class Lessons(NamedTuple):
    """The nodes of a support graph that learns."""

    student: Student
    intent: LearningIntent
    reply: LearningWriter
    labels: HeldOutLabels

    @classmethod
    def of(
        cls,
        intent: Classifier[str | None],
        others: Sequence[DecidingAgent[Any]],
        learn: Learn,
        writer: Callable[[Sequence[Question]], ReplyWriter],
    ) -> Lessons:
        """Make the nodes from those that decide, and from a function that makes the writer.

        Args:
            intent: The node that learns.
            others: Nodes that decide spam, sentiment and urgency.
            learn: Where rows are stored, and which model's answer is returned.
            writer: Makes the node that writes, and answers questions in the same call.
        """
        student = Student("support", intent, learn, [_decision(agent) for agent in others])
        plain_writer = writer(())
        full_writer = writer([student.asked, *(agent.questions[0] for agent in others)])
        labeller = full_writer.for_labels()
        return cls(
            student,
            LearningIntent(student, labeller),
            LearningWriter(student, full_writer, plain_writer, labeller),
            HeldOutLabels(student, labeller),
        )


def _decision(agent: DecidingAgent[Any]) -> Decision:
    """Return the part of a decision that quarantines a message or has its reply written."""
    if isinstance(agent, Filter):
        return Decision(agent, "yes", _is_stopped)
    if isinstance(agent, Sentiment):
        return Decision(agent, "negative", _is_unhappy)
    return Decision(agent, URGENT, _is_urgent)


def _is_stopped(verdict: Verdict) -> bool:
    return not verdict.kept


def _is_unhappy(mood: Mood) -> bool | None:
    return mood.label == "negative" if mood.status == "answered" else None


def _is_urgent(urgency: Urgency) -> bool | None:
    score = urgency.urgency
    return score.level == URGENT if score.status == "answered" else None


def intent_in(opened: OpenMessage | Skipped) -> Choice[str | None] | Skipped:
    """Return the decided intent."""
    return opened if isinstance(opened, Skipped) else opened.intent


async def _ask_for_labels(
    labeller: ReplyWriter, letter: Letter, context: RunContext
) -> Result[Reply]:
    return await labeller.run(letter, quiet(context))  # it is meant to break off


def _label_in(student: Student, request: Lesson, reply: object) -> str | None:
    """Return the label; `None` if the large model gave none."""
    if not isinstance(reply, Labelled) or request.reading is None:
        return None
    reading = request.reading
    outputs: Mapping[str, object] = {
        "spam": reading.spam,
        "sentiment": reading.sentiment,
        "urgency": Urgency(urgency=reading.urgency),
    }
    return student.label(reply.labels, outputs)


def _require_opened(request: Lesson) -> OpenMessage:
    assert request.opened is not None, "an empty message is asked of nobody"
    return request.opened
