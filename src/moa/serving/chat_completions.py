"""Chat completions: what is served as a model of OpenAI's API, to whoever has a client for that.

`POST /v1/chat/completions` gives the conversation to a node: all of it to an agent that writes and
to a chat, its last message to any other. What comes out is a text; an agent that decides says its
label.
"""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import from_json
from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.routing import Route

from moa._files import dumped, jsonable
from moa.agents import Agent
from moa.agents.filter import Verdict
from moa.agents.relay import Called, Relay, Wishes, as_relayed
from moa.chat.messages import Conversation, UserMessage
from moa.errors import OutputError
from moa.graphs.engine.graph import BuiltGraph
from moa.graphs.engine.steps import NodeStep
from moa.graphs.recipe import WiredRecipe
from moa.guards import Blocked
from moa.guards.guarded import Guarded
from moa.messages import Message
from moa.node import Node, Reply
from moa.questions import Choice, Predicate, Score, questions_in
from moa.serving.asking import body_of, read_as
from moa.serving.chat_request import (
    ChatRequest,
    messages_of,
    refused,
    unsupported,
)
from moa.serving.faults import fault_of
from moa.serving.http import caller_of, json_response, read_json
from moa.serving.keys import Caller
from moa.serving.openapi import Schemas, operation
from moa.serving.runs import Finished
from moa.serving.schemas import checker
from moa.serving.served import Served
from moa.serving.server import Server
from moa.trace import Event, TextDelta
from moa.usage import Amount

DONE = ServerSentEvent("[DONE]")
"""Says that a stream is over."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What is run for a request, and how what comes out is written."""

    served: Served
    """The node, under the name of what was asked."""
    value: object
    """What it takes."""
    content: Callable[[Any], str]
    """Writes an output."""
    shown: str | None
    """Path of the node whose text is the answer, so that it is sent as it comes; `None`: nobody
    knows before the end."""


def routes(server: Server) -> list[Route]:
    """Give `/v1/chat/completions`."""

    async def completions(request: Request) -> Any:
        body = read_as(ChatRequest, await read_json(request, server.settings))
        turn = turn_of(body, server.named(body.model, caller_of(request)))
        if body.stream:
            written = Chunks(body, turn).written
            return server.runs.stream(request, turn.served, turn.value, written)
        finished = await server.runs.finish(request, turn.served, turn.value)
        return json_response(completion(body, turn, finished), finished.headers)

    return [Route("/v1/chat/completions", completions, methods=["POST"])]


def paths(server: Server, caller: Caller, schemas: Schemas) -> dict[str, object]:
    """Describe these routes for OpenAPI."""
    answer: dict[str, Any] = {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "chat.completion"},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "minItems": 1, "maxItems": 1},
            "usage": {"type": "object"},
        },
    }
    names = [one.name for one in server.known(caller)]
    body = body_of(ChatRequest, schemas, models=names)
    asked = operation("Answer a conversation, as OpenAI does", answer, body=body, streams=True)
    return {"/v1/chat/completions": {"post": asked}}


def turn_of(body: ChatRequest, served: Served) -> Turn:
    """Decide what is run for a request.

    Raises:
        RequestRefused: it asks for what this node can't do, or its conversation has no end that
            can be answered.
        InputError: the last message isn't what the node takes.
    """
    messages = messages_of(body)
    if (agent := as_relayed(served.node)) is not None:
        return _relayed(body, served, agent, messages)
    _refuse_what_agents_take(body, served)
    rules = "\n\n".join(one.content for one in messages if one.role == "system")
    if (chat := continued(served.node, rules)) is not None:
        for message in messages:
            _refuse_files(message, served)
        return _turn(body, served, chat, Conversation.of(messages))
    last = messages[-1]
    if last.role != "user":
        raise refused(f"{served.name} calls no tools: end with a message of the user", "messages")
    _refuse_files(last, served)
    return _turn(body, served, served.node, _value(last, served))


def _relayed(
    body: ChatRequest, served: Served, agent: Agent[Any, Any], messages: tuple[Message, ...]
) -> Turn:
    """Have an agent that writes answer as the client wants it."""
    users = [place for place, message in enumerate(messages) if message.role == "user"]
    if not users:
        raise refused("there is no message of the user: nothing is to be answered", "messages")
    last = users[-1]
    writes = agent.output_type is Reply
    schema = body.json_schema if writes else None
    tools = body.tools_told
    if tools and not writes:
        raise unsupported(f"{served.name} gives an object, and calls no tools", "tools")
    wishes = Wishes(
        history=messages[:last],
        since=messages[last + 1 :],
        files=messages[last].files,
        tools=tools,
        must_call=body.must_call,
        one_call=body.parallel_tool_calls is False,
        schema=schema,
        check=_checked(schema) if schema else lambda _: None,
        max_tokens=body.most_tokens,
        temperature=body.temperature,
        stop=body.stops,
    )
    relay = Relay(agent, wishes)
    value = _value(messages[last], served)
    if schema is not None:
        return Turn(served.of(relay), value, content_of, None)
    return _turn(body, served, relay, value)


