"""Wires: the formats in which servers take typed questions and give probabilities.

`SystemOneWire` is System One's, `POST /v1/systemone`, as vLLM, llama.cpp, Ollama, SGLang and others
serve it: <https://github.com/mandu5/jevcompat/blob/main/SPEC.md>. `DecisionsWire` is that of
OpenAI's `POST /v1/decisions`, as `AsyncOpenAI.decisions.create` of openai 3.57 sends it. Of what a
server sends, the probabilities alone are read: the rest is worked out from them.
"""

from __future__ import annotations

import math
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from moa.endpoints.client import JSON, object_of, objects_of
from moa.endpoints.control_tokens import neutralise
from moa.errors import EndpointRejected, InvalidResponse
from moa.questions import Answer, Option, Question

_BAND = (0.97, 1.03)
"""Sums that are rounding: gateways that keep two decimals send 0.33 three times."""
_ROUNDING = 1e-6
"""How far a probability may lie outside of 0 to 1."""


class Wire(ABC):
    """How questions are written and answers are read on one route."""

    title: ClassVar[str]
    """Name of the format."""
    path: ClassVar[str]
    """The route, such as `/systemone`."""

    @abstractmethod
    def body(self, model: str, text: str, questions: Sequence[Question]) -> dict[str, Any]:
        """Write a request."""

    @abstractmethod
    def read(self, reply: JSON, questions: Sequence[Question], endpoint: str) -> list[Answer]:
        """Read the answers, one for each question, in order.

        Raises:
            InvalidResponse: they are not in this format.
        """

    @abstractmethod
    def is_unable(self, error: EndpointRejected) -> bool:
        """Tell "this model cannot decide", however the server says it, from a wrong question."""


class SystemOneWire(Wire):
    """Writes and reads `/v1/systemone`: questions and answers are objects, by name."""

    title = "System One"
    path = "/systemone"

    def body(self, model: str, text: str, questions: Sequence[Question]) -> dict[str, Any]:
        """Write a request."""
        asked = {question.name: self._asked(question) for question in questions}
        return {"model": model, "state": text, "questions": asked}

    def read(self, reply: JSON, questions: Sequence[Question], endpoint: str) -> list[Answer]:
        """Read the answers."""
        given = reply.get("answers")
        if not isinstance(given, dict):
            raise InvalidResponse("the answer holds no `answers`", endpoint=endpoint)
        answers = cast("dict[str, object]", given)
        return [self._read(one, answers.get(one.name), reply, endpoint) for one in questions]

    def is_unable(self, error: EndpointRejected) -> bool:
        """Ollama reports a model that cannot decide by 400."""
        return error.status == 400 and "does not support" in error.message

    def _asked(self, question: Question) -> dict[str, Any]:
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
        asked: dict[str, Any] = {"type": "noul", "instructions": text}
        return {**asked, "criteria": told} if told else asked

    def _read(self, question: Question, answer: object, reply: JSON, endpoint: str) -> Answer:
        if not isinstance(answer, dict):
            return Answer(question=question, status="missing")
        given = cast("dict[str, Any]", answer)
        if given.get("type") == "refusal":
            return Answer(question=question, status="refused")
        if question.kind == "predicate":
            probabilities = _with_complement(given.get("noul"))
        elif isinstance(given.get("probabilities"), dict):
            probabilities = _in_order(question, given["probabilities"], endpoint)
        else:
            return self._unweighted(question, given)
        mass = self._label_mass(question, given, reply)
        return _answered(question, probabilities, endpoint, label_mass=mass)

    def _unweighted(self, question: Question, given: Mapping[str, Any]) -> Answer:
        """Read a label without probabilities: gateways to models that write may leave them out."""
        name, names = given.get("choice"), _names(question)
        return written(
            question, question.options[names.index(name)].name if name in names else None
        )

    def _label_mass(self, question: Question, given: Mapping[str, Any], reply: JSON) -> object:
        """Find it in vLLM's `diagnostics`, or beside the answer, where SGLang has it."""
        own = object_of(object_of(reply.get("diagnostics")).get(question.name))
        return own.get("label_mass", given.get("label_mass"))


