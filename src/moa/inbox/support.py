"""Support: small models read each message of an inbox, and a large one writes when it must.

If the multilingual encoder is installed, shipped heads decide instead of the small model. They were
fitted to labelled messages (see `moa.decisions.heads`). They decide sentiment, urgency, spam and
injections, and the intent if the intents are the shipped ones. Your own intents are decided by
their examples and meaning. Without the encoder the small model is asked, with the examples of the
settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from math import floor
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, PlainValidator

from moa.agents.classifier import Classifier
from moa.agents.deciding import DecidingAgent
from moa.agents.filter import Filter, Verdict
from moa.agents.sentiment import Sentiment
from moa.agents.together import Together
from moa.core.context import RunContext
from moa.core.node import Became, Dropped, Frozen, Reply, Text
from moa.core.questions import Choice, Question
from moa.decisions.encoders import encoder_for, feeds_heads, reads_heads
from moa.documents import Passages
from moa.documents.index import Index, IndexRetriever
from moa.documents.preprocessor import Preprocessor
from moa.endpoints import Endpoint
from moa.endpoints.known import DECIDES_FROM, billions_of, can_write
from moa.graphs.engine.graph import BuiltGraph, Graph, Handle
from moa.graphs.engine.plan import Plan
from moa.graphs.engine.run import Run
from moa.graphs.engine.types import Skipped, Work
from moa.graphs.fields import File, Large, Small, from_file, resolve_path
from moa.graphs.recipe import Recipe, Sketch
from moa.guards.injection import CRITERION, InjectionRules, injection_filter
from moa.guards.spam import CRITERION as SPAM
from moa.guards.spam import Spam
from moa.inbox.learning import Label, Lesson, Lessons, OpenMessage, intent_in
from moa.inbox.reading import (
    DANGER,
    INTENTS,
    DangerFinder,
    Excerpt,
    as_one_text,
    intent_of,
    is_there,
    is_urgent,
    may_be_urgent,
    read,
    urgency_of,
    with_danger,
    worse,
)
from moa.inbox.reading import Intent as Intent
from moa.inbox.reading import Reading as Reading
from moa.inbox.reading import Ticket as Ticket
from moa.inbox.replies import (
    Letter,
    ReplyWriter,
    Sent,
    Waiting,
    doubts_about,
    is_sent,
    letter_of,
    text_or_file,
)
from moa.learning.learned import LearnedGraph
from moa.learning.student import Learn, Student, read_learn
from moa.local.encoders import sentence_encoder

READ_TOKENS = 200
"""Maximum tokens that the small model reads, from the opening and the end of a longer message."""
HEADS_READ = 1000
"""The same if heads decide: the encoder is fast, and a long message may state its wish anywhere."""
UNWRITTEN = "replies"
"""Queue of messages that people answer, since no model can."""
QUARANTINE = "quarantine"
"""Queue of messages that look unwanted. People look through it, so nothing is lost."""
IN_DANGER = "danger"
"""Queue that people look at first: somebody may be hurt, or about to be."""
FOUND = 3
"""Number of document passages that the writer of a reply is given."""
_BECAME: Mapping[str, Became] = {
    UNWRITTEN: "waiting",
    QUARANTINE: "quarantined",
    IN_DANGER: "in danger",
}
"""Outcomes of the graph's own queues."""
Unwanted = Literal["spam", "injection"]
DecideBy = Literal["model", "heads", "both"]
D = TypeVar("D", bound=DecidingAgent[Any])
Out = TypeVar("Out")


class Answered(Reply):
    """A message with its reply."""

    kind: Literal["reply", "draft"] = "reply"
    """A draft must be read by a person before it is sent; `doubts` say why."""
    written_by: Literal["llm", "template"]
    reason: str
    """Reason why the LLM wrote it, or didn't have to."""
    doubts: tuple[str, ...] = ()
    """Reasons why it is a draft, in words; empty for a reply."""
    decisions: Reading

    @property
    def became(self) -> Became:
        """Kind of reply: a template, a draft, or a text that a model wrote."""
        if self.kind == "draft":
            return "drafted"
        return "replied" if self.written_by == "template" else "written"

    def __str__(self) -> str:
        return f"draft, {self.reason}: {self.text}" if self.kind == "draft" else self.text


