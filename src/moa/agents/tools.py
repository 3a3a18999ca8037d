"""Tools: what a model may have done, and how its calls are checked, approved, run and kept."""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, cast, get_type_hints

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import to_json

from moa._async import gather
from moa.agents.boundary import said
from moa.agents.prompts import Untitled, block
from moa.context import RunContext
from moa.endpoints import Endpoint, ToolSchema
from moa.errors import BudgetExceeded, ConfigError, DeadlineExceeded, EndpointUnauthorized
from moa.journal import Place, explained, interrupts_of, together
from moa.messages import Message, ToolCall
from moa.node import Node, Text
from moa.records import PLAIN, Call
from moa.trace import NoteKind, ToolFinished, ToolStarted
from moa.usage import Amount

if TYPE_CHECKING:
    from moa.agents.filter import Verdict

Approve = Callable[[ToolCall], bool | str | Awaitable[bool | str]]
"""Says whether a call may be made: `True`, `False`, or why not. `call.values` are the arguments as
the tool is given them, checked and with defaults, written as JSON."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LONGEST_QUOTE = 300
_NO_TIME = 1e-12
"""Seconds of a charge for a tool: those of a usage are spent with endpoints."""
_ENDS_A_RUN = (ConfigError, BudgetExceeded, EndpointUnauthorized)
"""What no model can do anything about."""


class LangChainTool(Protocol):
    """A tool of LangChain: a `BaseTool`, such as those of an MCP server."""

    name: str
    description: str

    async def ainvoke(self, input: Any, /) -> Any:
        """Run it."""


class Tool:
    """A function that a model may have called, and how.

    The arguments are told and checked by its signature; what they mean is read from its docstring
    (Google's style) or from `Annotated[…, Field(description=…)]`. A parameter of type `RunContext`
    is given the run's, so that the budget holds for what the tool asks in turn.

    Args:
        function: A function, asynchronous or not, which then runs in a thread; or a `BaseTool` of
            LangChain.
        name: `None` is the function's own.
        description: What it does, for the model; `None` is the docstring up to its first section.
        timeout_s: Seconds that a call may take; the model is told of one that takes longer.
        approve: Asked before each call; `None`: nobody is.
        guards: Read what it gives, one after another, before the model does: a node that gives a
            `Verdict`, such as `Filter` or `Injection`, stops a text that it doesn't keep; one that
            gives a `Text`, such as `Pii`, changes it. One that fails ends the run.

    Raises:
        ConfigError: its name, its description or its signature can't be told to a model, or a
            guard is no node.

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
        function: Callable[..., Any] | LangChainTool,
        *,
        name: str | None = None,
        description: str | None = None,
        timeout_s: float = 60.0,
        approve: Approve | None = None,
        guards: Sequence[Node[str, Verdict | Text]] = (),
    ) -> None:
        self._invoke: Callable[[Mapping[str, Any], RunContext], Awaitable[object]]
        self._read: Callable[[str], Mapping[str, Any]]
        if _is_langchains(function):
            found = _of_langchain(function)
            self._invoke, self._read = _invoking(function), lambda text: ToolCall("", text).values
        else:
            found = self._of_function(cast("Callable[..., Any]", function), name)
        self.schema = ToolSchema(
            name or found.name, description or found.description, found.parameters
        )
        self.name = self.schema.name
        self.timeout_s = timeout_s
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

    @classmethod
    def of(cls, given: AnyTool) -> Tool:
        """Give a tool; one that is a `Tool` is given back."""
        return given if isinstance(given, Tool) else cls(given)

    def read(self, arguments: str) -> Mapping[str, Any]:
        """Read the arguments that a model wrote.

        Raises:
            ValueError: they don't fit.
        """
        return self._read(arguments)

    async def run(self, values: Mapping[str, Any], context: RunContext) -> str:
        """Run it, and write its result as a model reads it.

        Raises:
            Exception: whatever it raises.
        """
        result = await self._invoke(values, context)
        return result if isinstance(result, str) else to_json(result, fallback=str).decode()

    async def guarded(self, text: str, context: RunContext) -> tuple[str, str | None]:
        """Have the guards read what it says, its errors among it.

        Returns:
            The text, or why it is stopped; and by whom, `None` where it isn't.

        Raises:
            ConfigError: a guard gives neither a `Verdict` nor a `Text`.
            MoaError: a guard failed.
        """
        for guard in self.guards if text.strip() else ():
            said = (await guard.run(text, context)).output
            if isinstance(said, Text):
                text = said.text
            elif not hasattr(said, "kept"):
                raise ConfigError(
                    f"tool {self.name!r}: its guard {guard.name!r} gives {type(said).__name__}, "
                    "and not a Verdict or a Text"
                )
            elif not said.kept:
                return said.reason, f"stopped by {guard.name!r}"
        return text, None

    def _of_function(self, function: Callable[..., Any], name: str | None) -> ToolSchema:
        inner: Any = getattr(function, "func", function)  # of a partial
        name = name or str(getattr(inner, "__name__", type(inner).__name__))
        called = inner if inspect.isroutine(inner) else type(inner).__call__
        doc, meanings = _docstring(inspect.getdoc(inner) or "")
        try:
            hints = get_type_hints(called, include_extras=True)
            given: Any = _arguments_of(function, hints)
            adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(given)
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
        wanted = [key for key, hint in hints.items() if hint is RunContext]

        async def invoke(values: Mapping[str, Any], context: RunContext) -> object:
            return await in_thread(function, **values, **dict.fromkeys(wanted, context))

        self._invoke, self._read = invoke, adapter.validate_json
        return ToolSchema(name, doc, parameters)


