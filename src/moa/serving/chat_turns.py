"""Chat turns: the node to run for a Chat Completions request, and its output as text.

An agent that writes, or a chat, gets the whole conversation. Any other node gets the user's last
message. An agent that decides answers with its label.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial

from pydantic import BaseModel
from pydantic_core import from_json

from moa.agents.agent import Agent
from moa.agents.filter import Verdict
from moa.chat.messages import Conversation, UserMessage
from moa.core._files import dump_json, to_jsonable
from moa.core._json import is_object, list_of, object_of
from moa.core.context import RunContext
from moa.core.errors import OutputError
from moa.core.messages import Message
from moa.core.node import AnyNode, Node, Reply, Result
from moa.core.questions import Choice, TypedAnswer, is_answer, questions_in
from moa.endpoints.tools import flatten_tool_calls
from moa.graphs.engine.plan import Plan
from moa.graphs.engine.steps import NodeStep
from moa.graphs.engine.types import is_node
from moa.guards.guarded import Guarded
from moa.serving.chat_request import (
    ChatRequest,
    FromUser,
    messages_of,
    request_error,
    unsupported_error,
)
from moa.serving.parsing import in_turn
from moa.serving.relay import Relay, RelayOptions, as_relayable
from moa.serving.schemas import Checker
from moa.serving.served import Schema, ServedNode

Beside = Callable[[Callable[[], object]], Awaitable[object]]
"""Calls what takes a while, beside the event loop."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The node to run for a request, and the way to write its output."""

    served: ServedNode
    """The node, under the name that was asked for."""
    value: object
    """The input of the node."""
    content: Callable[[object], str]
    """Writes an output as text."""
    shown: str | None
    """Path of the node whose text is streamed as the answer; `None` if the answer is known only at
    the end."""
    prepare: Callable[[], Awaitable[None]] | None = None
    """Looks at the client's schema, which takes too long to be done for whoever isn't admitted."""

    @property
    def is_cut(self) -> bool:
        """True if `max_tokens` cut the answer."""
        node = self.served.node
        node = node.node if isinstance(node, _Held) else node
        return isinstance(node, Relay) and node.cut


class _Held:
    """A node whose output is held to a client's schema within its run; made for one answer.

    Args:
        node: The node.
        write: Writes an output as JSON by the schema.
        beside: Calls it.
    """

    def __init__(self, node: AnyNode, write: Callable[[object], str], beside: Beside) -> None:
        self.node, self.name = node, node.name
        self._write, self._beside = write, beside
        self.text = ""
        """What was written."""

    async def run(self, request: object, /, context: RunContext | None = None) -> Result[object]:
        """Run the node, and write its output. Raises `OutputError` if it doesn't fit."""
        result: Result[object] = await self.node.run(request, context)
        self.text = str(await self._beside(lambda: self._write(result.output)))
        return result


def turn_of(body: ChatRequest, served: ServedNode, name: str) -> Turn:
    """Choose the node and input for a request.

    Args:
        body: The request.
        served: The node that it asks for.
        name: Name of the caller, who takes turns with others for what takes a while.

    Raises:
        RequestRefused: it asks for something that this node can't do, or its conversation can't be
            answered.
        InputError: the last message doesn't fit the node's input.
    """
    messages, beside = messages_of(body), partial(in_turn, name)
    if (agent := as_relayable(served.node)) is not None:
        return _relay_turn(body, served, agent, messages, beside)
    _refuse_agent_settings(body, served)
    if any(isinstance(message, FromUser) and message.is_blank for message in body.messages):
        raise request_error("a text of the user is empty: leave it out", "messages")
    rules = "\n\n".join(message.content for message in messages if message.role == "system")
    if (chat := as_continuation(served.node, rules)) is not None:
        for message in messages:
            _refuse_files(message, served)
        return _turn(body, served, chat, Conversation.of(flatten_tool_calls(messages)), beside)
    last = next(message for message in reversed(messages) if message.role == "user")
    _refuse_files(last, served)
    return _turn(body, served, served.node, _value(last, served), beside)


