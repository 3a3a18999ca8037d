"""Native: decides by a route of the server itself, in one of two formats.

`SystemOne` is `POST /v1/systemone`, as vLLM, llama.cpp, Ollama, SGLang and others serve it:
<https://github.com/mandu5/jevcompat/blob/main/SPEC.md>. `Decisions` is OpenAI's
`POST /v1/decisions`, as `AsyncOpenAI.decisions.create` of openai 3.57 sends it. Of what a server
sends, the probabilities alone are read: the rest is worked out from them.
"""

from __future__ import annotations

import math
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

from moa._async import gather
from moa.context import RunContext
from moa.endpoints import Decision, Request
from moa.endpoints.client import JSON, Client, object_of, objects_of
from moa.endpoints.control_tokens import neutralise
from moa.endpoints.dialects import Dialect
from moa.endpoints.tokens import estimate_of
from moa.errors import EndpointRejected, EndpointUnsupported, InvalidResponse
from moa.questions import Answer, Option, Question
from moa.usage import NOTHING

_TOKENS_AN_ANSWER = 2
_BAND = (0.97, 1.03)
"""Sums that are rounding: gateways that keep two decimals send 0.33 three times."""
_ROUNDING = 1e-6
"""How far a probability may lie outside of 0 to 1."""


@dataclass(frozen=True, slots=True)
class Native(ABC):
    """Decides by a route of the server itself; what doesn't fit one request takes several."""

    client: Client
    dialect: Dialect
    """What the server takes in one request."""

    title: ClassVar[str]
    path: ClassVar[str]
    """The route, such as `/systemone`."""

    async def decide(self, request: Request, context: RunContext) -> Decision:
        """Answer typed questions about a text; see `Backend.decide`."""
        text, questions, examples = request
        self.dialect.check(text, questions)
        asked = self.dialect.requests(unique(questions))
        parts = await gather(self._ask(text, few, context) for few in asked)
        if examples:
            said = f"{len(examples)} examples: this server decides by itself and takes none"
            context.note("dropped", said, endpoint=self.client.name)
        answers = (answer for part in parts for answer in part.answers)
        return replace(
            parts[0],
            answers=tuple(
                replace(answer, question=question)
                for answer, question in zip(answers, questions, strict=True)
            ),
            amount=sum((part.amount for part in parts), NOTHING),
        )

    async def _ask(self, text: str, questions: Sequence[Question], context: RunContext) -> Decision:
        client = self.client
        asked = (words for q in questions for words in (q.text, *(o.name for o in q.options)))
        tokens = _TOKENS_AN_ANSWER * len(questions)
        estimate = estimate_of(text, *asked, max_tokens=tokens, price=client.price)
        body = self.body(text, questions)
        try:
            reply, amount = await client.post(self.path, body, context, estimate=estimate)
        except EndpointRejected as error:
            if not self.is_unable(error):
                raise
            raise EndpointUnsupported(
                error.message, endpoint=client.name, status=error.status
            ) from error
        pairs = zip(questions, self.answers(reply, questions), strict=True)
        answers = [self._answer(question, given, reply) for question, given in pairs]
        for answer in answers:
            if answer.status == "refused":
                context.note("refused", answer.question.name, endpoint=client.name)
        model = reply.get("model")
        served = model if isinstance(model, str) and model else client.model
        context.note("answered", served, endpoint=client.name)
        return Decision(answers=tuple(answers), endpoint=client.name, model=served, amount=amount)

    def _answer(self, question: Question, given: object, reply: JSON) -> Answer:
        if not isinstance(given, dict):
            return Answer(question=question, status="missing")
        answer = cast("JSON", given)
        if answer.get("type") == "refusal":
            return Answer(question=question, status="refused")
        return self.read(question, answer, reply)

    @abstractmethod
    def body(self, text: str, questions: Sequence[Question]) -> JSON:
        """Write a request."""

    @abstractmethod
    def answers(self, reply: JSON, questions: Sequence[Question]) -> Sequence[object]:
        """Find an answer for each question, in order.

        Raises:
            InvalidResponse: they are not in this format.
        """

    @abstractmethod
    def read(self, question: Question, given: JSON, reply: JSON) -> Answer:
        """Read an answer.

        Raises:
            InvalidResponse: it is not in this format.
        """

    @abstractmethod
    def is_unable(self, error: EndpointRejected) -> bool:
        """Tell "this model cannot decide", however the server says it, from a wrong question."""

    def weighed(
        self, question: Question, probabilities: Sequence[object], *, label_mass: object = None
    ) -> Answer:
        """Build the answer from a probability for each option, in order."""
        read = [self._probability(value, question) for value in probabilities]
        total = math.fsum(read)
        if not _BAND[0] <= total <= _BAND[1]:
            raise self.wrong(
                f"the probabilities of question {question.name!r} add up to {total:.4g}, not to 1"
            )
        return Answer(
            question=question,
            probabilities=tuple(value / total for value in read),
            label_mass=_number(label_mass),
        )

    def ordered(self, question: Question, given: Mapping[str, Any]) -> list[object]:
        """Put probabilities that came by the names of options in order; one that is left out is 0.

        Those of a score come by the number of the level, from "0" on.
        """
        levels = list(map(str, range(len(question.options))))
        names = levels if question.kind == "score" else _names(question)
        exact = {name: index for index, name in enumerate(names)}
        alike: dict[str, int] = {}
        for index, name in enumerate(names):
            key = _folded(name)
            alike[key] = -1 if key in alike else index
        ordered: list[object] = [0.0] * len(names)
        for name, value in given.items():
            index = exact.get(name, alike.get(_folded(name), -1))
            if index < 0:
                raise self.wrong(
                    f"question {question.name!r} was answered with option {name!r}, which was not "
                    f"offered. Options: {', '.join(names)}"
                )
            ordered[index] = value
        return ordered

    def _probability(self, value: object, question: Question) -> float:
        number = _number(value)
        if number is None or not -_ROUNDING <= number <= 1.0 + _ROUNDING:
            raise self.wrong(f"{value!r} is no probability (question {question.name!r})")
        return min(1.0, max(0.0, number))

    def wrong(self, said: str) -> InvalidResponse:
        """Say what is wrong with what the server sent."""
        return InvalidResponse(said, endpoint=self.client.name)


