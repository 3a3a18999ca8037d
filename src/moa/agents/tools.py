"""Tools: what a model may have done: functions, tools of LangChain, and those of MCP servers."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial, wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast, get_type_hints

from pydantic import PydanticSchemaGenerationError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import to_json

from moa.agents.prompts import Untitled
from moa.context import RunContext
from moa.endpoints import ToolSchema
from moa.errors import ConfigError, MissingDependency
from moa.messages import ToolCall
from moa.node import Node, Text

if TYPE_CHECKING:
    from moa.agents.filter import Verdict

Approve = Callable[[ToolCall], bool | str | Awaitable[bool | str]]
"""Says whether a call may be made: `True`, `False`, or why not. `call.values` are the arguments as
the tool is given them, checked and with defaults, written as JSON."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


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
        made = _of_langchain if _is_langchains(function) else partial(_of_function, name=name)
        found, self._read, self._invoke = made(cast("Any", function))
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

    def read(self, arguments: str) -> Mapping[str, Any]:
        """Read the arguments that a model wrote.

        Raises:
            ValueError: they don't fit.
        """
        return self._read(arguments)

    @classmethod
    def of(cls, given: AnyTool) -> Tool:
        """Give a tool; one that is a `Tool` is given back."""
        return given if isinstance(given, Tool) else cls(given)

    async def run(self, values: Mapping[str, Any], context: RunContext) -> str:
        """Run it, and write its result as a model reads it."""
        result = await self._invoke(values, context)
        return result if isinstance(result, str) else to_json(result, fallback=str).decode()

    async def guarded(self, text: str, context: RunContext) -> tuple[str, str | None]:
        """Have the guards read what it says, its errors among it.

        Give the text, or why it is stopped; and by whom, `None` where it isn't.
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


AnyTool = Tool | Callable[..., Any] | LangChainTool


Reads = Callable[[str], Mapping[str, Any]]
Invokes = Callable[[Mapping[str, Any], RunContext], Awaitable[object]]


def _of_function(
    function: Callable[..., Any], name: str | None
) -> tuple[ToolSchema, Reads, Invokes]:
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

    return ToolSchema(name, doc, parameters), adapter.validate_json, invoke


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


def _of_langchain(tool: Any) -> tuple[ToolSchema, Reads, Invokes]:
    from langchain_core.utils.function_calling import convert_to_openai_tool

    async def invoke(values: Mapping[str, Any], context: RunContext) -> object:
        del context
        call = {"type": "tool_call", "id": "call", "name": tool.name, "args": dict(values)}
        answer = await tool.ainvoke(call)
        if answer.status == "error":
            raise ToolFailed(answer.text)
        return answer.text or answer.content

    told = convert_to_openai_tool(tool)["function"]
    schema = ToolSchema(told["name"], told.get("description", ""), told.get("parameters", {}))
    return schema, lambda text: ToolCall("", text).values, invoke


class ToolFailed(Exception):
    """A tool says that it failed; the model reads the text."""


Server = str | Sequence[str] | Mapping[str, Any]
"""The URL of a server; the command that starts one, which then speaks over stdin and stdout; or a
connection of langchain-mcp-adapters, such as one with headers."""


@asynccontextmanager
async def mcp_tools(**servers: Server) -> AsyncGenerator[list[LangChainTool]]:
    """Connect to MCP servers, and give their tools; at the end what it started is stopped.

    Args:
        servers: By a name of your own.

    Raises:
        MissingDependency: langchain-mcp-adapters is not installed.
        ConfigError: a server can't be started or reached, or doesn't speak the protocol.

    Examples:
        >>> async def main() -> None:
        ...     async with mcp_tools(files=["python", "files.py"]) as tools:
        ...         agent = Agent("openai:gpt-5-mini", "Answer by the files.", tools=tools)
        ...         print((await agent.run("Which are there?")).output)
        >>> asyncio.run(main())  # doctest: +SKIP
    """
    try:
        adapters: Any = import_module("langchain_mcp_adapters.client")
        load: Any = import_module("langchain_mcp_adapters.tools").load_mcp_tools
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "langchain-mcp-adapters", extra="mcp", purpose="to use tools of MCP servers"
        ) from error
    client = adapters.MultiServerMCPClient({name: _connection(to) for name, to in servers.items()})
    tools: list[LangChainTool] = []
    async with AsyncExitStack() as stack:
        for name, server in servers.items():
            try:
                session = await stack.enter_async_context(client.session(name))
                tools += await load(session, server_name=name)
            except Exception as error:
                raise ConfigError(
                    f"the MCP server {name!r} ({server!r}) can't be used: {_innermost(error)}. "
                    "Does its command run, or is it up at that address?"
                ) from error
        yield tools


def _connection(server: Server) -> dict[str, Any]:
    if isinstance(server, str):
        return {"transport": "streamable_http", "url": server}
    if isinstance(server, Mapping):
        return dict(server)
    return {"transport": "stdio", "command": server[0], "args": [*server[1:]]}


def _innermost(error: BaseException) -> BaseException:
    """Give the first error that others hold: the client's task groups put it into several."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
