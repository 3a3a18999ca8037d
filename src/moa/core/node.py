"""Node: the interface of everything in `moa`: a typed value in, a typed result out.

The values that pass between nodes are here too. Agents and graphs share nothing else.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    Protocol,
    TypeVar,
    cast,
    runtime_checkable,
)

from pydantic import BaseModel, ConfigDict

from moa.core._async import cancel
from moa.core._text import as_html, as_text
from moa.core.context import RunContext, run_context
from moa.core.messages import Message
from moa.core.telemetry import names
from moa.core.telemetry.spans import start
from moa.core.trace import Event, Note
from moa.core.usage import CostEstimate, Usage

if TYPE_CHECKING:
    from moa.core.journal import Journal

In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)
T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")
_TRACE = "traceparent"
"""Journal key of the span that a resumed run continues."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Generic[Out_co]):
    """Result of a node. It prints its output, usage and notes as tables.

    Examples:
        >>> result = Agent(ScriptedEndpoint(["Hello!"]), "Greet.").run_sync("Hi")
        >>> result.output.text, result.usage.calls, result.trace[0].kind
        ('Hello!', 1, 'answered')
    """

    output: Out_co
    usage: Usage = field(default_factory=Usage)
    """Usage of this node and everything under it."""
    trace: tuple[Note, ...] = ()
    """Notes on who answered, and on what was dropped, cut, repaired or skipped, and why."""
    seconds: float = 0.0
    """Wall time of this node."""
    llm_alone: CostEstimate | None = None
    """Estimated cost of the LLM alone, with one call; `None` without a reference LLM."""
    messages: tuple[Message, ...] = ()
    """Chat messages of an agent that writes, with tool calls and results, but without its
    instructions and examples. They can be the next run's `history`."""
    new_messages: tuple[Message, ...] = ()
    """The `messages` that this run added."""

    def __repr__(self) -> str:
        return f"Result({self.output!r}, {self.usage.line()})"

    def __str__(self) -> str:
        notes = as_text(note_rows(self.trace), right=2)
        output = as_text(output_rows(self.output), right=2)
        return "\n\n".join(filter(None, (output, str(self.usage), notes)))

    def _repr_html_(self) -> str:
        noted = note_rows(self.trace)
        tables = (output_rows(self.output), self.usage.table(), *([noted] if noted else ()))
        return as_html(*tables)


def output_rows(output: object) -> list[tuple[str, str]]:
    """Return an output as rows of a table: a text, or the fields of a model."""
    if not isinstance(output, BaseModel):
        return [("output", str(output))]
    name = type(output).__name__.partition("[")[0]  # the labels of a `Choice` come below
    fields = output.model_dump().items()
    rows = ((name, _describe(value)) for name, value in fields if value is not None)
    return [("output", name), *rows]


