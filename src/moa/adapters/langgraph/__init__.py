"""LangGraph: runs graphs and stores their runs, and takes any node into a graph of yours.

Neither it nor LangChain is imported before it is used.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from moa.core._async import run_sync
from moa.core.context import RunContext
from moa.core.errors import MoaError
from moa.core.node import Node
from moa.graphs.engine.nodes import as_node

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable

__all__ = ["as_langgraph", "as_runnable", "retry_on"]

State = TypeVar("State")
State_contra = TypeVar("State_contra", contravariant=True)
In = TypeVar("In")
Out = TypeVar("Out")


class StateNode(Protocol[State_contra]):
    """A node of a `StateGraph`."""

    async def __call__(self, state: State_contra) -> dict[str, object]:
        """Return an update of the state."""
        ...


def as_langgraph(
    node: Node[In, Out] | Callable[[In, RunContext], Awaitable[Out]],
    *,
    read: Callable[[State], In],
    write: Callable[[Out], Mapping[str, object]],
) -> StateNode[State]:
    """Return a node for your own `StateGraph`.

    Budget, deadline and ledger come from the `RunContext` that the state graph is run with: the
    context itself, or one of its fields or keys, such as `context: RunContext` in a dataclass
    `Context` with `StateGraph(State, context_schema=Context)` and
    `ainvoke(…, context=Context(RunContext(…)))`.

    Args:
        node: An agent, a graph, or any other node; or `async def f(request, context: RunContext)`.
        read: Returns the node's input from the state.
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
    moa_node: Node[In, Out] = as_node(node)

    async def run(state: State) -> dict[str, object]:
        from moa.adapters.langgraph.durable import run_in_task

        return dict(write(await run_in_task(moa_node, read(state))))

    run.__name__ = moa_node.name
    return run


def as_runnable(node: Node[In, Out]) -> Runnable[In, Out]:
    """Return a LangChain `Runnable` that returns the node's output.

    `invoke` works in a notebook, as `run_sync` does.

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
    """Return True if a graph should run again, for LangGraph's `RetryPolicy(retry_on=retry_on)`.

    Errors of `moa` are retried if `retryable`, others by LangGraph's default.
    """
    from langgraph.types import RetryPolicy

    if isinstance(error, MoaError):
        return error.retryable
    by_default = cast("Callable[[Exception], bool]", RetryPolicy().retry_on)
    return by_default(error)
