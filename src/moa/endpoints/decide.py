"""Deciding: backends by which an endpoint decides, and the search for the first that works.

Two backends are routes of the server. `SystemOne` is `POST /v1/systemone`, as vLLM, llama.cpp,
Ollama, SGLang and others serve it: <https://github.com/mandu5/jevcompat/blob/main/SPEC.md>.
`Decisions` is OpenAI's `POST /v1/decisions`, as `AsyncOpenAI.decisions.create` of openai 3.57 calls
it. Only the probabilities of an answer are read: everything else follows from them.
"""

from __future__ import annotations

import json
import math
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import ClassVar, Literal, Protocol

from moa.core._async import Lock, gather
from moa.core._json import JSON, is_list, is_object, object_of, objects_of
from moa.core.context import RunContext
from moa.core.errors import (
    ConfigError,
    EndpointRejected,
    EndpointUnsupported,
    InvalidResponse,
)
from moa.core.questions import UNTOLD, Answer, Option, Question
from moa.core.usage import NOTHING
from moa.endpoints import Completion, Decision, DecisionRequest, Prompt
from moa.endpoints.client import Client
from moa.endpoints.dialects import OPENAI, UNKNOWN, Dialect, dialect_of
from moa.endpoints.known import reads_labels
from moa.endpoints.rehearsal import REHEARSAL
from moa.endpoints.sent import SentPrompt, show
from moa.endpoints.tokens import estimate_of, neutralise

Decides = Literal["auto", "systemone", "decisions", "labels", "text"]
"""How an endpoint decides: by `/v1/systemone`; by `/v1/decisions`; by the log-probabilities of
labels that continue a prompt; by answers that it writes as JSON (`text`); or as suits it (`auto`):
natively if the server can, else by labels if that is known to be better for the model, else as
JSON.
"""
JSON_TITLE = "answers as JSON"
LABELS_TITLE = "label log-probabilities"
_TOKENS_AN_ANSWER = 2
_BAND = (0.97, 1.03)
"""Range of sums of probabilities that counts as rounding: gateways that keep two decimals send 0.33
three times."""
_ROUNDING = 1e-6
"""Tolerance of a probability below 0 or above 1."""


class Completer(Protocol):
    """Completes prompts, as an endpoint does."""

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """Complete a prompt."""
        ...


class Backend(Protocol):
    """A way to decide: a route of the server, label log-probabilities, or answers as JSON."""

    @property
    def title(self) -> str:
        """Name in traces, such as `label log-probabilities`."""
        ...

    async def decide(self, request: DecisionRequest, context: RunContext) -> Decision:
        """Answer typed questions about a text without control tokens.

        `EndpointUnsupported`: the server can't decide in this way.
        """
        ...


