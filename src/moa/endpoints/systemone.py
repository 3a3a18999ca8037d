"""SystemOneWire: typed questions about a state, answered by the server in one forward pass.

The wire format is System One's, `POST /v1/systemone`, as vLLM, llama.cpp, Ollama, SGLang and
others serve it: <https://github.com/mandu5/jevcompat/blob/main/SPEC.md>.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from moa.endpoints.answers import answered, by_name, complement, written
from moa.endpoints.client import JSON
from moa.endpoints.control_tokens import neutralise
from moa.errors import EndpointRejected, EndpointUnsupported, InvalidResponse
from moa.questions import Answer, Option, Question


class SystemOneWire:
    """Writes and reads `/v1/systemone`."""

    title = "System One"
    path = "/systemone"

    def body(self, model: str, state: str, questions: Sequence[Question]) -> dict[str, Any]:
        """Write a request; see `Wire.body`."""
        asked = {question.name: _asked(question) for question in questions}
        return {"model": model, "state": state, "questions": asked}

    def read(self, reply: JSON, questions: Sequence[Question], endpoint: str) -> list[Answer]:
        """Read the answers; see `Wire.read`."""
        given = reply.get("answers")
        if not isinstance(given, dict):
            raise InvalidResponse("the answer holds no `answers`", endpoint=endpoint)
        answers = cast("dict[str, object]", given)
        return [_read(question, answers, reply, endpoint) for question in questions]

    def explain(self, error: EndpointRejected) -> EndpointRejected:
        """See `Wire.explain`: Ollama reports a model that cannot decide by 400."""
        if error.status == 400 and "does not support" in str(error):
            message = str(error).removeprefix(f"{error.endpoint}: ")
            return EndpointUnsupported(message, endpoint=error.endpoint, status=400)
        return error


def _read(question: Question, answers: Mapping[str, object], reply: JSON, endpoint: str) -> Answer:
    answer = answers.get(question.name)
    if not isinstance(answer, dict):
        return Answer(question=question, status="missing")
    given = cast("dict[str, Any]", answer)
    if given.get("type") == "refusal":
        return Answer(question=question, status="refused")
    if question.kind == "predicate":
        probabilities = complement(given.get("noul"))
    else:
        named = given.get("probabilities")
        if not isinstance(named, dict):
            return _unweighted(question, given)
        score = question.kind == "score"  # its probabilities are keyed by the level, from "0" on
        keys = [str(i) for i in range(len(question.options))] if score else _names(question)
        probabilities = by_name(question, keys, cast("dict[str, Any]", named), endpoint=endpoint)
    mass = _label_mass(question, given, reply)
    return answered(question, probabilities, endpoint=endpoint, label_mass=mass)


def _unweighted(question: Question, given: Mapping[str, Any]) -> Answer:
    """Read a label without probabilities: gateways to models that write may leave them out."""
    name = given.get("choice")
    names = _names(question)
    label = question.options[names.index(name)].name if name in names else None
    return written(question, label)


def _asked(question: Question) -> dict[str, Any]:
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


def _names(question: Question) -> list[str]:
    return [neutralise(option.name) for option in question.options]


def _described(option: Option) -> str:
    return f"{option.name}: {option.description}" if option.description else option.name


def _label_mass(question: Question, given: Mapping[str, Any], reply: JSON) -> object:
    """Find it in vLLM's `diagnostics`, or beside the answer, where SGLang has it."""
    diagnostics: object = reply.get("diagnostics")
    if isinstance(diagnostics, dict):
        own = cast("dict[str, object]", diagnostics).get(question.name)
        if isinstance(own, dict):
            return cast("dict[str, object]", own).get("label_mass")
    return given.get("label_mass")