class SystemOne(Native):
    """Decides by `/v1/systemone`: questions and answers are objects, by name."""

    title = "System One"
    path = "/systemone"

    def body(self, text: str, questions: Sequence[Question]) -> JSON:
        """Write a request."""
        asked = {question.name: self._asked(question) for question in questions}
        return {"model": self.client.model, "state": text, "questions": asked}

    def answers(self, reply: JSON, questions: Sequence[Question]) -> Sequence[object]:
        """Find an answer for each question."""
        given = reply.get("answers")
        if not isinstance(given, dict):
            raise self.wrong("the answer holds no `answers`")
        return [cast("JSON", given).get(question.name) for question in questions]

    def read(self, question: Question, given: JSON, reply: JSON) -> Answer:
        """Read an answer; gateways to models that write may leave probabilities out."""
        if question.kind == "predicate":
            probabilities = _with_complement(given.get("noul"))
        elif isinstance(given.get("probabilities"), dict):
            probabilities = self.ordered(question, given["probabilities"])
        else:
            name, names = given.get("choice"), _names(question)
            offered = question.options[names.index(name)].name if name in names else None
            return written(question, offered)
        # vLLM has the mass in its `diagnostics`, SGLang beside the answer.
        own = object_of(object_of(reply.get("diagnostics")).get(question.name))
        mass = own.get("label_mass", given.get("label_mass"))
        return self.weighed(question, probabilities, label_mass=mass)

    def is_unable(self, error: EndpointRejected) -> bool:
        """Ollama reports a model that cannot decide by 400."""
        return error.status == 400 and "does not support" in error.message

    def _asked(self, question: Question) -> JSON:
        text = neutralise(question.text)
        if question.kind == "score":
            levels = [neutralise(_described(option)) for option in question.options]
            return {"type": "score", "instructions": text, "criteria": levels}
        meanings = [
            None if option.description is None else neutralise(option.description)
            for option in question.options
        ]
        if question.kind == "choice":
            criteria = dict(zip(_names(question), meanings, strict=True))
            return {"type": "choice", "instructions": text, "criteria": criteria}
        given = zip(("true", "false"), meanings, strict=True)
        told = {name: meaning for name, meaning in given if meaning is not None}
        asked: JSON = {"type": "noul", "instructions": text}
        return {**asked, "criteria": told} if told else asked


