"""Support that learns: whoever writes says what a message wants, and the intent learns from it.

Whoever writes also says how it sounds, how urgent it is, and whether it is spam. These are decided
as ever; but if one of them is decided otherwise than the large model would, and another thing
would become of the message, it counts as a difference.
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
from moa.context import RunContext, quiet
from moa.endpoints.known import can_write
from moa.errors import ConfigError, MoaError, OutputError, check_recoverable
from moa.graphs.engine.types import Skipped
from moa.graphs.student import SET_UP_WRONG, Decision, Learn, Student
from moa.graphs.support_reading import URGENT, Reading, Urgency
from moa.graphs.support_replies import Labelled, Letter, ReplyWriter
from moa.node import Frozen, Reply, Result, Text
from moa.questions import Answer, Choice, Question


class OpenMessage(Frozen):
    """A message whose intent was decided, and whose side is known."""

    intent: Choice[str | None]
    """Accepted where a guarantee covers it."""
    place: int
    """Where its answer is kept."""
    held: bool
    """True if the large model has to label it, whatever happens to it."""
    twice: bool
    """True if the large model is asked twice."""


class Lesson(Frozen):
    """A message, as the large model is asked: what was decided isn't in it."""

    letter: Letter
    opened: OpenMessage | None
    """`None` if there was nothing to read."""
    moot: bool
    """True if the intent doesn't change whether the large model writes."""
    reading: Reading | None = None
    """What was decided."""


class Label(Frozen):
    """What is learned of a message to which the large model writes nothing."""

    label: str | None = None
    """`None`: it was not asked, or said nothing."""


class LearningIntent(TypedNode[Text, OpenMessage]):
    """Decides the intent, by what was learned where a guarantee holds, and tosses the coin."""

    def __init__(self, student: Student[Choice[str | None]], labeller: ReplyWriter) -> None:
        super().__init__(name="intent")
        self.student, self.agent, self.labeller = student, student.small, labeller

    async def answer(self, request: Text, context: RunContext) -> OpenMessage:
        """Decide, and keep the message before anybody else is asked."""
        student, model = self.student, self.labeller.endpoint.model
        student.check(self.labeller)
        if not can_write(model):
            raise ConfigError(
                f"learn takes a large model whose labels are worth learning from, and {model} "
                "writes too badly. Configure one: moa models add --help"
            )
        consideration = await student.consider(request.text, context)
        accepted = student.may_answer(consideration)
        answer = student.answer(consideration, accepted=accepted)
        intent = student.small.read([answer or Answer(question=student.question, status="missing")])
        index = await student.add(consideration, context)
        twice = consideration.held and consideration.side.is_asked_twice
        return OpenMessage(intent=intent, place=index, held=consideration.held, twice=twice)


class LearningWriter(TypedNode[Lesson, Reply]):
    """Writes the reply, with the labels that the intent learns from, in one call.

    Args:
        student: What learns.
        writer: Writes both.
        base_writer: Writes the reply alone, if nothing valid came of both.
        labeller: As `writer`, but breaks off behind the labels, which it says a second time.
    """

    def __init__(
        self, student: Student, writer: ReplyWriter, base_writer: ReplyWriter, labeller: ReplyWriter
    ) -> None:
        super().__init__(name="reply")
        self.student, self.labeller = student, labeller
        self.writer, self.plain = writer, base_writer

    async def answer(self, request: Lesson, context: RunContext) -> Reply:
        """Write, and keep the label."""
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
    """Has a message labelled that is held out, if no reply is written to it.

    It is asked as whoever writes is, and breaks off behind the labels: another prompt would be
    another large model.
    """

    def __init__(self, student: Student, labeller: ReplyWriter) -> None:
        super().__init__(name="labels")
        self.student, self.labeller = student, labeller

    async def answer(self, request: Lesson, context: RunContext) -> Label:
        """Ask for the label of what is held out; keep of the others that nobody was asked."""
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
        """Make it from the nodes that decide and the function that makes the writer, with labels.

        Args:
            intent: The node that learns.
            others: Decide the rest about a message: spam, its sentiment and its urgency.
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
    """Say what hangs on a decision: whether a message is quarantined, or written to."""
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
    """Take the decision."""
    return opened if isinstance(opened, Skipped) else opened.intent


async def _ask_for_labels(
    labeller: ReplyWriter, letter: Letter, context: RunContext
) -> Result[Reply]:
    return await labeller.run(letter, quiet(context))  # that it breaks off is meant


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
