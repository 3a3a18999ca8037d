"""Small nodes and endpoints for tests of graphs, and what they left in the trace."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from moa.core.context import RunContext
from moa.core.errors import EndpointUnavailable
from moa.core.node import Consultation, Reply, Result, Text, finish
from moa.core.trace import TextDelta
from moa.endpoints import Endpoint, Prompt
from moa.graphs import BuiltGraph, Graph
from moa.testing import ScriptedEndpoint, SimulatedEndpoint, Step


@dataclass(frozen=True)
class Timed:
    """Gives back what it is given, after some time."""

    name: str
    seconds: float

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        await asyncio.sleep(self.seconds)
        return Result(output=request)


@dataclass(frozen=True)
class Asker:
    """Asks an endpoint once."""

    name: str
    endpoint: Endpoint

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        own = (context or RunContext()).nested(self.name)
        answer = await self.endpoint.complete(Prompt.of(request), own)
        return finish(answer.text, own, seconds=0.0)


class BreaksOff:
    """Shows the start of its answer, and fails."""

    input_type = Text | str | Consultation
    output_type = Reply

    def __init__(self, name: str) -> None:
        self.name = name

    async def run(self, request: object, context: RunContext | None = None, /) -> Result[Reply]:
        if context is not None:
            context.emit(TextDelta(self.name, "The best way is"))
        raise EndpointUnavailable("lost", endpoint=self.name)


def alone(node: Any, **settings: Any) -> BuiltGraph[str, Any]:
    """A graph of one node."""
    g: Any = Graph("g", str)
    return g.build(g.add(node, g.input, **settings))


def both(*nodes: Any) -> BuiltGraph[str, Any]:
    """A graph of nodes side by side, which gives what the first one gives."""
    g: Any = Graph("g", str)
    return g.build(g.join(first_of, *(g.add(node, g.input) for node in nodes)))


def first_of(*values: Any) -> Any:
    """What the first of several handles holds."""
    return values[0]


def kept(graph: Any, **settings: Any) -> Any:
    """LangGraph's own kind of a graph, whose runs can go on."""
    return graph.compile(checkpointer=InMemorySaver(), **settings)


async def streamed(node: Any, request: object) -> list[str]:
    """The pieces of text that a run shows."""
    return [event.text async for event in node.stream(request) if isinstance(event, TextDelta)]


DOWN = EndpointUnavailable("refused", endpoint="small")


def small(*steps: Step) -> ScriptedEndpoint:
    """A small model that answers by a script."""
    return ScriptedEndpoint(name="small", steps=steps)


def large(*steps: Step) -> ScriptedEndpoint:
    """A large model that answers by a script."""
    return ScriptedEndpoint(name="large", tier="llm", steps=steps)


def tiny() -> SimulatedEndpoint:
    """A model that is too small to write; nobody may ask it to."""
    return SimulatedEndpoint(name="tiny", model="SmolLM2-135M-Instruct.Q4_1")


def notes(result: Result[object], kind: str) -> list[str]:
    """What notes of a kind say, in order."""
    return [note.text for note in result.trace if note.kind == kind]
