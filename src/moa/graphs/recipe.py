"""Recipe: a ready graph as one class, whose fields are its arguments and its table in moa.toml."""

from __future__ import annotations

import inspect
import re
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Self,
    TypeVar,
    Unpack,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_overloads,
    get_type_hints,
)

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PydanticSchemaGenerationError,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    create_model,
)
from pydantic.dataclasses import dataclass as validated
from pydantic_core import CoreSchema, core_schema

from moa.agents.boundary import In, Out, TypedNode
from moa.config import keys_at, nearest
from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.errors import ConfigError
from moa.graphs.engine.builder import BuiltGraph
from moa.graphs.engine.plan import Plan
from moa.graphs.engine.scheduler import Run, streamed
from moa.graphs.engine.types import is_node
from moa.node import Node, Result
from moa.tiers import Endpoints
from moa.trace import Event
from moa.usage import UNLIMITED, Budget, Tier

if TYPE_CHECKING:
    from moa.graphs.engine.drawing import Drawing

_CONFIG = ConfigDict(arbitrary_types_allowed=True, extra="forbid")
_STRICT = ConfigDict(extra="forbid", protected_namespaces=())
M = TypeVar("M")


class Mark(Enum):
    """What a setting is, where its type doesn't tell: `Annotated[Path, Mark.WRITTEN]`."""

    WRITTEN = "written"
    """A file or folder that what is built writes itself, and reads again."""
    READY = "ready"
    """The name of another ready graph or agent, or `file.py:object`."""


@dataclass
class Table:
    """What a recipe is built from, beside the fields of its own: pydantic's context."""

    endpoints: Endpoints
    where: str
    """Starts each error."""
    shared: Mapping[str, object]
    """Settings in its table that are no fields: those of its nodes."""
    graph: Callable[[str], Node[Any, Any]]
    """Builds another graph by its name."""
    known: set[str] = field(default_factory=set[str])
    """What its nodes take."""