def _relay_turn(
    body: ChatRequest,
    served: ServedNode,
    agent: Agent[object, object],
    messages: tuple[Message, ...],
    beside: Beside,
) -> Turn:
    """Make the turn of an agent that writes, with the client's options."""
    last = max(index for index, message in enumerate(messages) if message.role == "user")
    writes = agent.output_type is Reply
    schema = body.json_schema if writes else None
    tools = body.tool_schemas
    if tools and not writes:
        raise unsupported_error(f"{served.name} gives an object, and calls no tools", "tools")
    checker = Checker(schema) if schema else None
    options = RelayOptions(
        history=messages[:last],
        since=messages[last + 1 :],
        files=messages[last].files,
        tools=tools,
        must_call=body.must_call,
        one_call=body.parallel_tool_calls is False,
        schema=schema,
        check=checker.check if checker else lambda _: None,
        beside=beside,
        max_tokens=body.max_output,
        temperature=body.temperature,
        stop=body.stops,
    )
    relay = Relay(agent, options)
    value = _value(messages[last], served)
    if schema is not None:
        prepare = partial(_prepare, checker, beside) if checker else None
        return Turn(served.with_node(relay), value, content_of, None, prepare)
    return _turn(body, served, relay, value, beside)


def as_continuation(node: AnyNode, rules: str) -> Node[Conversation, object] | None:
    """Return a chat that answers a client's own conversation; `None` if the node isn't a chat."""
    from moa.chat.graph import Chat, Continuation

    if isinstance(node, Chat):
        return Continuation(node, rules=rules)
    if isinstance(node, Guarded) and (inner := as_continuation(node.node, rules)) is not None:
        guarded = copy.copy(node)
        guarded.node, guarded.input_type = inner, Conversation
        return guarded
    return None


def _turn(
    body: ChatRequest, served: ServedNode, node: AnyNode, value: object, beside: Beside
) -> Turn:
    schema = body.json_schema
    if schema is None:
        return Turn(served.with_node(node), value, content_of, find_streaming_node(node))
    if served.fields is None:
        problem = f"{served.name} gives a text, and no object: leave `response_format` out"
        raise unsupported_error(problem, "response_format")
    checker = Checker(schema)

    async def prepare() -> None:
        await _prepare(checker, beside)
        _refuse_missing(served, schema)

    held = _Held(node, _as_json(served, schema, checker), beside)
    return Turn(served.with_node(held), value, lambda _: held.text, None, prepare)


def _refuse_agent_settings(body: ChatRequest, served: ServedNode) -> None:
    """Refuse settings that only the single model of an agent supports.

    Temperatures that change nothing are accepted: the one that nodes write at, and the default of
    clients.
    """
    tells = f"{served.name} is no single agent that writes, and has settings of its own: leave it"
    if body.tool_schemas:
        raise unsupported_error(f"`tools`: {tells} out", "tools")
    if body.temperature not in (None, 0, 1):
        raise unsupported_error(f"`temperature`: {tells} out", "temperature")
    if body.stops:
        raise unsupported_error(f"`stop`: {tells} out", "stop")
    if body.max_output is not None and not served.decides:
        name = "max_tokens" if body.max_tokens else "max_completion_tokens"
        raise unsupported_error(f"`{name}`: {tells} out", name)


def _value(message: Message, served: ServedNode) -> object:
    """Make the input of a message: its text, or its JSON if the node takes no text."""
    if served.takes_text:
        value: object = served.parse(message.content)
        if isinstance(value, UserMessage):  # its own thread, which nobody else can read
            return value.model_copy(update={"thread": secrets.token_hex(16)})
        return value
    try:
        data: object = from_json(message.content, allow_inf_nan=False)
    except ValueError as error:
        problem = f"{served.name} takes JSON, by the schema of GET /schema/{served.name}: {error}"
        raise request_error(problem, "messages") from error
    return served.parse(data)


