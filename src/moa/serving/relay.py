"""Relay: lets an agent answer a whole conversation with a client's options.

The client keeps the conversation, and may bring its own tools. These aren't run here: the model's
calls are returned to the client. An OpenAI-compatible server has such clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from moa.agents.agent import Agent, History, strip_fence
from moa.agents.prompts import TAG, block
from moa.agents.tool_calls import ToolCalls
from moa.core._json import parse_json
from moa.core.context import RunContext
from moa.core.errors import InputError
from moa.core.messages import File, Message, ToolCall
from moa.core.node import Reply, Result
from moa.endpoints import Completion, Prompt, ToolSchema
from moa.endpoints.tools import WithTools, flatten_tool_calls


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOptions:
    """A client's options for one answer."""

    history: tuple[Message, ...] = ()
    """Messages before the one to answer."""
    since: tuple[Message, ...] = ()
    """Calls of the client's tools after that message, and their results."""
    files: tuple[File, ...] = ()
    """Files of the message."""
    tools: tuple[ToolSchema, ...] = ()
    """Tools that the model may ask the client to call."""
    must_call: bool = False
    """True if the model must call a tool instead of answering in words."""
    one_call: bool = False
    """True if only one tool may be called at once."""
    schema: Mapping[str, object] | None = None
    """JSON schema of the answer; `None`: the agent's own output."""
    check: Callable[[object], None] = lambda value: None
    """Raises `ValueError` if a value doesn't fit the schema."""
    beside: Callable[[Callable[[], object]], Awaitable[object]] = asyncio.to_thread
    """Calls what holds an answer to the schema, beside the event loop: it may take a while."""
    max_tokens: int | None = None
    """Maximum tokens of the answer; the agent's own limit also applies."""
    temperature: float | None = None
    """Sampling temperature; `None`: the agent's own."""
    stop: tuple[str, ...] = ()
    """Sequences that end the answer, and aren't part of it."""


def are_paired(messages: Iterable[Message]) -> bool:
    """Return True if each tool call is followed by exactly its result, as servers require."""
    waiting: set[str] = set()
    for message in messages:
        if message.role == "tool":
            if message.tool_call_id not in waiting:
                return False
            waiting.remove(message.tool_call_id)
        elif waiting:
            return False
        else:
            waiting = {call.id for call in message.tool_calls}
            if len(waiting) < len(message.tool_calls):
                return False
    return not waiting


class ToolRequest(Reply):
    """A model's text, with calls of the client's tools."""

    calls: tuple[ToolCall, ...]


def as_relayable(node: object) -> Agent[object, object] | None:
    """Return the node if it is an agent whose `answer` isn't overridden; `None` otherwise.

    Only then do options reach its model.
    """
    if not isinstance(node, Agent):
        return None
    agent = cast("Agent[object, object]", node)
    return agent if type(agent).answer is Agent[object, object].answer else None


