"""BuiltGraph: a checked graph. It is a node, so that it can stand in another graph."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from moa.context import RunContext
from moa.errors import InputError
from moa.graphs.engine.plan import Plan
from moa.graphs.engine.scheduler import Run, streamed
from moa.graphs.engine.types import shown
from moa.node import Result, finish
from moa.trace import Event

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.types import RetryPolicy

    from moa.graphs.engine.drawing import Drawing
    from moa.graphs.engine.durable import Compiled

In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class BuiltGraph(Generic[In_contra, Out_co]):
    """What `Graph.build` makes. It holds no state: any number of runs can go on at once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name = plan.name
        self.input_type: Any = plan.steps[0].type
        self.output_type: Any = plan.steps[plan.output].type

    async def run(self, request: In_contra, context: RunContext | None = None, /) -> Result[Out_co]:
        """Run every node that the answer to `request` needs.

        Args:
            request: The input.
            context: Budget, deadline and ledger; `None` starts one without limits.

        Raises:
            InputError: `request` is not of the graph's input type; nothing ran.
            NodeError: a plain function raised; its error is chained.
            DeadlineExceeded: the time of the context is up.
            MoaError: the first that a node raised. All nodes beside it are cancelled.
        """
        own = (context or RunContext()).nested(self.name)
        start = time.perf_counter()
        self._admit(request)
        output = await Run(self.plan, own).output(request)
        return finish(cast("Out_co", output), own, seconds=time.perf_counter() - start)

    def stream(
        self, request: In_contra, context: RunContext | None = None, /
    ) -> AsyncIterator[Event | Result[Out_co]]:
        """Run, and tell what happens while it happens. The result comes last.

        Leaving the loop early cancels the run.

        Args:
            request: The input.
            context: Budget, deadline and ledger; `None` starts one without limits.

        Raises:
            MoaError: as `run`.
        """
        return streamed(self, request, context)

    def compile(
        self,
        *,
        checkpointer: BaseCheckpointSaver[Any] | None = None,
        retry: RetryPolicy | Sequence[RetryPolicy] = (),
    ) -> Compiled:
        """Make LangGraph's own kind of graph, for checkpoints, interrupts and its streams.

        It takes the request, or the JSON of it, and gives the output. Budget and deadline come as
        `context=RunContext(…)`; events and pieces of text go to the stream mode `custom`. Of an
        interrupted run that is resumed, no finished node runs again. Checkpoints hold JSON.

        Args:
            checkpointer: Keeps what has been done; `None` leaves it to an outer graph.
            retry: When to run a node again; see `retry_on`.

        Raises:
            WiringError: the type of a node's output is not known, so no checkpoint could keep it.
        """
        from moa.graphs.engine.durable import compiled

        return compiled(self, checkpointer=checkpointer, retry=retry)

    @cached_property
    def compiled(self) -> Compiled:
        """The graph as LangGraph's own kind, without a checkpointer of its own."""
        return self.compile()

    def draw(self) -> Drawing:
        """Draw the graph: `.mermaid`, `.svg`, `.png()`, `.ascii`, `.save("graph.svg")`."""
        from moa.graphs.engine.drawing import Drawing

        return Drawing(self.plan)

    def _admit(self, request: object) -> None:
        kind = self.input_type
        if isinstance(kind, type) and not isinstance(request, kind):
            raise InputError(
                f"{self.name}: takes {shown(kind)}, but was given {type(request).__name__}"
            )