@dataclass(frozen=True)
class FromEndpoint:
    """Marks a field that in a table is an endpoint's name, or a table that names one.

        node: Annotated[Node[In, Any], FromEndpoint(sampler, tier="slm")]

    `node = "small"` and `node = { endpoint = "small", temperature = 0.9 }` are then read as
    `sampler(endpoint, temperature=0.9)`; a table that names no endpoint, and a missing field, take
    the default endpoint of the tier. In Python it takes the node itself, or the endpoint.

    Args:
        make: Makes the node of an endpoint and of the keywords in its signature: a function, or
            the class of an agent.
        tier: Whose endpoint is the default.
        given: Fields that stand before it in the recipe, and that the node is given too.
    """

    make: Callable[..., Node[Any, Any]]
    tier: Tier = "llm"
    given: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Read a node, or a table; pydantic calls it."""
        del handler
        schema = core_schema.with_info_plain_validator_function(self._read)
        optional = type(None) in get_args(source)
        return core_schema.nullable_schema(schema) if optional else schema

    def _read(self, value: object, info: ValidationInfo) -> Any:
        return self._node(value, info)

    def _node(self, value: object, info: ValidationInfo) -> Node[Any, Any]:
        if is_node(value):
            return cast("Node[Any, Any]", value)
        if hasattr(value, "capabilities"):
            return self.make(value)
        context = _context(info, value, "a node")
        table = {"endpoint": value} if isinstance(value, str) else value
        if not isinstance(table, Mapping):
            raise ValueError(f"the name of an endpoint, or a table that names one, not {value!r}")
        takes = {*settings_of(self.make).model_fields}
        context.known |= takes
        before: dict[str, object] = {name: info.data[name] for name in self.given}
        shared = {name: one for name, one in {**before, **context.shared}.items() if name in takes}
        settings = {**shared, **cast("Mapping[str, Any]", table)}
        name = settings.pop("endpoint", None)
        return made(self.make, settings, context, _endpoint(context, name, self.tier))


@dataclass(frozen=True)
class FromEndpoints(FromEndpoint):
    """Marks a field that takes several nodes; in a table, a list of what `FromEndpoint` reads.

    A list may hold lists, such as one for each layer.

    Args:
        make: Makes a node of an endpoint.
        tier: Whose endpoint is the default.
        spread: Gives the list that is read in place of the one in a table, which is `None` where
            there is none.
    """

    spread: Callable[[list[Any] | None, Table], list[Any]] = lambda given, _: given or [{}]

    def _read(self, value: object, info: ValidationInfo) -> Any:
        if isinstance(info.context, Table) and (value is None or isinstance(value, list)):
            value = self.spread(cast("list[Any] | None", value), info.context)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"takes a list, but was given {value!r}")
        return self._nodes(cast("Sequence[object]", value), info)

    def _nodes(self, values: Sequence[object], info: ValidationInfo) -> list[Any]:
        return [
            self._nodes(cast("Sequence[object]", value), info)
            if isinstance(value, list | tuple)
            else self._node(value, info)
            for value in values
        ]


def made(
    make: Callable[..., M], table: Mapping[str, Any], context: Table, *endpoint: Endpoint
) -> M:
    """Make a node of its table.

    Args:
        make: A function, or the class of an agent.
        table: Its keywords.
        context: What else is configured.
        endpoint: Who is asked, where it takes one.

    Raises:
        ValidationError: a key is unknown, or a value is wrong.
    """
    read = settings_of(make).model_validate(dict(table), context=context)
    return make(*endpoint, **{name: getattr(read, name) for name in read.model_fields_set})


@cache
def settings_of(make: Callable[..., Any]) -> type[BaseModel]:
    """Give what can be set of a node: its keywords, but for those that no table can say.

    Of a class with overloads the first one counts.
    """
    inner: Any = getattr(make, "func", make)
    inner = get_origin(inner) or inner
    called = inner.__init__ if isinstance(inner, type) else inner
    called = next(iter(get_overloads(called)), called)
    bound, hints = getattr(make, "keywords", {}), _hints(called)
    fields: dict[str, Any] = {}
    for name, one in inspect.signature(called).parameters.items():
        hint = hints.get(name)
        if get_origin(hint) is Unpack:
            of = get_type_hints(get_args(hint)[0], include_extras=True)
            fields |= {key: (kind, None) for key, kind in of.items() if _is_read(kind)}
        elif hint is not None and _is_read(hint):
            needed = one.default is one.empty and name not in bound
            fields[name] = (hint, ... if needed else None)
    return create_model(getattr(inner, "__name__", "Settings"), __config__=_STRICT, **fields)


class _NotLoaded:
    """Stands for what is imported for type checkers alone."""


def _hints(called: Any) -> dict[str, Any]:
    names = dict(called.__globals__)
    while True:
        try:
            return get_type_hints(called, names, include_extras=True)
        except NameError as missing:
            names[str(missing.name)] = _NotLoaded


def _is_read(hint: Any) -> bool:
    """Whether pydantic can read a type out of a table; an endpoint is given apart."""
    try:
        return TypeAdapter(hint).pydantic_complete
    except PydanticSchemaGenerationError:
        return False


@dataclass(frozen=True)
class FromFile:
    """Marks what is read from a file, or several: in a table their paths, beside moa.toml.

    Args:
        load: Reads the file.
    """

    load: Callable[[Path], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Read a file, or take what was read of one; pydantic calls it."""
        del source, handler
        return core_schema.with_info_plain_validator_function(self._read)

    def _read(self, value: object, info: ValidationInfo) -> Any:
        if isinstance(value, list):
            return [self._read(one, info) for one in cast("list[object]", value)]
        if not isinstance(value, str | Path):
            return value
        return self.load(beside_config(Path(value), info))


@dataclass(frozen=True)
class FromGraph:
    """Marks a field that takes another graph: in a table its name, or `file.py:object`.

    Args:
        default: Of the ready graph that a table takes where it names none.
    """

    default: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Read a node, or a name; pydantic calls it."""
        del source, handler
        return core_schema.with_info_plain_validator_function(self._read)

    def _read(self, value: object, info: ValidationInfo) -> Node[Any, Any]:
        if is_node(value):
            return cast("Node[Any, Any]", value)
        context, name = _context(info, value, "a node"), value or self.default
        if not isinstance(name, str):
            raise ValueError(f"the name of a graph, or file.py:object, not {name!r}")
        return context.graph(name)


@dataclass(frozen=True)
class Named:
    """Marks a field that is an endpoint: in a table its name, or none for the tier's default.

    Args:
        tier: Whose endpoint is the default.
        or_node: Whether a node will do too, in Python.
    """

    tier: Tier = "llm"
    or_node: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Read an endpoint, or a name; pydantic calls it."""
        del source, handler
        return core_schema.with_info_plain_validator_function(self._read)

    def _read(self, value: object, info: ValidationInfo) -> Any:
        if hasattr(value, "capabilities") or (self.or_node and is_node(value)):
            return value
        context = _context(info, value, "an endpoint")
        return _endpoint(context, value or None, self.tier)


