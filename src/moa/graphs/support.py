"""Support: an inbox in; small models read each message, and a large one writes where it must.

Where the encoder for many languages is installed, heads decide that were fitted beforehand to
labelled messages (see `moa.decisions.heads`), and the small model isn't asked: of sentiment,
urgency, spam and injections always, of the intent where the intents are the shipped ones. Intents
of one's own are decided by their examples and meaning. Elsewhere the small model is asked, with the
examples of the settings.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from itertools import zip_longest
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from moa.agents import Agent
from moa.agents.base import TypedNode
from moa.agents.classifier import Classifier
from moa.agents.deciding import Decider, DecidingAgent
from moa.agents.filter import Filter, Verdict
from moa.agents.preprocessor import Preprocessor
from moa.agents.sentiment import Mood, Sentiment
from moa.agents.splitting import excerpt
from moa.context import RunContext
from moa.endpoints import Endpoint, Example
from moa.endpoints.encoders import encoder_for, feeds_heads
from moa.endpoints.known import can_write
from moa.graphs.engine.graph import BuiltGraph, Graph
from moa.graphs.engine.types import Skipped
from moa.graphs.fields import Large, Small
from moa.graphs.recipe import WiredRecipe
from moa.guards.injection import CRITERION, InjectionRules, injection_filter
from moa.guards.spam import CRITERION as SPAM
from moa.guards.spam import Spam
from moa.node import Became, Dropped, Frozen, Reply, Text
from moa.questions import Choice, Score, score

INSTRUCTIONS = (
    "You work for the support of {company}. Write the reply to the customer's message: {tone}. "
    "Write it in the language of the message. Promise nothing that the message doesn't settle. "
    "Answer with the reply alone."
)
HEADS_READ = 1000
"""Tokens of a message that heads decide on at the least: the encoder is quick, and a wish stands
anywhere in a long message."""
UNWRITTEN = "replies"
"""The queue of the messages that people answer, where no model can."""
QUARANTINE = "quarantine"
"""The queue of what looks unwanted: people look through it, and nothing in it is lost."""
_BECAME: Mapping[str, Became] = {UNWRITTEN: "waiting", QUARANTINE: "quarantined"}
"""What it means to stand in a queue of the graph's own."""
Unwanted = Literal["spam", "injection"]
D = TypeVar("D", bound=DecidingAgent[Any])
_NO_SUBJECT = re.compile(r"[\[(<]?(no subject|none)[\])>]?", re.IGNORECASE)


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
    """What the small model made of a message."""

    language: str | None
    sentiment: Mood
    intent: Choice[str | None]
    urgency: Score
    spam: Verdict
    injection: Verdict


class Answered(Reply):
    """A message with its reply."""

    kind: Literal["reply", "draft"] = "reply"
    """A draft is by a small model: somebody has to read it before it is sent."""
    written_by: Literal["llm", "template"]
    reason: str
    """Why the LLM wrote it, or why it didn't have to."""
    decisions: Reading

    @property
    def became(self) -> Became:
        """Whether it is a template, a draft, or a reply of a large model."""
        if self.kind == "draft":
            return "drafted"
        return "replied" if self.written_by == "template" else "written"

    def __str__(self) -> str:
        return f"for an LLM, {self.reason}: {self.text}" if self.kind == "draft" else self.text


class Routed(Frozen):
    """A message for people."""

    kind: Literal["route"] = "route"
    queue: str
    reason: str
    decisions: Reading

    @property
    def became(self) -> Became:
        """Whether it waits for a reply, is set aside, or is with the people of a queue."""
        return _BECAME.get(self.queue, "routed")

    def __str__(self) -> str:
        return f"to {self.queue}, {self.reason}"


class Rejected(Dropped):
    """A message that needs no answer: it is empty, or what the settings let be dropped."""

    kind: Literal["drop"] = "drop"
    decisions: Reading | None = None
    """`None` where there was nothing to read."""

    @property
    def became(self) -> Became:
        """It is dropped."""
        return "dropped"


SupportOutcome = Answered | Routed | Rejected


