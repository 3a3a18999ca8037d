"""Replies of the support graph: written from rules and facts, then checked."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, create_model
from pydantic_core import from_json

from moa.agents.agent import Agent
from moa.agents.base import TypedNode
from moa.agents.prompts import block
from moa.core.context import RunContext
from moa.core.messages import Message
from moa.core.node import Dropped, Frozen, Reply, Text
from moa.core.questions import NONE_OF_THESE, Question
from moa.documents import Passage, Passages
from moa.documents.checks import Fault, Ground, faults_of
from moa.documents.claims import without_brackets
from moa.documents.language import language_name
from moa.endpoints import Completion, Endpoint
from moa.endpoints.known import can_reply
from moa.graphs.engine.types import Skipped
from moa.graphs.fields import resolve_path
from moa.inbox.reading import Intent, Reading

Sent = Literal["send", "draft"]
"""Handling of the replies that a model writes."""
_CUT: Literal["trailing-strings"] = "trailing-strings"
_FILE = re.compile(r"[^\n]+\.(?:md|txt)", re.IGNORECASE)
_TO_PEOPLE = ("refusal", "empty", "repetition", "echo")
"""Faults that make a text useless, even as a draft."""
_MOODS = {
    "negative": "The customer is unhappy: begin by saying that you are sorry.",
    "positive": "The customer is pleased.",
}
_INSTRUCTIONS = (
    "You answer messages to the customer support of {company}.\n\n"
    "{knowledge}"
    "Write the reply to the customer's message: {tone}. Take what you say from the rules and "
    "facts. What they don't tell, a colleague checks: then tell the customer that a colleague "
    "checks it and gets back to them, and ask for what is missing."
)
_LABELLED = (
    "\n\nIf the customer is unhappy, the reply begins by saying that you are sorry. Before the "
    "reply answer these questions about the message.\n{questions}"
)
LABEL_TOKENS = 100
"""Maximum tokens of the labels, with the JSON around them."""


class Letter(Frozen):
    """A message, and the hints for its writer."""

    text: str
    language: str | None = None
    about: str | None = None
    """Topic, in words; `None` if it isn't sure."""
    mood: str | None = None
    urgent: bool = False
    passages: tuple[Passage, ...] = ()
    """Passages found in the documents."""


class Written(Reply):
    """A reply as the model wrote it."""

    cut: bool = False
    """True if it breaks off at the limit of tokens."""


class Labelled(Written):
    """A reply, and the labels written before it."""

    labels: dict[str, str]
    """Labels, by question name."""