class DecisionClient:
    """Decides by the first backend that works on the server, and remembers it.

    The first decision finds it from the server's information and one trial of each backend. Other
    decisions wait meanwhile. An unknown dialect is read from the server.
    """

    def __init__(
        self, client: Client, asker: Completer, *, decides: Decides, dialect: Dialect | None
    ) -> None:
        self.priority = 0
        """Priority of label readings, if vLLM schedules by priority. Lower is earlier."""
        self._client = client
        self._asker = asker
        self._decides: Decides = decides
        self.dialect = dialect
        self._backend: Backend | None = None
        """The backend that works; `None` until it is found."""
        self._skip_reasons: list[str] = []
        """Why other backends were skipped, for the trace."""
        self._search_lock = Lock()

    @cached_property
    def _json(self) -> Backend:
        from moa.endpoints.json_answers import JSONAnswers

        return JSONAnswers(self._asker)

    async def decide(self, request: DecisionRequest, context: RunContext) -> Decision:
        """Answer typed questions about a text; see `Backend.decide`."""
        if REHEARSAL.get() is not None:  # no backend is tried: show the first
            backend = self._backend or (await self._list_backends(context))[0][0]
            return await backend.decide(request, context)
        async with self._search_lock.hold(context.remaining_s()):
            is_known = self._backend is not None
            decision = None if is_known else await self._try(request, context)
        if decision is not None:
            return decision
        if is_known:
            for reason in self._skip_reasons:
                context.note("fell back", reason, endpoint=self._client.name)
        assert self._backend is not None
        return await self._backend.decide(request, context)

    async def _try(self, request: DecisionRequest, context: RunContext) -> Decision | None:
        """Find the backend that works and return its decision, or `None` if only the last is left.

        The reason to skip a backend is noted in the trace before the next one notes anything.
        """
        backends, reasons = await self._list_backends(context)
        for reason in reasons:
            context.note("fell back", reason, endpoint=self._client.name)
        for backend, next_backend in pairwise(backends):
            try:
                decision = await backend.decide(request, context)
            except EndpointUnsupported as error:
                reasons.append(f"to {next_backend.title}: {error}")
                context.note("fell back", reasons[-1], endpoint=self._client.name)
            else:
                self._backend, self._skip_reasons = backend, reasons
                return decision
        self._backend, self._skip_reasons = backends[-1], reasons
        return None

    async def _list_backends(self, context: RunContext) -> tuple[list[Backend], list[str]]:
        """Return the backends that may work, and why earlier ones can't."""
        match self._decides:
            case "systemone":
                return [SystemOne(self._client, self.dialect or UNKNOWN)], []
            case "decisions":
                return [Decisions(self._client, self.dialect or OPENAI)], []
            case "text":
                return [self._json], []
            case "labels":
                if readers := self._label_readers(
                    self.dialect or await self._detect_dialect(context)
                ):
                    return readers, []
                raise ConfigError(
                    f"{self._client.name}: label log-probabilities are read from vLLM and "
                    "llama.cpp, and this server says in GET /v1/models that it is neither. "
                    'Give the endpoint its `dialect`, or let it decide by "auto" or "text"'
                )
            case "auto":
                return await self._list_all_backends(context)

    async def _list_all_backends(self, context: RunContext) -> tuple[list[Backend], list[str]]:
        dialect = self.dialect or (OPENAI if self._client.is_hosted_by_openai else None)
        try:
            dialect = dialect or await self._detect_dialect(context)
        except EndpointUnsupported as error:  # no model list, so no native route
            return [self._json], [f"to {self._json.title}: {error}"]
        native = Decisions if dialect.wire == "decisions" else SystemOne
        readers = self._label_readers(dialect) if reads_labels(self._client.model) else []
        return [native(self._client, dialect), *readers, self._json], []

    def _label_readers(self, dialect: Dialect) -> list[Backend]:
        """Return the reader of label log-probabilities, if the server sends them."""
        from moa.endpoints.logprobs import LlamaCppReader, VLLMLabelReader

        match dialect.labels:
            case "vllm":
                return [VLLMLabelReader(self._client, priority=self.priority)]
            case "llama.cpp":
                return [LlamaCppReader(self._client)]
            case None:
                return []

    async def _detect_dialect(self, context: RunContext) -> Dialect:
        """Detect the server's dialect from its list of models."""
        try:
            return dialect_of(await self._client.get("/models", context))
        except EndpointRejected as error:
            if error.status not in (404, 405, 501):
                raise
            raise _make_unsupported(error) from error


def describe_way(decides: Decides, dialect: Dialect | None, model: str) -> str:
    """Describe how a model will decide, as far as it is known before the first decision."""
    match decides:
        case "systemone" | "decisions":
            return f"by /v1/{decides}"
        case "labels":
            return LABELS_TITLE
        case "text":
            return JSON_TITLE
        case "auto":
            if dialect is None:
                return "not known yet"
            fallback = LABELS_TITLE if dialect.labels and reads_labels(model) else JSON_TITLE
            return f"natively if it can, else {fallback}"


def _make_unsupported(error: EndpointRejected) -> EndpointUnsupported:
    return EndpointUnsupported(error.message, endpoint=error.endpoint, status=error.status)


