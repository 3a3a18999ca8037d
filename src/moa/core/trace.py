"""Trace: the notes in a result, and the events of a run while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NoteKind = Literal[
    "answered",
    "repaired",
    "retried",
    "waited",
    "fell back",
    "cached",
    "truncated",
    "changed",
    "packed",
    "dropped",
    "skipped",
    "escalated",
    "audited",
    "refused",
    "failed",
    "degraded",
    "doubtful",
    "drafted",
    "resumed",
    "called",
]


@dataclass(frozen=True, slots=True)
class Note:
    """One thing worth knowing afterwards. A result's `trace` is a tuple of them, in order."""

    kind: NoteKind
    node: str
    """Path of the node, such as `support/sentiment`."""
    text: str
    """The event, in words."""
    endpoint: str | None = None
    """The endpoint that answered, if one did."""


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """A node of a graph began.

    Examples:
        >>> agent = Agent(ScriptedEndpoint(["Hello!"]), "Greet.")
        >>> g = Graph("greet", str)
        >>> graph = g.build(g.add(agent, g.input))
        >>> async def started() -> list[str]:
        ...     events = graph.stream("Hi")
        ...     return [one.node async for one in events if isinstance(one, NodeStarted)]
        >>> asyncio.run(started())
        ['greet/agent']
    """

    node: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the text that a node is writing.

    Examples:
        >>> agent = Agent(ScriptedEndpoint(["Good morning"]), "Greet.")
        >>> async def pieces() -> list[str]:
        ...     return [one.text async for one in agent.stream("Hi") if isinstance(one, TextDelta)]
        >>> "".join(asyncio.run(pieces()))
        'Good morning'
    """

    node: str
    text: str


@dataclass(frozen=True, slots=True)
class NodeFinished:
    """A node of a graph has its output.

    Examples:
        >>> g = Graph("shout", str)
        >>> graph = g.build(g.add(str.upper, g.input))
        >>> [one.output for one in graph.stream_sync("Hi") if isinstance(one, NodeFinished)]
        ['HI']
    """

    node: str
    output: object
    seconds: float
    """Wall time of the node."""


@dataclass(frozen=True, slots=True)
class NodeSkipped:
    """A node of a graph did not run.

    Examples:
        >>> g = Graph("maybe", str)
        >>> shouted = g.add(str.upper, g.input, when=g.input.map(str.islower), otherwise=g.input)
        >>> graph = g.build(shouted)
        >>> [one.node for one in graph.stream_sync("Hi") if isinstance(one, NodeSkipped)]
        ['maybe/upper']
    """

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A model has a tool used.

    Examples:
        >>> def in_stock(item: str) -> int:
        ...     '''Look up how many pieces of an item are in stock.'''
        ...     return {"pens": 137}[item]
        >>> large = ScriptedEndpoint([ToolCall.of("in_stock", item="pens"), "There are 137."])
        >>> agent = Agent(large, "Answer by the stock list.", tools=[in_stock])
        >>> events = agent.stream_sync("Pens left?")
        >>> [(one.name, one.arguments) for one in events if isinstance(one, ToolStarted)]
        [('in_stock', '{"item": "pens"}')]
    """

    node: str
    name: str
    arguments: str
    """JSON, as the model wrote it."""


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A tool gave its result, or failed.

    Examples:
        >>> def in_stock(item: str) -> int:
        ...     '''Look up how many pieces of an item are in stock.'''
        ...     return {"pens": 137}[item]
        >>> large = ScriptedEndpoint([ToolCall.of("in_stock", item="pens"), "There are 137."])
        >>> agent = Agent(large, "Answer by the stock list.", tools=[in_stock])
        >>> events = agent.stream_sync("Pens left?")
        >>> [one.result for one in events if isinstance(one, ToolFinished)]
        ['137']
    """

    node: str
    name: str
    arguments: str
    result: str
    """As the model reads it."""
    seconds: float
    """Wall time of the tool."""


Event = NodeStarted | TextDelta | NodeFinished | NodeSkipped | ToolStarted | ToolFinished
"""The events that `stream` yields before the result."""