class ReplyWriter(Agent[Letter, Reply]):
    """Writes replies from rules, facts and decisions.

    Args:
        endpoint: The endpoint that writes.
        company: Description of the company that answers.
        tone: Tone of the replies, in words.
        policy: Rules for replies.
        facts: Facts that replies may use.
        max_tokens: Maximum number of tokens of a reply.
        labels: Questions answered in the same call, before the reply. The output is then
            `Labelled`, and the request must not show what was decided.

    Raises:
        CapabilityError: the endpoint can't complete.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        company: str,
        tone: str,
        policy: str = "",
        facts: Sequence[str] = (),
        max_tokens: int,
        labels: Sequence[Question] = (),
    ) -> None:
        knowledge = [f"Rules:\n{policy.strip()}\n\n"] if policy.strip() else []
        if facts:
            knowledge.append("Facts:\n" + "".join(f"- {fact.strip()}\n" for fact in facts) + "\n")
        instructions = _INSTRUCTIONS.format(
            company=company,
            tone=tone,
            knowledge="".join(knowledge),
        )
        output: Any = Reply
        if labels:
            instructions += _LABELLED.format(questions="\n".join(map(_list_options, labels)))
            output = _labelled_model(labels)
            max_tokens += LABEL_TOKENS
        super().__init__(
            endpoint,
            instructions,
            input=Letter,
            output=output,
            name="reply",
            max_tokens=max_tokens,
        )
        self._labels = labels
        self._label_alone = False

    def messages(self, request: Letter) -> tuple[Message, ...]:
        """Put facts and hints after the rules, so that the message comes alone.

        Models of 1.5 billion parameters repeated a message that was followed by instructions.
        """
        rule, *messages = super().messages(request)
        hints = [f"The message is about: {request.about}." if request.about else ""]
        hints += [_MOODS.get(request.mood or "", ""), "It is urgent." if request.urgent else ""]
        name = language_name(request.language)
        language = name or "the language of the message"
        hints.append(f"Write the reply to the customer in {language}.")
        facts = "\n\n".join(f"{passage.source}\n{passage.text}" for passage in request.passages)
        parts = [rule.content, block(without_brackets(facts), "More facts") if facts else ""]
        parts.append(" ".join(filter(None, hints)))
        return (Message("system", "\n\n".join(filter(None, parts))), *messages)

    def user_prompt(self, request: Letter) -> str:
        """Show the message."""
        return block(request.text)

    def read(self, completion: Completion) -> Reply:
        """Read the reply, with its labels if it has some, and whether it breaks off."""
        cut = completion.finish_reason == "length"
        if not self._labels:
            return Written(text=super().read(completion).text, cut=cut)
        output: Any
        if cut:
            json_text = completion.text[completion.text.find("{") :]
            fields = from_json(json_text, allow_partial=_CUT)
            output = self.output_type.model_validate({"reply": "", **fields})
        else:
            output = super().read(completion)
        if not output.reply.strip() and not self._label_alone:
            raise ValueError("reply is empty")
        labels = {question.name: getattr(output, question.name) for question in self._labels}
        return Labelled(text=output.reply, cut=cut, labels=labels)

    def for_labels(self) -> ReplyWriter:
        """Return a copy with the same prompt that stops after the labels."""
        copied = copy.copy(self)
        copied.name, copied.max_tokens, copied._label_alone = "labeller", LABEL_TOKENS, True
        return copied


class Waiting(TypedNode[Letter, Dropped]):
    """Takes the place of a writer, and leaves the message to people."""

    def __init__(self) -> None:
        super().__init__(name="reply")

    async def answer(self, request: Letter, context: RunContext) -> Dropped:
        """Write nothing, and say why in the trace."""
        del request
        reason = "it needs a model that writes, and none is configured"
        context.note("escalated", f"to people: {reason}")
        return Dropped(reason=reason)


def text_or_file(value: object, info: ValidationInfo) -> str:
    """Return the text. One line that ends in `.md` or `.txt` is a file, relative to moa.toml."""
    if isinstance(value, str) and _FILE.fullmatch(value.strip()) is None:
        return value
    if not isinstance(value, str | Path):
        raise ValueError(f"takes a text, or the path of a file, but was given {value!r}")
    path = resolve_path(value.strip() if isinstance(value, str) else value, info)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"{path} can't be read as a text: {reason}") from error


def _list_options(question: Question) -> str:
    """Write a question and its options, with their descriptions."""
    lines = [f"{question.name}: {question.text}"]
    for option in question.options:
        means = "anything else" if option.name == NONE_OF_THESE else option.description
        lines.append(f"- {option.name}: {means}" if means else f"- {option.name}")
    return "\n".join(lines)


def _labelled_model(questions: Sequence[Question]) -> type[BaseModel]:
    """Make the model that a large model fills in: the labels, then the reply.

    The labels come first, so that they exist even if the reply breaks off or isn't wanted.
    """
    fields: dict[str, Any] = {
        question.name: (
            Literal[tuple(option.name for option in question.options)],
            Field(description=question.text),
        )
        for question in questions
    }
    fields["reply"] = (str, Field(description="the reply to the customer"))
    return create_model("LabelledReply", **fields)


def letter_of(
    text: Text,
    reading: Reading | None,
    retrieved: Passages | Skipped | None,
    intents: Mapping[str, Intent],
) -> Letter:
    """Combine a message with the decisions that are sure and the passages found.

    Args:
        text: The message.
        reading: Decisions; `None` if the message is empty, or they must not be shown.
        retrieved: Passages of documents.
        intents: Intents, by name; empty if the message's intent isn't sure.
    """
    passages = retrieved.passages if isinstance(retrieved, Passages) else ()
    letter = Letter(text=text.text, language=text.language, passages=passages)
    if reading is None:
        return letter
    mood, urgency = reading.sentiment, reading.urgency
    about = intents.get(reading.intent.label or "") if intents else None
    mood_label = mood.label if mood.status == "answered" and not mood.doubtful else None
    is_urgent = urgency.status == "answered" and not urgency.doubtful and urgency.level == "now"
    update = {"about": about.means.strip().rstrip(".") if about else None}
    return letter.model_copy(update={**update, "mood": mood_label, "urgent": is_urgent})


def is_sent(llm: Endpoint) -> bool:
    """Return True if an endpoint's replies may be sent unread, as far as its model is known.

    If nothing is known, its tier must be `llm`.
    """
    may = can_reply(llm.model)
    return llm.tier == "llm" if may is None else may


def doubts_about(
    reply: Reply, letter: Letter, facts: Sequence[str], *, sent: bool, model: str
) -> tuple[list[str], bool]:
    """Return why a person must read a reply before it is sent, and True if it is useless.

    Args:
        reply: What a model wrote.
        letter: Input of the model.
        facts: Rules and facts.
        sent: True if replies of this model may be sent.
        model: Name of the model.
    """
    sources = [*facts, *(passage.text for passage in letter.passages)]
    ground = Ground(sources, letter.text)
    faults: list[Fault] = faults_of(
        reply.text, ground=ground, question=letter.text, language=letter.language
    )
    doubts = [] if sent else [f"{model} isn't known to write replies that nobody has to read"]
    if not sources:
        doubts.append("neither policy nor facts say anything about it")
    if isinstance(reply, Written) and reply.cut:
        doubts.append("it breaks off")
    useless = any(fault.kind in _TO_PEOPLE for fault in faults)
    return [*doubts, *(fault.said for fault in faults)], useless
