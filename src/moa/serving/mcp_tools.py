"""MCP tools: the served graphs and agents as tools of the Model Context Protocol.

The SDK speaks the protocol: version 2026-07-28, which keeps no state between requests, and older
versions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice

import anyio
from mcp.server import Server as Protocol
from mcp.server import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
)
from mcp_types import Tool as ListedTool
from starlette.requests import Request

from moa.agents.tools import name_for_models
from moa.config.faults import nearest
from moa.core._async import cancel
from moa.core._files import dump_json
from moa.core._json import object_of, objects_of
from moa.core.context import Reference, RunContext
from moa.core.errors import ConfigError, InputError, MoaError
from moa.core.trace import Event, NodeFinished, NodeSkipped, ToolFinished
from moa.serving.faults import fault_of
from moa.serving.http import caller_of
from moa.serving.keys import Caller
from moa.serving.runs import FinishedRun
from moa.serving.served import Schema, ServedNode
from moa.serving.server import Server

Context = ServerRequestContext[dict[str, object], Request]

_STEPS = (NodeFinished, NodeSkipped, ToolFinished)
"""Events that count as a finished step."""
_MOST_NAMES, _LONGEST_NAME = 5, 100
"""Maximum wrong names that an error quotes, and characters of each."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Wraps a value in a JSON object, as MCP requires for arguments and results.

    Args:
        schema: JSON Schema of the object.
        key: Key of the value in the object; `None`: the value is the object.
    """

    schema: Schema
    key: str | None

    @classmethod
    def of(cls, schema: Schema, key: str, meaning: str) -> Shape:
        """Return the shape for a schema. Values that aren't objects go under `key`."""
        if _is_object(schema, schema):
            return cls({"type": "object", **schema}, None)
        inner = {name: part for name, part in schema.items() if name != "$defs"}
        inner.setdefault("description", meaning)
        outer = {"type": "object", "properties": {key: inner}, "required": [key]}
        definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
        return cls({**outer, "additionalProperties": False, **definitions}, key)

    def unwrap(self, arguments: Mapping[str, object]) -> object:
        """Return the value in an object.

        Raises:
            InputError: the value is missing, or there are other arguments.
        """
        if self.key is None:
            return dict(arguments)
        if set(arguments) != {self.key}:
            quoted = [f"{name!r:.{_LONGEST_NAME}}" for name in islice(arguments, _MOST_NAMES)]
            more = len(arguments) - len(quoted)
            names = ", ".join(quoted) + (f" and {more} more" if more else "")
            raise InputError(f"give one argument, {self.key!r}; there is {names or 'none'}")
        return arguments[self.key]

    def wrap(self, value: object) -> object:
        """Return an object that holds a value."""
        return value if self.key is None else {self.key: value}


class ServedTool:
    """A served graph or agent, as an MCP tool."""

    def __init__(self, served: ServedNode) -> None:
        self.served = served
        self.name = name_for_models(served.name)
        text: Schema = {"type": "string"}
        input_schema = _object_in(served.input_schema) or (text if served.takes_text else {})
        input_schema = input_schema or served.input_schema
        key = "text" if input_schema == text else "input"
        self.input = Shape.of(input_schema, key, f"What {served.name} works on.")
        self.output = Shape.of(served.output_schema, "output", "What came out.")

    @property
    def listing(self) -> ListedTool:
        """The tool's entry in the list of tools."""
        return ListedTool(
            name=self.name,
            description=self.served.description or f"Runs {self.served.name}.",
            input_schema=self.input.schema,
            output_schema=self.output.schema,
        )

    def result(self, finished: FinishedRun) -> CallToolResult:
        """Return the output as structured content and text, with trace id and usage as metadata.

        Raises:
            MoaError: the run failed.
        """
        metadata = {"moa/trace": finished.id, "moa/usage": finished.usage}
        value = self.served.dump(finished.output)
        return CallToolResult(
            content=[TextContent(text=value if isinstance(value, str) else dump_json(value))],
            structured_content=self.output.wrap(value),
            _meta=metadata,
        )