class Excerpt(TypedNode[Text, Text]):
    """Gives the opening and the end of a text that is too long to be decided on as a whole."""

    def __init__(self, max_tokens: int) -> None:
        super().__init__(name="excerpt")
        self.max_tokens = max_tokens

    async def answer(self, request: Text, context: RunContext) -> Text:
        """Cut, and say so in the trace."""
        text = excerpt(request.text, max_tokens=self.max_tokens)
        if text == request.text:
            return request
        context.note(
            "truncated",
            f"decided on {len(text)} of {len(request.text)} characters, the opening and the end; "
            "whoever writes the reply reads all of it",
        )
        return Text(text=text, language=request.language)


class Waiting(TypedNode[Text, Dropped]):
    """Stands where a large model would write, and leaves the text to people."""

    def __init__(self) -> None:
        super().__init__(name="reply")

    async def answer(self, request: Text, context: RunContext) -> Dropped:
        """Write nothing, and say why in the trace."""
        del request
        reason = "it needs a large model, and none is configured"
        context.note("escalated", f"to people: {reason}")
        return Dropped(reason=reason)


class Intent(BaseModel):
    """What a message can want, and what is done then: reply, else route, else have it written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    means: str
    """What it means, in words."""
    examples: tuple[str, ...] = ()
    """Messages that want it, shown to a model whose label probabilities are read."""
    reply: dict[str, str] = Field(default_factory=dict[str, str])
    """The routine reply, by language; a message in another language is routed or written."""
    queue: str | None = None
    """Who takes care of it without a reply."""


_SHIPPED = tomllib.loads(files("moa.graphs").joinpath("support.toml").read_text("utf-8"))
INTENTS = {name: Intent(**intent) for name, intent in _SHIPPED["intents"].items()}
OTHERS: tuple[str, ...] = tuple(_SHIPPED["others"])
"""Messages that want none of it."""
URGENCY_EXAMPLES: tuple[tuple[str, str], ...] = tuple(
    (text, level) for text, level in _SHIPPED["urgency"]
)
"""Texts, and how urgent they are."""


class Support(WiredRecipe[Ticket, SupportOutcome], recipe="support"):
    """A support inbox: drop, route, answer.

    A message is cleaned, read by five small decisions side by side, then settled or written. The
    decisions are on an excerpt of a long message. Whoever writes the reply reads all of it, and so
    do the rules of `InjectionRules`.

    Raises:
        CapabilityError: `slm` can't decide, or `llm` can't complete.
        MissingDependency: a library for cleaning is not installed.

    Examples:
        >>> from moa.graphs.support import Ticket
        >>> endpoints = Endpoints()  # of moa.toml  # doctest: +SKIP
        >>> support = Support(slm=endpoints.slm, llm=endpoints.llm)  # doctest: +SKIP
        >>> support.run_sync(Ticket(text="Where is my parcel?"))  # doctest: +SKIP
    """

    slm: Small
    """Decides."""
    llm: Large
    """Writes the replies that no routine settles. Where its tier is `slm`, they are drafts, and
    urgent messages go to people: a small model's advice on smoke or a stolen card helps nobody. The
    built-in model writes too badly even for drafts, so all those messages go to people."""
    company: str = "an online shop for headphones"
    """Who answers, as the writer of replies is told."""
    tone: str = "friendly, concrete, at most five sentences"
    """How, as the writer of replies is told."""
    spam: str = SPAM
    """What is quarantined as spam."""
    injection: str = CRITERION
    """What is quarantined as an injection."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Probability from which on a message is quarantined."""
    drop: tuple[Unwanted, ...] = ()
    """What is dropped instead of quarantined. Nothing, unless you say so: a customer whose message
    is dropped is never heard of again."""
    intents: dict[str, Intent] = Field(default=INTENTS, min_length=2)
    """What messages can want, by name."""
    heads: bool = True
    """Whether the heads that ship decide, where the encoder is installed, whatever `slm` is;
    `False`: as `slm` decides by itself."""
    sure: float = Field(default=0.5, ge=0, le=1)
    """Confidence in the intent below which the LLM reads the message."""
    reply_sure: float = Field(default=0.99, ge=0, le=1)
    """Confidence in the intent below which no routine reply goes out: nobody reads it before the
    customer does. By cross-validation on the messages that the heads learnt from, 31 of 267 replies
    about a parcel and 20 of 208 to thanks were wrong from 0.5 on, and none of 41 and 62 from 0.99
    on. Where no shipped head decides, a model may never be so sure: look at its confidence, and set
    this lower."""
    read_tokens: int = Field(default=200, gt=0)
    """Of a longer message the small model reads the opening and the end, so many tokens in all;
    where the shipped heads decide, 1,000 at the least."""
    reply_tokens: int = Field(default=300, gt=0)
    """Maximum tokens of a reply."""
    draft_tokens: int = Field(default=40, gt=0)
    """Maximum tokens of a draft by the small model, where there is no large one."""

    def wire(self) -> BuiltGraph[Ticket, SupportOutcome]:
        """Clean, read, then settle or write."""
        slm, llm = self.slm, self.llm
        g = Graph(self.name, Ticket)
        text = g.add(Preprocessor(name="clean", history=False), g.input.map(as_one_text))
        encoder = encoder_for(slm) if self.heads else None
        heads = encoder is not None and feeds_heads(encoder)
        most = max(self.read_tokens, HEADS_READ) if heads else self.read_tokens
        extract = g.add(Excerpt(most), text)
        there = text.map(is_there)

        unwanted = Spam(slm, criterion=self.spam, threshold=self.threshold)
        orders = injection_filter(slm, self.injection, threshold=self.threshold)
        spam = g.add(self._by(unwanted, SPAM), extract, when=there)
        injection = g.add(self._by(orders, CRITERION), extract, when=there)
        rules = g.add(InjectionRules(name="rules"), text, when=there)
        mood = g.add(self._by(Sentiment(slm)), extract, when=there)
        intent = g.add(self._by(intent_of(slm, self.intents)), extract, when=there)
        urgency = g.add(self._by(urgency_of(slm)), extract, when=there)

        reading = g.join(read, text, spam, g.join(worse, rules, injection), mood, intent, urgency)
        needs_llm = reading.map(self.needs_llm)
        if llm.tier == "slm" and not can_write(llm.model):
            waiting = g.add(Waiting(), text, when=needs_llm, eager=False)
            return g.build(g.join(self.settle, reading, waiting))
        writer = Agent(
            llm,
            INSTRUCTIONS.format(company=self.company, tone=self.tone),
            name="reply",
            max_tokens=self.draft_tokens if llm.tier == "slm" else self.reply_tokens,
        )
        reply = g.add(writer, text, when=needs_llm, eager=False)
        return g.build(g.join(self.settle, reading, reply))

    def _by(self, agent: D, criterion: str | None = None) -> D:
        """Have an agent decide by the shipped head of its question, if that asks what ships."""
        if not self.heads:
            return agent
        (question,) = agent.questions
        made = agent.with_heads()
        ours = {"intent": self.intents == INTENTS}
        if isinstance(agent, Filter):
            ours[question.name] = agent.criterion == criterion
        return made.by_shipped_head(question.name) if ours.get(question.name, True) else made

    def needs_llm(self, reading: Reading | None) -> bool:
        """Whether a model has to write, since no routine settles it."""
        return self.why_llm(reading) is not None and not self._for_people(reading)

    def why_llm(self, reading: Reading | None) -> str | None:
        """Say why a large model has to write; `None` where it hasn't."""
        if reading is None or self._unwanted(reading):
            return None
        answers = {name: getattr(reading, name) for name in ("intent", "sentiment", "urgency")}
        if any(answer.status != "answered" for answer in answers.values()):
            return "as the small model left a question open"
        if doubtful := [name for name, answer in answers.items() if answer.doubtful]:
            return f"as the small model can't tell: {', '.join(doubtful)} DOUBTFUL"
        if reading.urgency.level == "now":
            return "as it is urgent"
        label, confidence = reading.intent.label, reading.intent.confidence
        if label is None:
            return "as it wants nothing that is routine"
        if confidence is None or confidence < self.sure:
            return f"as it is unclear what it wants (confidence {confidence or 0:.2f})"
        if reading.sentiment.label == "negative":
            return "as its writer is unhappy"
        return None if self._routine(reading) else self._why_not_routine(reading)

    def _why_not_routine(self, reading: Reading) -> str:
        """Say why a message of a known intent has no routine."""
        label, language = reading.intent.label, reading.language
        replies = self.intents[label].reply if label in self.intents else {}
        if not replies:
            return f"as {label!r} is answered one by one"
        if language not in replies:
            return f"as there is no template for {label!r} in {language or 'its language'}"
        confidence = reading.intent.confidence or 0
        return f"as a template for {label!r} takes more certainty (confidence {confidence:.2f})"

    def settle(self, reading: Reading | None, reply: Reply | Dropped | Skipped) -> SupportOutcome:
        """Give the outcome: dropped, in quarantine, written, by routine, or to people."""
        if reading is None:
            return Rejected(reason="the message is empty")
        if unwanted := self._unwanted(reading):
            kind, reason = unwanted
            if kind in self.drop:
                return Rejected(reason=reason, decisions=reading)
            return Routed(queue=QUARANTINE, reason=reason, decisions=reading)
        why = self.why_llm(reading) or ""
        if isinstance(reply, Dropped) or self._for_people(reading):
            return Routed(queue=UNWRITTEN, reason=why, decisions=reading)
        if isinstance(reply, Reply):
            return Answered(
                text=reply.text,
                kind="draft" if self.llm.tier == "slm" else "reply",
                written_by="llm",
                reason=why,
                decisions=reading,
            )
        outcome = self._routine(reading)
        assert outcome is not None, "what no routine settles was written"
        return outcome

    def _for_people(self, reading: Reading | None) -> bool:
        """Whether it is too urgent for a small model's draft."""
        return (
            reading is not None
            and self.llm.tier == "slm"
            and reading.urgency.level == "now"
            and self._unwanted(reading) is None
        )

    def _routine(self, reading: Reading) -> Answered | Routed | None:
        label = reading.intent.label
        intent = self.intents.get(label or "")
        reason = f"{label!r} is routine"
        text = intent and intent.reply.get(reading.language or "")
        if text is not None and (reading.intent.confidence or 0) >= self.reply_sure:
            return Answered(text=text, written_by="template", reason=reason, decisions=reading)
        if intent and intent.queue is not None:
            return Routed(queue=intent.queue, reason=reason, decisions=reading)
        return None

    def _unwanted(self, reading: Reading) -> tuple[Unwanted, str] | None:
        """Say what looks unwanted about it, and why; `None` where nothing does."""
        kinds: tuple[Unwanted, ...] = ("injection", "spam")
        for kind in kinds:
            verdict: Verdict = getattr(reading, kind)
            if not verdict.kept:
                return kind, f"{kind}: {verdict.reason}"
        return None