@dataclass(frozen=True, slots=True)
class Native(ABC):
    """Base class of server routes that decide. They send several requests if one is too small."""

    client: Client
    dialect: Dialect
    """Limits of the server's requests."""

    title: ClassVar[str]
    path: ClassVar[str]
    """The route, such as `/systemone`."""
    refusal_signs: ClassVar[tuple[tuple[int, ...], str]]
    """Statuses, and words of the message, that say that the model can't decide."""

    async def decide(self, request: DecisionRequest, context: RunContext) -> Decision:
        """Answer typed questions about a text; see `Backend.decide`."""
        text, questions, examples = request
        self.dialect.check(text, questions)
        batches = self.dialect.split(number_duplicates(questions))
        parts = await gather(self._ask(text, batch, context) for batch in batches)
        if examples:
            note = f"{len(examples)} examples: this server decides by itself and takes none"
            context.note("dropped", note, endpoint=self.client.name)
        answers = (answer for part in parts for answer in part.answers)
        pairs = zip(answers, questions, strict=True)
        return replace(
            parts[0],
            answers=tuple(replace(answer, question=question) for answer, question in pairs),
            amount=sum((part.amount for part in parts), NOTHING),
        )

    def _describe(self, body: JSON) -> list[SentPrompt]:
        fields = {key: value for key, value in body.items() if key != "model"}
        texts = ((key, _as_text(value)) for key, value in fields.items())
        return [SentPrompt(self.client.name, self.client.model, self.title, tuple(texts))]

    async def _ask(self, text: str, questions: Sequence[Question], context: RunContext) -> Decision:
        client = self.client
        texts = (words for q in questions for words in (q.text, *(o.name for o in q.options)))
        tokens = _TOKENS_AN_ANSWER * len(questions)
        estimate = estimate_of(text, *texts, max_tokens=tokens, price=client.price)
        body = self.body(text, questions)
        await show(partial(self._describe, body), context)
        try:
            reply, amount = await client.post(self.path, body, context, estimate=estimate)
        except EndpointRejected as error:
            statuses, words = self.refusal_signs
            if error.status not in statuses or words not in error.message.lower():
                raise
            raise _make_unsupported(error) from error
        pairs = zip(questions, self.answers(reply, questions), strict=True)
        answers = [self._answer(question, raw_answer, reply) for question, raw_answer in pairs]
        for answer in answers:
            if answer.status == "refused":
                context.note("refused", answer.question.name, endpoint=client.name)
        model = reply.get("model")
        served_model = model if isinstance(model, str) and model else client.model
        context.note("answered", served_model, endpoint=client.name)
        return Decision(
            answers=tuple(answers), endpoint=client.name, model=served_model, amount=amount
        )

    def _answer(self, question: Question, raw_answer: object, reply: JSON) -> Answer:
        if not is_object(raw_answer):
            return Answer(question=question, status="missing")
        if raw_answer.get("type") == "refusal":
            return Answer(question=question, status="refused")
        return self.read(question, raw_answer, reply)

    @abstractmethod
    def body(self, text: str, questions: Sequence[Question]) -> JSON:
        """Return the body of a request."""

    @abstractmethod
    def answers(self, reply: JSON, questions: Sequence[Question]) -> Sequence[object]:
        """Return an answer for each question, in order. `InvalidResponse`: they are missing."""

    @abstractmethod
    def read(self, question: Question, body: JSON, reply: JSON) -> Answer:
        """Read an answer. `InvalidResponse`: it has another format."""

    def weigh(
        self, question: Question, probabilities: Sequence[object], *, label_mass: object = None
    ) -> Answer:
        """Build the answer from a probability for each option, in order."""
        numbers = [self._probability(value, question) for value in probabilities]
        total = math.fsum(numbers)
        if not _BAND[0] <= total <= _BAND[1]:
            raise self.invalid(
                f"the probabilities of question {question.name!r} add up to {total:.4g}, not to 1"
            )
        return Answer(
            question=question,
            probabilities=tuple(value / total for value in numbers),
            label_mass=_number(label_mass),
        )

    def order(self, question: Question, answers: Mapping[str, object]) -> list[object]:
        """Sort probabilities by option, given their names. A missing one is 0.

        Levels of a score are named by number, starting at "0".
        """
        levels = list(map(str, range(len(question.options))))
        names = levels if question.kind == "score" else _option_names(question)
        exact_index = {name: index for index, name in enumerate(names)}
        folded_index: dict[str, int] = {}
        for index, name in enumerate(names):
            key = fold(name)
            folded_index[key] = -1 if key in folded_index else index
        values: list[object] = [0.0] * len(names)
        for name, value in answers.items():
            index = exact_index.get(name, folded_index.get(fold(name), -1))
            if index < 0:
                raise self.invalid(
                    f"question {question.name!r} was answered with option {name!r}, which was not "
                    f"offered. Options: {', '.join(names)}"
                )
            values[index] = value
        return values

    def _probability(self, value: object, question: Question) -> float:
        number = _number(value)
        if number is None or not -_ROUNDING <= number <= 1.0 + _ROUNDING:
            raise self.invalid(f"{value!r} is no probability (question {question.name!r})")
        return min(1.0, max(0.0, number))

    def invalid(self, reason: str) -> InvalidResponse:
        """Return the error for an invalid answer of the server."""
        return InvalidResponse(reason, endpoint=self.client.name)