class DecisionsWire(Wire):
    """Writes and reads `/v1/decisions`: questions and answers are lists in one order."""

    title = "OpenAI Decisions"
    path = "/decisions"

    def body(self, model: str, text: str, questions: Sequence[Question]) -> dict[str, Any]:
        """Write a request."""
        return {"model": model, "input": text, "questions": list(map(self._asked, questions))}

    def read(self, reply: JSON, questions: Sequence[Question], endpoint: str) -> list[Answer]:
        """Read the answers; those that are left out at the end are missing."""
        given = reply.get("answers")
        if not isinstance(given, list):
            raise InvalidResponse("the answer holds no list of `answers`", endpoint=endpoint)
        answers = cast("list[object]", given)
        if len(answers) > len(questions):
            raise InvalidResponse(
                f"{len(answers)} answers came for {len(questions)} questions", endpoint=endpoint
            )
        padded = [*answers, *[None] * (len(questions) - len(answers))]
        pairs = zip(questions, padded, strict=True)
        return [self._read(question, answer, endpoint) for question, answer in pairs]

    def is_unable(self, error: EndpointRejected) -> bool:
        """OpenAI names the models that decide by 400 or 404."""
        return error.status in (400, 404) and "model" in error.message.lower()

    def _asked(self, question: Question) -> dict[str, Any]:
        text = neutralise(question.text)
        asked: dict[str, Any] = {"type": question.kind, "name": question.name, "instructions": text}
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

    def _read(self, question: Question, answer: object, endpoint: str) -> Answer:
        if not isinstance(answer, dict):
            return Answer(question=question, status="missing")
        given = cast("dict[str, Any]", answer)
        name = given.get("name")
        if name is not None and name != question.name:
            raise InvalidResponse(
                f"the answer to question {question.name!r} came under the name {name!r}",
                endpoint=endpoint,
            )
        if given.get("type") == "refusal":
            return Answer(question=question, status="refused")
        if question.kind == "predicate":
            return _answered(question, _with_complement(given.get("probability")), endpoint)
        rows = objects_of(given.get("probabilities"))
        named = {str(row.get("value")): row.get("probability") for row in rows}
        return _answered(question, _in_order(question, named, endpoint), endpoint)


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


def _answered(
    question: Question,
    probabilities: Sequence[object],
    endpoint: str,
    *,
    label_mass: object = None,
) -> Answer:
    """Build the answer to a question from a probability for each option, in order.

    Raises:
        InvalidResponse: one is no probability, or they don't add up to 1.
    """
    read = [_probability(value, question, endpoint) for value in probabilities]
    total = math.fsum(read)
    if not _BAND[0] <= total <= _BAND[1]:
        raise InvalidResponse(
            f"the probabilities of question {question.name!r} add up to {total:.4g}, not to 1",
            endpoint=endpoint,
        )
    return Answer(
        question=question,
        probabilities=tuple(value / total for value in read),
        label_mass=_number(label_mass),
    )


def _in_order(question: Question, given: Mapping[str, Any], endpoint: str) -> list[object]:
    """Put probabilities that came by the names of options in order; one that is left out is 0.

    Those of a score come by the number of the level, from "0" on.

    Raises:
        InvalidResponse: there is one for an option that was not offered.
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
            raise InvalidResponse(
                f"question {question.name!r} was answered with option {name!r}, which was not "
                f"offered. Options: {', '.join(names)}",
                endpoint=endpoint,
            )
        ordered[index] = value
    return ordered


def _with_complement(yes: object) -> list[object]:
    """Put the probability of no beside that of yes."""
    number = _number(yes)
    return [yes, yes if number is None else 1.0 - number]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _probability(value: object, question: Question, endpoint: str) -> float:
    number = _number(value)
    if number is None or not -_ROUNDING <= number <= 1.0 + _ROUNDING:
        raise InvalidResponse(
            f"{value!r} is no probability (question {question.name!r})", endpoint=endpoint
        )
    return min(1.0, max(0.0, number))


def _number(value: object) -> float | None:
    """Read a finite number; booleans are none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
