"""Pattern: what the ready graphs share that the builder can't wire, such as rounds and quorums."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from moa.agents.boundary import In, Out, TypedNode
from moa.context import RunContext
from moa.graphs.building.plan import Plan
from moa.graphs.streaming import streamed
from moa.node import Result
from moa.trace import Event

if TYPE_CHECKING:
    from moa.graphs.drawing import Drawing


class Pattern(TypedNode[In, Out]):
    """A node made of nodes that runs by a rule of its own. It can be drawn and streamed.

    Derive from it, answer in `answer`, and wire in `plan` what is to be drawn.
    """

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """Its nodes as a graph, to be drawn; it runs otherwise."""

    def draw(self) -> Drawing:
        """Draw it: `.mermaid`, `.svg`, `.png()`, `.ascii`, `.save("graph.svg")`."""
        from moa.graphs.drawing import Drawing

        return Drawing(self.plan)

    def stream(
        self, request: In, context: RunContext | None = None, /
    ) -> AsyncIterator[Event | Result[Out]]:
        """Run, and tell what happens while it happens. The result comes last.

        Leaving the loop early cancels the run.

        Args:
            request: The input.
            context: Budget, deadline and ledger; `None` starts one without limits.

        Raises:
            MoaError: as `run`.
        """
        return streamed(self, request, context)