AnyTool = Tool | Callable[..., Any] | LangChainTool


async def in_thread(function: Callable[..., Any], /, *given: Any, **named: Any) -> Any:
    """Call a function, and await it where it is asynchronous; else it runs in a thread."""
    if any(map(inspect.iscoroutinefunction, (function, type(function).__call__))):
        return await function(*given, **named)

    def called() -> Any:
        try:
            return function(*given, **named)
        except StopIteration as error:  # no future can hold one
            raise RuntimeError("StopIteration") from error

    result = await asyncio.to_thread(called)
    return await result if inspect.isawaitable(result) else result


def _arguments_of(function: Callable[..., Any], hints: Mapping[str, Any]) -> Callable[..., Any]:
    """Make a function of the same parameters that gives what it is called with, by name."""

    @wraps(function, updated=())
    def given(**values: Any) -> dict[str, Any]:
        return values

    signature = inspect.signature(function)
    bound = getattr(function, "keywords", {})  # of a `partial`: not for the model to say
    kept = [
        one
        for key, one in signature.parameters.items()
        if hints.get(key) is not RunContext and key not in bound
    ]
    for one in kept:
        if one.kind in (one.POSITIONAL_ONLY, one.VAR_POSITIONAL):
            raise ConfigError(f"{function!r}: a model names its arguments, and {one} has no name")
    shown: Any = given
    shown.__signature__ = signature.replace(parameters=kept)
    shown.__annotations__ = {key: hint for key, hint in hints.items() if key != "return"}
    return given


_SECTION = re.compile(
    r"^(Args|Arguments|Returns|Raises|Yields|Examples?|Notes?):\s*$", re.MULTILINE
)
_MEANING = re.compile(r"^(\w+)(?: *\([^)]*\))?: *(.*(?:\n[ \t]+.*)*)", re.MULTILINE)


def _docstring(doc: str) -> tuple[str, Mapping[str, str]]:
    """Read what a function does, and what its arguments mean."""
    what, *sections = _SECTION.split(doc)
    parts = dict(zip(sections[::2], sections[1::2], strict=True))
    arguments = inspect.cleandoc(parts.get("Args") or parts.get("Arguments") or "")
    meanings = {name: " ".join(text.split()) for name, text in _MEANING.findall(arguments)}
    return " ".join(what.split()), meanings


def _is_langchains(function: object) -> bool:
    return hasattr(function, "ainvoke") and hasattr(function, "args_schema")


def _of_langchain(tool: Any) -> ToolSchema:
    from langchain_core.utils.function_calling import convert_to_openai_tool

    told = convert_to_openai_tool(tool)["function"]
    return ToolSchema(told["name"], told.get("description", ""), told.get("parameters", {}))


def _invoking(tool: Any) -> Callable[[Mapping[str, Any], RunContext], Awaitable[object]]:
    async def invoke(values: Mapping[str, Any], context: RunContext) -> object:
        del context
        call = {"type": "tool_call", "id": "call", "name": tool.name, "args": dict(values)}
        answer = await tool.ainvoke(call)
        if answer.status == "error":
            raise ToolFailed(answer.text)
        return answer.text or answer.content

    return invoke


class ToolFailed(Exception):
    """A tool says that it failed; the model reads the text."""


