"""Tools: functions, tools of LangChain, and tools on a server, which a model may call."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, get_type_hints

from pydantic import PydanticSchemaGenerationError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import to_json

from moa.agents.prompts import Untitled
from moa.core._json import JSON, is_object, is_sequence
from moa.core._threads import USER_THREADS
from moa.core.context import RunContext
from moa.core.errors import ConfigError
from moa.core.messages import ToolCall
from moa.core.node import Node, Text
from moa.core.telemetry import names
from moa.endpoints import ToolSchema

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

    from moa.agents.filter import Verdict

Approve = Callable[[ToolCall], bool | str | Awaitable[bool | str]]
"""Allows or refuses a call: `True`, `False`, or the reason to refuse. `call.values` are the tool's
arguments as JSON values, checked and with defaults."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")
_LARGE = 100
"""Maximum items of a list or dictionary that may be written in one piece."""


def name_for_models(name: str) -> str:
    """Convert a tool's name to one that model servers accept."""
    return _NOT_IN_A_NAME.sub("_", name)[:64]


class LangChainTool(Protocol):
    """A tool of LangChain: a `BaseTool`."""

    name: str
    description: str

    async def ainvoke(self, input: str, /) -> object:
        """Run it."""


@dataclass(frozen=True)
class RemoteTool:
    """A tool on a server, which provides its schema and checks its arguments."""

    schema: ToolSchema
    call: Callable[[Mapping[str, object]], Awaitable[object]]
    """Runs it with these arguments; raises `ToolFailed` if the tool reports a failure."""

    @property
    def name(self) -> str:
        """Its name for models; on the server it may have other characters."""
        return self.schema.name

    @property
    def description(self) -> str:
        """The server's description of it."""
        return self.schema.description


class Tool:
    """A function that a model may call, with options.

    The signature describes and validates the arguments. Their descriptions come from the docstring
    (Google style) or from `Annotated[…, Field(description=…)]`. A parameter of type `RunContext`
    gets the run's context, so that the budget also covers calls that the tool makes.

    Args:
        function: An asynchronous function; a synchronous one, which runs in a thread; a LangChain
            `BaseTool`; or a tool from `mcp_tools`.
        name: `None` uses the function's own.
        description: Description for the model; `None`: the docstring up to its first section.
        timeout_s: Maximum seconds of a call; the model reads an error after that. A thread can't
            be stopped and continues in the background. With 32 of these in a process, further
            calls of the tool raise `ConfigError`.
        max_characters: Maximum characters of a result for the model, 100,000 by default. A longer
            one is cut; the model and the trace get its original length.
        approve: Called before each call, to allow or refuse it.
        guards: Check each result in order before the model reads it. A guard that returns a
            `Verdict`, such as `Filter` or `Injection`, can stop it; one that returns a `Text`,
            such as `Pii`, changes it. If a guard fails, the run ends.

    Raises:
        ConfigError: its name, description or signature can't be described to a model, or a guard
            is not a node.

    Examples:
        >>> def in_stock(item: str) -> int:
        ...     '''Look up how many pieces of an item are in stock.'''
        ...     return {"pens": 137}[item]
        >>> model = ScriptedEndpoint([ToolCall("in_stock", '{"item": "pens"}'), "There are 137."])
        >>> agent = Agent(model, "Answer by the stock list.", tools=[Tool(in_stock, timeout_s=5)])
        >>> print(agent.run_sync("Pens left?").output)
        There are 137.
    """

    def __init__(
        self,
        function: Callable[..., object] | LangChainTool | RemoteTool,
        *,
        name: str | None = None,
        description: str | None = None,
        timeout_s: float = 60.0,
        max_characters: int = 100_000,
        approve: Approve | None = None,
        guards: Sequence[Node[str, Verdict | Text]] = (),
    ) -> None:
        if isinstance(function, RemoteTool):
            parts = _of_remote(function)
        elif _is_langchains(function):
            parts = _of_langchain(function)
        elif callable(function):
            parts = _of_function(function, name)
        else:
            raise ConfigError(f"{function!r:.100} is no tool: give a function, or a `Tool`")
        schema, self._read, self._invoke = parts
        self.schema = ToolSchema(
            name or schema.name, description or schema.description, schema.parameters
        )
        self.name = self.schema.name
        self.timeout_s = timeout_s
        self.max_characters = max_characters
        self.approve = approve
        self.guards = tuple(guards)
        if any(isinstance(guard, type) or not hasattr(guard, "run") for guard in self.guards):
            raise ConfigError(
                f"tool {self.name!r}: guards={guards!r}, but a guard is a node that gives a "
                "Verdict, such as Filter, or Pii: give an object of it"
            )
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"a tool can't be called {self.name!r}: give it another as name=")
        if not self.schema.description.strip():
            raise ConfigError(
                f"tool {self.name!r} doesn't say what it does: give it a docstring or description="
            )
        if timeout_s <= 0:
            raise ConfigError(f"tool {self.name!r}: timeout_s={timeout_s} must be positive")
        if max_characters <= 0:
            raise ConfigError(f"tool {self.name!r}: max_characters={max_characters} isn't positive")

    def read(self, arguments: str) -> Mapping[str, object]:
        """Parse the arguments that a model wrote.

        Raises:
            ValueError: they don't fit.
        """
        return self._read(arguments)

    @classmethod
    def of(cls, tool: AnyTool) -> Tool:
        """Wrap a tool in a `Tool`; return a `Tool` unchanged."""
        return tool if isinstance(tool, Tool) else cls(tool)

    async def run(self, values: Mapping[str, object], context: RunContext) -> str:
        """Run it, and return its result as text for the model, cut at `max_characters`."""
        result = await self._invoke(values, context)
        if not isinstance(result, str):
            result = await asyncio.to_thread(_write_result, result)
        if len(result) <= self.max_characters:
            return result
        cut = f"the first {self.max_characters} of {len(result)} characters"
        context.note("truncated", f"{self.name}: the model reads {cut}")
        return f"{result[: self.max_characters]}\n[The result is cut: these are {cut}.]"

    async def guard(self, text: str, context: RunContext) -> tuple[str, str | None]:
        """Check the tool's text or error with the guards.

        Return the text and `None`, or the reason to stop it and the name of the guard.
        """
        for guard in self.guards if text.strip() else ():
            guard_context = context if context.tracer is None else context.nested()
            with guard_context.span("guard", guard.name) as span:
                output = (await guard.run(text, guard_context)).output
                if span is not None:
                    span.set(names.GUARD_POSITION, "tool")
                    span.set(names.GUARD_KEPT, getattr(output, "kept", None))
            if isinstance(output, Text):
                text = output.text
            elif not hasattr(output, "kept"):
                raise ConfigError(
                    f"tool {self.name!r}: its guard {guard.name!r} gives {type(output).__name__}, "
                    "and not a Verdict or a Text"
                )
            elif not output.kept:
                return output.reason, f"stopped by {guard.name!r}"
        return text, None


