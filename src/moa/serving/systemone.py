"""System One: any questions about a text, in the common format of decision-model servers.

vLLM, llama.cpp, Ollama, SGLang and OpenRouter also serve `POST /v1/systemone`:
<https://github.com/mandu5/jevcompat/blob/main/SPEC.md>. Added here: if a calibration with a
guarantee decides, the answer says whether it is `accepted`, and with which `bound`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moa.agents.deciding import DecidingAgent
from moa.core.context import RunContext, run_context
from moa.core.errors import ConfigError, RequestRefused
from moa.core.node import AnyNode, Result, finish
from moa.core.questions import (
    Answer,
    Kind,
    Option,
    Question,
    answers_in,
    answers_of,
    gives_answers,
)
from moa.decisions.file import Calibration
from moa.graphs.cascade import Cascade
from moa.graphs.engine.types import signature_of
from moa.guards.guarded import Guarded
from moa.serving.asking import FEW, Body, SomeText, body_of, read_as
from moa.serving.http import caller_of, json_response, read_run
from moa.serving.keys import Caller
from moa.serving.openapi import Schemas, operation
from moa.serving.runs import FinishedRun
from moa.serving.served import Schema, ServedNode
from moa.serving.server import DECIDE, Server

_ALIASES = (DECIDE, "jev-latest")
"""Names of the server's small model. `jev-latest` is the default in this format's SDKs."""
MOST_QUESTIONS = 64
MOST_OPTIONS = 255
MOST_LEVELS = 10

TextOrJson = SomeText | dict[str, object] | list[object]
"""A text, or JSON that is read as text."""
_Decider = DecidingAgent[Any]
_IS_GIVEN: JsonDict = {"not": {"type": "null"}}
_SIDE_GIVEN: JsonDict = {
    "type": "object",
    "anyOf": [{"required": [side], "properties": {side: _IS_GIVEN}} for side in ("true", "false")],
}
_NOUL_GIVEN: JsonDict = {
    "anyOf": [
        {"required": ["instructions"], "properties": {"instructions": _IS_GIVEN}},
        {"required": ["criteria"], "properties": {"criteria": _SIDE_GIVEN}},
    ]
}
_ALL_GIVEN: JsonDict = {
    "required": ["type", "instructions", "criteria"],
    "properties": {"instructions": _IS_GIVEN, "criteria": _IS_GIVEN},
}
"""Required fields of a new question. An agent's own question can be asked by name alone."""


class _Sides(Body):
    """Meanings of yes and no."""

    true: TextOrJson | None = None
    false: TextOrJson | None = None


class NoulQuestion(Body):
    """A question of yes or no."""

    model_config = ConfigDict(json_schema_extra={"allOf": [_NOUL_GIVEN]})

    type: Literal["noul"]
    instructions: TextOrJson | None = None
    criteria: _Sides | None = None


class ChoiceQuestion(Body):
    """A question with one of several options."""

    model_config = ConfigDict(json_schema_extra={"allOf": [_ALL_GIVEN]})

    type: Literal["choice"]
    instructions: TextOrJson | None = None
    criteria: Annotated[
        dict[SomeText, TextOrJson | None] | None,
        Field(
            min_length=2,
            max_length=MOST_OPTIONS,
            json_schema_extra={"propertyNames": {"pattern": r"\S"}},
        ),
        FEW,
    ] = None
    """Meanings of the options, by name; left out for the agent's own question."""


class ScoreQuestion(Body):
    """A question with ordered levels."""

    model_config = ConfigDict(json_schema_extra={"allOf": [_ALL_GIVEN]})

    type: Literal["score"]
    instructions: TextOrJson | None = None
    criteria: Annotated[
        list[TextOrJson] | None,
        Field(min_length=2, max_length=MOST_LEVELS, json_schema_extra={"uniqueItems": True}),
    ] = None
    """Levels, lowest first; left out for the agent's own question."""


AnyQuestion = Annotated[NoulQuestion | ChoiceQuestion | ScoreQuestion, Field(discriminator="type")]
_KINDS: dict[str, Kind] = {"noul": "predicate", "choice": "choice", "score": "score"}