@dataclass
class ToolCalls:
    """The calls of one run.

    Args:
        tools: By name.
        most: Calls that the run may make.
        endpoint: Whose model asks for them; they count as its own.
        tag: Name of the tags around results, which are data.
    """

    tools: Mapping[str, Tool]
    most: int
    endpoint: Endpoint
    tag: str
    made: int = field(default=0, init=False)

    async def results(self, calls: Sequence[ToolCall], context: RunContext) -> tuple[Message, ...]:
        """Make the calls of one turn side by side, and give what the model reads of each.

        Raises:
            BudgetExceeded: it would be more than the run may make; none is made.
            MoaError: a tool raised what no model can do anything about.
        """
        self.made += len(calls)
        if self.made > self.most:
            asked = ", ".join(call.name for call in calls)
            raise BudgetExceeded(
                f"{context.node}: the model asks for {asked}, and max_tool_calls={self.most}. "
                "Raise it, or say in the instructions when to stop",
                spent=context.usage,
            )
        found = await gather(self._one(call, context) for call in calls)
        waiting = [one for one in found if isinstance(one, Exception)]
        if waiting:
            raise together(waiting)
        return tuple(
            Message("tool", block(str(text), tag=self.tag), tool_call_id=call.id)
            for call, text in zip(calls, found, strict=True)
        )

    async def _one(self, call: ToolCall, context: RunContext) -> str | Exception:
        """Give what the model reads; or what people are asked, where the run waits for them."""
        own = context.nested()
        place: AbstractContextManager[Place | None] = nullcontext()
        if context.journal is not None:
            place = context.journal.inside(f"{context.node}/{call.name}", call)
        try:
            with place as own.journal:
                return await self._settled(call, own)
        except Exception as error:
            if interrupts_of(error):
                return error
            raise

    async def _settled(self, call: ToolCall, context: RunContext) -> str:
        tool = self.tools.get(call.name)
        if tool is None:
            return _failed(call, "no such tool", f"there is {', '.join(self.tools)}", context)
        try:
            values = tool.read(call.arguments)
        except ValueError as error:
            return _failed(call, "wrong arguments", _worded(error), context)
        if context.journal is None:
            return await self._approved(tool, call, values, context)
        kept = Call(context, f"tool {call.name}", call.arguments)
        if kept.is_kept:
            return str(kept.found(PLAIN))
        async with kept:
            text = await self._approved(tool, call, values, kept.inner)
        await kept.keep(text)
        return text

    async def _approved(
        self, tool: Tool, call: ToolCall, values: Mapping[str, Any], context: RunContext
    ) -> str:
        allowed: object = True
        if tool.approve is not None:  # it sees what will run, and not what the model wrote
            asked = replace(call, arguments=to_json(dict(values), fallback=str).decode())
            allowed = await in_thread(tool.approve, asked)
        if allowed is True:
            return await self._called(tool, call, values, context)
        if not isinstance(allowed, str | bool):
            raise ConfigError(f"approve of tool {tool.name!r} gave {allowed!r}, not a bool or why")
        return _failed(call, "not allowed", str(allowed or "a person said no"), context, "refused")

    async def _called(
        self, tool: Tool, call: ToolCall, values: Mapping[str, Any], context: RunContext
    ) -> str:
        one = Amount(tool_calls=1, seconds=_NO_TIME)
        (await context.reserve(self.endpoint.name, self.endpoint.tier, one)).settle(one)
        context.emit(ToolStarted(context.node, call.name, call.arguments))
        begun, left = time.perf_counter(), context.remaining_s()
        limit = asyncio.timeout(tool.timeout_s if left is None else min(tool.timeout_s, left))
        try:
            async with limit:
                text = await tool.run(values, context)
            failure = None
        except DeadlineExceeded as error:
            context.remaining_s()  # raises where it is the run's own time that is up
            text, failure = _worded(error), type(error).__name__
        except _ENDS_A_RUN:
            raise
        except Exception as error:  # noqa: BLE001  a model can do without one tool
            text, failure = self._failure(error, tool, limit, context)
        text, stopped = await tool.guarded(text, context)
        seconds = time.perf_counter() - begun
        if stopped is not None:
            text = _failed(call, stopped, text, context, "dropped")
        elif failure is None:
            length = f"{len(text)} characters in {seconds:.2f} s"
            context.note("called", f"{_shown(call)}: {length}")
        else:
            text = _failed(call, failure, text, context)
        context.emit(ToolFinished(context.node, call.name, call.arguments, text, seconds))
        return text

    @staticmethod
    def _failure(
        error: Exception, tool: Tool, limit: asyncio.Timeout, context: RunContext
    ) -> tuple[str, str]:
        """Say why a tool failed, and of what kind that is.

        Raises:
            MoaError: the run's own time is up, or people are asked and nothing is kept.
        """
        found = explained(error, context.node)
        if found is not error:
            raise found from error
        if type(error).__module__.startswith("langgraph."):
            raise error
        if isinstance(error, TimeoutError) and limit.expired():
            context.remaining_s()
            return f"{tool.timeout_s:g} s are over", "no result in time"
        return _worded(error) or "it says no more", type(error).__name__


def _failed(
    call: ToolCall, kind: str, why: str, context: RunContext, note: NoteKind = "failed"
) -> str:
    context.note(note, f"{_shown(call)}: {kind}: {why}")
    return f"Error, {kind}: {why}"


def _worded(error: Exception) -> str:
    text = said(error) if isinstance(error, ValidationError) else str(error)
    return " ".join(text.split())[:_LONGEST_QUOTE]


def _shown(call: ToolCall) -> str:
    return f"{call.name}({call.arguments[:_LONGEST_QUOTE]})"