class Tools:
    """Serves the nodes of a server as MCP tools.

    Args:
        server: Server with the nodes and their runs.
        owner: Caller of requests over standard input, which have no HTTP request.

    Raises:
        ConfigError: two nodes would have the same tool name.
    """

    def __init__(self, server: Server, owner: Caller | None = None) -> None:
        self._runs = server.runs
        self._owner = owner
        self._tools: dict[str, ServedTool] = {}
        for tool in map(ServedTool, server.served.values()):
            if tool.name in self._tools:
                names = f"{self._tools[tool.name].served.name!r} and {tool.served.name!r}"
                raise ConfigError(f"{names} would be one tool, {tool.name!r}: name one otherwise")
            self._tools[tool.name] = tool

    def protocol(self) -> Protocol:
        """Make the MCP server."""
        return Protocol(
            "moa",
            version=version("mixture-of-agents"),
            get_tool_input_schema=lambda _: None,  # no argument of a tool is in a header
            on_list_tools=self._list,
            on_call_tool=self._call,
        )

    def _tools_of(self, context: Context) -> tuple[Caller, dict[str, ServedTool]]:
        """Return the caller and the tools that it may use."""
        request = context.request
        caller = self._owner if request is None else caller_of(request)
        assert caller is not None, "whoever speaks over pipes is the owner"
        tools = self._tools.items()
        return caller, {name: tool for name, tool in tools if caller.may_run(tool.served.name)}

    async def _list(
        self, context: Context, params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        del params
        _, tools = self._tools_of(context)
        return ListToolsResult(tools=[tool.listing for tool in tools.values()])

    async def _call(self, context: Context, params: CallToolRequestParams) -> CallToolResult:
        """Run a tool. Errors are returned as its result, for the model that called it."""
        caller, tools = self._tools_of(context)
        if params.name not in tools:
            name = f"{params.name!r:.{_LONGEST_NAME}}"
            reason = f"there is no tool {name} here{nearest(params.name, list(tools))}"
            raise MCPError(code=INVALID_PARAMS, message=reason)
        tool = tools[params.name]
        steps = Steps(context)
        try:
            value = tool.served.parse(tool.input.unwrap(params.arguments or {}))
            running = self._runs.run(caller, tool.served, value, steps.add)
            return tool.result(await steps.report_until_done(running))
        except MoaError as error:
            is_own = caller is self._owner and isinstance(error, ConfigError)
            message = str(error) if is_own else fault_of(error).message
            return CallToolResult(content=[TextContent(text=message)], is_error=True)


class Owner(Caller):
    """The user who started the server and talks to it over pipes. All runs share one budget.

    Args:
        context: Context of the runs.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context

    @asynccontextmanager
    async def admit(
        self,
        name: str,
        *,
        timeout_s: float | None = None,
        reference: Reference | None = None,
        is_request: bool = True,
    ) -> AsyncGenerator[RunContext]:
        """Open the context of one run, nested in that of all runs."""
        del name, reference, is_request
        yield self._context.nested(timeout_s=timeout_s)


class Steps:
    """Reports the progress of a run. The SDK sends it only to clients that asked for it.

    Steps that finish while a notification is being sent are reported in the next one. A slow reader
    delays no run, and no notifications pile up.
    """

    def __init__(self, context: Context) -> None:
        self._report = context.session.report_progress
        self._done = 0
        self._last = ""
        self._ended = False
        self._news = asyncio.Event()

    def add(self, event: Event) -> None:
        """Count a step, if the event is one."""
        if isinstance(event, _STEPS):
            self._done += 1
            self._last = event.node
            self._news.set()

    async def report_until_done(self, running: Awaitable[FinishedRun]) -> FinishedRun:
        """Wait for a run and report its steps. Cancelling the wait cancels the run."""
        run, reporter = asyncio.ensure_future(running), asyncio.ensure_future(self._report_steps())
        try:
            finished = await asyncio.shield(run)
            self._ended = True
            self._news.set()
            await reporter
            return finished
        finally:
            # The SDK cancels again at each await, which would keep the run from settling its cost.
            with anyio.CancelScope(shield=True):
                await cancel([run, reporter])

    async def _report_steps(self) -> None:
        reported = 0
        while reported < self._done or not self._ended:
            await self._news.wait()
            self._news.clear()
            if reported < self._done:
                reported = self._done
                await self._report(reported, message=f"done: {self._last}")


def _is_object(schema: Schema, root: Schema, seen: frozenset[str] = frozenset()) -> bool:
    """Return True if a schema accepts objects only."""
    if schema.get("type") == "object":
        return True
    reference = schema.get("$ref")
    if isinstance(reference, str):
        definition = _definition(reference, root)
        return reference not in seen and _is_object(definition, root, seen | {reference})
    branches = objects_of(schema.get("anyOf") or schema.get("oneOf"))
    return bool(branches) and all(_is_object(branch, root, seen) for branch in branches)


def _object_in(schema: Schema) -> Schema | None:
    """Return the only part of an `anyOf` that accepts objects; `None` unless exactly one does."""
    parts = [part for part in objects_of(schema.get("anyOf")) if _is_object(part, schema)]
    if len(parts) != 1:
        return None
    definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    return {**parts[0], **definitions}


def _definition(reference: str, root: Schema) -> Schema:
    return object_of(object_of(root.get("$defs")).get(reference.removeprefix("#/$defs/")))