class SystemOneRequest(Body):
    """A request to decide questions about a text. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: str = DECIDE
    """`decide` for the server's small model, or the name of a deciding agent."""
    state: TextOrJson
    """Text or JSON that the questions are about."""
    questions: Annotated[
        dict[str, AnyQuestion], Field(min_length=1, max_length=MOST_QUESTIONS), FEW
    ]
    images: None = None
    files: None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to questions, in their order."""

    answers: tuple[Answer, ...]

    @property
    def accepted(self) -> bool | None:
        """True if guarantees cover all answers; `None` if one has no guarantee."""
        flags = [answer.accepted for answer in self.answers]
        return None if None in flags else all(flags)


@dataclass(frozen=True, slots=True)
class Task:
    """The node to run for a request, and what its reply takes."""

    served: ServedNode
    """The node, under the name that was asked for."""
    text: str
    """Its input."""
    types: Mapping[str, str]
    """The type of each question, by its id, in the order of the request."""
    calibrations: Mapping[str, Calibration]
    """Calibrations with a guarantee, by question."""


class AgentNode:
    """A node that asks an agent's questions, and returns the answers unchanged.

    Args:
        agent: The agent that decides; its `questions` are asked.
        name: Name of the node.
    """

    def __init__(self, agent: _Decider, name: str) -> None:
        self.agent, self.name = agent, name
        self.calibrations = agent.calibrations

    async def run(self, request: str, /, context: RunContext | None = None) -> Result[Answers]:
        """Ask about a text. Raises as `DecidingAgent.answers` does."""
        started = time.perf_counter()
        inner = run_context(context).nested(
            self.name, budget=self.agent.budget, timeout_s=self.agent.timeout_s
        )
        answers = await self.agent.answers(request, inner)
        return finish(Answers(tuple(answers)), inner, seconds=time.perf_counter() - started)


class WholeNode:
    """Runs a cascade or a guarded node, and returns the answers to some of its questions.

    Args:
        node: Node to run. Its output consists of answers.
        questions: Questions of the node, in the order of the answers to return.
    """

    def __init__(self, node: AnyNode, questions: Sequence[Question]) -> None:
        self._node, self.name = node, node.name
        self._questions = tuple(questions)
        self.calibrations = _calibrations_in(node)

    async def run(self, request: str, /, context: RunContext | None = None) -> Result[Answers]:
        """Run the node. If a guard stops the request, all answers are refusals."""
        result = await self._node.run(request, context)
        if answers_in(result.output):
            answers = answers_of(result.output, self._questions)
        else:
            answers = tuple(
                Answer(question=question, status="refused") for question in self._questions
            )
        return Result(output=Answers(answers), usage=result.usage, trace=result.trace)


class AnyQuestions(DecidingAgent[Answers]):
    """Asks an endpoint any questions, and returns the answers unchanged."""

    output_type = object

    def read(self, answers: Sequence[Answer]) -> Answers:
        """Return the answers unchanged."""
        return Answers(tuple(answers))


def routes(server: Server) -> list[Route]:
    """Make the route `/v1/systemone`."""

    async def systemone(request: Request) -> Response:
        task = await read_task(request)
        try:
            finished = await server.runs.finish(request, task.served, task.text)
        except ConfigError as error:
            if type(error) is not ConfigError:
                raise
            # A question exceeds a limit of the deciding model, or has labels that the model can't
            # tell apart. Nothing was sent.
            raise RequestRefused(str(error), status=501, code="model_limit") from error
        return json_response(reply(task, finished), finished.headers)

    async def read_task(request: Request) -> Task:
        """Read what a run needs, and drop the rest of the body: a run may last for minutes."""
        body = await _body(request, server)
        served, agent = decider(server, body.model, request)
        questions = resolve_questions(agent, body.questions)
        node: AgentNode | WholeNode
        if served.node is agent:
            node = AgentNode(agent.with_questions(questions), served.name)
        else:
            node = WholeNode(served.node, _check_own(served, agent, questions))
        types = {id: question.type for id, question in body.questions.items()}
        return Task(served.with_node(node), text_of(body.state), types, node.calibrations)

    return [Route("/v1/systemone", systemone, methods=["POST"])]


def paths(server: Server, caller: Caller, schemas: Schemas) -> dict[str, object]:
    """Describe this route for OpenAPI."""
    answer: Schema = {
        "type": "object",
        "required": ["model", "answers", "usage"],
        "properties": {
            "model": {"type": "string"},
            "answers": {"type": "object", "additionalProperties": {"type": "object"}},
            "usage": {"type": "object"},
        },
    }
    names = [served.name for served in server.visible_to(caller) if decider_in(served.node)]
    if server.decider and DECIDE not in names and caller.may_run(DECIDE):
        names.append(DECIDE)
    body = body_of(SystemOneRequest, schemas, models=names)
    method = operation("Decide questions about a text, as System One does", answer, body=body)
    return {"/v1/systemone": {"post": method}}


async def _body(request: Request, server: Server) -> SystemOneRequest:
    """Read a request. Clients expect 422 for any invalid body."""
    try:
        read = partial(read_as, SystemOneRequest, status=422)
        return await read_run(request, server.settings, read)
    except RequestRefused as error:
        if error.status != 400:
            raise
        raise _misfit(str(error), None) from error


def _misfit(message: str, param: str | None) -> RequestRefused:
    location = ["body", *([param] if param else [])]
    return RequestRefused(
        message,
        status=422,
        code="invalid_value",
        param=param,
        faults=[{"loc": location, "msg": message, "type": "value_error"}],
    )


def decider(server: Server, name: str, request: Request) -> tuple[ServedNode, _Decider]:
    """Return the served node with this name, and its deciding agent.

    Raises:
        RequestRefused: there is no node with this name (404), or it doesn't decide (422).
    """
    caller = caller_of(request)
    small = server.decider
    if small and name in _ALIASES and name not in server.served and caller.may_run(DECIDE):
        agent = AnyQuestions(small, (), name=DECIDE)
        return ServedNode(agent, name=DECIDE), agent
    served = server.find(name, caller)
    if (agent := decider_in(served.node)) is None:
        raise _misfit(
            f"{name} decides no questions: ask it by /v1/chat/completions or /run/{name}, and "
            f"questions of {DECIDE!r}",
            "model",
        )
    return served, agent


def decider_in(node: AnyNode) -> _Decider | None:
    """Return the agent whose questions a node answers; `None`: the node doesn't decide.

    For a cascade it is the first agent: all tiers are asked its questions. A guarded node is
    asked through its guards.
    """
    if isinstance(node, DecidingAgent):
        return node
    if isinstance(node, Guarded):
        parts: Sequence[AnyNode] = (node.node,)
    elif isinstance(node, Cascade):
        parts = node.tiers
    else:
        return None
    return decider_in(parts[0]) if all(map(_gives_answers, parts)) else None


def _gives_answers(node: AnyNode) -> bool:
    agent = None if isinstance(node, DecidingAgent) else decider_in(node)
    return agent is not None or gives_answers(signature_of(node).output)


def _calibrations_in(node: AnyNode) -> dict[str, Calibration]:
    """Return the calibrations with a guarantee, by question, unless two tiers have one for it."""
    if isinstance(node, Guarded):
        return _calibrations_in(node.node)
    tiers = node.tiers if isinstance(node, Cascade) else (node,)
    calibrations: dict[str, Calibration] = {}
    duplicates: set[str] = set()
    for tier in tiers:
        if not isinstance(tier, DecidingAgent):
            continue
        for name, calibration in tier.calibrations.items():
            if calibration.bound is not None:
                duplicates |= {name} & calibrations.keys()
                calibrations[name] = calibration
    return {
        name: calibration for name, calibration in calibrations.items() if name not in duplicates
    }


def text_of(value: TextOrJson) -> str:
    """Return a text as it is, and JSON as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def resolve_questions(agent: _Decider, requested: Mapping[str, AnyQuestion]) -> list[Question]:
    """Return the questions of a request, in its order.

    A question equal to one of the agent's, or with only its name and kind, is replaced by it: then
    the agent's calibration and examples apply. Any other question gets a name that no question of
    the agent has.

    Raises:
        RequestRefused: a question is incomplete, or its options can't be told apart (422).
    """
    own_by_key = {_key(question): question for question in agent.questions}
    names = {question.name for question in agent.questions}
    questions: list[Question] = []
    for id, spec in requested.items():
        question = _match_question(agent, id, spec) or _question(id, spec)
        final_question = own_by_key.get(_key(question))
        if final_question is None:
            while question.name in names:
                question = replace(question, name=f"{question.name}_")
            final_question = question
        names.add(final_question.name)
        questions.append(final_question)
    return questions


