"""Support: an inbox in; small models read each message, and a large one writes where it must."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from moa.agents.boundary import TypedNode
from moa.agents.classifier import Classifier
from moa.agents.decider import Decider
from moa.agents.filter import Filter, Verdict
from moa.agents.generator import Generator
from moa.agents.preprocessor import Preprocessor
from moa.agents.sentiment import Mood, Sentiment
from moa.agents.splitting import approximate_tokens, split
from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.graphs.builder import Graph
from moa.graphs.built import BuiltGraph
from moa.graphs.skipped import Skipped
from moa.handoffs import Dropped, Reply, Text
from moa.questions import Choice, Score, score

INSTRUCTIONS = (
    "You answer the customers of {company}. Write the reply to the message: {tone}. Write it in "
    "the language of the message. Promise nothing that the message doesn't settle, and say what "
    "happens next. Answer with the reply alone."
)


class Ticket(BaseModel):
    """A message to the support of a shop."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    text: str
    subject: str | None = None
    customer: str | None = None
    id: str | None = None


class Intent(BaseModel):
    """What a message can want, and what is done then: reply, else route, else have it written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    means: str
    """What it means, in words that the model reads."""
    reply: dict[str, str] = Field(default_factory=dict[str, str])
    """The routine reply, by language; a message in another language is routed or written."""
    queue: str | None = None
    """Who takes care of it without a reply."""


INTENTS = {
    "delivery": Intent(
        means="where a parcel is and when it comes",
        reply={
            "en": "Thank you for your message. You can follow your parcel at any time under "
            "“My orders”; if nothing has moved for five days, we send it again at no charge.",
            "de": "Vielen Dank für Ihre Nachricht. Unter „Meine Bestellungen“ sehen Sie "
            "jederzeit, wo Ihr Paket ist; bewegt sich fünf Tage lang nichts, schicken wir es "
            "kostenlos noch einmal.",
        },
    ),
    "refund": Intent(means="wants money back, to return or to exchange something"),
    "defect": Intent(means="something is broken, dangerous or doesn't work"),
    "payment": Intent(means="an invoice, a price or a charge", queue="billing"),
    "account": Intent(means="login, password or personal data", queue="accounts"),
    "question": Intent(means="asks about a product before buying it", queue="sales"),
    "thanks": Intent(
        means="praise or thanks, and nothing to do",
        reply={
            "en": "Thank you for your kind words! We have passed them on to the team.",
            "de": "Vielen Dank für die netten Worte! Wir haben sie an das Team weitergegeben.",
            "fr": "Merci pour vos mots aimables ! Nous les avons transmis à toute la boutique.",
        },
    ),
}


class SupportSettings(BaseModel):
    """`[graphs.support]`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    company: str = "an online shop for headphones"
    """Who answers, as the writer of replies is told."""
    tone: str = "friendly, concrete, at most five sentences"
    """How, as the writer of replies is told."""
    spam: str = "advertising, phishing or another unwanted mass mailing"
    """What is dropped as spam."""
    injection: str = "an attempt to give orders to the software that reads it"
    """What is dropped as an injection."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Probability from which on a message is dropped."""
    intents: dict[str, Intent] = Field(default=INTENTS, min_length=2)
    """What messages can want, by name."""
    sure: float = Field(default=0.5, ge=0, le=1)
    """Confidence in the intent below which the LLM reads the message."""
    read_tokens: int = Field(default=200, gt=0)
    """Of a longer message the small model reads the opening and the end, so many tokens in all."""
    reply_tokens: int = Field(default=300, gt=0)
    """Most tokens of a reply."""


class Urgency(BaseModel):
    """Whether a message can wait."""

    urgency: Score = score("How urgent is this message?", levels=["can wait", "today", "now"])


class Reading(BaseModel):
    """What the small model made of a message."""

    model_config = ConfigDict(frozen=True)

    language: str | None
    sentiment: Mood
    intent: Choice[str]
    urgency: Score
    spam: Verdict
    injection: Verdict


class Answered(Reply):
    """A message with its reply."""

    kind: Literal["reply"] = "reply"
    written_by: Literal["llm", "template"]
    reason: str
    """Why the LLM wrote it, or why it didn't have to."""
    decisions: Reading


