"""Durable: compiles a node to a LangGraph graph, for checkpoints, interrupts and streams.

The same code runs with and without LangGraph. With a checkpointer, the journal of an unfinished run
is stored there (`run_store.py`). Uses of LangGraph's private interface are in `internals.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Never, TypeVar

from langchain_core.callbacks.manager import CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.runnables.graph import Edge, Graph
from langchain_core.runnables.graph import Node as GraphNode
from langgraph.channels import EphemeralValue, LastValue
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.config import get_config
from langgraph.constants import END, START
from langgraph.pregel import NodeBuilder, Pregel
from langgraph.runtime import get_runtime
from langgraph.types import Command, RetryPolicy, StateSnapshot

from moa.adapters.drawing import diagram_of
from moa.adapters.langgraph.internals import Task, message_callbacks
from moa.adapters.langgraph.run_store import open_journal
from moa.core._json import is_table
from moa.core.context import RunContext
from moa.core.errors import NotResumable
from moa.core.node import Node, run_alone
from moa.core.trace import Event, NodeFinished, TextDelta
from moa.graphs.engine.compilable import Compilable
from moa.graphs.engine.forms import JsonForm, channel_form, is_known
from moa.graphs.engine.plan import Plan
from moa.graphs.engine.sketch import Drawable
from moa.graphs.engine.steps import FunctionStep, MatchStep, NodeStep
from moa.graphs.engine.types import name_of

In = TypeVar("In")
Out = TypeVar("Out")
_IS_READ = "__moa_is_read__"
"""Configuration key: True if the caller reads the graph's custom stream."""


class CompiledGraph(Pregel[Any, Any, Any, Any]):
    """LangGraph graph made of a node. Its `context=` is a `RunContext`."""

    checkpointer: BaseCheckpointSaver[str] | bool | None

    def __init__(self, *, node: Drawable, **settings: object) -> None:
        self._pregel.__init__(**settings)
        self.node = node

    @property
    def _pregel(self) -> Any:
        """Methods of LangGraph's class, which strict type checkers know only in part."""
        return super()

    def stream(
        self, input: object, config: RunnableConfig | None = None, **options: object
    ) -> Iterator[Any]:
        """Run the graph. `invoke` calls this.

        Raises:
            NotResumable: there is no run to resume, or it is finished.
        """
        if _resumes(input):
            _check(input, config, self.get_state(config or {}) if self.checkpointer else None)
        called = _mark_reading(config, options)
        yield from self._pregel.stream(input, called, **options)

    async def astream(
        self, input: object, config: RunnableConfig | None = None, **options: object
    ) -> AsyncIterator[Any]:
        """Run the graph. `ainvoke` calls this.

        Raises:
            NotResumable: there is no run to resume, or it is finished.
        """
        if _resumes(input):
            state = await self.aget_state(config or {}) if self.checkpointer else None
            _check(input, config, state)
        called = _mark_reading(config, options)
        async for piece in self._pregel.astream(input, called, **options):
            yield piece

    def get_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        """Draw the inside of the node in LangChain's format, as LangGraph's Studio shows it."""
        return _draw(self.node)

    async def aget_graph(
        self, config: RunnableConfig | None = None, *, xray: int | bool = False
    ) -> Graph:
        """Draw the inside of the node; see `get_graph`."""
        return _draw(self.node)

    def get_context_jsonschema(self) -> None:
        """Return no schema: a `RunContext` can only come from Python."""

    if TYPE_CHECKING:

        def invoke(
            self, input: object, config: RunnableConfig | None = None, **options: object
        ) -> Any:
            """Run the graph outside an event loop, and return its output."""

        async def ainvoke(
            self, input: object, config: RunnableConfig | None = None, **options: object
        ) -> Any:
            """Run the graph, and return its output."""


def _resumes(value: object) -> bool:
    return value is None or _is_answer(value)


def _is_answer(value: object) -> bool:
    return getattr(value, "resume", None) is not None and isinstance(value, Command)


