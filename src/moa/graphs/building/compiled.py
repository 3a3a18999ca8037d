"""Compiled: a graph as LangGraph's own kind, for checkpoints, interrupts and its streams.

The same scheduler runs it; only here is a node wrapped in a LangGraph task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.constants import END, START
from langgraph.func import entrypoint, task
from langgraph.pregel import Pregel
from langgraph.runtime import Runtime
from langgraph.types import RetryPolicy

from moa.context import RunContext
from moa.graphs.checkpoints import JsonForm, JsonInput, JsonOutput, form_of
from moa.graphs.engine.builder import BuiltGraph
from moa.graphs.engine.handles import NodeStep
from moa.graphs.engine.plan import Plan, Task
from moa.graphs.engine.scheduler import Run, call
from moa.graphs.recipe import WiredRecipe

Compiled = Pregel[Any, Any, Any, Any]
"""LangGraph's own kind of graph. Its `context=` is a `RunContext`."""

NOT_NEEDED = [-1, None]
"""What a checkpoint holds for a node that did not run."""


def compiled(
    graph: BuiltGraph[Any, Any],
    *,
    checkpointer: BaseCheckpointSaver[Any] | None,
    retry: RetryPolicy | Sequence[RetryPolicy],
) -> Compiled:
    """Make LangGraph's own kind of graph.

    Raises:
        WiringError: the type of a node's output is not known, so no checkpoint could keep it.
    """
    kept = checkpointer is not None
    tasked = Tasked.of(graph.plan, retry, kept=kept)
    given = form_of(graph.input_type, owner="input", kept=kept)
    answer = form_of(graph.output_type, owner=graph.name, kept=kept)

    async def entry(request: Any, runtime: Runtime[Any]) -> Any:
        context = (runtime.context or RunContext()).nested(graph.name)
        heard = context.listener

        def listen(event: Any) -> None:
            runtime.stream_writer(event)
            if heard is not None:
                heard(event)

        context.listener = listen
        return answer.dump(await tasked.output(request, context))

    entry.__name__ = graph.name
    schema: Any = RunContext
    made = cast("Compiled", entrypoint(checkpointer=checkpointer, context_schema=schema)(entry))
    channels = cast("dict[str, Any]", made.channels)  # pyright: ignore[reportUnknownMemberType]
    channels[START] = JsonInput(given)
    channels[END] = JsonOutput(answer, END)
    return made


@dataclass(frozen=True)
class Tasked:
    """A plan whose nodes run as LangGraph tasks."""

    plan: Plan
    forms: dict[int, JsonForm]
    inner: dict[int, Tasked]
    """The nodes that are graphs: their nodes are tasks too, under the task of the graph."""
    retry: RetryPolicy | Sequence[RetryPolicy]

    @classmethod
    def of(cls, plan: Plan, retry: RetryPolicy | Sequence[RetryPolicy], *, kept: bool) -> Tasked:
        """Find out how checkpoints keep the outputs of a plan's nodes."""
        forms: dict[int, JsonForm] = {}
        inner: dict[int, Tasked] = {}
        for place in plan.nodes:
            step = plan.steps[place]
            assert isinstance(step, NodeStep)
            forms[place] = form_of(step.signature.output, owner=step.name, kept=kept)
            node: object = step.node
            if isinstance(node, BuiltGraph | WiredRecipe):
                inner[place] = cls.of(node.plan, retry, kept=kept)
        return cls(plan, forms, inner, retry)

    async def output(self, request: Any, context: RunContext) -> Any:
        """Run the plan.

        LangGraph finds the result of a task again by its place in the order of calls, and that of
        a run that goes on may differ from that of the run before. So every node is called at
        once, in the order of the plan, and its task waits until the node is due.
        """
        loop = asyncio.get_running_loop()
        due: dict[int, asyncio.Future[Callable[[], Awaitable[Any]] | None]]
        due = {place: loop.create_future() for place in self.plan.nodes}
        results = {place: self._task(place, due[place]) for place in self.plan.nodes}

        async def in_task(node: Task, value: Any, own: RunContext) -> Any:
            due[node.place].set_result(lambda: self._call(node, value, own))
            return self.forms[node.place].load(await results[node.place])

        try:
            output = await Run(self.plan, context, in_task).output(request)
            for waiting in due.values():
                if not waiting.done():
                    waiting.set_result(None)
            await asyncio.gather(*results.values(), return_exceptions=True)
            return output
        finally:
            for waiting in due.values():
                waiting.cancel()

    def _task(
        self, place: int, due: asyncio.Future[Callable[[], Awaitable[Any]] | None]
    ) -> Awaitable[Any]:
        async def node() -> list[Any]:
            run = await asyncio.shield(due)
            return NOT_NEEDED if run is None else self.forms[place].dump(await run())

        name = self.plan.tasks[place].name
        result = cast("asyncio.Future[Any]", task(name=name, retry_policy=self.retry)(node)())
        result.add_done_callback(_seen)
        return result

    async def _call(self, node: Task, value: Any, context: RunContext) -> Any:
        inner = self.inner.get(node.place)
        if inner is None:
            return await call(node, value, context)
        return await inner.output(value, context.nested(node.name))


def _seen(result: asyncio.Future[Any]) -> None:
    """A run that stops leaves tasks that were never due; nobody asks how those ended."""
    if not result.cancelled():
        result.exception()
