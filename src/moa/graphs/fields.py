"""Fields: how what stands in a table of moa.toml becomes what a recipe takes in Python."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Unpack,
    cast,
    get_args,
    get_origin,
    get_overloads,
    get_type_hints,
)

from pydantic import (
    BaseModel,
    ConfigDict,
    PydanticSchemaGenerationError,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    create_model,
)
from pydantic_core import CoreSchema, core_schema

from moa.agents.base import no_endpoint
from moa.config.endpoints import Endpoints
from moa.config.faults import explain, keys_at
from moa.config.tables import FILE
from moa.endpoints import Endpoint
from moa.endpoints.named import as_endpoint
from moa.graphs.engine.types import is_node
from moa.node import Node
from moa.usage import Tier

_STRICT = ConfigDict(extra="forbid", protected_namespaces=())


@dataclass
class Table:
    """A table that is being read: pydantic's context."""

    name: str
    """It is `[graphs.NAME]`."""
    endpoints: Endpoints
    graph: Callable[[str], Node[Any, Any]]
    """Builds another graph by its name."""
    shared: Mapping[str, object] = field(default_factory=dict[str, object])
    """Settings in it that are no fields of the recipe: those of its nodes."""
    known: set[str] = field(default_factory=set[str])
    """What its nodes take."""

    @property
    def file(self) -> str:
        """Where it stands, for errors."""
        return str(self.endpoints.config.file or FILE)

    def faults(self, error: ValidationError, of: Any) -> str:
        """Say in sentences what is wrong in it, with the nearest key that may stand there."""
        keys = partial(keys_in, of)
        return explain(error, keys, where=self.file, table=f"graphs.{self.name}")

    def shared_with(self, takes: Iterable[str]) -> dict[str, object]:
        """Give the settings that a node in it takes; from now on they are known."""
        self.known.update(takes)
        return {name: self.shared[name] for name in takes if name in self.shared}

    def endpoint(self, name: object, tier: Tier) -> Endpoint:
        """Give an endpoint, or the one of a name; without a name the default one of the tier."""
        if name is None:
            return self.endpoints.slm if tier == "slm" else self.endpoints.llm
        if isinstance(name, str):
            return self.endpoints.named(name)
        if hasattr(name, "capabilities"):
            return cast("Endpoint", name)
        raise ValueError(f"the name of an endpoint, not {name!r}")


class Mark(ABC):
    """Marks a field that a table says in another way than Python does."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Have it read by `read`; pydantic calls it."""
        del handler
        schema = core_schema.with_info_plain_validator_function(self.read)
        optional = type(None) in get_args(source)
        return core_schema.nullable_schema(schema) if optional else schema

    @abstractmethod
    def read(self, value: object, info: ValidationInfo) -> Any:
        """Turn what was given, in Python or in a table, into what the recipe takes."""


def table_of(info: ValidationInfo, value: object, wanted: str) -> Table:
    """Give the table that is being read; in Python there is none, and the value is wrong."""
    if info.context is None:
        raise ValueError(f"takes {wanted}, {no_endpoint(value)}")
    return cast("Table", info.context)


def _endpoint(value: object, info: ValidationInfo, tier: Tier | None) -> Endpoint | None:
    """Give the endpoint that stands there itself: in Python also as `moa.endpoint` reads it."""
    if hasattr(value, "capabilities") or (isinstance(value, str) and info.context is None):
        return as_endpoint(cast("Endpoint | str", value), tier)
    return None


@dataclass(frozen=True)
class Named(Mark):
    """Marks a field that is an endpoint: in a table its name, or none for the tier's default."""

    tier: Tier

    def read(self, value: object, info: ValidationInfo) -> Endpoint:
        """Give the endpoint."""
        found = _endpoint(value, info, self.tier)
        if found is not None:
            return found
        return table_of(info, value, "an endpoint").endpoint(value or None, self.tier)


Small = Annotated[Endpoint, Named("slm")]
"""An endpoint; in a table its name, or none for the default small one."""
Large = Annotated[Endpoint, Named("llm")]
"""An endpoint; in a table its name, or none for the default large one."""


