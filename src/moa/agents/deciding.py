"""Deciding: questions about a text, asked in one request and scored.

`Decider` asks the questions in a pydantic model's fields. `DecidingAgent` is the base class of all
agents that decide.
"""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from pydantic import BaseModel, create_model

from moa.agents.base import Limits, Out, TypedNode, require
from moa.agents.splitting import excerpt
from moa.core._async import Lock, gather
from moa.core.context import RunContext
from moa.core.errors import CalibrationError, ConfigError, InputError
from moa.core.node import Text
from moa.core.questions import Answer, Question, fill, questions_of
from moa.core.telemetry import names
from moa.core.telemetry.spans import start
from moa.decisions import ENOUGH
from moa.decisions.calibrated import CalibratedDecider
from moa.decisions.defaults import calibrate_by_words, make_unfitted, shipped_calibration
from moa.decisions.doubt import Doubts
from moa.decisions.encoders import (
    Heads,
    LoadsAhead,
    deciding_encoder_for,
    encoder_for,
    feeds_heads,
    heads_of,
)
from moa.decisions.features import (
    DECIDES,
    ENCODER,
    Feature,
    LabelFeature,
    Plan,
    QuestionFeatures,
    QuestionRecord,
    Sources,
    TextReading,
    WordsFeature,
    sources_of,
)
from moa.decisions.file import Calibration
from moa.decisions.fitting import FITTING
from moa.decisions.guarantee import Bound
from moa.decisions.words import is_about_whole_text, label_meanings
from moa.endpoints import Endpoint, Example
from moa.endpoints.known import MOST_OPTIONS, answers_as_json, facts_of
from moa.endpoints.rehearsal import REHEARSAL
from moa.endpoints.sent import SentPrompt
from moa.endpoints.tokens import approximate_tokens, tokens_of, window_of
from moa.endpoints.wrappers import are_same_model

if TYPE_CHECKING:
    from moa.decisions.features import Progress

M = TypeVar("M", bound=BaseModel)
Calibrations = Calibration | Mapping[str, Calibration] | None
"""A calibration of an agent's only question, or several by question name."""


