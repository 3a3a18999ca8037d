"""Bridges: a graph as LangGraph's own kind, and any node in a LangGraph or LangChain of one's own.

Neither is imported before it is used.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from moa._async import run_sync
from moa.context import RunContext
from moa.errors import MoaError
from moa.graphs.engine.drawing import Drawable
from moa.node import Node, Result

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.types import RetryPolicy

    from moa.graphs.engine.durable import CompiledGraph

State = TypeVar("State")
State_contra = TypeVar("State_contra", contravariant=True)
In = TypeVar("In")
Out = TypeVar("Out")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class Compilable(Drawable, Generic[In_contra, Out_co]):
    """A node of nodes, which can become LangGraph's own kind of graph."""

    name: str

    @abstractmethod
    async def run(self, request: In_contra, /, context: RunContext | None = None) -> Result[Out_co]:
        """Answer one request."""

    def compile(
        self,
        *,
        checkpointer: BaseCheckpointSaver[Any] | None = None,
        retry: RetryPolicy | Sequence[RetryPolicy] = (),
    ) -> CompiledGraph:
        """Make LangGraph's own kind of graph, for checkpoints, interrupts and its streams.

        It takes the request, or the JSON of it, and gives the output. Budget and deadline come as
        `context=RunContext(…)`; events go to the stream mode `custom`, and texts to `messages` too.
        Of a run that is resumed, however it was stopped, no node that had finished runs again, and
        no call that had been answered is sent again, however deep it is. Checkpoints hold JSON.

        Args:
            checkpointer: Keeps what has been done; `None` leaves it to an outer graph.
            retry: When to run the graph again; see `retry_on`. With a checkpointer, what had ended
                is found and not paid again; without one all of it runs again.

        Raises:
            WiringError: the type of a node's output is not known, so no checkpoint could keep it.
        """
        from moa.graphs.engine.durable import compile_node

        return compile_node(self, checkpointer, retry)

    @cached_property
    def compiled(self) -> CompiledGraph:
        """The graph as LangGraph's own kind, without a checkpointer of its own."""
        return self.compile()


class StateNode(Protocol[State_contra]):
    """What a `StateGraph` takes as a node."""

    async def __call__(self, state: State_contra) -> dict[str, object]:
        """Turn the state into an update of it."""
        ...


def as_langgraph(
    node: Node[In, Out] | Callable[[In, RunContext], Awaitable[Out]],
    *,
    read: Callable[[State], In],
    write: Callable[[Out], Mapping[str, object]],
) -> StateNode[State]:
    """Make a node for your own `StateGraph`.

    Budget, deadline and ledger come from the `RunContext` that the state graph is run with:
    the context itself, or a field or a key of it, such as `context: RunContext` in a dataclass
    `Context` with `StateGraph(State, context_schema=Context)` and
    `ainvoke(…, context=Context(RunContext(…)))`.

    Args:
        node: An agent, a graph, or any other node; or `async def f(request, context: RunContext)`.
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
    from moa.graphs.engine.nodes import as_node

    moa_node: Node[In, Out] = as_node(node)

    async def run(state: State) -> dict[str, object]:
        from moa.graphs.engine.durable import run_in_task

        return dict(write(await run_in_task(moa_node, read(state))))

    run.__name__ = moa_node.name
    return run


def as_runnable(node: Node[In, Out]) -> Runnable[In, Out]:
    """Make a LangChain `Runnable` that gives the node's output.

    `invoke` works in a notebook too, as `run_sync` does.

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
        return run_sync(lambda: run(request))

    return RunnableLambda(run_now, afunc=run, name=node.name)


def retry_on(error: Exception) -> bool:
    """Return True if a graph should run again: for LangGraph's `RetryPolicy(retry_on=retry_on)`.

    LangGraph's default goes by Python's error classes; errors of `moa` say it themselves.
    """
    from langgraph.types import RetryPolicy

    if isinstance(error, MoaError):
        return error.retryable
    by_default = cast("Callable[[Exception], bool]", RetryPolicy().retry_on)
    return by_default(error)