def continued(node: object, rules: str) -> Node[Conversation, Any] | None:
    """Give what goes on with a conversation that its client keeps; `None`: a node does not."""
    from moa.chat.graph import Chat, Continuation

    if isinstance(node, Chat):
        return Continuation(node, rules=rules)
    if isinstance(node, Guarded):
        guarded = cast("Guarded[Any, Any]", node)
        if (inner := continued(guarded.node, rules)) is not None:
            made = copy.copy(guarded)
            made.node, made.input_type = inner, Conversation
            return made
    return None


def _turn(body: ChatRequest, served: Served, node: Node[Any, Any], value: object) -> Turn:
    schema = body.json_schema
    if schema is None:
        return Turn(served.of(node), value, content_of, shown_by(node))
    return Turn(served.of(node), value, _as_json(served, schema), None)


def _refuse_what_agents_take(body: ChatRequest, served: Served) -> None:
    """Refuse what reaches the one model of an agent, and in a graph none.

    Temperatures are taken that change nothing: what nodes write at, and what clients send where
    nobody has chosen one.
    """
    tells = f"{served.name} is no single agent that writes, and has settings of its own: leave it"
    if body.tools_told:
        raise unsupported(f"`tools`: {tells} out", "tools")
    if body.temperature not in (None, 0, 1):
        raise unsupported(f"`temperature`: {tells} out", "temperature")
    if body.stops:
        raise unsupported(f"`stop`: {tells} out", "stop")
    if body.most_tokens is not None and not served.decides:
        name = "max_tokens" if body.max_tokens else "max_completion_tokens"
        raise unsupported(f"`{name}`: {tells} out", name)


def _value(message: Message, served: Served) -> object:
    """Make the input of a message: its text, or its JSON where no text is taken."""
    if served.takes_text:
        value: object = served.parse(message.content)
        if isinstance(value, UserMessage):  # a thread of its own: nobody else is to read it
            return value.model_copy(update={"thread": secrets.token_hex(16)})
        return value
    try:
        given: object = from_json(message.content, allow_inf_nan=False)
    except ValueError as error:
        said = f"{served.name} takes JSON, by the schema of GET /schema/{served.name}: {error}"
        raise refused(said, "messages") from error
    return served.parse(given)


def _refuse_files(message: Message, served: Served) -> None:
    if message.files:
        raise refused(f"{served.name} reads texts: leave images and files out", "messages")


def _checked(schema: Mapping[str, Any]) -> Callable[[object], None]:
    try:
        return checker(schema)
    except ValueError as error:
        raise refused(f"the schema of the answer: {error}", "response_format") from error


def _as_json(served: Served, schema: Mapping[str, Any]) -> Callable[[Any], str]:
    """Give what writes an output as JSON by the client's schema, if what the node gives fits it.

    Raises:
        RequestRefused: it doesn't, as far as the node says what it gives.
    """
    check = _checked(schema)
    wanted: list[str] = [*schema.get("required", ())]
    given = served.fields
    if given is not None and (missing := [name for name in wanted if name not in given]):
        raise unsupported(
            f"{served.name} gives an object with {', '.join(sorted(given))}, and none with "
            f"{', '.join(missing)}: GET /schema/{served.name} shows it",
            "response_format",
        )

    def write(output: Any) -> str:
        fault: ValueError | None = None
        for value in _forms(output, served):
            part = _projected(value, schema)
            try:
                check(part)
            except ValueError as error:
                fault = fault or error
            else:
                return dumped(part)
        said = f"what came out doesn't follow the schema of the request: {fault}"
        raise OutputError(said, node=served.name, text=content_of(output))

    return write


def _forms(output: Any, served: Served) -> Iterator[object]:
    """Give the ways in which an output is an object: whole, or what was decided, by question."""
    yield served.dump(output)
    names = questions_in(output)
    answers = {name: getattr(output, name) for name in names}
    if isinstance(output, Choice | Predicate | Score):
        answers = {(output.question or "answer"): cast("Any", output)}
    yield {name: _plain(answer) for name, answer in answers.items()}
    yield {name: answer.said for name, answer in answers.items()}


def _plain(answer: Choice[Any] | Predicate[Any] | Score[Any]) -> object:
    if isinstance(answer, Choice):
        return None if answer.label is None else answer.said
    return answer.value


def _projected(value: object, schema: Mapping[str, Any]) -> object:
    """Leave out the fields that a schema doesn't name."""
    named: object = schema.get("properties")
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, object]", value)
    if not isinstance(named, dict):
        return fields
    return {key: one for key, one in fields.items() if key in named}


def content_of(output: Any) -> str:
    """Say what came out in words: the text, or what was decided; anything else is JSON."""
    if isinstance(output, Choice | Predicate | Score):
        return cast("Choice[object] | Predicate | Score", output).said
    if isinstance(output, Verdict):
        return "kept" if output.kept else "dropped"
    if isinstance(output, str):
        return output
    if names := questions_in(output):
        said = {name: getattr(output, name).said for name in names}
        return said[names[0]] if len(names) == 1 else dumped(said)
    if isinstance(output, BaseModel) and type(output).__str__ is not BaseModel.__str__:
        return str(output)
    return dumped(jsonable(output))


