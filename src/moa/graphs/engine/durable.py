"""Durable: a node as LangGraph's own kind of graph, for checkpoints, interrupts and its streams.

The same code runs in it as without it. With a checkpointer, the journal of an unfinished run is
kept there (`run_store.py`). What LangGraph's public interface lacks is in `internals.py`.
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

from moa._json import is_table
from moa.context import RunContext
from moa.errors import NotResumable
from moa.graphs.engine.bridges import Compilable
from moa.graphs.engine.drawing import Drawable, diagram_of
from moa.graphs.engine.forms import JsonForm, channel_form, is_known
from moa.graphs.engine.internals import Task, message_callbacks
from moa.graphs.engine.plan import Plan
from moa.graphs.engine.run_store import open_journal
from moa.graphs.engine.steps import FunctionStep, MatchStep, NodeStep
from moa.graphs.engine.types import name_of
from moa.node import Node, run_alone
from moa.trace import Event, NodeFinished, TextDelta

In = TypeVar("In")
Out = TypeVar("Out")
_IS_READ = "__moa_is_read__"
"""Key of a configuration: True if the caller reads the custom stream of the graph."""


class CompiledGraph(Pregel[Any, Any, Any, Any]):
    """LangGraph's own kind of graph, made of a node. Its `context=` is a `RunContext`."""

    checkpointer: BaseCheckpointSaver[str] | bool | None

    def __init__(self, *, node: Drawable, **settings: object) -> None:
        self._pregel.__init__(**settings)
        self.node = node

    @property
    def _pregel(self) -> Any:
        """The methods of LangGraph's class, whose types a strict checker knows in part only."""
        return super()

    def stream(
        self, input: object, config: RunnableConfig | None = None, **options: object
    ) -> Iterator[Any]:
        """Run it; `invoke` does it by this.

        Raises:
            NotResumable: there is no run to go on with, or it is finished.
        """
        if _resumes(input):
            _check(input, config, self.get_state(config or {}) if self.checkpointer else None)
        called = _mark_reading(config, options)
        yield from self._pregel.stream(input, called, **options)

    async def astream(
        self, input: object, config: RunnableConfig | None = None, **options: object
    ) -> AsyncIterator[Any]:
        """Run it; `ainvoke` does it by this.

        Raises:
            NotResumable: there is no run to go on with, or it is finished.
        """
        if _resumes(input):
            state = await self.aget_state(config or {}) if self.checkpointer else None
            _check(input, config, state)
        called = _mark_reading(config, options)
        async for piece in self._pregel.astream(input, called, **options):
            yield piece

    def get_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        """Draw what is in the node as LangChain does, which is what LangGraph's Studio shows."""
        return _draw(self.node)

    async def aget_graph(
        self, config: RunnableConfig | None = None, *, xray: int | bool = False
    ) -> Graph:
        """Draw it, see `get_graph`."""
        return _draw(self.node)

    def get_context_jsonschema(self) -> None:
        """Return no schema: a `RunContext` comes from Python alone."""

    if TYPE_CHECKING:

        def invoke(
            self, input: object, config: RunnableConfig | None = None, **options: object
        ) -> Any:
            """Run it if no event loop runs, and return its output."""

        async def ainvoke(
            self, input: object, config: RunnableConfig | None = None, **options: object
        ) -> Any:
            """Run it, and return its output."""


def _resumes(value: object) -> bool:
    return value is None or _is_answer(value)


def _is_answer(value: object) -> bool:
    return getattr(value, "resume", None) is not None and isinstance(value, Command)


def _check(value: object, config: RunnableConfig | None, state: StateSnapshot | None) -> None:
    """Check that there is a run to resume; LangGraph would take the input for a request.

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
        return config or {}  # LangGraph says that a thread_id is missing only if nothing is there
    return {**(config or {}), "configurable": {**settings, _IS_READ: is_read}}


def compile_node(
    node: Compilable[Never, object],
    checkpointer: BaseCheckpointSaver[str] | None,
    retry: RetryPolicy | Sequence[RetryPolicy],
) -> CompiledGraph:
    """Make LangGraph's own kind of graph of a node of nodes; see `Compilable.compile`."""
    is_kept = checkpointer is not None
    if is_kept:
        _check_outputs(node)
    request_form = channel_form(node.input_type, "input", is_kept=is_kept)
    output_form = channel_form(node.output_type, _source_of_output(node), is_kept=is_kept)

    async def run(request: Never, *, blocking: bool = False) -> list[object]:
        is_read = get_config().get("configurable", {}).get(_IS_READ) or Task().is_streamed
        write = get_runtime().stream_writer if is_read else None  # LangGraph has one in any case
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
        blocking: Whether the graph was called without an event loop.
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
    """Return the node's name, or of a graph with an unknown output type that of its last step."""
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
    """Check that a checkpoint can keep the outputs of all nodes."""
    plan: object = getattr(node, "plan", None)
    for step in plan.steps if isinstance(plan, Plan) else ():
        if isinstance(step, NodeStep):
            channel_form(step.signature.output, step.name, is_kept=True)
            _check_outputs(step.node)


def context_in(config_value: object) -> RunContext | None:
    """Find the context of the run in what a state graph was run with."""
    values: list[object] = [config_value]
    if is_table(config_value):
        values += config_value.values()
    elif is_dataclass(config_value):
        values += [getattr(config_value, field.name) for field in fields(config_value)]
    else:
        values += getattr(config_value, "__dict__", {}).values()
    return next((value for value in values if isinstance(value, RunContext)), None)


class Listener:
    """Passes each event on, and the texts that nodes write to `stream_mode="messages"`."""

    def __init__(self, config: RunnableConfig, *others: Callable[[Event], None] | None) -> None:
        self._messages = message_callbacks(config)
        self._others = [listener for listener in others if listener is not None]
        self._texts: dict[str, tuple[CallbackManagerForLLMRun, str]] = {}
        """By node that writes: the run of a chat model, as LangChain has it, and the text."""

    @property
    def is_needed(self) -> bool:
        """Return True if anybody listens."""
        return bool(self._others or self._messages)

    def __call__(self, event: Event) -> None:
        """Pass one event on."""
        for listener in self._others:
            listener(event)
        if self._messages and isinstance(event, TextDelta):
            self._write(event.node, event.text)
        elif isinstance(event, NodeFinished):
            self._end(event.node)

    def close(self) -> None:
        """End the texts of those that wrote last."""
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
    """A channel of LangGraph that holds JSON, and shows a value of a type."""

    typ: JsonForm

    @property
    def ValueType(self) -> type[Any]:
        """Type of the value, for LangGraph's own schemas."""
        return self.typ.kind

    UpdateType = ValueType

    def get(self) -> object:
        """Read the value."""
        channel: Any = super()
        return self.typ.load(channel.get())


class _RequestChannel(_TypedChannel, EphemeralValue[object]):
    typ: JsonForm

    def update(self, values: Sequence[object]) -> bool:
        """Hold a request, which may be given as JSON."""
        return super().update([self.typ.admit(value) for value in values])


class _OutputChannel(_TypedChannel, LastValue[object]):
    typ: JsonForm
