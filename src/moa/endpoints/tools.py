"""Tools: asks any endpoint with tools; one that takes none chooses by a JSON schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from moa._async import closing_stream
from moa._json import JSON, is_object, object_of
from moa.context import RunContext
from moa.endpoints import Capability, Completion, Endpoint, Pieces, Prompt, ToolSchema
from moa.endpoints.openai import OpenAIEndpoint, add_instruction
from moa.endpoints.wrappers import Wrapping, innermost
from moa.errors import EndpointError, EndpointUnauthorized, OutputError
from moa.messages import File, Message, Role, ToolCall

_REFUSES = re.compile(
    r"tools?\b.{0,100}(support|requires?|enable|parser|permitted|unknown|unrecognized)"
    r"|(support|unknown|unrecognized|extra).{0,100}\btools?\b",
    re.IGNORECASE | re.DOTALL,
)
"""What servers say that take no tools: vLLM, Ollama, llama.cpp, and those that check fields."""
_ALONE = re.compile(
    r"\s*(?:```(?:json)?|<tool_call>)?\s*\{.*\}\s*(?:```|</tool_call>)?\s*", re.DOTALL
)
_CALL = re.compile(r'\{\s*"(?:name|arguments|parameters)"\s*:')
"""Where a call may begin that stands in the text, since the server's parser did not find it there.
Some templates have models double the braces around it."""
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
    """Takes tools, whatever it wraps.

    The model chooses by JSON, `{"tool": …, "arguments": …}` or `{"answer": …}`, one at a time,
    where the endpoint takes no tools, its server refuses them, or its model writes calls that the
    server can't read; and from the start where a small model's server holds it to the schema.

    Args:
        endpoint: Who is asked.
        must_call: Whether a tool has to be called, so that the form of an answer isn't shown.
    """

    def __init__(self, endpoint: Endpoint, *, must_call: bool = False) -> None:
        super().__init__(endpoint)
        able = "tools" in endpoint.capabilities and not _is_held(endpoint)
        self._natively = able and not must_call
        self._must_call = must_call

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What can be asked of it, and tools."""
        return self.endpoint.capabilities | _TOOLS

    def outgoing(self, prompt: Prompt) -> Prompt:
        """Write it without tools where they are chosen by a schema."""
        # Some servers take no results of tools without tools.
        if self._natively and prompt.tools:
            return prompt
        return by_schema(prompt, must_call=self._must_call)

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`.

        Raises:
            OutputError: `max_tokens` cut the JSON by which a tool is chosen.
        """
        if (asked := self.outgoing(prompt)) is prompt:
            try:
                return self._find_call(
                    await self.endpoint.complete(prompt, context), prompt, context
                )
            except EndpointError as error:
                self._give_up(error, prompt, context)
                asked = by_schema(prompt)
        completion = await self.endpoint.complete(asked, context)
        if completion.finish_reason == "length" and _BLANK.search(completion.text):
            # A schema lets a model write spaces between its parts, and small ones may not end:
            # <https://github.com/vllm-project/vllm/issues/38696>. What is wanted is shown, too.
            completion = await self.endpoint.complete(replace(asked, json_schema=None), context)
        return _read(completion, prompt, context) if prompt.tools else completion

    async def stream(self, prompt: Prompt, context: RunContext, /) -> Pieces:
        """See `Endpoint.stream`; what may be a tool that is chosen comes as a whole."""
        if self._natively and prompt.tools:
            held, begun = "", False
            try:
                async with closing_stream(self.endpoint.stream(prompt, context)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, Completion):
                            piece = self._find_call(piece, prompt, context)
                            if held and not piece.tool_calls:
                                yield held
                            yield piece
                        elif held or (not begun and piece.lstrip()[:1] in _MAY_BE_A_CALL):
                            held += piece
                        else:
                            begun = begun or bool(piece.strip())
                            yield piece
                return
            except EndpointError as error:
                self._give_up(error, prompt, context)
        completion = await self.complete(prompt, context)
        if completion.text:
            yield completion.text
        yield completion

    def _find_call(self, completion: Completion, prompt: Prompt, context: RunContext) -> Completion:
        """Find a call that the model wrote as text, and choose by a schema from then on."""
        if completion.tool_calls or (call := _call_in(completion.text, prompt)) is None:
            return completion
        unknown = call.name not in {tool.name for tool in prompt.tools}
        alone = prompt.json_schema is None and _ALONE.fullmatch(completion.text)
        if unknown and not alone:  # it may be the answer, or stand in one
            return completion
        self._natively = False
        context.note(
            "fell back",
            f"to JSON by a schema, for tools: {completion.model} wrote a call as text",
            endpoint=self.name,
        )
        return replace(completion, text="", tool_calls=(call,))

    def _give_up(self, error: EndpointError, prompt: Prompt, context: RunContext) -> None:
        """Ask without tools from now on, where they are what is refused; else raise."""
        refused = error.status is not None and 400 <= error.status <= 501
        if (
            not (refused and prompt.tools and _REFUSES.search(error.message))
            or isinstance(error, EndpointUnauthorized)
            or error.begun
        ):
            raise error
        self._natively = False
        context.note("fell back", f"to JSON by a schema, for tools: {error}", endpoint=self.name)


def _is_held(endpoint: Endpoint) -> bool:
    """Whether a small model is sure to write the form of a turn, as it is not to write a call's."""
    inner = innermost(endpoint)
    held = isinstance(inner, OpenAIEndpoint) and inner.dialect.enforces == "all"
    return held and inner.tier == "slm"


def by_schema(prompt: Prompt, *, must_call: bool = False) -> Prompt:
    """Write a prompt with tools as one without: they are described, and chosen by a schema.

    With `must_call` the schema has no form for an answer.
    """
    messages = plain(prompt.messages)
    if not prompt.tools:
        return replace(prompt, messages=messages)
    told = _TOLD_TO_CALL if must_call else _TOLD
    told = "\n".join((told, *(_describe(tool) for tool in prompt.tools)))
    answer = None if must_call else prompt.json_schema or {"type": "string"}
    return replace(
        prompt,
        messages=add_instruction(messages, told),
        json_schema=_turn_schema(prompt.tools, answer),
        tools=(),
    )


def plain(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Write tool calls and their results as what an assistant and a user say, in turns."""
    said: list[tuple[Role, list[str], list[File]]] = []
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
        if not said or said[-1][0] != role:  # many chat templates take no two of a kind
            said.append((role, [], []))
        said[-1][1].append(text)
        said[-1][2].extend(message.files)
    return tuple(
        Message(role, "\n\n".join(texts), files=tuple(files)) for role, texts, files in said
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
    """Write the schema of one turn: a call of a tool, or the answer where one may be given."""
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
    whole: JSON = {"title": "Turn", "anyOf": turns}
    return {**whole, "$defs": shared} if shared else whole


def _hoist(schema: Mapping[str, object], owner: str) -> JSON:
    """Name the shared parts of a schema after their owner, so that they can stand beside others."""
    hoisted: JSON = json.loads(json.dumps(schema).replace('"#/$defs/', f'"#/$defs/{owner}_'))
    if is_object(shared := hoisted.get("$defs")):
        hoisted["$defs"] = {f"{owner}_{name}": part for name, part in shared.items()}
    return hoisted


def _call_in(text: str, prompt: Prompt) -> ToolCall | None:
    """Find `{"name": …, "arguments": {…}}`, as most models are trained to write a call."""
    for begin in islice(_CALL.finditer(text), _MAX_READ):
        try:
            call = object_of(_JSON.raw_decode(text, begin.start())[0])
        except (ValueError, RecursionError):
            continue
        name, arguments = call.get("name"), call.get("arguments", call.get("parameters"))
        if len(call) == 2 and isinstance(name, str) and is_object(arguments):
            return ToolCall(name, json.dumps(arguments), f"call_{len(prompt.messages)}")
    return None


def _read(completion: Completion, prompt: Prompt, context: RunContext) -> Completion:
    """Read a turn; where the schema was not enforced and it is none, it is the answer."""
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
