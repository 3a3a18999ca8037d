"""Attended: runs a graph that asks people while they are there to answer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar
from uuid import uuid4

from moa.core._json import is_sequence, is_table
from moa.core.context import RunContext
from moa.core.node import Node, Result, finish
from moa.graphs.engine.compilable import Compilable
from moa.graphs.engine.plan import Plan

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from pydantic import JsonValue

In = TypeVar("In")
Out = TypeVar("Out")
_FIELDS = attrgetter("id", "value", "response_schema")
"""Reads the needed attributes of LangGraph's `Interrupt`."""


class Inquiry(NamedTuple):
    """A question of a graph to a person."""

    id: str
    value: object
    """The question: a text or a mapping."""
    answers: Mapping[str, JsonValue]
    """JSON schema of the answer."""


Answers = Callable[[Sequence[Inquiry]], Awaitable[Mapping[str, object]]]
"""Waits until all are answered, and returns the answers by id."""


class AttendedNode(Generic[In, Out]):
    """A graph that waits in memory until people have answered its questions.

    Args:
        graph: The graph.
        answers: Asks the people.
    """

    def __init__(self, graph: Compilable[In, Out], answers: Answers) -> None:
        self.name = graph.name
        self._graph = graph
        self._answers = answers

    async def run(self, request: In, context: RunContext | None = None, /) -> Result[Out]:
        """Run the graph, and resume it with the answers. No answered call is made again."""
        from langgraph.checkpoint.memory import InMemorySaver
        from langgraph.types import Command

        inner, start = (context or RunContext()).nested(), time.perf_counter()
        graph = self._graph.compile(checkpointer=InMemorySaver())
        thread: RunnableConfig = {"configurable": {"thread_id": uuid4().hex}}
        output = await graph.ainvoke(request, thread, context=inner)
        while inquiries := _inquiries(output):
            answers = await self._answers(inquiries)
            output = await graph.ainvoke(Command(resume=answers), thread, context=inner)
        return finish(output, inner, seconds=time.perf_counter() - start)


def attend(node: Node[In, Out], answers: Answers) -> Node[In, Out]:
    """Let people be asked by a graph that may ask them. Return any other node unchanged."""
    plan = getattr(node, "plan", None)
    asks = isinstance(plan, Plan) and plan.asks is not None
    return AttendedNode(node, answers) if asks and isinstance(node, Compilable) else node


def _inquiries(output: object) -> Sequence[Inquiry]:
    entries = output.get("__interrupt__") if is_table(output) else ()
    interrupts = map(_FIELDS, entries if is_sequence(entries) else ())
    return [Inquiry(id, value, schema or {}) for id, value, schema in interrupts]