def shown_by(node: object) -> str | None:
    """Find the path of the node whose text is the output; `None`: that can't be told before.

    What other nodes of a graph write on the way is no part of the answer.
    """
    if isinstance(node, BuiltGraph | WiredRecipe):
        graph = cast("BuiltGraph[Any, Any]", node)
        last = graph.plan.steps[graph.plan.output]
        inner = shown_by(last.node) if isinstance(last, NodeStep) else None
        task = graph.plan.tasks[graph.plan.output]
        between = f"{task.name}/" if task.renamed else ""
        return None if inner is None else f"{graph.name}/{between}{inner}"
    if isinstance(node, Guarded):
        guarded = cast("Guarded[Any, Any]", node)
        inner = shown_by(guarded.node)
        return None if inner is None else f"{guarded.name}/{inner}"
    return getattr(node, "name", None)


def completion(body: ChatRequest, turn: Turn, finished: Finished) -> dict[str, object]:
    """Write a whole answer."""
    output = finished.output
    message: dict[str, object] = {"role": "assistant", "content": None, "refusal": None}
    if isinstance(output, Called):
        message |= {"content": output.text or None, "tool_calls": _calls(output)}
    else:
        message["content"] = turn.content(output)
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": _reason(turn, output),
    }
    return {
        "id": f"chatcmpl-{finished.id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.model,
        "choices": [choice],
        "usage": usage(finished.item.usage.total),
    }


def _calls(output: Called) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in output.calls
    ]


def _reason(turn: Turn, output: object) -> str:
    """Say why it ends."""
    if isinstance(output, Called):
        return "tool_calls"
    if isinstance(output, Blocked):
        return "content_filter"
    cut = isinstance(turn.served.node, Relay) and turn.served.node.cut
    return "length" if cut else "stop"


def usage(amount: Amount) -> dict[str, object]:
    """Write what a run used; a cost that isn't known is left out."""
    said: dict[str, object] = {
        "prompt_tokens": amount.input_tokens,
        "completion_tokens": amount.output_tokens,
        "total_tokens": amount.tokens,
        "prompt_tokens_details": {"cached_tokens": amount.cached_input_tokens},
    }
    if amount.cost is not None:
        said["cost"] = float(amount.cost)
    return said


@dataclass
class Chunks:
    """The chunks of one stream."""

    body: ChatRequest
    turn: Turn
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(16)}")
    created: int = field(default_factory=lambda: int(time.time()))
    sent: str = field(default="", init=False)
    """The text that was sent so far."""
    begun: bool = field(default=False, init=False)

    def written(self, event: Event | Finished) -> Iterable[ServerSentEvent]:
        """Write an event, or what became of the run."""
        if isinstance(event, Finished):
            yield from self._end(event)
        elif isinstance(event, TextDelta) and self._is_shown(event) and event.text:
            yield from self._begin()
            yield self._delta({"content": event.text})
            self.sent += event.text

    def _is_shown(self, event: TextDelta) -> bool:
        shown = self.turn.shown
        return shown is not None and (event.node == shown or event.node.startswith(f"{shown}/"))

    def _begin(self) -> Iterator[ServerSentEvent]:
        if not self.begun:
            self.begun = True
            yield self._delta({"role": "assistant", "content": ""})

    def _end(self, finished: Finished) -> Iterator[ServerSentEvent]:
        try:
            output = finished.output
            rest = self._rest(output)
        except Exception as error:  # noqa: BLE001  the status is sent: what is wrong comes here
            yield ServerSentEvent(dumped(fault_of(error).body))
            yield DONE
            return
        yield from self._begin()
        if rest:
            yield self._delta({"content": rest})
        if isinstance(output, Called):
            calls = [{"index": place, **call} for place, call in enumerate(_calls(output))]
            yield self._delta({"tool_calls": calls})
        yield self._delta({}, _reason(self.turn, output))
        if self._tells_usage:
            yield self._chunk([], usage(finished.item.usage.total))
        yield DONE

    def _rest(self, output: object) -> str:
        """Give what of the answer wasn't sent yet."""
        whole = output.text if isinstance(output, Called) else self.turn.content(output)
        if whole.startswith(self.sent):
            return whole[len(self.sent) :]
        if whole.strip() == self.sent.strip():
            return ""
        return f"\n\n{whole}"  # what was sent can't be taken back

    @property
    def _tells_usage(self) -> bool:
        options = self.body.stream_options
        return options is not None and bool(options.include_usage)

    def _delta(self, delta: Mapping[str, object], reason: str | None = None) -> ServerSentEvent:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._chunk([choice], None)

    def _chunk(self, choices: list[Any], used: Mapping[str, object] | None) -> ServerSentEvent:
        chunk: dict[str, object] = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.body.model,
            "choices": choices,
        }
        if self._tells_usage:
            chunk["usage"] = used
        return ServerSentEvent(dumped(chunk))