def _check_own(
    served: ServedNode, agent: _Decider, questions: Sequence[Question]
) -> Sequence[Question]:
    """Return the questions; refuse any that isn't the node's own."""
    for question in questions:
        if question not in agent.questions:
            names = ", ".join(repr(own_question.name) for own_question in agent.questions)
            raise _misfit(
                f"{served.name} answers its own questions alone, {names}: ask others of {DECIDE!r}",
                "questions",
            )
    return questions


def _key(question: Question) -> object:
    """Return a key of all parts of a question except its name."""
    options = tuple((option.name, option.description) for option in question.options)
    return question.kind, question.text, options


def _match_question(agent: _Decider, id: str, spec: AnyQuestion) -> Question | None:
    """Find the agent's question that a request names by name and kind alone."""
    if spec.instructions is not None or spec.criteria is not None:
        return None
    namesakes = (question for question in agent.questions if question.name == id)
    return next((question for question in namesakes if question.kind == _KINDS[spec.type]), None)


def _question(id: str, spec: AnyQuestion) -> Question:
    """Read a question."""
    options = _options(id, spec)
    text = "" if spec.instructions is None else text_of(spec.instructions)
    # Without instructions, the meaning of an option is the question.
    if not text.strip() and isinstance(spec, NoulQuestion):
        text = options[0].description or options[1].description or ""
    try:
        return Question(id, _KINDS[spec.type], text, options)
    except ConfigError as error:
        raise _misfit(str(error), "questions") from error