class SystemOne(Native):
    """Decides by `/v1/systemone`: questions and answers are objects, by name."""

    title = "System One"
    path = "/systemone"
    refusal_signs = (400,), "does not support"  # Ollama's

    def body(self, text: str, questions: Sequence[Question]) -> JSON:
        """Return the body of a request."""
        questions_by_name = {
            question.name: self._write_question(question) for question in questions
        }
        return {"model": self.client.model, "state": text, "questions": questions_by_name}

    def answers(self, reply: JSON, questions: Sequence[Question]) -> Sequence[object]:
        """Return an answer for each question."""
        answers = reply.get("answers")
        if not is_object(answers):
            raise self.invalid("the answer holds no `answers`")
        return [answers.get(question.name) for question in questions]

    def read(self, question: Question, body: JSON, reply: JSON) -> Answer:
        """Read an answer. Gateways to generative models may omit probabilities."""
        if question.kind == "predicate":
            probabilities = _with_complement(body.get("noul"))
        elif is_object(likelihoods := body.get("probabilities")):
            probabilities = self.order(question, likelihoods)
        else:
            name, names = body.get("choice"), _option_names(question)
            if not isinstance(name, str) or name not in names:
                return answer_of_label(question, None)
            return answer_of_label(question, question.options[names.index(name)].name)
        # vLLM puts the mass into `diagnostics`; SGLang and moa put it beside the answer.
        diagnostics = object_of(object_of(reply.get("diagnostics")).get(question.name))
        mass = diagnostics.get("label_mass", body.get("label_mass", body.get("x_label_mass")))
        return self.weigh(question, probabilities, label_mass=mass)

    def _write_question(self, question: Question) -> JSON:
        text = neutralise(question.text)
        if question.kind == "score":
            levels = [neutralise(_format_option(option)) for option in question.options]
            return {"type": "score", "instructions": text, "criteria": levels}
        meanings = [
            None if option.description is None else neutralise(option.description)
            for option in question.options
        ]
        if question.kind == "choice":
            criteria = dict(zip(_option_names(question), meanings, strict=True))
            return {"type": "choice", "instructions": text, "criteria": criteria}
        pairs = zip(("true", "false"), meanings, strict=True)
        named_meanings = {name: meaning for name, meaning in pairs if meaning is not None}
        fields: JSON = {"type": "noul", "instructions": text}
        return {**fields, "criteria": named_meanings} if named_meanings else fields