class NodeMark(Mark):
    """Marks a field that is a node: a node that is given stands for itself."""

    def read(self, value: object, info: ValidationInfo) -> Any:
        """Give the node, or make it."""
        return cast("Node[Any, Any]", value) if is_node(value) else self.made(value, info)

    @abstractmethod
    def made(self, value: object, info: ValidationInfo) -> Node[Any, Any]:
        """Make the node of what stands there in its place."""


class _InPython(NodeMark):
    def made(self, value: object, info: ValidationInfo) -> Node[Any, Any]:
        del info
        raise ValueError(f"takes a node, but was given {value!r}")


IN_PYTHON = _InPython()
"""Marks a field that is a node, and given in Python alone."""


@dataclass(frozen=True)
class FromEndpoint(NodeMark):
    """Marks a field that in a table is an endpoint's name, or a table that names one.

        node: Annotated[Node[In, Any], FromEndpoint(sampler, tier="slm")]

    `node = "small"` and `node = { endpoint = "small", temperature = 0.9 }` are then read as
    `sampler(endpoint, temperature=0.9)`; a table that names no endpoint, and a missing field, take
    the default endpoint of the tier. In Python it takes the node itself, or the endpoint.

    Args:
        make: Makes the node of an endpoint and of the keywords in its signature: a function, or
            the class of an agent.
        tier: Whose endpoint is the default; `None`: it takes none.
        given: Fields that stand before it in the recipe, and that the node is given too.
    """

    make: Callable[..., Node[Any, Any]]
    tier: Tier | None = "llm"
    given: tuple[str, ...] = ()

    def made(self, value: object, info: ValidationInfo) -> Node[Any, Any]:
        """Make the node of an endpoint, or of a table."""
        endpoint = _endpoint(value, info, self.tier)
        if endpoint is not None:
            return self.make(endpoint)
        table = table_of(info, value, "a node")
        said = {"endpoint": value} if isinstance(value, str) else value
        if not isinstance(said, Mapping):
            raise ValueError(f"the name of an endpoint, or a table that names one, not {value!r}")
        takes, in_python = _keywords(self.make)
        for name, needed in in_python.items():
            if name in said or needed:
                raise ValueError(
                    f"{takes.__name__}({name}=…) can be given in Python alone: no table can say "
                    "its type, as it is annotated"
                )
        before: dict[str, object] = {name: info.data[name] for name in self.given}
        shared = before | table.shared_with(takes.model_fields)
        settings = {**shared, **cast("Mapping[str, Any]", said)}
        asked: list[Tier] = [] if self.tier is None else [self.tier]
        endpoints = [table.endpoint(settings.pop("endpoint", None), tier) for tier in asked]
        read = takes.model_validate(settings, context=table)
        return self.make(*endpoints, **{key: getattr(read, key) for key in read.model_fields_set})


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

    def read(self, value: object, info: ValidationInfo) -> Any:
        """Give the nodes, or make them."""
        if isinstance(info.context, Table) and (value is None or isinstance(value, list)):
            value = self.spread(cast("list[Any] | None", value), info.context)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"takes a list, but was given {value!r}")
        return self._nodes(cast("Sequence[object]", value), info)

    def _nodes(self, values: Sequence[object], info: ValidationInfo) -> list[Any]:
        return [
            self._nodes(cast("Sequence[object]", value), info)
            if isinstance(value, list | tuple)
            else super(FromEndpoints, self).read(value, info)
            for value in values
        ]


@dataclass(frozen=True)
class FromGraph(NodeMark):
    """Marks a field that takes another graph: in a table its name, or `file.py:object`.

    Args:
        default: Of the ready graph that a table takes where it names none.
    """

    default: str = ""

    def made(self, value: object, info: ValidationInfo) -> Node[Any, Any]:
        """Build the graph of that name."""
        table, name = table_of(info, value, "a node"), value or self.default
        if not isinstance(name, str):
            raise ValueError(
                f"the name of a graph, or file.py:object, not {name!r}; a ready one is set in its "
                "own table, and one of a file in that file"
            )
        return table.graph(name)