@dataclass(frozen=True)
class FromTable:
    """Marks a field that is a node; in a table it is a recipe.

    The recipe takes those settings of the table that are its fields, and no fields beside it.

    Args:
        recipe: What a table makes.
    """

    recipe: type[Recipe[Any, Any]]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Read a node, or a table; pydantic calls it."""
        del source, handler
        return core_schema.with_info_plain_validator_function(self._read)

    def _read(self, value: object, info: ValidationInfo) -> Node[Any, Any]:
        if is_node(value):
            return cast("Node[Any, Any]", value)
        context, fields = _context(info, value, "a node"), _fields(self.recipe)
        if not isinstance(value, Mapping):
            raise ValueError(f"a table, not {value!r}")
        context.known |= {*fields}
        shared = {name: one for name, one in context.shared.items() if name in fields}
        table = {**shared, **cast("Mapping[str, object]", value)}
        return self.recipe.from_table(
            table, context.endpoints, where=context.where, graph=context.graph
        )


def as_node(value: object) -> Node[Any, Any]:
    """Let a node pass; use it as a `PlainValidator` of a field that is given in Python alone."""
    if not is_node(value):
        raise ValueError(f"takes a node, but was given {value!r}")
    return cast("Node[Any, Any]", value)


def beside_config(path: str | Path, info: ValidationInfo) -> Path:
    """Find a file that a table names beside its moa.toml; use it as an `AfterValidator`."""
    path = Path(path)
    file = None if info.context is None else _context(info, path, "a path").endpoints.config.file
    return path if file is None else file.parent / path


def _context(info: ValidationInfo, value: object, wanted: str) -> Table:
    if info.context is None:
        raise ValueError(f"takes {wanted}, but was given {value!r}")
    return cast("Table", info.context)


def _endpoint(context: Table, name: object, tier: Tier) -> Endpoint:
    endpoints = context.endpoints
    if name is None:
        return endpoints.slm if tier == "slm" else endpoints.llm
    if hasattr(name, "capabilities"):
        return cast("Endpoint", name)
    if not isinstance(name, str):
        raise ValueError(f"the name of an endpoint, not {name!r}")
    return endpoints.named(name)


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


class Recipe(_Validated, TypedNode[In, Out]):
    """A node made of nodes that runs by plain Python, and can be drawn and streamed.

        class SelfConsistency(Recipe[In, Voted], Generic[In], recipe="self_consistency"):
            node: Annotated[Node[In, Any], FromEndpoint(sampler)]
            samples: int = Field(default=5, ge=1)

    The fields are its keywords in Python and its table in moa.toml, checked alike; the class's
    docstring begins with what `moa graphs` says of it. Answer in `answer`, draw in `sketch`, and
    work out what follows from the fields in `prepare`.
    """

    recipes: ClassVar[dict[str, type[Recipe[Any, Any]]]] = {}
    """The ready graphs, by name."""

    name: str = ""
    """Shown in traces, errors and drawings; empty: the recipe's own."""
    budget: Budget = UNLIMITED
    """Limits on each run, on top of those of the run it is part of."""
    timeout_s: float | None = Field(default=None, gt=0)
    """Seconds for each run; `None`: as long as the run it is part of has."""

    def __init_subclass__(cls, *, recipe: str = "") -> None:
        super().__init_subclass__()
        if not recipe:
            return
        fields: dict[str, Any] = {}
        for base in reversed(cls.__mro__):  # a dataclass takes over the fields of dataclasses alone
            if issubclass(base, Recipe):
                fields |= inspect.get_annotations(cast("type", base), eval_str=base is not cls)
        cls.__annotations__ = fields
        cls.name = cls.name or recipe
        validated(cls, kw_only=True, config=_CONFIG)
        check = cls.__init__

        def __init__(self: Any, **fields: Any) -> None:
            try:
                check(self, **fields)
            except ValidationError as error:
                fields_of = _fields(cls)
                raise ConfigError(
                    in_sentences(error, [*fields_of], f"{recipe}: ", fields_of)
                ) from None

        cls.__init__ = __init__
        Recipe.recipes[recipe] = cls

    def __post_init__(self) -> None:
        if not isinstance(self, WiredRecipe):
            self.prepare()
        super().__init__(name=self.name, budget=self.budget, timeout_s=self.timeout_s)

    def prepare(self) -> None:
        """Work out what follows from the fields, such as `input_type` where a field decides it."""

    @classmethod
    def does(cls) -> str:
        """In words, for whoever looks for a graph: the first line of its docstring."""
        return (cls.__doc__ or "").partition("\n")[0].rstrip(".")

    @classmethod
    def from_table(
        cls,
        table: Mapping[str, object],
        endpoints: Endpoints,
        *,
        where: str,
        graph: Callable[[str], Node[Any, Any]],
    ) -> Self:
        """Build it from its table in moa.toml.

        Args:
            table: Its fields. Those that take a node or an endpoint may be left out. What is no
                field is a setting of those of its nodes that have it, where they don't say
                otherwise.
            endpoints: Of the configuration.
            where: Starts each error: the file and the table.
            graph: Builds another ready graph by its name.

        Raises:
            ConfigError: a key is unknown, or a value is wrong; each is named.
        """
        fields, table = _fields(cls), cls.completed(table, endpoints, where)
        given = {name: value for name, value in table.items() if name in fields}
        for name, one in fields.items():
            if one.is_required() and any(isinstance(m, _MEMBERS) for m in one.metadata):
                several = any(isinstance(m, FromEndpoints) for m in one.metadata)
                given.setdefault(name, None if several else {})
        shared = {name: value for name, value in table.items() if name not in given}
        context = Table(endpoints, where, shared, graph)
        faults = ""
        try:
            made = TypeAdapter(cls).validate_python(given, context=context)
        except ValidationError as error:
            made, faults = None, in_sentences(error, [*fields], f"{where} ", fields)
        known = [*fields, *sorted(context.known - {"endpoint", *fields})]
        for name in context.shared:
            if name not in known:
                faults += f"\n{where} {name}: there is no such setting{nearest(name, known)}"
        if made is None or faults:
            raise ConfigError(faults.strip())
        return made

    @classmethod
    def completed(
        cls, table: Mapping[str, object], endpoints: Endpoints, where: str
    ) -> Mapping[str, object]:
        """Complete a table by what it may leave out, before it is read; by default nothing.

        Args:
            table: As it is written.
            endpoints: Of the configuration. Where they are not `to_be_asked`, the recipe is only
                drawn.
            where: Starts each error: the file and the table.

        Raises:
            ConfigError: something is missing without which it can't run.
        """
        del endpoints, where
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


