"""System One: any questions about a text, in the format that servers of decision models share.

`POST /v1/systemone` is spoken by vLLM, llama.cpp, Ollama, SGLang and OpenRouter:
<https://github.com/mandu5/jevcompat/blob/main/SPEC.md>. What is added here: where a calibration
with a guarantee decides, its answer says whether it is `accepted`, and by which `bound`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moa.agents.deciding import DecidingAgent
from moa.calibration.file import Calibration
from moa.context import RunContext, run_context
from moa.errors import ConfigError, RequestRefused
from moa.graphs.cascade import Cascade
from moa.graphs.engine.types import signature_of
from moa.guards.guarded import Guarded
from moa.node import AnyNode, Result, finish
from moa.questions import Answer, Kind, Option, Question, answers_in, answers_of, gives_answers
from moa.serving.asking import Body, SomeText, body_of, read_as
from moa.serving.http import caller_of, json_response, read_json
from moa.serving.keys import Caller
from moa.serving.openapi import Schemas, operation
from moa.serving.runs import FinishedRun
from moa.serving.served import Schema, ServedNode
from moa.serving.server import DECIDE, Server

_ALIASES = (DECIDE, "jev-latest")
"""`jev-latest` is what the SDKs of this format ask, unless they are told another name."""
MOST_QUESTIONS = 64
MOST_OPTIONS = 255
MOST_LEVELS = 10

TextOrJson = SomeText | dict[str, object] | list[object]
"""A text, or JSON that is read as one."""
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
"""Required fields of a question that isn't an agent's own; those may be asked by name alone."""


class _Sides(Body):
    """What yes and no mean."""

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
    ] = None
    """What each option means, by its name; left out for a question of the agent's own."""


class ScoreQuestion(Body):
    """A question with ordered levels."""

    model_config = ConfigDict(json_schema_extra={"allOf": [_ALL_GIVEN]})

    type: Literal["score"]
    instructions: TextOrJson | None = None
    criteria: Annotated[
        list[TextOrJson] | None,
        Field(min_length=2, max_length=MOST_LEVELS, json_schema_extra={"uniqueItems": True}),
    ] = None
    """The levels, the lowest first; left out for a question of the agent's own."""


AnyQuestion = Annotated[NoulQuestion | ChoiceQuestion | ScoreQuestion, Field(discriminator="type")]
_KINDS: dict[str, Kind] = {"noul": "predicate", "choice": "choice", "score": "score"}


