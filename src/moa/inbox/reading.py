"""Decisions of the support graph about a message: the agents, and their questions."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from moa.agents.base import TypedNode
from moa.agents.classifier import Classifier
from moa.agents.deciding import Decider, DecidingAgent
from moa.agents.filter import Verdict
from moa.agents.sentiment import Mood
from moa.agents.splitting import excerpt
from moa.core.context import RunContext
from moa.core.node import Frozen, Text
from moa.core.questions import Answer, Choice, Option, Predicate, Question, Score, score
from moa.endpoints import Endpoint, Example
from moa.graphs.engine.types import Skipped

_NO_SUBJECT = re.compile(r"[\[(<]?(no subject|none)[\])>]?", re.IGNORECASE)
DANGER = "about danger to people, such as an injury, poison, smoke, fire or gas"
"""Criterion of messages that go to people first."""
URGENT = "now"
"""Level of urgency that can't wait."""
MAY_BE = 0.05
"""Minimum probability of being urgent for asking whether people are in danger."""
SURE = 0.5
"""Minimum probability of danger in a message that isn't urgent. With urgency heads fitted without
the message's writer, 164 of 188 dangers are found, and 7 % of all other messages are called
dangerous; at 0.6 it would be 159, and 6 %."""


class Ticket(BaseModel):
    """A message to the support of a shop."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    text: str
    subject: str | None = None
    customer: str | None = None
    id: str | None = None


class Urgency(BaseModel):
    """Whether a message can wait."""

    urgency: Score = score("How urgent is this message?", levels=["can wait", "today", "now"])


class Reading(Frozen):
    """The decisions about a message."""

    language: str | None
    sentiment: Mood
    intent: Choice[str | None]
    urgency: Score
    spam: Verdict
    injection: Verdict
    danger: Predicate | None = None
    """Whether people are in danger; `None` if it wasn't asked, since the message surely isn't
    urgent."""


class DangerFinder(DecidingAgent[Predicate]):
    """Tells whether people are in danger.

    Args:
        endpoint: The endpoint that decides.
        criterion: What completes the question "Is this message …?".

    Raises:
        CapabilityError: the endpoint can't decide.
    """

    def __init__(self, endpoint: Endpoint, criterion: str = DANGER) -> None:
        options = (Option("yes", value=True), Option("no", value=False))
        question = Question("danger", "predicate", f"Is this message {criterion}?", options)
        super().__init__(endpoint, [question], name="danger")

    def read(self, answers: Sequence[Answer]) -> Predicate:
        """Return the answer."""
        return Predicate.of(answers[0])


class Excerpt(TypedNode[Text, Text]):
    """Shortens a text that is too long to decide on to its opening and its end."""

    def __init__(self, max_tokens: int) -> None:
        super().__init__(name="excerpt")
        self.max_tokens = max_tokens

    async def answer(self, request: Text, context: RunContext) -> Text:
        """Shorten a text that is too long, and note it in the trace."""
        text = excerpt(request.text, max_tokens=self.max_tokens)
        if text == request.text:
            return request
        context.note(
            "truncated",
            f"decided on {len(text)} of {len(request.text)} characters, the opening and the end; "
            "whoever writes the reply reads all of it",
        )
        return Text(text=text, language=request.language)


class Intent(BaseModel):
    """An intent and its handling: a fixed reply, else a queue, else a written reply."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    means: str
    """Meaning, in words."""
    examples: tuple[str, ...] = ()
    """Example messages, shown to a model whose label probabilities are read."""
    reply: dict[str, str] = Field(default_factory=dict[str, str])
    """Fixed reply, by language. In another language the message is routed, or a reply is
    written."""
    queue: str | None = None
    """Queue for messages without a fixed reply."""