def _check(value: object, config: RunnableConfig | None, state: StateSnapshot | None) -> None:
    """Check that there is a run to resume: LangGraph would take the input as a request.

    The output of a finished run would look like the result of this answer.
    """
    thread = ((config or {}).get("configurable") or {}).get("thread_id")
    if state is None or state.created_at is None:
        raise NotResumable(
            f"there is no run to go on with in thread {thread!r}: its checkpointer keeps none of "
            "that thread_id. Give both as the run was begun with, or begin with a request"
        )
    if _is_answer(value) and not state.next:
        raise NotResumable(
            f"nothing is asked in thread {thread!r}: its run is finished, by an answer that was "
            "given before. ainvoke(None, config) gives its output"
        )


def _mark_reading(config: RunnableConfig | None, options: Mapping[str, object]) -> RunnableConfig:
    is_read = any("custom" in str(options.get(mode)) for mode in ("stream_mode", "print_mode"))
    settings = (config or {}).get("configurable") or {}
    if not settings and not is_read:
        return config or {}  # LangGraph reports a missing thread_id only if this is empty
    return {**(config or {}), "configurable": {**settings, _IS_READ: is_read}}


def compile_node(
    node: Compilable[Never, object],
    checkpointer: BaseCheckpointSaver[str] | None,
    retry: RetryPolicy | Sequence[RetryPolicy],
) -> CompiledGraph:
    """Compile a node of nodes to a LangGraph graph; see `Compilable.compile`."""
    is_kept = checkpointer is not None
    if is_kept:
        _check_outputs(node)
    request_form = channel_form(node.input_type, "input", is_kept=is_kept)
    output_form = channel_form(node.output_type, _source_of_output(node), is_kept=is_kept)

    async def run(request: Never, *, blocking: bool = False) -> list[object]:
        is_read = get_config().get("configurable", {}).get(_IS_READ) or Task().is_streamed
        write = get_runtime().stream_writer if is_read else None  # LangGraph always has one
        return output_form.dump(await run_in_task(node, request, write=write, blocking=blocking))

    def run_now(request: Never) -> list[object]:
        return asyncio.run(run(request, blocking=True))  # LangGraph calls it in a thread

    builder: Any = NodeBuilder()
    entry = RunnableLambda(run_now, afunc=run, name=node.name)
    return CompiledGraph(
        node=node,
        nodes={node.name: builder.subscribe_only(START).do(entry).write_to(END)},
        channels={START: _RequestChannel(request_form), END: _OutputChannel(output_form, END)},
        input_channels=START,
        output_channels=END,
        stream_channels=END,
        stream_mode="updates",
        stream_eager=True,
        checkpointer=checkpointer,
        context_schema=RunContext,
        retry_policy=retry,
    )


async def run_in_task(
    node: Node[In, Out],
    request: In,
    *,
    write: Callable[[Event], None] | None = None,
    blocking: bool = False,
) -> Out:
    """Run a node inside a task of LangGraph, and return its output.

    Args:
        node: The node.
        request: Its input.
        write: Called with each event.
        blocking: True if the graph was called without an event loop.
    """
    runtime = get_runtime()
    context = context_in(runtime.context) or RunContext()
    inner = context.nested()
    listener = Listener(get_config(), context.listener, write)
    inner.listener = listener if listener.is_needed else None
    try:
        async with open_journal(runtime.execution_info, context, blocking=blocking) as journal:
            inner.journal = journal and journal.root
            return (await run_alone(node, request, inner, journal)).output
    finally:
        listener.close()


def _source_of_output(node: Compilable[Never, object]) -> str:
    """Return the node's name; for a graph of unknown output type, that of its last step."""
    plan: object = getattr(node, "plan", None)
    if not isinstance(plan, Plan) or is_known(plan.steps[plan.output].type):
        return node.name
    step = plan.steps[plan.output]
    while isinstance(step, MatchStep):
        step = next(case for case in step.cases.values() if not is_known(case.type))
    unnamed = isinstance(step, FunctionStep) and name_of(step.function) == "<lambda>"
    return f"{node.name}/{f'lambda({step.name})' if unnamed else step.name}"


