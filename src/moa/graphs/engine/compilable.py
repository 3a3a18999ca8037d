"""Compilable: a node of nodes that LangGraph can run too. All of LangGraph is behind one door."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Never, Protocol, TypeVar

from moa.core.context import RunContext
from moa.core.doors import Door
from moa.core.node import Result
from moa.graphs.engine.sketch import Drawable

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.types import RetryPolicy

    from moa.adapters.langgraph.durable import CompiledGraph  # the class that users get

In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class Compilable(Drawable, Generic[In_contra, Out_co]):
    """A node of nodes that can be compiled to a LangGraph graph."""

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
        """Compile to a LangGraph graph, for checkpoints, interrupts and streams.

        It takes the request, or its JSON, and returns the output. Budget and deadline are passed as
        `context=RunContext(…)`. Events go to the stream mode `custom`, and texts to `messages` too.
        In a resumed run, however it was stopped, no finished node runs again and no answered call
        is sent again, at any depth. Checkpoints hold JSON.

        Args:
            checkpointer: Stores the progress of runs; `None` leaves it to an outer graph.
            retry: When to run the graph again; see `retry_on`. With a checkpointer, finished work
                is reused and not paid again. Without one, everything runs again.

        Raises:
            WiringError: the type of a node's output is unknown, so a checkpoint can't store it.
        """
        return LANGGRAPH.open().compile_node(self, checkpointer, retry)

    @cached_property
    def compiled(self) -> CompiledGraph:
        """The compiled LangGraph graph, without its own checkpointer."""
        return self.compile()


class LangGraph(Protocol):
    """Compiles nodes of nodes, and asks people."""

    def compile_node(
        self,
        node: Compilable[Never, object],
        checkpointer: BaseCheckpointSaver[Any] | None,
        retry: RetryPolicy | Sequence[RetryPolicy],
        /,
    ) -> CompiledGraph:
        """Compile a node of nodes; see `Compilable.compile`."""
        ...

    def can_ask(self) -> bool:
        """Return True if LangGraph runs this code, so that `ask` works."""
        ...

    def ask(self, question: str | Mapping[str, object], answers: dict[str, Any], /) -> object:
        """Ask a person, and return the answer. `answers` is its JSON schema.

        Raises:
            GraphInterrupt: LangGraph's signal that there is no answer yet.
        """
        ...


LANGGRAPH: Door[LangGraph] = Door("moa.adapters.langgraph.door")