class Decisions(Native):
    """Decides by `/v1/decisions`: questions and answers are lists in one order."""

    title = "OpenAI Decisions"
    path = "/decisions"

    def body(self, text: str, questions: Sequence[Question]) -> JSON:
        """Write a request."""
        asked = list(map(self._asked, questions))
        return {"model": self.client.model, "input": text, "questions": asked}

    def answers(self, reply: JSON, questions: Sequence[Question]) -> Sequence[object]:
        """Find an answer for each question; those that are left out at the end are missing."""
        given = reply.get("answers")
        if not isinstance(given, list):
            raise self.wrong("the answer holds no list of `answers`")
        answers = cast("list[object]", given)
        if len(answers) > len(questions):
            raise self.wrong(f"{len(answers)} answers came for {len(questions)} questions")
        for question, answer in zip(questions, answers, strict=False):
            name = object_of(answer).get("name")
            if name is not None and name != question.name:
                raise self.wrong(
                    f"the answer to question {question.name!r} came under the name {name!r}"
                )
        return [*answers, *[None] * (len(questions) - len(answers))]

    def read(self, question: Question, given: JSON, reply: JSON) -> Answer:
        """Read an answer."""
        del reply
        if question.kind == "predicate":
            return self.weighed(question, _with_complement(given.get("probability")))
        rows = objects_of(given.get("probabilities"))
        named = {str(row.get("value")): row.get("probability") for row in rows}
        return self.weighed(question, self.ordered(question, named))

    def is_unable(self, error: EndpointRejected) -> bool:
        """OpenAI names the models that decide by 400 or 404."""
        return error.status in (400, 404) and "model" in error.message.lower()

    def _asked(self, question: Question) -> JSON:
        text = neutralise(question.text)
        asked: JSON = {"type": question.kind, "name": question.name, "instructions": text}
        if question.kind == "predicate":
            # A predicate has no place for what yes and no mean, so its text says it.
            meanings = [_described(o) for o in question.options if o.description]
            told = [text, *map(neutralise, meanings)]
            return {**asked, "instructions": "\n".join(told)}
        if question.kind == "choice":
            return {**asked, "choices": [self._named(o, "value") for o in question.options]}
        return {**asked, "levels": [self._named(o, "label") for o in question.options]}

    def _named(self, option: Option, key: str) -> Mapping[str, str]:
        name = {key: neutralise(option.name)}
        if option.description is None:
            return name
        return {**name, "description": neutralise(option.description)}


def written(question: Question, name: object) -> Answer:
    """Build the answer from a written label; one that was not offered is no answer."""
    names = [_folded(option.name) for option in question.options]
    label = _folded(name.strip()) if isinstance(name, str) else ""
    if names.count(label) != 1:
        return Answer(question=question, status="missing", source="text")
    return Answer(question=question, written=names.index(label), source="text")


def _names(question: Question) -> list[str]:
    return [neutralise(option.name) for option in question.options]


def _described(option: Option) -> str:
    return f"{option.name}: {option.description}" if option.description else option.name


def _with_complement(yes: object) -> list[object]:
    """Put the probability of no beside that of yes."""
    number = _number(yes)
    return [yes, yes if number is None else 1.0 - number]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _number(value: object) -> float | None:
    """Read a finite number; booleans are none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def unique(questions: Sequence[Question]) -> list[Question]:
    """Number the questions whose names are taken, so that answers can be told apart."""
    taken: set[str] = set()
    renamed: list[Question] = []
    for question in questions:
        name, count = question.name, 1
        while name in taken:
            count += 1
            name = f"{question.name}_{count}"
        taken.add(name)
        renamed.append(question if name == question.name else replace(question, name=name))
    return renamed