def _describe(value: object) -> str:
    """Format the value of a field. Numbers by name, such as probabilities, come highest first."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if not isinstance(value, dict):
        return str(value)
    values = cast("dict[str, object]", value)
    figures = [(name, figure) for name, figure in values.items() if isinstance(figure, float)]
    if not figures or len(figures) < len(values):
        return str(values)
    return ", ".join(
        f"{name} {figure:.3f}" for name, figure in sorted(figures, key=lambda p: -p[1])
    )


def note_rows(trace: Sequence[Note]) -> list[tuple[str, str]]:
    """Return the notes, except on who answered, as rows of a table."""
    notes = (note for note in trace if note.kind != "answered")
    return [(note.kind, f"{note.node}: {note.text}") for note in notes]


class Node(Protocol[In_contra, Out_co]):
    """An agent, a graph, or anything else that can be in a graph.

    Examples:
        >>> class Shout:
        ...     name = "shout"
        ...
        ...     async def run(self, request: str, context: RunContext | None = None) -> Result[str]:
        ...         return Result(output=request.upper())
        >>> node: Node[str, str] = Shout()
        >>> asyncio.run(node.run("hello")).output
        'HELLO'
    """

    @property
    def name(self) -> str:
        """Name shown in traces, errors and drawings."""
        ...

    async def run(self, request: In_contra, context: RunContext | None = None, /) -> Result[Out_co]:
        """Answer one request.

        Args:
            request: The typed input.
            context: Budget, deadline and ledger of the run that it is part of; `None` starts a run.

        Raises:
            MoaError: see `moa.core.errors`; each class says when.
        """
        ...


AnyNode = Node[Any, Any]
"""A node whose types are known only at run time, such as one loaded by its name."""

Became = Literal[
    "in danger",
    "replied",
    "written",
    "drafted",
    "routed",
    "waiting",
    "quarantined",
    "dropped",
    "not found",
]
"""Outcome of an input: it goes to people first, since somebody may be in danger; it has a fixed
reply; a model wrote the reply; a person has to read the draft; it is in a queue of people; it waits
for a large model or people; it is set aside as unwanted; it is dropped; or no answer was found."""
SETTLED: frozenset[Became] = frozenset({"replied", "routed"})
"""Outcomes that are settled; see `Item.settled`."""


@runtime_checkable
class Outcome(Protocol):
    """Output that tells the outcome of its input, so that runs can count it."""

    @property
    def became(self) -> Became:
        """Outcome of the input."""
        ...


class Frozen(BaseModel):
    """An immutable typed value."""

    model_config = ConfigDict(frozen=True, defer_build=True)


class Text(Frozen):
    """A text, and what is known of it.

    Examples:
        >>> text = Text(text="Guten Tag", language="de")
        >>> print(text, text.language)
        Guten Tag de
    """

    text: str
    language: str | None = None
    """ISO 639-1 code, such as `en`; `None` if it was not looked for or not recognised."""

    def __str__(self) -> str:
        return self.text


class Reply(Frozen):
    """A text that a model wrote.

    Examples:
        >>> print(Reply(text="It comes on Friday."))
        It comes on Friday.
    """

    text: str

    def __str__(self) -> str:
        return self.text


def text_of(value: object) -> str:
    """Format a request or a reply as text; a typed output becomes JSON."""
    if isinstance(value, BaseModel) and not isinstance(value, Text | Reply):
        return value.model_dump_json(exclude_none=True)
    return str(value)


class Consultation(Frozen):
    """A request and the answers of others, without their authors."""

    request: str
    answers: tuple[str, ...]


class Dropped(Frozen):
    """The output for an input that is set aside instead of being answered.

    Examples:
        >>> print(Dropped(reason="it is spam"))
        it is spam
    """

    reason: str
    """Reason in words, for people who look later."""

    def __str__(self) -> str:
        return self.reason


def finish(output: T, context: RunContext, *, seconds: float) -> Result[T]:
    """Build the result of a node that ran in `context`."""
    usage = context.usage
    reference = context.reference
    return Result(
        output=output,
        usage=usage,
        trace=context.trace,
        seconds=seconds,
        llm_alone=usage.alone(reference.price, endpoint=reference.endpoint) if reference else None,
    )


async def stream_run(
    run: Callable[[In, RunContext], Awaitable[Result[Out]]],
    request: In,
    context: RunContext | None = None,
    /,
) -> AsyncGenerator[Event | Result[Out]]:
    """Run, and yield events as they happen, then the result; see `NodeBase.stream`."""
    seen: asyncio.Queue[Event | None] = asyncio.Queue()
    outer = run_context(context)
    inner = outer.nested()

    def listen(event: Event) -> None:
        seen.put_nowait(event)
        outer.emit(event)

    inner.listener = listen
    running = asyncio.ensure_future(run(request, inner))
    running.add_done_callback(lambda _: seen.put_nowait(None))
    try:
        while (event := await seen.get()) is not None:
            yield event
        yield await running
    finally:
        await cancel([running])


async def run_alone(
    node: Node[In, Out],
    request: In,
    context: RunContext,
    journal: Journal | None = None,
    *,
    row: str | int | None = None,
) -> Result[Out]:
    """Run a node as a run of its own, with its own span: a row, or a resumable run.

    A resumed run continues the trace that the journal names.
    """
    around = context.tracer
    if around is None:
        return await node.run(request, context)
    before = journal and journal.kept.get(_TRACE)
    span = start(around, "run", node.name, context.node, resumes=before)
    span.set(names.ROW, row)
    with span:
        context.tracer = span
        if journal is not None and not before:
            await journal.keep(_TRACE, span.traceparent)
        return await node.run(request, context)


async def run_in_place(node: Node[T, Out], request: T, context: RunContext) -> Result[Out]:
    """Run a node of a recipe beside others, or beside itself with other requests.

    In a resumable run, its calls are kept apart from those of the others.
    """
    if context.journal is None:
        return await node.run(request, context)
    inner = context.nested()
    with context.journal.inside(f"{context.node}/{node.name}", request) as inner.journal:
        return await node.run(request, inner)


def unique_names(names: Sequence[str]) -> list[str]:
    """Number names that occur more than once, as in `sample 1` and `sample 2`."""
    if len(set(names)) == len(names):
        return list(names)
    several = {name for name, count in Counter(names).items() if count > 1}
    seen: Counter[str] = Counter()
    unique: list[str] = []
    for name in names:
        seen[name] += 1
        unique.append(f"{name} {seen[name]}" if name in several else name)
    return unique