AnyTool = Tool | Callable[..., object] | LangChainTool | RemoteTool

ReadArguments = Callable[[str], Mapping[str, object]]
InvokeTool = Callable[[Mapping[str, object], RunContext], Awaitable[object]]
_Parts = tuple[ToolSchema, ReadArguments, InvokeTool]


def _write_result(result: object) -> str:
    """Write a result as JSON, a large one piece by piece.

    Pydantic blocks all threads while it writes.
    """
    return "".join(_pieces(result, depth=3))


def _pieces(value: object, depth: int) -> Iterator[str]:
    """Write the items of a list or dictionary separately, if it is large or not deeply nested."""
    size = len(value) if is_sequence(value) or is_object(value) else 0
    is_large = size > _LARGE
    inner_depth = 0 if is_large else depth - 1
    if is_sequence(value) and size and (is_large or depth):
        for index, inner in enumerate(value):
            yield "," if index else "["
            yield from _pieces(inner, inner_depth)
        yield "]"
    elif is_object(value) and size and (is_large or depth):
        for index, (key, inner) in enumerate(value.items()):
            yield "," if index else "{"
            yield to_json({key: 0}, fallback=str).decode()[1:-2]
            yield from _pieces(inner, inner_depth)
        yield "}"
    else:
        yield to_json(value, fallback=str).decode()