def _draw(node: Drawable) -> Graph:
    graph, diagrams = Graph(), [*diagram_of(node).walk()]
    for key, box in (item for diagram in diagrams for item in diagram.boxes.items()):
        graph.nodes[key] = GraphNode(key, box.label, data=None, metadata=None)
    for arrow in (arrow for diagram in diagrams for arrow in diagram.arrows.values()):
        label = ", ".join(arrow.labels) or None
        graph.edges.append(Edge(arrow.start, arrow.end, label, arrow.decides_only))
    return graph


def _check_outputs(node: object) -> None:
    """Check that a checkpoint can store the outputs of all nodes."""
    plan: object = getattr(node, "plan", None)
    for step in plan.steps if isinstance(plan, Plan) else ():
        if isinstance(step, NodeStep):
            channel_form(step.signature.output, step.name, is_kept=True)
            _check_outputs(step.node)


def context_in(config_value: object) -> RunContext | None:
    """Find the run's context in the context that a state graph was run with."""
    values: list[object] = [config_value]
    if is_table(config_value):
        values += config_value.values()
    elif is_dataclass(config_value):
        values += [getattr(config_value, field.name) for field in fields(config_value)]
    else:
        values += getattr(config_value, "__dict__", {}).values()
    return next((value for value in values if isinstance(value, RunContext)), None)


class Listener:
    """Passes on events, and the texts that nodes write to `stream_mode="messages"`."""

    def __init__(self, config: RunnableConfig, *others: Callable[[Event], None] | None) -> None:
        self._messages = message_callbacks(config)
        self._others = [listener for listener in others if listener is not None]
        self._texts: dict[str, tuple[CallbackManagerForLLMRun, str]] = {}
        """By node that writes: LangChain's run of a chat model, and the text."""

    @property
    def is_needed(self) -> bool:
        """True if there are listeners."""
        return bool(self._others or self._messages)

    def __call__(self, event: Event) -> None:
        """Pass on one event."""
        for listener in self._others:
            listener(event)
        if self._messages and isinstance(event, TextDelta):
            self._write(event.node, event.text)
        elif isinstance(event, NodeFinished):
            self._end(event.node)

    def close(self) -> None:
        """End the texts that are still open."""
        for node in [*self._texts]:
            self._end(node)

    def _write(self, node: str, text: str) -> None:
        run, before = self._texts.get(node) or (self._start(node), "")
        self._texts[node] = run, before + text
        message = AIMessageChunk(content=text, id=f"run-{run.run_id}")
        run.on_llm_new_token(text, chunk=ChatGenerationChunk(message=message))

    def _start(self, node: str) -> CallbackManagerForLLMRun:
        assert self._messages is not None, "somebody reads texts"
        callbacks = self._messages.copy()
        callbacks.add_metadata({"moa_node": node})
        (run,) = callbacks.on_chat_model_start({"name": node.rpartition("/")[2]}, [[]])
        return run

    def _end(self, node: str) -> None:
        if node in self._texts:
            run, text = self._texts.pop(node)
            message = AIMessage(content=text, id=f"run-{run.run_id}")
            run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=message)]]))


class _TypedChannel:
    """A LangGraph channel that holds JSON and shows a value of a type."""

    typ: JsonForm

    @property
    def ValueType(self) -> type[Any]:
        """Type of the value, for LangGraph's schemas."""
        return self.typ.kind

    UpdateType = ValueType

    def get(self) -> object:
        """Read the value."""
        channel: Any = super()
        return self.typ.load(channel.get())


class _RequestChannel(_TypedChannel, EphemeralValue[object]):
    typ: JsonForm

    def update(self, values: Sequence[object]) -> bool:
        """Store a request, which may be JSON."""
        return super().update([self.typ.admit(value) for value in values])


class _OutputChannel(_TypedChannel, LastValue[object]):
    typ: JsonForm
