"""Bridges: any node inside a LangGraph `StateGraph`, or as a LangChain `Runnable`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from moa.context import RunContext
from moa.errors import ConfigError, MoaError
from moa.node import Node

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable

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

        builder.add_node(as_langgraph(sentiment, read=lambda s: s["text"],
                                      write=lambda mood: {"mood": mood.label}))

    Budget, deadline and ledger are those of the `RunContext` that the state graph is run with:
    the context itself, or a field or a key of it, as `context: RunContext` in a dataclass
    `Context` with `StateGraph(State, context_schema=Context)` and
    `ainvoke(…, context=Context(RunContext(…)))`.

    Args:
        node: An agent, a graph, or any other node.
        read: Picks the node's input out of the state.
        write: Turns the node's output into an update of the state.
    """

    async def run(state: State) -> dict[str, Any]:
        from langgraph.runtime import get_runtime

        context = _run_context(get_runtime().context)
        return dict(write((await node.run(read(state), context)).output))

    run.__name__ = node.name
    return run


def _run_context(given: object) -> RunContext | None:
    """Find the context of the run in what a state graph was run with."""
    held: list[object] = [given]
    if isinstance(given, Mapping):
        held += cast("Mapping[str, object]", given).values()
    elif is_dataclass(given):
        held += [getattr(given, field.name) for field in fields(given)]
    else:
        held += getattr(given, "__dict__", {}).values()
    return next((value for value in held if isinstance(value, RunContext)), None)


def as_runnable(node: Node[In, Out]) -> Runnable[In, Out]:
    """Make a LangChain `Runnable` that gives the node's output.

    `ainvoke`, `abatch` and the like run it; `invoke` works where no event loop runs.
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
    """Whether to run a node again: for LangGraph's `RetryPolicy(retry_on=retry_on)`.

    LangGraph's default goes by Python's error classes; errors of `moa` say it themselves.
    """
    from langgraph.types import RetryPolicy

    if isinstance(error, MoaError):
        return error.retryable
    by_default = cast("Callable[[Exception], bool]", RetryPolicy().retry_on)
    return by_default(error)
