"""Recipe: a ready graph as one class, whose fields are its arguments and its table in moa.toml."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from moa.agents.boundary import In, Out, TypedNode, ready
from moa.config import explained, nearest
from moa.config.endpoints import Endpoints
from moa.context import RunContext, counted
from moa.errors import ConfigError, MissingDependency, MoaError, check_recoverable
from moa.graphs.engine.builder import BuiltGraph
from moa.graphs.engine.plan import Plan
from moa.graphs.engine.scheduler import Run, Runs
from moa.graphs.engine.types import is_node
from moa.graphs.fields import FromEndpoints, Table, keys_in, settings_in
from moa.handoffs import Reply
from moa.node import Node, Result
from moa.trace import NodeFinished, NodeStarted, NoteKind, TextDelta
from moa.usage import UNLIMITED, Budget

if TYPE_CHECKING:
    from moa.graphs.engine.drawing import Drawing

T = TypeVar("T")
_CONFIG = ConfigDict(arbitrary_types_allowed=True, extra="forbid")


class Sketch:
    """What is drawn of a recipe: boxes and arrows. It can't be run, so it can't pretend to.

    Its test compares the nodes that are drawn with those that ran.
    """

    input, output = "in", "out"
    """Keys of the boxes of what it takes and gives."""

    def __init__(self) -> None:
        self.boxes: dict[str, tuple[str, object]] = {}
        """Label and node by key; `None` is drawn as a step that is no node."""
        self.arrows: list[tuple[str, str, str, bool]] = []
        """Start, end, label, and whether it only decides."""

    def box(self, node: object = None, label: str | None = None) -> str:
        """Draw a node, or a step that is none; give its key.

        Args:
            node: A node, or `None`.
            label: What is written in it; `None`: the node's name.
        """
        key = str(len(self.boxes) + 1)
        self.boxes[key] = (label or str(getattr(node, "name", "step")), node)
        return key

    def arrow(self, *keys: str, label: str = "", decides: bool = False) -> None:
        """Draw arrows from each box to the next.

        Args:
            keys: Of boxes, `Sketch.input` and `Sketch.output`.
            label: Written at each arrow.
            decides: Whether nothing but a decision passes; drawn dashed.
        """
        self.arrows += [(a, b, label, decides) for a, b in pairwise(keys)]

    def side_by_side(self, start: str, asked: Iterable[tuple[object, str]]) -> str:
        """Draw nodes that are asked at once, and a box for their answers; give its key.

        Args:
            start: Key of the box from which they are asked.
            asked: Each node, and what is written in its box.
        """
        boxes = [self.box(node, label) for node, label in asked]
        answers = self.box(label="answers")
        for box in boxes:
            self.arrow(start, box, answers)
        return answers


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
class _Validated:
    """Tells type checkers that the fields of what derives from it are its keywords."""


@validated(kw_only=True, config=_CONFIG)
class Recipe(_Validated, TypedNode[In, Out], Runs[In, Out]):
    """A node made of nodes that runs by plain Python, and can be drawn and streamed.

        class SelfConsistency(Recipe[In, Voted], Generic[In], recipe="self_consistency"):
            node: Annotated[Node[In, Any], FromEndpoint(sampler)]
            samples: int = Field(default=5, ge=1)

    The fields are its keywords in Python and its table in moa.toml, checked alike; the class's
    docstring begins with what `moa graphs` says of it. Answer in `answer`, draw in `sketch`, and
    work out what follows from the fields in `prepare`.
    """

    name: str = ""
    """Shown in traces, errors and drawings; empty: the recipe's own."""
    budget: Budget = UNLIMITED
    """Limits on each run, on top of those of the run it is part of."""
    timeout_s: float | None = Field(default=None, gt=0)
    """Seconds for each run; `None`: as long as the run it is part of has."""

    def __init_subclass__(cls, *, recipe: str = "") -> None:
        super().__init_subclass__()
        if recipe:
            cls.name = recipe
            cls.__annotations__ = {"name": str, **cls.__annotations__}
            ready(recipe, (cls.__doc__ or "").partition("\n")[0].rstrip("."))(cls)
        validated(cls, kw_only=True, config=_CONFIG)
        check = cls.__init__

        def __init__(self: Any, **fields: Any) -> None:
            try:
                check(self, **fields)
            except ValidationError as error:
                raise ConfigError(
                    explained(error, partial(keys_in, cls), where=f"{cls.name}:")
                ) from None

        cls.__init__ = __init__

    def __post_init__(self) -> None:
        self.prepare()
        super().__init__(name=self.name, budget=self.budget, timeout_s=self.timeout_s)

    def prepare(self) -> None:
        """Work out what follows from the fields, such as `input_type` where a field decides it."""

    @classmethod
    def from_table(cls, table: Mapping[str, object], context: Table) -> Self:
        """Build it from its table in moa.toml.

        Args:
            table: Its fields. Those that take a node or an endpoint may be left out. What is no
                field is a setting of those of its nodes that have it, where they don't say
                otherwise.
            context: What else is configured.

        Raises:
            ConfigError: a key is unknown, or a value is wrong; each is named.
        """
        fields, table = settings_in(cls), cls.completed(table, context.endpoints)
        given = {name: value for name, value in table.items() if name in fields}
        for name, one in cast("Any", cls).__pydantic_fields__.items():
            marks = fields[name][1]
            if one.is_required() and marks:
                several = any(isinstance(mark, FromEndpoints) for mark in marks)
                given.setdefault(name, None if several else {})
        shared = {name: value for name, value in table.items() if name not in given}
        context = replace(context, shared=shared, known=set())
        made, faults = None, ""
        try:
            made = TypeAdapter(cls).validate_python(given, context=context)
        except ValidationError as error:
            faults = explained(error, partial(keys_in, cls), **context.place)
        known = [*fields, *sorted(context.known - {"endpoint", *fields})]
        for name in shared.keys() - {*known}:
            where = "{where}: [{table}]".format(**context.place)
            faults += f"\n{where} has no key {name!r}{nearest(name, known)}"
        if made is None or faults:
            raise ConfigError(faults.strip())
        return made

    @classmethod
    def completed(cls, table: Mapping[str, object], endpoints: Endpoints) -> Mapping[str, object]:
        """Complete a table by what it may leave out, before it is read; by default nothing.

        Args:
            table: As it is written.
            endpoints: Of the configuration. Where they are not `to_be_asked`, the recipe is only
                drawn.

        Raises:
            ConfigError: something is missing without which it can't run.
        """
        del endpoints
        return table

    @abstractmethod
    def sketch(self, sketch: Sketch) -> None:
        """Draw its nodes, and what passes between them."""

    def members(self) -> Iterator[Node[Any, Any]]:
        """Give the nodes in it."""
        yield from _nodes_in(vars(self).values())

    def draw(self) -> Drawing:
        """Draw it: `.mermaid`, `.svg`, `.png()`, `.ascii`, `.save("graph.svg")`."""
        from moa.graphs.engine.drawing import Drawing

        return Drawing(self)

    async def run(self, request: In, /, context: RunContext | None = None) -> Result[Out]:
        """Answer one request; a reply of which nothing was shown while it was written is shown.

        Args:
            request: The input.
            context: Budget, deadline and ledger of the run it is part of; `None` starts one.

        Raises:
            InputError: `request` is not of the type that the recipe takes; nothing was sent.
            MoaError: see `answer`.
        """
        if context is None or context.listener is None:
            return await super().run(request, context)
        shown, heard = counted(context)
        result = await super().run(request, heard)
        show(result.output, context.nested(self.name), shown())
        return result