def _of_function(function: Callable[..., object], name: str | None) -> _Parts:
    inner: Callable[..., object] = getattr(function, "func", function)  # of a partial
    name = name or str(getattr(inner, "__name__", type(inner).__name__))
    called = inner if inspect.isroutine(inner) else type(inner).__call__
    doc, meanings = _docstring(inspect.getdoc(inner) or "")
    try:
        hints = get_type_hints(called, include_extras=True)
        read: Any = _arguments_of(function, hints)
        adapter = TypeAdapter[JSON](read)
        parameters = adapter.json_schema(schema_generator=Untitled)
    except (NameError, PydanticSchemaGenerationError, PydanticInvalidForJsonSchema) as error:
        raise ConfigError(
            f"the signature of tool {name!r} can't be told to a model: {error}. Give each "
            "parameter a name and a type that pydantic knows"
        ) from error
    for key, part in parameters.get("properties", {}).items():
        part.pop("title", None)
        if key in meanings:
            part.setdefault("description", meanings[key])
    context_names = [key for key, hint in hints.items() if hint is RunContext]

    async def invoke(values: Mapping[str, object], context: RunContext) -> object:
        called = partial(function, **values, **dict.fromkeys(context_names, context))
        return await in_thread(called, schema.name)

    schema = ToolSchema(name, doc, parameters)
    return schema, adapter.validate_json, invoke


async def in_thread(work: partial[object], name: str) -> object:
    """Call and await an asynchronous function; call any other in a thread."""
    is_async = any(map(inspect.iscoroutinefunction, (work.func, type(work.func).__call__)))
    result = work() if is_async else await USER_THREADS.run(work, name)
    return await result if inspect.isawaitable(result) else result


def _arguments_of(
    function: Callable[..., object], hints: Mapping[str, object]
) -> Callable[..., JSON]:
    """Make a function with the same parameters that returns its arguments by name."""

    @wraps(function, updated=())
    def given(**values: object) -> JSON:
        return values

    signature = inspect.signature(function)
    bound = getattr(function, "keywords", {})  # of a `partial`: not for the model to set
    parameters = [
        parameter
        for key, parameter in signature.parameters.items()
        if hints.get(key) is not RunContext and key not in bound
    ]
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise ConfigError(
                f"{function!r}: a model names its arguments, and {parameter} has no name"
            )
    vars(given)["__signature__"] = signature.replace(parameters=parameters)
    given.__annotations__ = {key: hint for key, hint in hints.items() if key != "return"}
    return given


_SECTION = re.compile(
    r"^(Args|Arguments|Returns|Raises|Yields|Examples?|Notes?):\s*$", re.MULTILINE
)
_MEANING = re.compile(r"^(\w+)(?: *\([^)]*\))?: *(.*(?:\n[ \t]+.*)*)", re.MULTILINE)


def _docstring(doc: str) -> tuple[str, Mapping[str, str]]:
    """Parse a docstring into its summary and the meaning of each argument."""
    summary, *sections = _SECTION.split(doc)
    parts = dict(zip(sections[::2], sections[1::2], strict=True))
    arguments = inspect.cleandoc(parts.get("Args") or parts.get("Arguments") or "")
    meanings = {name: " ".join(text.split()) for name, text in _MEANING.findall(arguments)}
    return " ".join(summary.split()), meanings


def _is_langchains(function: object) -> TypeGuard[BaseTool]:
    return hasattr(function, "ainvoke") and hasattr(function, "args_schema")


def _of_remote(tool: RemoteTool) -> _Parts:
    async def invoke(values: Mapping[str, object], context: RunContext) -> object:
        del context
        return await tool.call(values)

    return tool.schema, _read_json, invoke


def _read_json(arguments: str) -> Mapping[str, object]:
    return ToolCall("", arguments).values


def _of_langchain(tool: BaseTool) -> _Parts:
    from langchain_core.utils.function_calling import convert_to_openai_tool

    async def invoke(values: Mapping[str, object], context: RunContext) -> object:
        del context
        call = {"type": "tool_call", "id": "call", "name": tool.name, "args": dict(values)}
        if _is_blocking(tool):
            answer = await USER_THREADS.run(partial(tool.invoke, call), tool.name)
        else:
            answer = await tool.ainvoke(call)
        if answer.status == "error":
            raise ToolFailed(answer.text)
        return answer.text or answer.content

    function = convert_to_openai_tool(tool)["function"]
    schema = ToolSchema(
        function["name"], function.get("description", ""), function.get("parameters", {})
    )
    return schema, _read_json, invoke


def _is_blocking(tool: object) -> bool:
    """Return True if a tool of LangChain isn't asynchronous: it would block asyncio's own pool."""
    from langchain_core.tools import BaseTool, StructuredTool
    from langchain_core.tools import Tool as OfOneText

    if isinstance(tool, StructuredTool | OfOneText):
        return tool.coroutine is None
    return isinstance(tool, BaseTool) and type(tool)._arun is BaseTool._arun  # pyright: ignore[reportPrivateUsage]


class ToolFailed(Exception):
    """A tool's own report of failure; the model reads the text."""