def _refuse_files(message: Message, served: ServedNode) -> None:
    if message.files:
        raise request_error(f"{served.name} reads texts: leave images and files out", "messages")


async def _prepare(checker: Checker, beside: Beside) -> None:
    """Look at the schema of a client.

    Raises:
        RequestRefused: it is no schema, or too large.
    """
    try:
        await beside(checker.prepare)
    except ValueError as error:
        raise request_error(f"the schema of the answer: {error}", "response_format") from error


def _refuse_missing(served: ServedNode, schema: Schema) -> None:
    """Refuse a schema with fields that the node's output type doesn't have."""
    names = list_of(schema.get("required")) or [*object_of(schema.get("properties"))][:1]
    fields = served.fields or frozenset()
    if missing := [name for name in names if name not in fields]:
        raise unsupported_error(
            f"{served.name} gives an object with {', '.join(sorted(fields))}, and none with "
            f"{', '.join(map(str, missing))}: GET /schema/{served.name} shows it",
            "response_format",
        )


def _as_json(served: ServedNode, schema: Schema, checker: Checker) -> Callable[[object], str]:
    """Return a function that writes an output as JSON by the client's schema."""

    def write(output: object) -> str:
        fault: ValueError | None = None
        for value in _forms(output, served):
            part = _project(value, schema)
            try:
                checker.check(part)
            except ValueError as error:
                fault = fault or error
            else:
                return dump_json(part)
        problem = f"what came out doesn't follow the schema of the request: {fault}"
        raise OutputError(problem, node=served.name, text=content_of(output))

    return write


def _forms(output: object, served: ServedNode) -> Iterator[object]:
    """Yield the forms of an output as an object: whole, or its decisions by question."""
    yield served.dump(output)
    names = questions_in(output)
    answers = {name: getattr(output, name) for name in names}
    if is_answer(output):
        answers = {(output.question or "answer"): output}
    yield {name: _plain(answer) for name, answer in answers.items()}
    yield {name: answer.said for name, answer in answers.items()}


def _plain(answer: TypedAnswer) -> object:
    if isinstance(answer, Choice):
        return None if answer.label is None else answer.said
    return answer.value


def _project(value: object, schema: Schema) -> object:
    """Drop the fields that a schema doesn't name."""
    properties = schema.get("properties")
    if not is_object(value) or not is_object(properties):
        return value
    return {key: field for key, field in value.items() if key in properties}


def content_of(output: object) -> str:
    """Write an output as text: its text, or its decision; anything else as JSON."""
    if is_answer(output):
        return output.said
    if isinstance(output, Verdict):
        return "kept" if output.kept else "dropped"
    if isinstance(output, str):
        return output
    if names := questions_in(output):
        texts = {name: getattr(output, name).said for name in names}
        return texts[names[0]] if len(names) == 1 else dump_json(texts)
    if isinstance(output, BaseModel) and type(output).__str__ is not BaseModel.__str__:
        return str(output)
    return dump_json(to_jsonable(output))


def find_streaming_node(node: AnyNode) -> str | None:
    """Find the path of the node whose text is the output; `None` if unknown beforehand.

    Texts that other nodes of a graph write on the way are no part of the answer.
    """
    plan = getattr(node, "plan", None)
    if isinstance(plan, Plan):
        last = plan.steps[plan.output]
        inner = None
        if isinstance(last, NodeStep) and is_node(last.node):
            inner = find_streaming_node(last.node)
        task = plan.tasks[plan.output]
        between = f"{task.name}/" if task.renamed else ""
        return None if inner is None else f"{node.name}/{between}{inner}"
    if isinstance(node, Guarded):
        inner = find_streaming_node(node.node)
        return None if inner is None else f"{node.name}/{inner}"
    return node.name