def _options(id: str, spec: AnyQuestion) -> tuple[Option, ...]:
    if isinstance(spec, NoulQuestion):
        sides = spec.criteria or _Sides()
        return (
            Option("yes", value=True, description=_meaning(sides.true)),
            Option("no", value=False, description=_meaning(sides.false)),
        )
    if spec.criteria is None:
        parts = "options" if spec.type == "choice" else "levels"
        raise _misfit(f"question {id!r} has no criteria: give its {parts}", "questions")
    if isinstance(spec, ScoreQuestion):
        levels = map(text_of, spec.criteria)
        return tuple(Option(level, index) for index, level in enumerate(levels))
    meanings = spec.criteria.items()
    return tuple(Option(name, name, _meaning(meaning)) for name, meaning in meanings)


def _meaning(value: TextOrJson | None) -> str | None:
    return None if value is None else text_of(value)


def reply(task: Task, finished: FinishedRun) -> object:
    """Return the response body of a request."""
    output = finished.output
    assert isinstance(output, Answers), "so do both nodes that are asked here"
    pairs = zip(task.types.items(), output.answers, strict=True)
    answers = {
        id: _answer(id, kind, answer, task.calibrations.get(answer.question.name))
        for (id, kind), answer in pairs
    }
    amount = finished.item.usage.total
    usage: dict[str, float] = {
        "input_tokens": amount.input_tokens,
        "output_tokens": amount.output_tokens,
    }
    if amount.cost is not None:
        usage["cost"] = float(amount.cost)
    return {"model": finished.served.name, "answers": answers, "usage": usage}


def _answer(
    id: str, kind: str, answer: Answer, calibration: Calibration | None
) -> dict[str, object]:
    """Return an answer as JSON. A missing one is a refusal, and doesn't affect the others."""
    if answer.status != "answered":
        return {"type": "refusal", "name": id}
    fields = {"type": kind, **_SAID[kind](answer)}
    return fields | _guarantee_of(answer, calibration) | _extras(answer)


def _noul(answer: Answer) -> dict[str, object]:
    if answer.probabilities is None:
        raise RequestRefused(
            f"the model writes its answers, so that {answer.question.name!r} has no probability: "
            "ask a choice of yes and no",
            status=501,
            code="no_probabilities",
        )
    return {"noul": answer.probabilities[0]}


def _choice(answer: Answer) -> dict[str, object]:
    names = [option.name for option in answer.question.options]
    fields: dict[str, object] = {"choice": names[answer.best]}
    if (weights := answer.probabilities) is not None:
        fields["probabilities"] = dict(zip(names, weights, strict=True))
        uniform = 1 / len(weights)
        fields["confidence"] = max(0.0, (max(weights) - uniform) / (1 - uniform))
    return fields


def _score(answer: Answer) -> dict[str, object]:
    levels = [option.name for option in answer.question.options]
    legend = {str(index): level for index, level in enumerate(levels)}
    if (weights := answer.probabilities) is None:
        return {"score": answer.best, "legend": legend}
    expected = sum(index * weight for index, weight in enumerate(weights))
    middle = (len(levels) - 1) / 2
    even_spread = sum(abs(index - middle) for index in range(len(levels))) / len(levels)
    spread = sum(abs(index - answer.best) * weight for index, weight in enumerate(weights))
    return {
        "score": expected,
        "legend": legend,
        "probabilities": {str(index): weight for index, weight in enumerate(weights)},
        "confidence": max(0.0, 1 - spread / even_spread),
    }


_SAID = {"noul": _noul, "choice": _choice, "score": _score}
"""Confidence is computed as TypeSafe does: section 4.5 of the specification."""


def _guarantee_of(answer: Answer, calibration: Calibration | None) -> dict[str, object]:
    """Return whether a guarantee covers an answer, and its bound; empty without a guarantee."""
    if answer.accepted is None or calibration is None or calibration.bound is None:
        return {}
    label = answer.question.options[answer.best].name
    bound = calibration.bounds.get(label, calibration.bound)
    guarantee = {
        "risk": bound.guarantee.risk,
        "confidence": bound.guarantee.confidence,
        "threshold": bound.threshold,
        "labels": bound.labels,
    }
    return {"accepted": answer.accepted, "bound": guarantee}


def _extras(answer: Answer) -> dict[str, object]:
    """Return further facts, under the names that the specification leaves to servers."""
    fields = {
        "x_expected_precision": answer.expected_precision,
        "x_label_mass": answer.label_mass,
        "x_doubtful": answer.doubtful or None,
        "x_untold": answer.untold or None,
    }
    return {name: value for name, value in fields.items() if value is not None}
