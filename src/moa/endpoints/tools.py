"""Tools: adds tools to any endpoint. Without native tools, the model chooses by a JSON schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from moa.core._async import closing_stream
from moa.core._json import JSON, is_object, object_of
from moa.core.context import RunContext
from moa.core.errors import EndpointError, EndpointUnauthorized, OutputError
from moa.core.messages import File, Message, Role, ToolCall
from moa.endpoints import Capability, Completion, Endpoint, Pieces, Prompt, ToolSchema
from moa.endpoints.openai import OpenAIEndpoint, add_instruction
from moa.endpoints.wrappers import Wrapping, innermost

_REFUSES = re.compile(
    r"tools?\b.{0,100}(support|requires?|enable|parser|permitted|unknown|unrecognized)"
    r"|(support|unknown|unrecognized|extra).{0,100}\btools?\b",
    re.IGNORECASE | re.DOTALL,
)
"""Messages of servers without tools: vLLM, Ollama, llama.cpp, and servers that check fields."""
_ALONE = re.compile(r"(?:```(?:json)?|<tool_call>)?\s*+\{.*\}\s*+(?:```|</tool_call>)?", re.DOTALL)
"""A stripped text that is one call. It takes linear time, however many spaces a model repeats."""
_CALL = re.compile(r'\{\s*"(?:name|arguments|parameters)"\s*:')
"""Start of a call left in the text because the server's parser missed it. Some templates make
models double the braces around it."""
_MAX_READ = 8
_BLANK = re.compile(r"\s{20}\Z")
_JSON = json.JSONDecoder()
_TOOLS: frozenset[Capability] = frozenset(("tools",))
_MAY_BE_A_CALL = ("{", "`", "<")
_TOLD = (
    "You can use tools. Answer in JSON, and choose one of two forms each time:\n"
    '- {"tool": its name, "arguments": its arguments} uses a tool; you are told its result\n'
    '- {"answer": the answer} ends it, once you know the answer\n'
    "The tools:"
)
_TOLD_TO_CALL = (
    'Use a tool now. Answer in JSON: {"tool": its name, "arguments": its arguments}.\nThe tools:'
)


class WithTools(Wrapping):
    """Adds tools to any endpoint.

    The model chooses one tool at a time in JSON, `{"tool": …, "arguments": …}` or `{"answer": …}`,
    if the endpoint has no tools, its server refuses them, or its model writes calls that the server
    can't read; and always with `must_call`, or if the server of a small model enforces the schema.

    Args:
        endpoint: The endpoint to ask.
        must_call: True if a tool must be called, so that no answer is offered.
    """

    def __init__(self, endpoint: Endpoint, *, must_call: bool = False) -> None:
        super().__init__(endpoint)
        has_tools = "tools" in endpoint.capabilities and not _is_schema_enforced(endpoint)
        self._uses_native_tools = has_tools and not must_call
        self._must_call = must_call

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Capabilities of the endpoint, and tools."""
        return self.endpoint.capabilities | _TOOLS

    def outgoing(self, prompt: Prompt) -> Prompt:
        """Rewrite a prompt without tools if they are chosen by a schema."""
        # Some servers refuse results of tools in a request without tools.
        if self._uses_native_tools and prompt.tools:
            return prompt
        return choose_by_schema(prompt, must_call=self._must_call)

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`.

        Raises:
            OutputError: `max_tokens` cut the JSON that chooses a tool.
        """
        if (sent_prompt := self.outgoing(prompt)) is prompt:
            try:
                return self._find_call(
                    await self.endpoint.complete(prompt, context), prompt, context
                )
            except EndpointError as error:
                self._give_up(error, prompt, context)
                sent_prompt = choose_by_schema(prompt)
        completion = await self.endpoint.complete(sent_prompt, context)
        if completion.finish_reason == "length" and _BLANK.search(completion.text):
            # A schema lets a model write spaces between its parts, and small ones may never stop:
            # <https://github.com/vllm-project/vllm/issues/38696>. The prompt shows the schema, too.
            completion = await self.endpoint.complete(
                replace(sent_prompt, json_schema=None), context
            )
        return _read_turn(completion, prompt, context) if prompt.tools else completion

    async def stream(self, prompt: Prompt, context: RunContext, /) -> Pieces:
        """See `Endpoint.stream`. Text that may be a call is held back until it is complete."""
        if self._uses_native_tools and prompt.tools:
            held_text, has_begun = "", False
            try:
                async with closing_stream(self.endpoint.stream(prompt, context)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, Completion):
                            piece = self._find_call(piece, prompt, context)
                            if held_text and not piece.tool_calls:
                                yield held_text
                            yield piece
                        elif held_text or (not has_begun and piece.lstrip()[:1] in _MAY_BE_A_CALL):
                            held_text += piece
                        else:
                            has_begun = has_begun or bool(piece.strip())
                            yield piece
                return
            except EndpointError as error:
                self._give_up(error, prompt, context)
        completion = await self.complete(prompt, context)
        if completion.text:
            yield completion.text
        yield completion

    def _find_call(self, completion: Completion, prompt: Prompt, context: RunContext) -> Completion:
        """Find a call that the model wrote as text. If found, choose by a schema from now on."""
        if completion.tool_calls or (call := _find_written_call(completion.text, prompt)) is None:
            return completion
        is_unknown = call.name not in {tool.name for tool in prompt.tools}
        is_alone = prompt.json_schema is None and _ALONE.fullmatch(completion.text.strip())
        if is_unknown and not is_alone:  # it may be part of the answer
            return completion
        self._uses_native_tools = False
        context.note(
            "fell back",
            f"to JSON by a schema, for tools: {completion.model} wrote a call as text",
            endpoint=self.name,
        )
        return replace(completion, text="", tool_calls=(call,))

    def _give_up(self, error: EndpointError, prompt: Prompt, context: RunContext) -> None:
        """Stop using native tools if the server refuses them. Otherwise raise the error."""
        was_refused = error.status is not None and 400 <= error.status <= 501
        if (
            not (was_refused and prompt.tools and _REFUSES.search(error.message))
            or isinstance(error, EndpointUnauthorized)
            or error.begun
        ):
            raise error
        self._uses_native_tools = False
        context.note("fell back", f"to JSON by a schema, for tools: {error}", endpoint=self.name)


def _is_schema_enforced(endpoint: Endpoint) -> bool:
    """Return True if a small model's server enforces schemas, as it may not enforce tool calls."""
    inner = innermost(endpoint)
    enforces_all = isinstance(inner, OpenAIEndpoint) and inner.dialect.enforces == "all"
    return enforces_all and inner.tier == "slm"


def choose_by_schema(prompt: Prompt, *, must_call: bool = False) -> Prompt:
    """Rewrite a prompt with tools as one that describes them and chooses by a schema.

    With `must_call`, the schema allows no answer.
    """
    messages = flatten_tool_calls(prompt.messages)
    if not prompt.tools:
        return replace(prompt, messages=messages)
    instruction = _TOLD_TO_CALL if must_call else _TOLD
    instruction = "\n".join((instruction, *(_describe(tool) for tool in prompt.tools)))
    answer = None if must_call else prompt.json_schema or {"type": "string"}
    return replace(
        prompt,
        messages=add_instruction(messages, instruction),
        json_schema=_turn_schema(prompt.tools, answer),
        tools=(),
    )


def flatten_tool_calls(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Rewrite tool calls and their results as turns of assistant and user."""
    turns: list[tuple[Role, list[str], list[File]]] = []
    names = dict[str, str]()
    for message in messages:
        names |= {call.id: call.name for call in message.tool_calls}
        calls = [
            json.dumps({"tool": call.name, "arguments": _values(call)}, ensure_ascii=False)
            for call in message.tool_calls
        ]
        text = "\n".join(part for part in (message.content, *calls) if part)
        role = message.role
        if role == "tool":
            role, text = "user", f"Result of {names.get(message.tool_call_id, 'it')}:\n{text}"
        if not turns or turns[-1][0] != role:  # many chat templates need alternating roles
            turns.append((role, [], []))
        turns[-1][1].append(text)
        turns[-1][2].extend(message.files)
    return tuple(
        Message(role, "\n\n".join(texts), files=tuple(files)) for role, texts, files in turns
    )


def _values(call: ToolCall) -> object:
    try:
        return call.values
    except ValueError:
        return call.arguments


def _describe(tool: ToolSchema) -> str:
    form = json.dumps(tool.parameters, ensure_ascii=False, separators=(",", ":"))
    return f"- {tool.name}: {tool.description}\n  arguments: {form}"


def _turn_schema(tools: Sequence[ToolSchema], answer: Mapping[str, object] | None) -> JSON:
    """Return the schema of a turn: a tool call, or the answer if one is allowed."""
    shared: JSON = {}
    forms: list[dict[str, JSON]] = [
        {"tool": {"const": tool.name}, "arguments": _hoist(tool.parameters, tool.name)}
        for tool in tools
    ]
    if answer is not None:
        forms.append({"answer": _hoist(answer, "answer")})
    for form in forms:
        for part in form.values():
            shared |= object_of(part.pop("$defs", None))
    closed = {"type": "object", "additionalProperties": False}
    turns = [{**closed, "properties": form, "required": [*form]} for form in forms]
    schema: JSON = {"title": "Turn", "anyOf": turns}
    return {**schema, "$defs": shared} if shared else schema


def _hoist(schema: Mapping[str, object], owner: str) -> JSON:
    """Prefix the shared parts of a schema with their owner, so that schemas can be joined."""
    hoisted: JSON = json.loads(json.dumps(schema).replace('"#/$defs/', f'"#/$defs/{owner}_'))
    if is_object(shared := hoisted.get("$defs")):
        hoisted["$defs"] = {f"{owner}_{name}": part for name, part in shared.items()}
    return hoisted


def _find_written_call(text: str, prompt: Prompt) -> ToolCall | None:
    """Find a call in the usual form of models, `{"name": …, "arguments": {…}}`."""
    for match in islice(_CALL.finditer(text), _MAX_READ):
        try:
            call = object_of(_JSON.raw_decode(text, match.start())[0])
        except (ValueError, RecursionError):
            continue
        name, arguments = call.get("name"), call.get("arguments", call.get("parameters"))
        if len(call) == 2 and isinstance(name, str) and is_object(arguments):
            return ToolCall(name, json.dumps(arguments), f"call_{len(prompt.messages)}")
    return None


def _read_turn(completion: Completion, prompt: Prompt, context: RunContext) -> Completion:
    """Read a turn. Other text, from a server that doesn't enforce the schema, is the answer."""
    try:
        turn = object_of(json.loads(completion.text))
    except ValueError:
        if completion.finish_reason != "length":
            return completion
        raise OutputError(
            f"max_tokens={prompt.max_tokens} cut the JSON by which a tool is chosen: raise it",
            node=context.node or completion.endpoint,
            text=completion.text,
        ) from None
    if isinstance(name := turn.get("tool"), str):
        arguments = json.dumps(turn.get("arguments", {}), ensure_ascii=False)
        call = ToolCall(name, arguments, f"call_{len(prompt.messages)}")
        return replace(completion, text="", tool_calls=(call,))
    if "answer" in turn:
        answer = turn["answer"]
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        return replace(completion, text=text)
    return completion