class SystemOneRequest(Body):
    """What is decided about, and by whom. Fields that aren't known change nothing."""

    model_config = ConfigDict(extra="ignore")

    model: str = DECIDE
    """`decide` is the server's small model; else the name of an agent that decides."""
    state: TextOrJson
    """What the questions are about."""
    questions: Annotated[dict[str, AnyQuestion], Field(min_length=1, max_length=MOST_QUESTIONS)]
    images: None = None
    files: None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to questions, in their order."""

    answers: tuple[Answer, ...]

    @property
    def accepted(self) -> bool | None:
        """True if guarantees cover all of them; `None` if nothing is guaranteed of one."""
        flags = [answer.accepted for answer in self.answers]
        return None if None in flags else all(flags)


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
        """Ask about a text; raises as `DecidingAgent.answers` does."""
        started = time.perf_counter()
        inner = run_context(context).nested(
            self.name, budget=self.agent.budget, timeout_s=self.agent.timeout_s
        )
        answers = await self.agent.answers(request, inner)
        return finish(Answers(tuple(answers)), inner, seconds=time.perf_counter() - started)


class WholeNode:
    """Runs a cascade or a guarded node, and returns the answers to some of its questions.

    Args:
        node: What runs; its output is made of answers.
        questions: The node's own, in the order in which they are answered.
    """

    def __init__(self, node: AnyNode, questions: Sequence[Question]) -> None:
        self._node, self.name = node, node.name
        self._questions = tuple(questions)
        self.calibrations = _calibrations_in(node)

    async def run(self, request: str, /, context: RunContext | None = None) -> Result[Answers]:
        """Run it; where a guard stops the request, no question is answered."""
        result = await self._node.run(request, context)
        if answers_in(result.output):
            answers = answers_of(result.output, self._questions)
        else:
            answers = tuple(
                Answer(question=question, status="refused") for question in self._questions
            )
        return Result(output=Answers(answers), usage=result.usage, trace=result.trace)


class AnyQuestions(DecidingAgent[Answers]):
    """Asks an endpoint any questions; what comes of them is `answers`."""

    output_type = object

    def read(self, answers: Sequence[Answer]) -> Answers:
        """Return them as they are."""
        return Answers(tuple(answers))


def routes(server: Server) -> list[Route]:
    """Make the route `/v1/systemone`."""

    async def systemone(request: Request) -> Response:
        body = await _body(request, server)
        text = text_of(body.state)
        served, agent = decider(server, body.model, request)
        questions = resolve_questions(agent, body.questions)
        node: AgentNode | WholeNode
        if served.node is agent:
            node = AgentNode(agent.with_questions(questions), served.name)
        else:
            node = WholeNode(served.node, _check_own(served, agent, questions))
        try:
            finished = await server.runs.finish(request, served.with_node(node), text)
        except ConfigError as error:
            if type(error) is not ConfigError:
                raise
            # A question is over a limit of the model that decides, or its labels can't be told
            # apart there; nothing was sent.
            raise RequestRefused(str(error), status=501, code="model_limit") from error
        return json_response(reply(body, node.calibrations, finished), finished.headers)

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
    """Read a request; its clients expect 422 for whatever is wrong with it."""
    try:
        value = await read_json(request, server.settings)
    except RequestRefused as error:
        if error.status != 400:
            raise
        raise _misfit(str(error), None) from error
    return read_as(SystemOneRequest, value, status=422)


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
    """Return the node and agent of a name.

    Raises:
        RequestRefused: there is nobody of that name (404), or none that decides (422).
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
    """Return the agent whose questions a node answers; `None`: it doesn't decide.

    Of a cascade it is the first agent, whose questions all tiers are asked; a guarded node is
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
    """Return the calibrations with a guarantee, by question; none if two tiers have one each."""
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
    """Write what was sent as a text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def resolve_questions(agent: _Decider, requested: Mapping[str, AnyQuestion]) -> list[Question]:
    """Return the questions of a request, in its order.

    One that is the agent's own is given as the agent has it, to be decided with its calibration and
    its examples; so is one of its name and kind that says no more. Any other has a name that no
    question of the agent has.

    Raises:
        RequestRefused: a question says too little, or its options can't be told apart (422).
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
    """Refuse questions that a node would have to be taken apart for."""
    for question in questions:
        if question not in agent.questions:
            names = ", ".join(repr(own_question.name) for own_question in agent.questions)
            raise _misfit(
                f"{served.name} answers its own questions alone, {names}: ask others of {DECIDE!r}",
                "questions",
            )
    return questions


def _key(question: Question) -> object:
    """Return a key of all parts of a question but its name."""
    options = tuple((option.name, option.description) for option in question.options)
    return question.kind, question.text, options


def _match_question(agent: _Decider, id: str, spec: AnyQuestion) -> Question | None:
    """Find the agent's own question that is meant by its name and kind alone."""
    if spec.instructions is not None or spec.criteria is not None:
        return None
    namesakes = (question for question in agent.questions if question.name == id)
    return next((question for question in namesakes if question.kind == _KINDS[spec.type]), None)


def _question(id: str, spec: AnyQuestion) -> Question:
    """Read a question."""
    options = _options(id, spec)
    text = "" if spec.instructions is None else text_of(spec.instructions)
    # What it is to be true of stands for it.
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


def reply(
    body: SystemOneRequest, calibrations: Mapping[str, Calibration], finished: FinishedRun
) -> object:
    """Write the answers to a request."""
    output = finished.output
    assert isinstance(output, Answers), "so do both nodes that are asked here"
    pairs = zip(body.questions.items(), output.answers, strict=True)
    answers = {
        id: _answer(id, spec, answer, calibrations.get(answer.question.name))
        for (id, spec), answer in pairs
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
    id: str, spec: AnyQuestion, answer: Answer, calibration: Calibration | None
) -> dict[str, object]:
    """Write an answer; one that isn't there leaves the others as they are."""
    if answer.status != "answered":
        return {"type": "refusal", "name": id}
    fields = {"type": spec.type, **_SAID[spec.type](answer)}
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
"""How confidence is worked out is TypeSafe's way: section 4.5 of the specification."""


def _guarantee_of(answer: Answer, calibration: Calibration | None) -> dict[str, object]:
    """Write whether a guarantee covers an answer, and which; nothing without a guarantee."""
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
    """Write what else is known of it, under names that the specification leaves to servers."""
    fields = {
        "x_expected_precision": answer.expected_precision,
        "x_label_mass": answer.label_mass,
        "x_doubtful": answer.doubtful or None,
        "x_untold": answer.untold or None,
    }
    return {name: value for name, value in fields.items() if value is not None}
