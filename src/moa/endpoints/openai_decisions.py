"""DecisionsWire: typed questions about an input, by OpenAI's `POST /v1/decisions`.

The wire format is that of `AsyncOpenAI.decisions.create` in openai 3.57, and of servers that copy
it: questions and answers are lists in one order, and each question can be refused by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from moa.endpoints.answers import answered, by_name, complement
from moa.endpoints.client import JSON
from moa.endpoints.control_tokens import neutralise
from moa.errors import EndpointRejected, EndpointUnsupported, InvalidResponse
from moa.questions import Answer, Option, Question


class DecisionsWire:
    """Writes and reads `/v1/decisions`."""

    title = "OpenAI Decisions"
    path = "/decisions"

    def body(self, model: str, state: str, questions: Sequence[Question]) -> dict[str, Any]:
        """Write a request; see `Wire.body`."""
        return {"model": model, "input": state, "questions": [_asked(q) for q in questions]}

    def read(self, reply: JSON, questions: Sequence[Question], endpoint: str) -> list[Answer]:
        """Read the answers; see `Wire.read`. They come in the order of the questions."""
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
        return [_read(question, answer, endpoint) for question, answer in pairs]

    def explain(self, error: EndpointRejected) -> EndpointRejected:
        """See `Wire.explain`: OpenAI names the models that decide by 400 or 404."""
        if error.status in (400, 404) and "model" in str(error).lower():
            message = str(error).removeprefix(f"{error.endpoint}: ")
            return EndpointUnsupported(message, endpoint=error.endpoint, status=error.status)
        return error


def _read(question: Question, answer: object, endpoint: str) -> Answer:
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
        return answered(question, complement(given.get("probability")), endpoint=endpoint)
    rows = given.get("probabilities")
    named: dict[str, Any] = {}
    for row in cast("list[object]", rows) if isinstance(rows, list) else []:
        entry = cast("dict[str, Any]", row) if isinstance(row, dict) else {}
        named[str(entry.get("value"))] = entry.get("probability")
    score = question.kind == "score"
    keys = [str(i) for i in range(len(question.options))] if score else _names(question)
    return answered(question, by_name(question, keys, named, endpoint=endpoint), endpoint=endpoint)


def _asked(question: Question) -> dict[str, Any]:
    text = neutralise(question.text)
    asked: dict[str, Any] = {"type": question.kind, "name": question.name, "instructions": text}
    if question.kind == "predicate":
        # A predicate has no place for what yes and no mean, so its text says it.
        meanings = [f"{o.name}: {o.description}" for o in question.options if o.description]
        told = [text, *map(neutralise, meanings)]
        return {**asked, "instructions": "\n".join(told)}
    if question.kind == "choice":
        return {**asked, "choices": [_named(option, "value") for option in question.options]}
    return {**asked, "levels": [_named(option, "label") for option in question.options]}


def _named(option: Option, key: str) -> Mapping[str, str]:
    name = {key: neutralise(option.name)}
    if option.description is None:
        return name
    return {**name, "description": neutralise(option.description)}


def _names(question: Question) -> list[str]:
    return [neutralise(option.name) for option in question.options]