class Decisions(Native):
    """Decides by `/v1/decisions`: questions and answers are lists in the same order."""

    title = "OpenAI Decisions"
    path = "/decisions"
    refusal_signs = (400, 404), "model"  # OpenAI's message names the models that decide

    def body(self, text: str, questions: Sequence[Question]) -> JSON:
        """Return the body of a request."""
        question_objects = list(map(self._write_question, questions))
        return {"model": self.client.model, "input": text, "questions": question_objects}

    def answers(self, reply: JSON, questions: Sequence[Question]) -> Sequence[object]:
        """Return an answer for each question. Missing ones at the end are `None`."""
        answers = reply.get("answers")
        if not is_list(answers):
            raise self.invalid("the answer holds no list of `answers`")
        if len(answers) > len(questions):
            raise self.invalid(f"{len(answers)} answers came for {len(questions)} questions")
        for question, answer in zip(questions, answers, strict=False):
            name = object_of(answer).get("name")
            if name is not None and name != question.name:
                raise self.invalid(
                    f"the answer to question {question.name!r} came under the name {name!r}"
                )
        return [*answers, *[None] * (len(questions) - len(answers))]

    def read(self, question: Question, body: JSON, reply: JSON) -> Answer:
        """Read an answer."""
        del reply
        if question.kind == "predicate":
            return self.weigh(question, _with_complement(body.get("probability")))
        rows = objects_of(body.get("probabilities"))
        probabilities = {str(row.get("value")): row.get("probability") for row in rows}
        return self.weigh(question, self.order(question, probabilities))

    def _write_question(self, question: Question) -> JSON:
        text = neutralise(question.text)
        fields: JSON = {"type": question.kind, "name": question.name, "instructions": text}
        if question.kind == "predicate":
            # A predicate has no field for the meanings of yes and no, so its text states them.
            meanings = [_format_option(o) for o in question.options if o.description]
            lines = [text, *map(neutralise, meanings)]
            return {**fields, "instructions": "\n".join(lines)}
        if question.kind == "choice":
            return {**fields, "choices": [self._write_option(o, "value") for o in question.options]}
        return {**fields, "levels": [self._write_option(o, "label") for o in question.options]}

    def _write_option(self, option: Option, key: str) -> Mapping[str, str]:
        name = {key: neutralise(option.name)}
        if option.description is None:
            return name
        return {**name, "description": neutralise(option.description)}


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _option_names(question: Question) -> list[str]:
    return [neutralise(option.name) for option in question.options]


def _format_option(option: Option) -> str:
    return f"{option.name}: {option.description}" if option.description else option.name


def _with_complement(yes: object) -> list[object]:
    """Return the probabilities of yes and no."""
    number = _number(yes)
    return [yes, yes if number is None else 1.0 - number]


def _number(value: object) -> float | None:
    """Return a finite number; `None` for anything else, such as a boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def option_names(question: Question) -> tuple[str, ...]:
    """Return the names of a question's options, with that of an unknown answer last."""
    names = tuple(option.name for option in question.options)
    return (*names, UNTOLD) if question.unknown else names


def answer_of_label(question: Question, name: object) -> Answer:
    """Build the answer from a written label. An unknown label counts as no answer."""
    names = [fold(option) for option in option_names(question)]
    label = fold(name.strip()) if isinstance(name, str) else ""
    if names.count(label) != 1:
        return Answer(question=question, status="missing", source="text")
    place = names.index(label)
    if place == len(question.options):
        return Answer(question=question, written=0, source="text", untold=True)
    return Answer(question=question, written=place, source="text")


def fold(name: str) -> str:
    """Fold the case of a name, and what Unicode writes in several ways."""
    return unicodedata.normalize("NFC", name).casefold()


def number_duplicates(questions: Sequence[Question]) -> list[Question]:
    """Number questions of the same name, to tell their answers apart."""
    names: set[str] = set()
    unique_questions: list[Question] = []
    for question in questions:
        name, count = question.name, 1
        while name in names:
            count += 1
            name = f"{question.name}_{count}"
        names.add(name)
        unique_questions.append(question if name == question.name else replace(question, name=name))
    return unique_questions
