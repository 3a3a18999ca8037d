"""Recipe: a ready graph as one class, whose fields are its arguments and its table in moa.toml."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo
from pydantic.dataclasses import dataclass as validated

from moa._files import replace_text
from moa.agents.base import In, Out, TypedNode, fault_in, ready
from moa.budget import UNLIMITED, Budget
from moa.config.endpoints import Endpoints
from moa.config.faults import explain, nearest
from moa.context import RunContext, count_text_deltas
from moa.errors import ConfigError
from moa.graphs.engine.bridges import Compilable
from moa.graphs.engine.drawing import Sketch as Sketch
from moa.graphs.engine.graph import BuiltGraph
from moa.graphs.engine.plan import Plan
from moa.graphs.engine.run import Run
from moa.graphs.engine.types import is_node
from moa.graphs.fields import FromEndpoint, FromEndpoints, Table, keys_in, settings_in, table_of
from moa.node import Node, Reply, Result
from moa.telemetry.names import Kind
from moa.trace import TextDelta
from moa.usage import Tier

S = TypeVar("S", bound=BaseModel)
_CONFIG = ConfigDict(arbitrary_types_allowed=True, extra="forbid")


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
class _Validated:
    """Tells type checkers that the fields of what derives from it are its keywords."""


@validated(kw_only=True, config=_CONFIG)
class Recipe(_Validated, TypedNode[In, Out], Compilable[In, Out]):
    """A node made of nodes that runs by plain Python, and can be drawn and streamed.

        class SelfConsistency(Recipe[In, Voted], Generic[In], recipe="self_consistency"):
            node: Annotated[Node[In, Any], FromEndpoint(sampler)]
            samples: int = Field(default=5, ge=1)

    The fields are its keywords in Python and its table in moa.toml, checked alike; the class's
    docstring begins with what `moa graphs` says of it. Answer in `answer`, draw in `sketch`, and
    work out what follows from the fields in `prepare`.
    """

    span_kind: ClassVar[Kind] = "workflow"
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

        def __init__(self: Any, *given: Any, **fields: Any) -> None:
            if given:
                raise ConfigError(
                    f"{cls.name}: its fields are given by name, as in {_by_name(cls)}"
                )
            try:
                check(self, **fields)
            except ValidationError as error:
                raise ConfigError(
                    explain(error, partial(keys_in, cls), where=f"{cls.name}:")
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

        Fields that take a node or an endpoint may be left out. What is no field is a setting of
        those of its nodes that have it, where they don't say otherwise.

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
            faults = context.faults(error, cls)
        known = [*fields, *sorted(context.known - {"endpoint", *fields})]
        for name in shared.keys() - {*known}:
            table_is = f"{context.file}: [graphs.{context.name}]"
            faults += f"\n{table_is} has no key {name!r}{nearest(name, known)}"
        if made is None or faults:
            raise ConfigError(faults.strip())
        return made

    @classmethod
    def completed(cls, table: Mapping[str, object], endpoints: Endpoints) -> Mapping[str, object]:
        """Complete a table by what it may leave out, before it is read; by default nothing.

        Where the endpoints are not `to_be_asked`, the recipe is only drawn.

        Raises:
            ConfigError: something is missing without which it can't run.
        """
        del endpoints
        return table

    def members(self) -> Iterator[Node[Any, Any]]:
        """Give the nodes in it."""
        yield from _nodes_in(vars(self).values())

    async def run(self, request: In, /, context: RunContext | None = None) -> Result[Out]:
        """Answer one request; a reply of which nothing was shown while it was written is shown.

        Raises:
            InputError: `request` is not of the type that the recipe takes; nothing was sent.
            MoaError: see `answer`.
        """
        if context is None or context.listener is None:
            return await super().run(request, context)
        shown, heard = count_text_deltas(context)
        result = await super().run(request, heard)
        show(result.output, context.nested(self.name), shown())
        return result


@dataclass(frozen=True)
class FromTable(FromEndpoint):
    """Marks a field that is a recipe; in a table it is a table of its own.

    The recipe takes those settings of the table around it that are its fields, and no fields beside
    it.

    Args:
        make: The recipe.
    """

    tier: Tier | None = None

    def made(self, value: object, info: ValidationInfo) -> Node[Any, Any]:
        """Build the recipe of its table."""
        table = table_of(info, value, "a node")
        if not isinstance(value, Mapping):
            raise ValueError(f"a table, not {value!r}")
        recipe = cast("type[Recipe[Any, Any]]", self.make)
        shared = table.shared_with(settings_in(recipe))
        return recipe.from_table({**shared, **cast("Mapping[str, object]", value)}, table)


def _by_name(recipe: type[Recipe[Any, Any]]) -> str:
    """Write a call of a recipe with all its fields, those that it needs first."""
    own = cast("Any", recipe).__pydantic_fields__
    needed = [f"{name}=…" for name, one in own.items() if one.is_required()]
    others = [name for name, one in own.items() if not one.is_required()]
    also = f" (and, if wanted, {', '.join(others)})" if others else ""
    return f"{recipe.__name__}({', '.join(needed)}){also}"


def show(output: object, context: RunContext, shown: int) -> None:
    """Show a reply as a whole, unless some pieces of it were shown already."""
    if isinstance(output, Reply) and not shown:
        context.emit(TextDelta(context.node, output.text))


def read_kept(file: Path | None, kind: type[S], *, what: str) -> S | None:
    """Read the state of a recipe that learns while it is used, if an earlier process kept one.

    Raises:
        ConfigError: it is there, and can't be read.
    """
    if file is None or not file.exists():
        return None
    try:
        return kind.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        why = fault_in(error) if isinstance(error, ValidationError) else str(error.strerror)
        raise ConfigError(
            f"{file} keeps {what}, and can't be read: {why}. Mend it, or remove it to start anew"
        ) from error


def keep(file: Path | None, state: BaseModel) -> None:
    """Write a state in place of the one before it; `None` keeps nothing.

    Raises:
        ConfigError: it can't be written.
    """
    if file is None:
        return
    try:
        replace_text(file, state.model_dump_json())
    except OSError as error:
        raise ConfigError(f"{file} can't be written: {error.strerror}") from error


class WiredRecipe(Recipe[In, Out]):
    """A recipe that is wired by the builder, and runs as any graph does."""

    settles_by: ClassVar[str] = ""
    """The question whose answer has to be right where something is settled without a large model;
    empty where that is none."""

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
        """Its wiring."""
        self.graph.sketch(sketch)

    def members(self) -> Iterator[Node[Any, Any]]:
        """Give the nodes that are wired."""
        return self.graph.members()


def _nodes_in(values: Any) -> Iterator[Node[Any, Any]]:
    for value in values:
        if is_node(value):
            yield value
        elif isinstance(value, Mapping):
            yield from _nodes_in(cast("Mapping[object, object]", value).values())
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            yield from _nodes_in(cast("Sequence[object]", value))