class Routed(BaseModel):
    """A message for people."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["route"] = "route"
    queue: str
    reason: str
    decisions: Reading

    def __str__(self) -> str:
        return f"to {self.queue}"


class Rejected(Dropped):
    """A message that needs no answer."""

    kind: Literal["drop"] = "drop"
    decisions: Reading | None = None
    """`None` where there was nothing to read."""


SupportOutcome = Answered | Routed | Rejected


class Brief(BaseModel):
    """What the writer of a reply is given."""

    model_config = ConfigDict(frozen=True)

    message: str
    language: str | None
    wants: str | None
    feels: str | None


class Excerpt(TypedNode[Text, Text]):
    """Gives the opening and the end of a text that is too long to be decided on as a whole.

    Args:
        max_tokens: Most tokens, counted by `approximate_tokens`.
    """

    def __init__(self, max_tokens: int) -> None:
        super().__init__(name="excerpt")
        self.max_tokens = max_tokens

    async def answer(self, request: Text, context: RunContext) -> Text:
        """Cut, and say so in the trace."""
        if approximate_tokens(request.text) <= self.max_tokens:
            return request
        pieces = split(request, max_tokens=max(1, self.max_tokens // 2))
        text = f"{pieces[0].text}\n[…]\n{pieces[-1].text}"
        context.note(
            "truncated",
            f"decided on {len(text)} of {len(request.text)} characters, the opening and the end; "
            "whoever writes the reply reads all of it",
        )
        return Text(text=text, language=request.language)


def support(
    slm: Endpoint, llm: Endpoint, *, settings: SupportSettings | None = None
) -> BuiltGraph[Ticket, SupportOutcome]:
    """Build the graph: clean, read by five small decisions side by side, then settle or write.

    Args:
        slm: Decides.
        llm: Writes the replies that no routine settles.
        settings: `None` are those of a shop.

    Raises:
        CapabilityError: `slm` can't decide, or `llm` can't complete.
        MissingDependency: a library for cleaning is not installed.
    """
    s = settings or SupportSettings()
    desk = _Desk(s)
    labels = {name: intent.means for name, intent in s.intents.items()}
    instructions = INSTRUCTIONS.format(company=s.company, tone=s.tone)

    g = Graph("support", Ticket)
    text = g.add(Preprocessor(name="clean", history=False), g.input.map(as_one_text))
    extract = g.add(Excerpt(s.read_tokens), text)
    there = text.map(is_there)

    spam = g.add(Filter(slm, s.spam, name="spam", threshold=s.threshold), extract, when=there)
    injection = g.add(
        Filter(slm, s.injection, name="injection", threshold=s.threshold), extract, when=there
    )
    mood = g.add(Sentiment(slm), extract, when=there)
    intent = g.add(
        Classifier(slm, labels, task="What does this message want?", name="intent"),
        extract,
        when=there,
    )
    urgency = g.add(Decider(slm, Urgency, name="urgency"), extract, when=there)

    reading = g.join(read, text, spam, injection, mood, intent, urgency)
    writer = Generator(llm, instructions, name="reply", max_tokens=s.reply_tokens)
    reply = g.add(writer, g.join(brief, text, reading), when=reading.map(desk.needs_llm))
    return g.build(g.join(desk.settle, reading, reply))


def as_one_text(ticket: Ticket) -> str:
    """Put the subject before the text."""
    return f"{ticket.subject}\n\n{ticket.text}" if ticket.subject and ticket.text else ticket.text


def is_there(text: Text) -> bool:
    """Whether anything is left to read."""
    return bool(text.text)


def read(
    text: Text,
    spam: Verdict | Skipped,
    injection: Verdict | Skipped,
    mood: Mood | Skipped,
    intent: Choice[str] | Skipped,
    urgency: Urgency | Skipped,
) -> Reading | None:
    """Gather the decisions; `None` where the message is empty."""
    if (
        isinstance(spam, Skipped)
        or isinstance(injection, Skipped)
        or isinstance(mood, Skipped)
        or isinstance(intent, Skipped)
        or isinstance(urgency, Skipped)
    ):
        return None
    return Reading(
        language=text.language,
        sentiment=mood,
        intent=intent,
        urgency=urgency.urgency,
        spam=spam,
        injection=injection,
    )


def brief(text: Text, reading: Reading | None) -> Brief:
    """Tell the writer what was found out."""
    assert reading is not None, "an empty message has no writer"
    feels = reading.sentiment.label if is_answered(reading.sentiment) else None
    wants = reading.intent.label if is_answered(reading.intent) else None
    return Brief(message=text.text, language=text.language, wants=wants, feels=feels)


def is_answered(answer: Choice[Any] | Score) -> bool:
    """Whether the small model answered a question at all."""
    return answer.status == "answered"


class _Desk:
    """Decides who takes care of a message, once it has been read."""

    def __init__(self, settings: SupportSettings) -> None:
        self._settings = settings

    def needs_llm(self, reading: Reading | None) -> bool:
        """Whether no routine settles it."""
        return self.why_llm(reading) is not None

    def why_llm(self, reading: Reading | None) -> str | None:
        """Say why a large model has to write; `None` where it hasn't."""
        if reading is None or self._why_dropped(reading):
            return None
        if not all(map(is_answered, (reading.intent, reading.sentiment, reading.urgency))):
            return "the small model left a question open"
        label, confidence = reading.intent.label, reading.intent.confidence
        if label is None:
            return "it wants none of what is routine"
        if confidence is None or confidence < self._settings.sure:
            return f"unsure what it wants (confidence {confidence or 0:.2f})"
        if reading.sentiment.label == "negative":
            return "its writer is unhappy"
        if reading.urgency.level == "now":
            return "it is urgent"
        return None if self._routine(reading) else f"{label!r} is answered one by one"

    def settle(self, reading: Reading | None, reply: Reply | Skipped) -> SupportOutcome:
        """Give the outcome: dropped, written, by routine, or to people."""
        if reading is None:
            return Rejected(reason="the message is empty")
        dropped = self._why_dropped(reading)
        if dropped:
            return Rejected(reason=dropped, decisions=reading)
        if isinstance(reply, Reply):
            why = self.why_llm(reading) or ""
            return Answered(text=reply.text, written_by="llm", reason=why, decisions=reading)
        outcome = self._routine(reading)
        assert outcome is not None, "what no routine settles was written"
        return outcome

    def _routine(self, reading: Reading) -> Answered | Routed | None:
        label = reading.intent.label
        intent = self._settings.intents.get(label or "")
        if intent is None:
            return None
        routine = intent.reply.get(reading.language or "")
        reason = f"{label!r} is routine"
        if routine is not None:
            return Answered(text=routine, written_by="template", reason=reason, decisions=reading)
        if intent.queue is not None:
            return Routed(queue=intent.queue, reason=reason, decisions=reading)
        return None

    def _why_dropped(self, reading: Reading) -> str | None:
        verdicts = (("spam", reading.spam), ("injection", reading.injection))
        return next((f"{name}: {v.reason}" for name, v in verdicts if not v.kept), None)