class Routed(Frozen):
    """A message for people."""

    kind: Literal["route"] = "route"
    queue: str
    reason: str
    decisions: Reading

    @property
    def became(self) -> Became:
        """Outcome: in danger, waiting, quarantined, or routed to a queue."""
        return _BECAME.get(self.queue, "routed")

    def __str__(self) -> str:
        return f"to {self.queue}, {self.reason}"


class Rejected(Dropped):
    """A message that needs no answer: it is empty, or the settings drop its kind."""

    kind: Literal["drop"] = "drop"
    decisions: Reading | None = None
    """`None` if there was nothing to read."""

    @property
    def became(self) -> Became:
        """Outcome: dropped."""
        return "dropped"


SupportOutcome = Answered | Routed | Rejected


class Support(Recipe[Ticket, SupportOutcome], recipe="support"):
    """A support inbox: drop, route, answer.

    A message is cleaned and gets five small decisions in parallel; then it is routed, or a model
    writes the reply. For an urgent message one more decision asks if people are in danger. The
    decisions read an excerpt of a long message; the writer of the reply and `InjectionRules` read
    all of it. A written text is checked before it counts as a reply: see `doubts`.

    Raises:
        CapabilityError: `slm` can't decide, or `llm` can't complete.
        MissingDependency: a library for cleaning is not installed.

    Examples:
        >>> from moa.inbox.support import Ticket
        >>> endpoints = Endpoints()  # of moa.toml  # doctest: +SKIP
        >>> support = Support(slm=endpoints.slm, llm=endpoints.llm)  # doctest: +SKIP
        >>> support.run_sync(Ticket(text="Where is my parcel?"))  # doctest: +SKIP
    """

    slm: Small
    """Model that decides."""
    llm: Large
    """Writes the replies that no fixed reply or queue covers. A model known to be small writes only
    drafts, and urgent messages go to people: its advice on a stolen card helps nobody. The
    built-in model writes too badly even for drafts, so all these messages go to people."""
    replies: Sent | None = None
    """`"send"`: a reply without `doubts` may be sent unread; `"draft"`: none may. `None`: `"send"`
    if the model's name says 7 billion parameters or more, or says nothing and its tier is `llm`."""
    policy: Annotated[str, PlainValidator(text_or_file)] = ""
    """Your rules, in words or as a file (`.md` or `.txt`): on returns, on bills, on what replies
    may never promise. The writer of replies reads all of it."""
    facts: tuple[str, ...] = ()
    """Facts for replies, such as prices and hours, one per text; the writer reads all of them."""
    documents: File | Sequence[File] | None = None
    """Files and folders with more facts, searched for each reply as in `rag`."""
    index: Annotated[Path, AfterValidator(resolve_path)] | None = None
    """Folder of the stored index of documents; `None`: each process reads them again."""
    company: str = "a company"
    """Description of the company for the writer of replies."""
    tone: str = "friendly, concrete, at most five sentences"
    """Tone of the replies."""
    spam: str = SPAM
    """Criterion of spam, which is quarantined."""
    injection: str = CRITERION
    """Criterion of a prompt injection, which is quarantined."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Minimum probability of spam or an injection at which a message is quarantined."""
    danger: str = Field(default=DANGER, min_length=1)
    """Criterion of an urgent (or possibly urgent) message that goes first, to the queue
    `danger`."""
    danger_threshold: float = Field(default=0.15, gt=0, lt=1)
    """Minimum probability of danger for an urgent message; low, since a false alarm costs little. A
    possibly urgent message needs 0.5."""
    drop: tuple[Unwanted, ...] = ()
    """Kinds of messages to drop instead of quarantining them. Empty by default: nobody sees a
    dropped message."""
    intents: dict[str, Intent] = Field(default=INTENTS, min_length=2)
    """Intents, by name."""
    learned: Annotated[LearnedGraph, from_file(LearnedGraph.load)] | None = None
    """File of `moa learn --graph support`. It has priority for the questions in it. If its intent
    has a guarantee, messages not covered by it go to the large model or to people."""
    learn: Annotated[Learn | str | Path | None, BeforeValidator(read_learn)] = None
    """Storage for the large model's labels, from which the intent learns, as in a cascade: a file,
    `postgresql://USER@HOST/DATABASE#NAME`, or a `Learn` with more settings. At first the large
    model writes all replies, and labels each message's intent, mood, urgency and spam. Once a test
    has passed, messages above a threshold are handled without it. A guarantee in `learned` is then
    ignored."""
    labelled: Annotated[Path, AfterValidator(resolve_path)] | None = None
    """File of messages with their `intent`, besides the examples: JSON Lines as `moa label` writes
    them; in a table, relative to `moa.toml`. More are better."""
    decide_by: DecideBy | None = None
    """Who decides: `slm` itself (`"model"`), the shipped heads on an encoder, without `slm`
    (`"heads"`), or the heads until `moa learn` finds that `slm` helps beside them (`"both"`).
    `None`: the heads if `slm` is the built-in model or its name says fewer than 3 billion
    parameters, else `slm`. That a model of 3 billion is better is an assumption: `moa compare`
    tells on your own messages. Without an installed encoder `slm` decides."""
    expected_precision: float = Field(default=0.9, ge=0, le=1)
    """Expected share of right intents among messages that no LLM reads; the LLM reads the others.
    The estimate comes from other sets of intents with as many examples; it isn't a guarantee. A
    calibration with a bound replaces it by a guarantee. If nothing is known, the model's own
    confidence is used."""
    reply_sure: float = Field(default=0.99, ge=0, le=1)
    """Minimum confidence in the intent for a fixed reply, which nobody reads before the customer.
    By cross-validation on the heads' training messages, 31 of 267 replies about a parcel and 20 of
    208 to thanks were wrong at 0.5, and none of 41 and 62 at 0.99. Without a shipped head, a model
    may never reach this: look at its confidence, and set a lower value."""
    reply_tokens: int = Field(default=300, gt=0)
    """Maximum tokens of a reply."""

    def prepare(self) -> None:
        """Wire the graph."""
        self.graph = self.wire()

    @property
    def plan(self) -> Plan:
        """Plan that is run and drawn."""
        return self.graph.plan

    async def answer(self, request: Ticket, context: RunContext) -> SupportOutcome:
        """Run every node that the answer needs."""
        return cast("SupportOutcome", await Run(self.plan, context).output(request))

    def sketch(self, sketch: Sketch) -> None:
        """Draw the wired graph."""
        self.graph.sketch(sketch)

    def members(self) -> Iterator[Work]:
        """Return the wired nodes."""
        return self.graph.members()

    def list_endpoints(self) -> list[Endpoint] | None:
        """Return an empty list, since only its nodes ask; `None` if a function may ask any."""
        return self.graph.list_endpoints()

    def wire(self) -> BuiltGraph[Ticket, SupportOutcome]:
        """Wire the nodes that clean, read, and then settle or write."""
        slm, g = self.slm, Graph(self.name, Ticket)
        text = g.add(Preprocessor(name="clean", history=False), g.input.map(as_one_text))
        max_tokens = READ_TOKENS if self.decider == "model" else HEADS_READ
        extract = g.add(Excerpt(max_tokens), text)
        has_text = text.map(is_there)

        unwanted = Spam(slm, criterion=self.spam, threshold=self.threshold)
        orders = injection_filter(slm, self.injection, threshold=self.threshold)
        spams, moods, urgencies = (
            self._with_head(unwanted, SPAM),
            self._with_head(Sentiment(slm)),
            self._with_head(urgency_of(slm)),
        )
        orders = self._with_head(orders, CRITERION)
        add = self._adder(g, extract, has_text, (spams, orders, moods, urgencies))
        spam, injection, mood, urgency = add(spams), add(orders), add(moods), add(urgencies)
        rules = g.add(InjectionRules(name="rules"), text, when=has_text)
        decides = self._with_head(intent_of(slm, self.intents, self.labelled))
        lessons = self._lessons(decides, spams, moods, urgencies)
        opened = lessons and g.add(lessons.intent, extract, when=has_text)
        intent = g.add(decides, extract, when=has_text) if opened is None else opened.map(intent_in)

        danger = g.add(
            self._with_head(DangerFinder(slm, self.danger)),
            extract,
            when=urgency.map(may_be_urgent),
        )

        unwanted_too = g.join(worse, rules, injection)
        decided = g.join(read, text, spam, unwanted_too, mood, intent, urgency, danger)
        reading = decided.map(partial(with_danger, threshold=self.danger_threshold))
        needs_llm = reading.map(self.needs_llm)
        is_asked = needs_llm if opened is None else g.join(self.is_asked, reading, opened)
        passages = self._search(g, text, is_asked)
        letter = g.join(self._letter, text, reading, *passages)
        if lessons is None or opened is None:
            writer = self._writer() if can_write(self.llm.model) else Waiting()
            reply = g.add(writer, letter, when=needs_llm, eager=False)
            return g.build(g.join(self.settle, reading, letter, reply))
        lesson = g.join(self._lesson, letter, opened, reading)
        reply = g.add(lessons.reply, lesson, when=needs_llm, eager=False)
        unwritten = reading.map(self.is_unwritten)
        labels = g.add(lessons.labels, lesson, when=unwritten, eager=False)
        return g.build(g.join(self._settle_taught, reading, letter, reply, labels))

    @cached_property
    def decider(self) -> DecideBy:
        """Who decides; see `decide_by`."""
        slm = self.slm
        if not feeds_heads(encoder_for(slm)):
            return "model"
        if self.decide_by is not None:
            return self.decide_by
        size = billions_of(slm.model)
        is_small = reads_heads(slm) or (size is not None and size < DECIDES_FROM)
        return "heads" if is_small else "model"

    def _adder(
        self,
        g: Graph[Ticket],
        text: Handle[Text],
        has_text: Handle[bool],
        agents: Sequence[DecidingAgent[Any]],
    ) -> Callable[[DecidingAgent[Out]], Handle[Out | Skipped]]:
        """Return what adds an agent: in one request with others that the model itself decides."""
        joint = [agent for agent in agents if self.decider == "model" and not _is_fitted(agent)]
        if len(joint) < 2:
            return lambda agent: g.add(agent, text, when=has_text)
        together = g.add(Together(joint), text, when=has_text)

        def add(agent: DecidingAgent[Out]) -> Handle[Out | Skipped]:
            if agent not in joint:
                return g.add(agent, text, when=has_text)
            return together.map(partial(_output_of, agent.name))

        return add

    def _writer(self, labels: Sequence[Question] = ()) -> ReplyWriter:
        return ReplyWriter(
            self.llm,
            company=self.company,
            tone=self.tone,
            policy=self.policy,
            facts=self.facts,
            max_tokens=self.reply_tokens,
            labels=labels,
        )

    def _lessons(
        self, intent: Classifier[str | None], *agents: DecidingAgent[Any]
    ) -> Lessons | None:
        """Make the nodes that the intent learns with, if it learns."""
        self.student: Student | None = None
        if not isinstance(self.learn, Learn):
            return None
        alike = [agent for agent in agents if agent.questions[0].name in self.learn.alike]
        lessons = Lessons.of(intent, alike, self.learn, self._writer)
        self.student = lessons.student
        return lessons

    def _lesson(
        self, letter: Letter, opened: OpenMessage | Skipped, reading: Reading | None
    ) -> Lesson:
        """Make the large model's input, `moot` if the intent doesn't change who writes."""
        if reading is None or isinstance(opened, Skipped):
            return Lesson(letter=letter, opened=None, moot=True)
        outcomes = {
            self.needs_llm(
                reading.model_copy(
                    update={"intent": reading.intent.model_copy(update={"accepted": accepted})}
                )
            )
            for accepted in (True, False)
        }
        return Lesson(letter=letter, opened=opened, moot=len(outcomes) == 1, reading=reading)

    def is_asked(self, reading: Reading | None, opened: OpenMessage | Skipped) -> bool:
        """Return True if the large model reads the message, to answer or to label it."""
        return self.needs_llm(reading) or (isinstance(opened, OpenMessage) and opened.held)

    def is_unwritten(self, reading: Reading | None) -> bool:
        """Return True if there is a message that no model replies to."""
        return reading is not None and not self.needs_llm(reading)

    def _settle_taught(
        self,
        reading: Reading | None,
        letter: Letter,
        reply: Reply | Skipped,
        labels: Label | Skipped,
    ) -> SupportOutcome:
        """Return the outcome once the label is stored. It doesn't depend on the label."""
        del labels
        return self.settle(reading, letter, reply)

    def _search(
        self, g: Graph[Ticket], text: Handle[Text], is_needed: Handle[bool]
    ) -> list[Handle[Passages | Skipped]]:
        """Search for facts in the documents, if there are any."""
        if self.documents is None and self.index is None:
            return []
        finder = IndexRetriever(
            self.documents,
            Index(self.index),
            endpoint=encoder_for(self.slm) or sentence_encoder(),
            top_k=FOUND,
            name="facts",
        )
        return [g.add(finder, text, when=is_needed, eager=False)]

    def _letter(
        self, text: Text, reading: Reading | None, passages: Passages | Skipped | None = None
    ) -> Letter:
        if self.learn is not None:  # the labelling model must not see what was decided
            return letter_of(text, None, passages, {})
        return letter_of(text, reading, passages, self.intents if self._is_clear(reading) else {})

    def _is_clear(self, reading: Reading | None) -> bool:
        """Return True if the intent is sure enough to be shown to the writer."""
        if reading is None or reading.intent.status != "answered" or reading.intent.doubtful:
            return False
        return self._unclear(reading.intent) is None

    def _with_head(self, agent: D, criterion: str | None = None) -> D:
        """Give an agent its learned calibration, or the shipped head if it fits its question."""
        (question,) = agent.questions
        learned = self.learned and self.learned.calibration_of("support", question)
        if learned:
            return agent.with_heads().calibrated({question.name: learned})
        if self.decider == "model":
            return agent if agent.encoder is None else agent.alone()
        copied = agent.with_heads(fits_model=self.decider == "both")
        shop = self.intents == INTENTS and self.labelled is None
        ours = {"intent": shop, "danger": False}  # decided by its words: no head was fitted
        if isinstance(agent, Filter):
            ours[question.name] = agent.criterion == criterion
        return copied.with_shipped_head(question.name) if ours.get(question.name, True) else copied

    def needs_llm(self, reading: Reading | None) -> bool:
        """Return True if a model must write, since no routine covers the message."""
        return self.reason_for_llm(reading) is not None and not self._for_people(reading)

    def reason_for_llm(self, reading: Reading | None) -> str | None:
        """Return the reason why a large model must write; `None` if it needn't."""
        if reading is None or self._find_unwanted(reading):
            return None
        answers = {name: getattr(reading, name) for name in ("intent", "sentiment", "urgency")}
        if any(answer.status != "answered" for answer in answers.values()):
            return "as the small model left a question open"
        if doubtful := [name for name, answer in answers.items() if answer.doubtful]:
            return f"as the small model can't tell: {', '.join(doubtful)} DOUBTFUL"
        if is_urgent(reading.urgency):
            return "as it is urgent"
        if reading.intent.label is None:
            return "as it wants nothing that is routine"
        if unclear := self._unclear(reading.intent):
            return f"as it is unclear what it wants ({unclear})"
        if reading.sentiment.label == "negative":
            return "as its writer is unhappy"
        return None if self._routine(reading) else self._reason_against_routine(reading)

    def _unclear(self, intent: Choice[str | None]) -> str | None:
        """Return the reason why an intent isn't reliable enough; `None` if it is."""
        confidence, expected = intent.confidence or 0.0, intent.expected_precision
        if intent.accepted is not None:
            return None if intent.accepted else "no guarantee covers it"
        if expected is None:
            return None if confidence >= self.expected_precision else f"confidence {confidence:.2f}"
        if expected >= self.expected_precision:
            return None
        return f"confidence {confidence:.2f}, expected precision {expected:.2f}, not guaranteed"

    def _reason_against_routine(self, reading: Reading) -> str:
        """Return the reason why a message of a known intent has no routine."""
        label, language = reading.intent.label, reading.language
        replies = self.intents[label].reply if label in self.intents else {}
        if not replies:
            return f"as {label!r} is answered one by one"
        if language not in replies:
            return f"as there is no template for {label!r} in {language or 'its language'}"
        likely = floor(1000 * (reading.intent.confidence or 0)) / 10  # always below the limit
        return (
            f"as {label!r} is only {likely:g} % likely, and its fixed reply is sent from "
            f"{100 * self.reply_sure:g} % on (reply_sure)"
        )

    def settle(
        self, reading: Reading | None, letter: Letter, reply: Reply | Dropped | Skipped
    ) -> SupportOutcome:
        """Return the outcome: dropped, to people, to quarantine, or a written or fixed reply."""
        if reading is None:
            return Rejected(reason="the message is empty")
        if danger := self._explain_danger(reading):
            return Routed(queue=IN_DANGER, reason=danger, decisions=reading)
        if unwanted := self._find_unwanted(reading):
            kind, reason = unwanted
            if kind in self.drop:
                return Rejected(reason=reason, decisions=reading)
            return Routed(queue=QUARANTINE, reason=reason, decisions=reading)
        llm_reason = self.reason_for_llm(reading) or ""
        if isinstance(reply, Dropped) or self._for_people(reading):
            return Routed(queue=UNWRITTEN, reason=llm_reason, decisions=reading)
        if isinstance(reply, Reply):
            return self._check_reply(reply, letter, reading, llm_reason)
        outcome = self._routine(reading)
        assert outcome is not None, "what no routine settles was written"
        return outcome

    def _check_reply(
        self, reply: Reply, letter: Letter, reading: Reading, llm_reason: str
    ) -> Answered | Routed:
        """Check a written text: return it as a reply or a draft, or send the message to people."""
        sent = self._may_send if self.replies is None else self.replies == "send"
        knowledge = [text for text in (self.policy, *self.facts) if text.strip()]
        doubts, useless = doubts_about(reply, letter, knowledge, sent=sent, model=self.llm.model)
        if useless:
            reason = f"{llm_reason}; what {self.llm.model} wrote is of no use: {doubts[-1]}"
            return Routed(queue=UNWRITTEN, reason=reason, decisions=reading)
        return Answered(
            text=reply.text,
            kind="draft" if doubts else "reply",
            written_by="llm",
            reason=llm_reason,
            doubts=tuple(doubts),
            decisions=reading,
        )

    @property
    def _may_send(self) -> bool:
        """True if the model's replies may be sent unread, as far as known."""
        return is_sent(self.llm)

    def _explain_danger(self, reading: Reading) -> str | None:
        """Explain why people read it first; `None` if there is no sign of danger."""
        danger = reading.danger
        if danger is None:
            return None
        if danger.status != "answered":
            return "it is urgent, and nobody could say whether people are in danger"
        p = danger.probability
        certainty = "" if p is None else f" (probability {p:.2f})"
        unwanted = self._find_unwanted(reading)
        addition = f"; also {unwanted[1]}" if unwanted else ""
        return f"it may be {self.danger}{certainty}{addition}" if danger.value else None

    def _for_people(self, reading: Reading | None) -> bool:
        """Return True if only people may answer: danger, or urgent and too hard for the model."""
        if reading is None or self._explain_danger(reading):
            return reading is not None
        urgent = reading.urgency.status == "answered" and is_urgent(reading.urgency)
        return urgent and not self._may_send and self._find_unwanted(reading) is None

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

    def _find_unwanted(self, reading: Reading) -> tuple[Unwanted, str] | None:
        """Return what looks unwanted about it, and the reason; `None` if nothing does."""
        kinds: tuple[Unwanted, ...] = ("injection", "spam")
        for kind in kinds:
            verdict: Verdict = getattr(reading, kind)
            if not verdict.kept:
                return kind, f"{kind}: {verdict.reason}"
        return None


def _is_fitted(agent: DecidingAgent[Any]) -> bool:
    return any(c.full is not None or c.bound is not None for c in agent.calibrations.values())


def _output_of(name: str, outputs: BaseModel | Skipped) -> Any:
    """Return one agent's output; skipped where nothing was read."""
    return outputs if isinstance(outputs, Skipped) else getattr(outputs, name)