class DecidingAgent(TypedNode[Text | str, Out]):
    """Asks an endpoint to decide, and returns the answers as its output type.

    Only the given endpoint is asked. `"embedded"` is the built-in model with an encoder, which may
    decide by the words of the question alone.

    Examples, a few of each label, show what you mean. The model reads them in its prompt. With an
    encoder, a choice uses the scorer of pairs (`moa.local.pairs`), and with twenty examples per
    label also a head; a criterion uses a head with 16 examples if, by cross-validation, it is
    right more often than the words. With dozens to hundreds of labelled rows, `adapt` chooses the
    best scorer by cross-validation, and `moa learn` also bounds the error rate of accepted answers.

    If a text exceeds the endpoint's `context_window`, only its opening and end are read, and the
    trace says so. If the window is unknown, the whole text is sent.

    Args:
        endpoint: The endpoint that decides, or its name: `"VENDOR:MODEL"`.
        questions: The questions about each text.
        examples: Texts with the names of the right options, by name of the question.
        encoder: Computes the vectors for heads; `None`: the endpoint's own, if one is installed
            (see `moa.decisions.encoders.deciding_encoder_for`).
        calibration: A fitted scorer for the one question, or several by question name. With a
            bound it also sets `accepted`. Other questions go to the endpoint.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't decide.
        CalibrationError: a calibration belongs to another question.
    """

    def __init__(
        self,
        endpoint: Endpoint | str,
        questions: Sequence[Question],
        *,
        examples: Sequence[Example] = (),
        encoder: Endpoint | None = None,
        calibration: Calibrations = None,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(**limits)
        self.endpoint = require(endpoint, "decide", agent=self.name)
        self.questions = tuple(questions)
        self.examples = tuple(examples)
        self.encoder = encoder or deciding_encoder_for(self.endpoint)
        self.fits_model = False
        """True if a fit to labels asks the endpoint, though heads decide until then."""
        self._first_fit = _FirstFit()
        self._sources = sources_of(self.endpoint, encoder=self.encoder)
        self.use_calibrations(self._by_name(calibration))

    @property
    def decided_by(self) -> str:
        """Description of the encoder whose head decides; empty if none does."""
        if self.encoder is None or not any(_reads_vectors(c) for c in self.calibrations.values()):
            return ""
        also = f" and {self.endpoint.name}" if self.asks_endpoint else ""
        return f"{self.encoder.name} with a head{also}"

    @property
    def scorers(self) -> tuple[CalibratedDecider, ...]:
        """The scorer of each question, except those that the first text will fit to examples."""
        return tuple(self._scorers.values())

    @property
    def sources(self) -> Sources:
        """Endpoints that it reads from, by role."""
        return self._sources

    @property
    def decides_by_words(self) -> bool:
        """True if only the words of the questions decide, as far as the first text has shown."""
        fitted = self._first_fit.found(self._to_fit)
        features = [*self._features, *(f for c in fitted for f in c.calibration.features)]
        alone = all(isinstance(feature, WordsFeature) for feature in features)
        return bool(features) and alone and len(fitted) == len(self._to_fit)

    @property
    def asks_endpoint(self) -> bool:
        """True if the endpoint itself is asked, not only the encoder."""
        return any(feature.source == DECIDES for feature in self._features)

    def asks_the_same(self, other: DecidingAgent[Any]) -> bool:
        """Return True if both ask the same of the same model, whatever their questions' names."""
        mine, theirs = (
            (
                agent.asks_endpoint,
                [QuestionRecord.model_validate(question) for question in agent.questions],
                [(example.text, *example.labels.values()) for example in agent.examples],
            )
            for agent in (self, other)
        )
        return mine == theirs and are_same_model(self.endpoint, other.endpoint)

    def list_endpoints(self) -> list[Endpoint]:
        """List its endpoint, if that is asked itself."""
        return [self.endpoint] if self.asks_endpoint else []

    @property
    def texts_to_encode(self) -> list[str]:
        """Texts that the encoder reads for any request; empty if it isn't used, or loads nothing.

        They are labels and their examples, and an empty text, which loads the encoder.
        """
        if not (self._plan.encodings and isinstance(self.encoder, LoadsAhead)):
            return []
        texts = [""]
        for question, features in self._plan.questions:
            for feature in features:
                if isinstance(feature, WordsFeature) and question.kind == "choice":
                    texts += [
                        *label_meanings(question),
                        *(example.text for example in feature.examples),
                    ]
        return texts

    def calibrated(self, calibration: Calibrations) -> Self:
        """Return a copy with a calibration; `None` removes all, shipped ones included.

        Raises:
            CalibrationError: it belongs to another question.
        """
        copied = copy.copy(self)
        copied._sources = sources_of(self.endpoint, encoder=self.encoder)
        copied.use_calibrations(copied._by_name(calibration))
        return copied

    def with_shipped_head(self, name: str) -> Self:
        """Return a copy that decides its only question by the head `name` in a shipped file.

        Without an encoder, return the agent itself.
        """
        if not feeds_heads(self.encoder):
            return self
        (question,) = self.questions
        return self.calibrated(shipped_calibration(question, name))

    def with_heads(self, *, fits_model: bool = False) -> Self:
        """Return a copy in which an encoder's heads decide beside any endpoint.

        If no encoder is installed, the copy decides as before.

        Args:
            fits_model: Ask the endpoint too when the copy is fitted to labels, which takes it in if
                it helps.
        """
        copied = copy.copy(self)
        copied.fits_model = fits_model
        copied.encoder = self.encoder or encoder_for(self.endpoint)
        copied.use_calibrations(self.calibrations)
        return copied

    def with_questions(self, questions: Sequence[Question]) -> Self:
        """Return a copy that asks other questions; call its `answers`.

        Questions of the agent keep their calibration and examples.
        """
        copied = copy.copy(self)
        copied.questions = tuple(questions)
        own_names = {question.name for question in questions if question in self.questions}
        own_labels = (
            {n: o for n, o in example.labels.items() if n in own_names} for example in self.examples
        )
        pairs = zip(self.examples, own_labels, strict=True)
        copied.examples = tuple(
            replace(example, labels=labels) for example, labels in pairs if labels
        )
        copied.use_calibrations({n: c for n, c in self.calibrations.items() if n in own_names})
        return copied

    def alone(self) -> Self:
        """Return a copy whose endpoint alone decides, without encoder and calibration."""
        copied = copy.copy(self)
        copied.encoder = None
        return copied.calibrated(None)

    def _by_name(self, calibration: Calibrations) -> Mapping[str, Calibration]:
        names = [question.name for question in self.questions]
        if calibration is None:
            return {}
        if not isinstance(calibration, Mapping):
            if len(names) > 1:
                raise CalibrationError(
                    f"{self.name} asks {len(names)} questions ({', '.join(names)}): give each "
                    "its calibration by its name"
                )
            return dict.fromkeys(names, calibration)
        for name in calibration:
            if name not in names:
                raise CalibrationError(
                    f"{self.name} has no question {name!r} to calibrate, only {', '.join(names)}"
                )
        return calibration

    def use_calibrations(self, calibration_by_name: Mapping[str, Calibration]) -> None:
        """Set the calibrations by question name; other questions keep their default scorer."""
        self.calibrations = calibration_by_name
        """Given and shipped calibrations, by question name."""
        heads = heads_of(self.encoder)
        uncalibrated = [
            question for question in self.questions if question.name not in calibration_by_name
        ]
        self._to_fit = tuple(
            q for q in uncalibrated if heads is not None and _has_enough_examples(q, self.examples)
        )
        default_questions = [question for question in uncalibrated if question not in self._to_fit]
        names = {question.name for question in default_questions}
        examples = [example for example in self.examples if names & set(example.labels)]
        calibrations = {
            q.name: self._default(q, examples, heads) for q in default_questions
        } | dict(calibration_by_name)
        # A question that a text may leave open has one more option where a model writes the
        # answers. Else it is asked twice: what the answer is, and whether the text tells it.
        # `_mark_untold` joins the two.
        by_name = {question.name: question for question in self.questions}
        as_json = answers_as_json(self.endpoint)
        answerable = [
            question.answerable_question
            for question in self.questions
            if question.unknown and not (as_json and _asks(calibrations.get(question.name)))
        ]
        by_name |= {question.name: question for question in answerable}
        calibrations |= {question.name: make_unfitted(question) for question in answerable}
        self._scorers = {
            n: CalibratedDecider(c, by_name[n], self._sources) for n, c in calibrations.items()
        }
        scorers = self._scorers.values()
        self._features = [feature for scorer in scorers for feature in scorer.calibration.features]
        self._plan = Plan.of(scorer.question_features for scorer in scorers)
        self._doubts = {
            q.name: Doubts(
                q,
                self.endpoint.model,
                bare=_is_bare(q, examples),
                chats=as_json,
                is_large=self.endpoint.tier == "llm",
            )
            for q in default_questions
        }

    def _default(
        self, question: Question, examples: Sequence[Example], heads: Heads | None
    ) -> Calibration:
        if heads is not None:
            by_labels = question.kind == "choice" and not (
                _is_bare(question, examples) and self._may_choose(question)
            )
            if by_labels or is_about_whole_text(question):
                return calibrate_by_words(question, self.endpoint, heads, examples)
        return make_unfitted(question, examples)

    def _may_choose(self, question: Question) -> bool:
        """Return True if the endpoint may choose among bare labels, which tell an encoder little.

        False for very many labels, or if the model is known to guess.
        """
        guesses = question.kind in facts_of(self.endpoint.model).guesses
        return not guesses and len(question.options) <= MOST_OPTIONS

    @abstractmethod
    def read(self, answers: Sequence[Answer]) -> Out:
        """Turn the answers, one for each question and in their order, into the output."""

    async def adapt(
        self,
        *,
        labelled: Sequence[Example] = (),
        unlabelled: Sequence[str] = (),
        context: RunContext | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Return a copy fitted to its task; see `moa.learning.adapt.adapt`.

        Its `calibrations` can be saved.

        Args:
            labelled: Texts with the names of the right options, by name of the question.
            unlabelled: Texts like those to come; used if there are at least 32.
            context: Budget, deadline and ledger of the fitting; `None` starts one.
            progress: Called with the name of a feature, the number of texts read, and their total.

        Raises:
            EndpointError: a request failed.
            BudgetExceeded: a limit would be passed.
            DeadlineExceeded: the run's time is up.
            MissingDependency: numpy, or SciPy to fit to labels, is not installed.
        """
        encoder = self.encoder or (encoder_for(self.endpoint) if labelled else None)
        calibrations = await FITTING.open().adapt(
            self.endpoint,
            self.questions,
            labelled=labelled,
            unlabelled=unlabelled,
            examples=self.examples,
            encoder=encoder if feeds_heads(encoder) else None,
            context=(context or RunContext()).nested(self.name),
            progress=progress,
        )
        return self.calibrated(calibrations)

    async def rehearse(self, text: str, context: RunContext) -> None:
        """In a rehearsal, record the prompts, and describe scorers that need none.

        It returns if no model is asked, unless the agent itself is rehearsed.
        """
        if (rehearsal := REHEARSAL.get()) is None:
            return
        rehearsal.record(self._describe_ways(), context.node)
        if self._plan.requests:
            await gather(
                request.ask(text, self._sources, context) for request in self._plan.requests
            )
        if context.node == rehearsal.root:
            await rehearsal.hold()

    def _describe_ways(self) -> Iterator[SentPrompt]:
        """Describe what decides without a prompt."""
        for question, features in self._plan.questions:
            for feature in features:
                if not isinstance(feature, LabelFeature):
                    source = self._sources[feature.source]
                    way = f"question {question.name!r} without a prompt: "
                    way += self._scorers[question.name].calibration.origin or "a calibration"
                    yield SentPrompt(source.name, source.model, way)
        for question in self._to_fit:
            source = self._sources[ENCODER]
            way = f"question {question.name!r}: a head, fitted to its examples at the first text"
            yield SentPrompt(source.name, source.model, way)

    async def answer(self, request: Text | str, context: RunContext) -> Out:
        """Answer the questions, and turn the answers into the output."""
        return self.read(await self.answers(request, context))

    async def answers(self, request: Text | str, context: RunContext) -> list[Answer]:
        """Read the text once for all questions, and return their answers in order.

        Raises:
            InputError: the text is empty.
        """
        return (await self.answers_and_reads(request, (), context))[0]

    async def answers_and_reads(
        self, request: Text | str, also: Sequence[Feature], context: RunContext
    ) -> tuple[list[Answer], list[TextReading]]:
        """Return the answers, and what further features read of the same text.

        Raises:
            InputError: the text is empty.
        """
        text = str(request)
        if not text.strip():
            raise InputError(f"{self.name}: the text is empty, so there is nothing to decide on")
        start_ns = 0 if context.tracer is None else time.time_ns()
        text = await self._cut_to_window(text, context)
        await self.rehearse(text, context)
        scorers, plan = self._scorers, self._plan
        if self._to_fit:
            new_scorers = await self._first_fit.get(
                self._to_fit, self.examples, self._sources, context
            )
            scorers = {**scorers, **new_scorers}
            plan = Plan.of(scorer.question_features for scorer in scorers.values())
        for scorer in scorers.values():
            for warning in await scorer.check_identities(context):
                context.note("degraded", warning)
        if also:
            plan = Plan.of([*plan.questions, QuestionFeatures(self.questions[0], also)])
        reads = await plan.read(text, self._sources, context)
        further = reads.pop() if also else []
        pairs = zip(scorers.values(), reads, strict=True)
        answers = {s.question.name: self._with_doubt(s.conclude(read, text)) for s, read in pairs}
        self._note(scorers, answers, context)
        for scorer, read in zip(scorers.values(), reads, strict=True):
            self._note_refusals(scorer.question.name, answers, read, context)
        marked_answers = [_mark_untold(question, answers) for question in self.questions]
        if context.tracer is not None and context.tracer.is_recorded:
            bounds = {name: scorer.calibration.bound for name, scorer in scorers.items()}
            for answer in marked_answers:
                _trace(answer, bounds[answer.question.name], start_ns, context)
        return marked_answers, further

    def _with_doubt(self, answer: Answer) -> Answer:
        """Add the reason to doubt an answer that has no fitted scorer.

        Where most of the probability isn't on the options, theirs say little: none is given.
        """
        doubts = self._doubts.get(answer.question.name)
        if doubts is None or answer.doubt:
            return answer
        if doubts.says_else(answer):
            answer = replace(answer, probabilities=None, written=answer.best, source="text")
        return replace(answer, doubt=doubts.find(answer))

    async def _cut_to_window(self, text: str, context: RunContext) -> str:
        """Cut a text that exceeds the endpoint's window to its opening and end, and note it.

        A quarter of the window is then left for the questions, with any tokenizer: a text never has
        more tokens than bytes.
        """
        window = window_of(self.endpoint)
        if window is None or not self.asks_endpoint:
            return text
        limit, room = window // 4, window * 3 // 4
        tokens = approximate_tokens(text)
        if tokens <= limit:
            return text
        if tokens <= 2 * window and await tokens_of(self.endpoint, text, context) <= room:
            return text
        cut = excerpt(text, max_tokens=limit)
        context.note(
            "truncated",
            f"decided on {len(cut)} of {len(text)} characters, the opening and the end: more does "
            f"not fit the context window of {self.endpoint.model}, which is {window} tokens",
        )
        return cut

    def _note(
        self,
        scorers: Mapping[str, CalibratedDecider],
        answers: Mapping[str, Answer],
        context: RunContext,
    ) -> None:
        """Note in the trace what decided, and answers that are missing, written or doubtful."""
        for name, answer in answers.items():
            if answer.status != "answered":
                context.note("refused", f"question {name!r} has no answer: {answer.status}")
            elif answer.probabilities is None:
                context.note(
                    "degraded",
                    f"question {name!r} has no probabilities and no confidence",
                )
            if answer.doubt:
                context.note("doubtful", f"question {name!r} is DOUBTFUL: {answer.doubt}")
        descriptions = (self._describe_scorer(scorer.calibration) for scorer in scorers.values())
        for way in dict.fromkeys(filter(None, descriptions)):
            context.note("changed", way)

    @staticmethod
    def _note_refusals(
        name: str, answers: Mapping[str, Answer], reads: Sequence[TextReading], context: RunContext
    ) -> None:
        """Note a question that the endpoint refused, if something else decided it."""
        statuses = [answer.status for read in reads for answer in read.answers]
        refused = next((status for status in statuses if status != "answered"), None)
        if refused is not None and answers[name].status == "answered":
            context.note("refused", f"question {name!r} is decided without an answer: {refused}")

    def _describe_scorer(self, calibration: Calibration) -> str:
        """Describe the scorer; empty with a bound, or if the plain endpoint decided."""
        if calibration.bound is not None:
            return ""
        if _reads_vectors(calibration):
            asks_endpoint = any(
                isinstance(feature, LabelFeature) for feature in calibration.features
            )
            also = f" and {self.endpoint.model}" if asks_endpoint else ""
            return f"decided by an encoder's heads{also}: {calibration.origin}"
        return f"probabilities corrected: {calibration.origin}" if calibration.full else ""


def _mark_untold(question: Question, answers: Mapping[str, Answer]) -> Answer:
    """Return a question's answer, marked as untold if the text doesn't tell it."""
    answer = answers[question.name]
    if not question.unknown or answer.status != "answered":
        return answer
    answerable = answers.get(question.answerable_question.name)
    if answerable is None:  # it was one of the options
        return answer
    if answerable.status != "answered" or answerable.best == 0:
        return answer
    # The guarantee and the expected precision are about the option, which isn't given.
    accepted = None if answer.accepted is None else False
    return replace(answer, untold=True, accepted=accepted, expected_precision=None)


def _trace(answer: Answer, bound: Bound | None, start_ns: int, context: RunContext) -> None:
    """Record the span of a decision, from the reading of the text to the answer."""
    assert context.tracer is not None, "somebody hears of it"
    span = start(context.tracer, "decision", answer.question.name, context.node, start_ns=start_ns)
    if answer.status == "answered" and not answer.untold:
        span.set(names.DECISION_LABEL, answer.question.options[answer.best].name)
        if answer.probabilities is not None:
            span.set(names.DECISION_PROBABILITY, max(answer.probabilities))
    span.set(names.DECISION_ACCEPTED, answer.accepted)
    if bound is not None:
        span.set(names.DECISION_BOUND, bound.guarantee.risk)
        span.set(names.DECISION_THRESHOLD, bound.threshold)
    span.end()


def _reads_vectors(calibration: Calibration) -> bool:
    return any(not isinstance(feature, LabelFeature) for feature in calibration.features)


def _asks(calibration: Calibration | None) -> bool:
    """Return True if the endpoint is asked for it; `None` is still to be fitted, by an encoder."""
    return calibration is not None and any(
        isinstance(feature, LabelFeature) for feature in calibration.features
    )


def _is_bare(question: Question, examples: Sequence[Example]) -> bool:
    """Return True if a question's labels have neither descriptions nor examples."""
    return not (
        any(option.description for option in question.options)
        or any(question.name in example.labels for example in examples)
    )


def _has_enough_examples(question: Question, examples: Sequence[Example]) -> bool:
    return len(examples) >= ENOUGH and FITTING.open().has_enough_examples(question, examples)


class _FirstFit:
    """Fits scorers to an agent's own examples at its first call, once for all its copies."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._found: dict[str, CalibratedDecider] = {}

    def found(self, questions: Sequence[Question]) -> list[CalibratedDecider]:
        """Return the scorers that are fitted already."""
        return [self._found[q.name] for q in questions if q.name in self._found]

    async def get(
        self,
        questions: Sequence[Question],
        examples: Sequence[Example],
        sources: Sources,
        context: RunContext,
    ) -> Mapping[str, CalibratedDecider]:
        """Return the fitted scorers; callers wait while they are being fitted."""
        if any(question.name not in self._found for question in questions):
            async with self._lock.hold(context.remaining_s()):
                await self._fit(questions, examples, sources, context)
        return {question.name: self._found[question.name] for question in questions}

    async def _fit(
        self,
        questions: Sequence[Question],
        examples: Sequence[Example],
        sources: Sources,
        context: RunContext,
    ) -> None:
        missing = [question for question in questions if question.name not in self._found]
        calibrations = await FITTING.open().adapt(
            sources[DECIDES],
            missing,
            labelled=examples,
            encoder=sources[ENCODER],
            asks=False,
            context=context,
        )
        for question in missing:
            self._found[question.name] = CalibratedDecider(
                calibrations[question.name], question, sources
            )


class Decider(DecidingAgent[M]):
    """Asks the questions in a pydantic model's fields, and returns the model with answers.

    Args:
        endpoint: The endpoint that decides, or its name: `"VENDOR:MODEL"`.
        questions: Fields of `Predicate`, `Choice` and `Score`.
        examples: Texts with the names of the right options, by name of the question; see
            `DecidingAgent`.
        calibration: Fitted scorers, by name of the question; see `DecidingAgent`.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't decide.
        ConfigError: a field is not a question.
        CalibrationError: a calibration belongs to another question.

    Examples:
        >>> class Triage(BaseModel):
        ...     refund: Predicate = predicate("Does the customer ask for money back?")
        ...     topic: Choice[str] = choice("What is it about?", labels=["card", "app"])
        >>> small = ScriptedEndpoint([{"refund": {"yes": 0.9}, "topic": {"card": 0.8, "app": 0.2}}])
        >>> triage = Decider(small, Triage).run_sync("I paid twice!").output
        >>> triage.refund.value, triage.topic.label
        (True, 'card')
    """

    def __init__(
        self,
        endpoint: Endpoint | str,
        questions: type[M],
        *,
        examples: Sequence[Example] = (),
        calibration: Calibrations = None,
        **limits: Unpack[Limits],
    ) -> None:
        self.output_type = questions
        super().__init__(
            endpoint, questions_of(questions), examples=examples, calibration=calibration, **limits
        )

    def read(self, answers: Sequence[Answer]) -> M:
        """Fill in the model."""
        return fill(self.output_type, answers)

    def select(self, names: Sequence[str]) -> Decider[BaseModel]:
        """Return a copy that asks some of the questions; its output has only their fields.

        Args:
            names: Names of the questions, in any order.

        Raises:
            ConfigError: `names` is empty, or names a question that it doesn't ask.
        """
        model = self.output_type
        unknown = [name for name in names if name not in model.model_fields]
        if unknown or not names:
            raise ConfigError(
                f"agent {self.name!r} asks {list(model.model_fields)}, and can't be asked "
                f"{unknown or 'nothing'}"
            )
        questions = tuple(question for question in self.questions if question.name in names)
        fields: dict[str, Any] = {
            q.name: (model.model_fields[q.name].annotation, model.model_fields[q.name])
            for q in questions
        }
        part: Any = copy.copy(self)
        part.output_type = create_model(model.__name__, **fields)
        part.questions = questions
        part.use_calibrations({n: c for n, c in self.calibrations.items() if n in names})
        return part


def examples_of(question: Question, pairs: Sequence[tuple[str, object]]) -> tuple[Example, ...]:
    """Make examples from pairs of a text and an option's value.

    Raises:
        ConfigError: a value belongs to no option, or the pairs are a mapping.
    """
    examples: list[Example] = []
    if isinstance(pairs, Mapping):
        raise ConfigError(
            f"the examples of {question.name!r} are a list of texts and labels: items()"
        )
    for text, value in pairs:
        names = [option.name for option in question.options if option.value == value]
        if not names:
            may = " (none=True lets it be one)" if value is None else ""
            raise ConfigError(
                f"an example of {question.name!r} has the label {value!r}, which is none of "
                f"{[option.value for option in question.options]}{may}"
            )
        examples.append(Example(text, {question.name: names[0]}))
    return tuple(examples)