class WiredRecipe(Recipe[In, Out]):
    """A recipe that is wired by the builder, and runs as any graph does."""

    def __post_init__(self) -> None:
        self.prepare()
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


_MEMBERS = (FromEndpoint, FromGraph, FromTable, Named)


def _nodes_in(values: Any) -> Iterator[Node[Any, Any]]:
    for value in values:
        if is_node(value):
            yield value
        elif isinstance(value, Mapping):
            yield from _nodes_in(cast("Mapping[object, object]", value).values())
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            yield from _nodes_in(cast("Sequence[object]", value))


def _fields(cls: type[Recipe[Any, Any]]) -> Mapping[str, Any]:
    return cast("Any", cls).__pydantic_fields__


def in_sentences(
    error: ValidationError, known: list[str], start: str, of: Mapping[str, Any] | None = None
) -> str:
    """Say in a sentence each what is wrong, with the nearest right key.

    Args:
        error: What pydantic says.
        known: What can be set.
        start: Starts each sentence.
        of: Fields, whose own keys are known by their marks.
    """
    sentences: list[str] = []
    for fault in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in fault["loc"])
        said = re.sub(r"^(?:Value error|Assertion failed), ", "", fault["msg"])
        if fault["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
            sentences.append(f"{start}needs {place!r}, and it is not there")
            continue
        if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            inner = fault["loc"][:-1]
            right = _known((of or {}).get(str(inner[0])), inner[1:]) if inner else known
            said = f"there is no such setting{nearest(str(fault['loc'][-1]), right)}"
        sentences.append(f"{start}{place}: {said}" if place else f"{start}{said}")
    return "\n".join(sentences)


def _known(field: Any, place: tuple[int | str, ...]) -> list[str]:
    """Name what can be set at a place in a field: of a node that is made of a table, or a model."""
    makers = [m.make for m in getattr(field, "metadata", ()) if isinstance(m, FromEndpoint)]
    if makers:
        return [name for make in makers for name in settings_of(make).model_fields]
    return keys_at(getattr(field, "annotation", None), place)