def show(output: object, context: RunContext, shown: int) -> None:
    """Show a reply as a whole, unless some pieces of it were shown already."""
    if isinstance(output, Reply) and not shown:
        context.emit(TextDelta(context.node, output.text))


async def told(step: str, work: Awaitable[T], context: RunContext) -> T:
    """Do a step of a recipe, and tell who listens that it begins and ends."""
    path, start = f"{context.node}/{step}", time.perf_counter()
    context.emit(NodeStarted(path))
    output = await work
    context.emit(NodeFinished(path, output, time.perf_counter() - start))
    return output


async def tried(
    work: Awaitable[T], context: RunContext, without: str, *, kind: NoteKind = "failed"
) -> T | None:
    """Do what a recipe can do without: where it fails, the trace says so, and it gives `None`.

    Args:
        work: What is done.
        context: Has the trace.
        without: What becomes of it then, in words; the error stands behind it.
        kind: Of the note.

    Raises:
        MoaError: it is set up wrong, such as without a key.
    """
    try:
        return await work
    except MoaError as error:
        if not isinstance(error, MissingDependency):
            check_recoverable(error)
        context.note(kind, f"{without}: {error}")
        return None


class WiredRecipe(Recipe[In, Out]):
    """A recipe that is wired by the builder, and runs as any graph does."""

    def __post_init__(self) -> None:
        self.graph: BuiltGraph[In, Out] = self.wire()
        self.input_type, self.output_type = self.graph.input_type, self.graph.output_type
        super().__post_init__()

    @abstractmethod
    def wire(self) -> BuiltGraph[In, Out]:
        """Wire its nodes."""

    @property
    def plan(self) -> Plan:
        """What it runs by, and what is drawn."""
        return self.graph.plan

    async def answer(self, request: In, context: RunContext) -> Out:
        """Run every node that the answer needs."""
        return cast("Out", await Run(self.plan, context).output(request))

    def sketch(self, sketch: Sketch) -> None:
        """Nothing: its wiring is drawn."""

    def draw(self) -> Drawing:
        """Draw it: `.mermaid`, `.svg`, `.png()`, `.ascii`, `.save("graph.svg")`."""
        return self.graph.draw()


def _nodes_in(values: Any) -> Iterator[Node[Any, Any]]:
    for value in values:
        if is_node(value):
            yield value
        elif isinstance(value, Mapping):
            yield from _nodes_in(cast("Mapping[object, object]", value).values())
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            yield from _nodes_in(cast("Sequence[object]", value))