@dataclass(frozen=True)
class FromFile(Mark):
    """Marks what is read from a file, or several: in a table their paths, beside moa.toml.

    Args:
        load: Reads the file; `None`: the path itself is taken.
    """

    load: Callable[[Path], Any] | None = None

    def read(self, value: object, info: ValidationInfo) -> Any:
        """Read the file, or take what was read of one."""
        if isinstance(value, str | Path):
            path = beside_config(value, info)
            return path if self.load is None else self.load(path)
        if self.load is not None and isinstance(value, list):
            return [self.read(one, info) for one in cast("list[object]", value)]
        if self.load is None or isinstance(value, bool | int | float | dict):
            raise ValueError(f"takes a path, but was given {value!r}")
        return value


def beside_config(path: str | Path, info: ValidationInfo) -> Path:
    """Find a path that a table names beside its moa.toml; use it as an `AfterValidator`."""
    path = Path(path)
    file = None if info.context is None else table_of(info, path, "a path").endpoints.config.file
    return path if file is None else file.parent / path


@cache
def _keywords(make: Callable[..., Any]) -> tuple[type[BaseModel], dict[str, bool]]:
    """Give what a table can say of a node: its keywords; and which it can't, `True` if needed.

    Of a class with overloads the first one counts.
    """
    inner: Any = getattr(make, "func", make)
    inner = get_origin(inner) or inner
    called = inner.__init__ if isinstance(inner, type) else inner
    called = next(iter(get_overloads(called)), called)
    bound, hints = getattr(make, "keywords", {}), _hints(called)
    fields, in_python = dict[str, Any](), dict[str, bool]()
    for name, one in inspect.signature(called).parameters.items():
        hint = hints.get(name)
        needed = one.default is one.empty and name not in bound
        if get_origin(hint) is Unpack:
            of = get_type_hints(get_args(hint)[0], include_extras=True)
            fields |= {key: (kind, None) for key, kind in of.items() if _is_read(kind)}
            in_python |= {key: False for key, kind in of.items() if not _is_read(kind)}
        elif hint is not None and _is_read(hint):
            fields[name] = (hint, ... if needed else None)
        elif one.kind is one.KEYWORD_ONLY:
            in_python[name] = needed
    named = getattr(inner, "__name__", "Settings")
    return create_model(named, __config__=_STRICT, **fields), in_python


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


def settings_in(of: Any) -> dict[str, tuple[Any, tuple[Mark, ...]]]:
    """List what a table can say: the fields of a recipe, or the keywords of an agent.

    Returns:
        The type of each, and its marks.
    """
    fields = getattr(of, "__pydantic_fields__", None) or _keywords(of)[0].model_fields
    return {
        name: (one.annotation, tuple(_marks((*one.metadata, one.annotation))))
        for name, one in fields.items()
    }


def _marks(annotations: Iterable[object]) -> Iterator[Mark]:
    for one in annotations:
        if isinstance(one, Mark):
            yield one
        yield from _marks((*getattr(one, "__metadata__", ()), *get_args(one)))


def settings_below(of: Any) -> dict[str, tuple[Any, tuple[Mark, ...]]]:
    """List what a table can say, with what it can say of the nodes in it; see `settings_in`."""
    own, found = settings_in(of), dict[str, tuple[Any, tuple[Mark, ...]]]()
    for _, marks in own.values():
        for mark in marks:
            if isinstance(mark, FromEndpoint):
                found |= settings_below(mark.make)
    return found | own


def keys_in(of: Any, place: Sequence[int | str]) -> list[str]:
    """Name the keys that may stand at a place in a table: of it, of a node in it, or of a model."""
    settings = settings_in(of)
    if not place:
        return [*settings]
    kind, marks = settings.get(str(place[0]), (None, ()))
    makers = [mark.make for mark in marks if isinstance(mark, FromEndpoint)]
    if makers:
        return [name for make in makers for name in settings_in(make)]
    return keys_at(kind, tuple(place[1:]))