class Relay(Agent[object, object]):
    """Lets an agent answer a whole conversation with a client's options; made for one answer.

    Instructions and tools stay the agent's, and so do examples and checks, unless the client gives
    a schema. The output is the agent's, a `Reply` of JSON by the client's schema, or `ToolRequest`.

    Args:
        agent: The agent that answers; see `as_relayable`.
        options: The client's options.

    Raises:
        InputError: both the agent and the client have tools, or the endpoint can't read a file.
    """

    def __init__(self, agent: Agent[object, object], options: RelayOptions) -> None:
        vars(self).update(vars(agent))
        self.agent, self.options = agent, options
        self.cut = False
        """True if `max_tokens` cut the answer."""
        if options.tools and agent.tools:
            raise InputError(
                f"{agent.name} has tools of its own, and can't be given others: leave `tools` out"
            )
        for kind in {file.kind for file in options.files}:
            if kind not in agent.endpoint.capabilities:
                raise InputError(f"the model of {agent.name} reads no {kind}: leave them out")
        if options.schema is not None:
            self.output_type = self._model = Reply
            self._schema, self._examples = dict(options.schema), ()
        if options.max_tokens is not None:
            self.max_tokens = min(agent.max_tokens, options.max_tokens)
        if options.temperature is not None:
            self.temperature = options.temperature
        if options.tools:
            self.endpoint = WithTools(agent.endpoint, must_call=options.must_call)

    async def run(
        self, request: object, /, context: RunContext | None = None, *, history: History = ()
    ) -> Result[object]:
        """Answer the message, after the client's history; see `Agent.run`."""
        return await super().run(request, context, history=history or self.options.history)

    def user_prompt(self, request: object) -> str:
        """Return the user message of the wrapped agent."""
        return self.agent.user_prompt(request)

    def messages(self, request: object) -> tuple[Message, ...]:
        """Write the messages as the agent does."""
        return self.agent.messages(request)

    def check(self, request: object, output: object) -> None:
        """Check an output of the agent's own as the agent does."""
        if self.options.schema is None and not isinstance(output, ToolRequest):
            self.agent.check(request, output)

    def read(self, completion: Completion) -> object:
        """Parse the model's answer: tool calls, JSON by the client's schema, or the agent's output.

        Raises:
            ValueError: it is not valid; the message is shown to the model.
        """
        self.cut = completion.finish_reason == "length"
        if completion.tool_calls:
            return ToolRequest(text=completion.text, calls=completion.tool_calls)
        if self.options.must_call:
            raise ValueError("it calls no tool")
        if self.options.schema is None:
            return self.agent.read(completion)
        text = strip_fence(completion.text.strip())
        try:
            value = parse_json(text)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        self.options.check(value)
        return Reply(text=text)

    async def _read(self, completion: Completion) -> object:
        """Read beside the event loop what is held to a client's schema."""
        if self.options.schema is None:
            return self.read(completion)
        return await self.options.beside(lambda: self.read(completion))

    def _first_messages(
        self, request: object, history: Sequence[Message]
    ) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        messages, options = self.messages(request), self.options
        user_messages = tuple(message for message in messages if message.role != "system")
        *before, last = *self._opening_messages(messages, history), *user_messages
        last = replace(last, files=(*last.files, *options.files))
        all_messages = tuple(map(self._mark_as_data, (*before, last, *options.since)))
        is_native = bool(self.tools or options.tools) and are_paired(all_messages)
        is_flat = bool(history or options.since) and not is_native
        return (flatten_tool_calls(all_messages) if is_flat else all_messages), user_messages

    def _size(self, request: object, history: Sequence[Message]) -> int:
        return super()._size(request, (*history, *self.options.since))

    def _mark_as_data(self, message: Message) -> Message:
        """Mark a tool's result as data, like results of the agent's own tools."""
        if message.role != "tool":
            return message
        return replace(message, content=block(message.content, tag=self.tag or TAG))

    def _tag_in(self, prompt: str) -> str:
        messages = (*self.options.history, *self.options.since)
        if any(message.role == "tool" for message in messages):
            return self.tag or TAG
        return super()._tag_in(prompt)

    def _prompt(self, messages: tuple[Message, ...], *, free: bool) -> Prompt:
        prompt = super()._prompt(messages, free=free)
        tools = (*prompt.tools, *(self.options.tools if free else ()))
        return replace(prompt, tools=tools, stop=self.options.stop)

    async def _turns(
        self, messages: tuple[Message, ...], calls: ToolCalls, context: RunContext, *, free: bool
    ) -> tuple[Completion, tuple[Message, ...]]:
        if not self.options.tools:
            return await super()._turns(messages, calls, context, free=free)
        completion = await self._ask(messages, context, free=free)
        tool_calls = completion.tool_calls[: 1 if self.options.one_call else None]
        return replace(completion, tool_calls=tool_calls), ()

    def _cut_to_fit(self, completion: Completion, context: RunContext) -> Completion:
        if completion.tool_calls or self.options.schema is not None:
            return completion
        return super()._cut_to_fit(completion, context)

    def _streams(self, context: RunContext) -> bool:
        return self.options.schema is None and self.agent._streams(context)
