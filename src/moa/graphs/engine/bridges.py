"""Bridges: any node inside a LangGraph `StateGraph`, or as a LangChain `Runnable`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from moa.context import RunContext
from moa.errors import ConfigError, MoaError
from moa.node import Node
from moa.trace import Event, NodeFinished, TextDelta

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable, RunnableConfig

State = TypeVar("State")
State_contra = TypeVar("State_contra", contravariant=True)
In = TypeVar("In")
Out = TypeVar("Out")


class StateNode(Protocol[State_contra]):
    """What a `StateGraph` takes as a node."""

    async def __call__(self, state: State_contra) -> dict[str, Any]:
        """Turn the state into an update of it."""
        ...


def as_langgraph(
    node: Node[In, Out],
    *,
    read: Callable[[State], In],
    write: Callable[[Out], Mapping[str, Any]],
) -> StateNode[State]:
    """Make a node of a user's own `StateGraph`.

    Budget, deadline and ledger are those of the `RunContext` that the state graph is run with:
    the context itself, or a field or a key of it, as `context: RunContext` in a dataclass
    `Context` with `StateGraph(State, context_schema=Context)` and
    `ainvoke(…, context=Context(RunContext(…)))`.

    Args:
        node: An agent, a graph, or any other node.
        read: Picks the node's input out of the state.
        write: Turns the node's output into an update of the state.

    Examples:
        >>> from typing import TypedDict
        >>> from langgraph.graph import END, START, StateGraph
        >>> State = TypedDict("State", {"text": str, "mood": str})
        >>> mood = Sentiment(SimulatedEndpoint(rule=lambda _: {"sentiment": {"positive": 0.9}}))
        >>> read, write = (lambda state: state["text"]), (lambda mood: {"mood": mood.label})
        >>> builder = StateGraph(State).add_node("mood", as_langgraph(mood, read=read, write=write))
        >>> compiled = builder.add_edge(START, "mood").add_edge("mood", END).compile()
        >>> asyncio.run(compiled.ainvoke({"text": "Lovely!", "mood": ""}))["mood"]
        'positive'
    """

    async def run(state: State) -> dict[str, Any]:
        from langgraph.config import get_config
        from langgraph.runtime import get_runtime

        from moa.graphs.engine.durable import Keeping

        runtime = get_runtime()
        context = context_in(runtime.context) or RunContext()
        own = context.nested()
        told = Told(get_config(), context.listener)
        own.listener = told if told.is_heard else None
        try:
            async with Keeping(runtime, context) as keeping:
                own.journal = keeping.place
                output = (await node.run(read(state), own)).output
        finally:
            told.end()
        return dict(write(output))

    run.__name__ = node.name
    return run


def context_in(given: object) -> RunContext | None:
    """Find the context of the run in what a state graph was run with."""
    held: list[object] = [given]
    if isinstance(given, Mapping):
        held += cast("Mapping[str, object]", given).values()
    elif is_dataclass(given):
        held += [getattr(given, field.name) for field in fields(given)]
    else:
        held += getattr(given, "__dict__", {}).values()
    return next((value for value in held if isinstance(value, RunContext)), None)


class Told:
    """Tells LangChain's callbacks what nodes write: LangGraph's `stream_mode="messages"` listens.

    Args:
        config: Of the run.
        heard: Is told each event too.
        write: Is told each event too.
    """

    def __init__(
        self,
        config: RunnableConfig,
        heard: Callable[[Event], None] | None,
        write: Callable[[Event], None] | None = None,
    ) -> None:
        from langchain_core.callbacks import CallbackManager
        from langchain_core.tracers._streaming import (
            _StreamingCallbackHandler,
        )

        found: Any = CallbackManager.configure(
            inheritable_callbacks=config.get("callbacks"),
            inheritable_tags=config.get("tags"),
            inheritable_metadata=config.get("metadata"),
        )
        listens: list[Any] = [
            one for one in found.handlers if isinstance(one, _StreamingCallbackHandler)
        ]
        found.handlers = found.inheritable_handlers = listens
        self._callbacks = found
        self._others = [other for other in (heard, write) if other is not None]
        self._texts: dict[str, tuple[Any, str]] = {}
        """By node that writes: the run of a chat model, as LangChain has it, and the text."""

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._others or self._callbacks.handlers)

    def __call__(self, event: Event) -> None:
        """Tell one event."""
        for other in self._others:
            other(event)
        if not self._callbacks.handlers:
            return
        if isinstance(event, TextDelta):
            self._write(event.node, event.text)
        elif isinstance(event, NodeFinished):
            self._end(event.node)

    def end(self) -> None:
        """End the texts of those that wrote last."""
        for node in [*self._texts]:
            self._end(node)

    def _write(self, node: str, text: str) -> None:
        from langchain_core.messages import AIMessageChunk
        from langchain_core.outputs import ChatGenerationChunk

        run, before = self._texts.get(node, (None, ""))
        if run is None:
            named = {"name": node.rpartition("/")[2]}
            callbacks = self._callbacks.copy()
            callbacks.add_metadata({"moa_node": node})
            (run,) = callbacks.on_chat_model_start(named, [[]])
        self._texts[node] = run, before + text
        message = AIMessageChunk(content=text, id=f"run-{run.run_id}")
        run.on_llm_new_token(text, chunk=ChatGenerationChunk(message=message))

    def _end(self, node: str) -> None:
        from langchain_core.messages import AIMessage
        from langchain_core.outputs import ChatGeneration, LLMResult

        run, text = self._texts.pop(node, (None, ""))
        if run is not None:
            message = AIMessage(content=text, id=f"run-{run.run_id}")
            run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=message)]]))


def as_runnable(node: Node[In, Out]) -> Runnable[In, Out]:
    """Make a LangChain `Runnable` that gives the node's output.

    `ainvoke`, `abatch` and the like run it; `invoke` works where no event loop runs.

    Examples:
        >>> mood = Sentiment(SimulatedEndpoint(rule=lambda _: {"sentiment": {"positive": 0.9}}))
        >>> chain = as_runnable(mood) | (lambda mood: mood.label)
        >>> asyncio.run(chain.ainvoke("Lovely!"))
        'positive'
    """
    from langchain_core.runnables import RunnableLambda

    async def run(request: In) -> Out:
        return (await node.run(request)).output

    def run_now(request: In) -> Out:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(run(request))
        raise ConfigError(
            f"{node.name}: invoke was called while an event loop runs, as in a notebook or a "
            "server: use `await runnable.ainvoke(…)`"
        )

    return RunnableLambda(run_now, afunc=run, name=node.name)


def retry_on(error: Exception) -> bool:
    """Whether to run a graph again: for LangGraph's `RetryPolicy(retry_on=retry_on)`.

    LangGraph's default goes by Python's error classes; errors of `moa` say it themselves.
    """
    from langgraph.types import RetryPolicy

    if isinstance(error, MoaError):
        return error.retryable
    by_default = cast("Callable[[Exception], bool]", RetryPolicy().retry_on)
    return by_default(error)