_SHIPPED = tomllib.loads(files("moa.inbox").joinpath("support.toml").read_text("utf-8"))
INTENTS = {name: Intent(**intent) for name, intent in _SHIPPED["intents"].items()}
OTHERS: tuple[str, ...] = tuple(_SHIPPED["others"])
"""Example messages with none of the intents."""
URGENCY_EXAMPLES: tuple[tuple[str, str], ...] = tuple(
    (text, level) for text, level in _SHIPPED["urgency"]
)
"""Example texts, each with its level of urgency."""


def intent_of(
    slm: Endpoint, intents: Mapping[str, Intent] = INTENTS, labelled: Path | None = None
) -> Classifier[str | None]:
    """Build the agent that tells what a message is about.

    Raises:
        ConfigError: the file `labelled` can't be read, or has an unknown intent.
    """
    # One of each in turn: the last examples weigh most.
    columns = zip_longest(*(intent.examples for intent in intents.values()))
    rows = (zip(column, intents, strict=True) for column in columns)
    examples: list[tuple[str, str | None]] = [
        (text, name) for pairs in rows for text, name in pairs if text is not None
    ]
    if intents == INTENTS:
        examples += [(text, None) for text in OTHERS]
    return Classifier(
        slm,
        {name: intent.means for name, intent in intents.items()},
        task="What is this message about?",
        none=True,
        name="intent",
        examples=examples,
        labelled=labelled,
    )


def urgency_of(slm: Endpoint) -> Decider[Urgency]:
    """Build the agent that tells whether a message can wait."""
    examples = [Example(text, {"urgency": level}) for text, level in URGENCY_EXAMPLES]
    return Decider(slm, Urgency, name="urgency", examples=examples)


def as_one_text(ticket: Ticket) -> str:
    """Put the subject before the text. A placeholder such as `(no subject)` is left out."""
    subject = ticket.subject or ""
    parts = ("" if _NO_SUBJECT.fullmatch(subject.strip()) else subject, ticket.text)
    return "\n\n".join(part for part in parts if part.strip())


def worse(rules: Verdict | Skipped, injection: Verdict | Skipped) -> Verdict | None:
    """Return the rules' verdict if they stop a message, else the model's; `None` if it is empty."""
    if isinstance(rules, Skipped) or isinstance(injection, Skipped):
        return None
    return injection if rules.kept else rules


def is_there(text: Text) -> bool:
    """Return True if anything is left to read."""
    return bool(text.text)


def may_be_urgent(urgency: Urgency | Skipped) -> bool:
    """Return True if a message may be urgent."""
    if isinstance(urgency, Skipped):
        return False
    answer = urgency.urgency
    if answer.status != "answered":
        return True
    return is_urgent(answer) or answer.probabilities.get(URGENT, 0.0) >= MAY_BE


def is_urgent(urgency: Score) -> bool:
    """Return True if a message is urgent, or its urgency is unknown."""
    return urgency.status != "answered" or urgency.level == URGENT


def with_danger(reading: Reading | None, *, threshold: float) -> Reading | None:
    """Decide danger by a threshold, of at least `SURE` if the message isn't urgent."""
    p = None if reading is None or reading.danger is None else reading.danger.probability
    if reading is None or reading.danger is None or p is None:
        return reading
    minimum = threshold if is_urgent(reading.urgency) else max(threshold, SURE)
    danger = reading.danger.model_copy(update={"picked": p >= minimum})
    return reading.model_copy(update={"danger": danger})


def read(
    text: Text,
    spam: Verdict | Skipped,
    injection: Verdict | None,
    mood: Mood | Skipped,
    intent: Choice[str | None] | Skipped,
    urgency: Urgency | Skipped,
    danger: Predicate | Skipped,
) -> Reading | None:
    """Gather the decisions; `None` if the message is empty."""
    match spam, injection, mood, intent, urgency:
        case Verdict(), Verdict(), Mood(), Choice(), Urgency():
            return Reading(
                language=text.language,
                sentiment=mood,
                intent=intent,
                urgency=urgency.urgency,
                spam=spam,
                injection=injection,
                danger=danger if isinstance(danger, Predicate) else None,
            )
        case _:
            return None