def intent_of(slm: Endpoint, intents: Mapping[str, Intent] = INTENTS) -> Classifier[str | None]:
    """Build the agent that tells what a message is about."""
    # One of each in turn: what stands together at the end weighs most.
    columns = zip_longest(*(intent.examples for intent in intents.values()))
    named = (zip(column, intents, strict=True) for column in columns)
    examples: list[tuple[str, str | None]] = [
        (text, name) for pairs in named for text, name in pairs if text is not None
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
    )


def urgency_of(slm: Endpoint) -> Decider[Urgency]:
    """Build the agent that tells whether a message can wait."""
    examples = [Example(text, {"urgency": level}) for text, level in URGENCY_EXAMPLES]
    return Decider(slm, Urgency, name="urgency", examples=examples)


def as_one_text(ticket: Ticket) -> str:
    """Put the subject before the text; what mail programs write where there is none is none."""
    subject = ticket.subject or ""
    parts = ("" if _NO_SUBJECT.fullmatch(subject.strip()) else subject, ticket.text)
    return "\n\n".join(part for part in parts if part.strip())


def worse(rules: Verdict | Skipped, injection: Verdict | Skipped) -> Verdict | None:
    """Take what the rules say where they stop a message; `None` where the message is empty."""
    if isinstance(rules, Skipped) or isinstance(injection, Skipped):
        return None
    return injection if rules.kept else rules


def is_there(text: Text) -> bool:
    """Whether anything is left to read."""
    return bool(text.text)


def read(
    text: Text,
    spam: Verdict | Skipped,
    injection: Verdict | None,
    mood: Mood | Skipped,
    intent: Choice[str | None] | Skipped,
    urgency: Urgency | Skipped,
) -> Reading | None:
    """Gather the decisions; `None` where the message is empty."""
    match spam, injection, mood, intent, urgency:
        case Verdict(), Verdict(), Mood(), Choice(), Urgency():
            return Reading(
                language=text.language,
                sentiment=mood,
                intent=intent,
                urgency=urgency.urgency,
                spam=spam,
                injection=injection,
            )
        case _:
            return None
