"""Fields: what the fields of a recipe take, in Python and in a table of moa.toml.

In Python, a recipe takes endpoints, nodes and loaded files. A table names them. The types and
validators here accept both: for a value of a table, they ask pydantic's context, a `TableReader`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, TypeVar, runtime_checkable

from pydantic import BeforeValidator, PlainValidator, ValidationError, ValidationInfo
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from moa.agents.base import is_endpoint, no_endpoint
from moa.core._json import is_list
from moa.core.doors import Door
from moa.core.node import Node
from moa.core.usage import Tier
from moa.endpoints import Endpoint
from moa.endpoints.named import as_endpoint
from moa.graphs.engine.types import is_node

A = TypeVar("A")
B = TypeVar("B")


class NamedEndpoints(Protocol):
    """Endpoints of a configuration, as a recipe's table names them; see `moa.Endpoints`."""

    @property
    def can_be_asked(self) -> bool:
        """True if they can be asked; without keys they can only be wired and drawn."""
        ...

    @property
    def slm(self) -> Endpoint:
        """The default small model."""
        ...

    @property
    def llm(self) -> Endpoint:
        """The default large model."""
        ...

    def named(self, name: str, /) -> Endpoint:
        """Return the endpoint of a name."""
        ...


@runtime_checkable
class TableReader(Protocol):
    """Reads the values of a table. It is pydantic's context; without one, nothing is a table's."""

    @property
    def endpoints(self) -> NamedEndpoints:
        """Endpoints that the table can name."""
        ...

    @property
    def shared(self) -> Mapping[str, object]:
        """Settings for nodes of the recipe that aren't its own fields."""
        ...

    def endpoint(self, name: object, tier: Tier, /) -> Endpoint:
        """Return the endpoint of a name, or without a name, the default of the tier."""
        ...

    def names(self, tier: Tier, /) -> list[str]:
        """Return the names of the configured endpoints of a tier."""
        ...

    def graph(self, name: str, /) -> object:
        """Build another graph by name, or a node of a file."""
        ...

    def node(self, marker: FromEndpoint, value: object, given: Mapping[str, object], /) -> object:
        """Make a marked node from the name of an endpoint, or a table. `given` is passed to it."""
        ...

    def path(self, path: str | Path, /) -> Path:
        """Resolve a path from the folder of the file that has the table."""
        ...


class Tables(Protocol):
    """What the fields here ask of the layer that reads tables."""

    def table_fields(self, marker: FromEndpoint, /) -> Mapping[str, FieldInfo]:
        """Return the fields that the table of a marked node can set, by key."""
        ...

    def explain(self, error: ValidationError, kind: object, /, *, path: str) -> str:
        """Say what is wrong with the fields of a type."""
        ...

    def nearest(self, wrong: str, names: Sequence[str], /) -> str:
        """Say which name is meant, or which names there are."""
        ...


TABLES: Door[Tables] = Door("moa.config.fields")


@dataclass(frozen=True)
class FromEndpoint:
    """Marks a field that is an endpoint's name in a table, or a table that names one.

        node: Annotated[Node[In, object], FromEndpoint(sampler, tier="slm")]

    `node = "small"` and `node = { endpoint = "small", temperature = 0.9 }` are then read as
    `sampler(endpoint)` and `sampler(endpoint, temperature=0.9)`. A table without an endpoint, or a
    missing field, uses the tier's default endpoint. In Python the field takes the node itself, or
    the endpoint.

    Args:
        make: Function, or class of an agent, that makes the node of an endpoint and the keywords in
            its signature. A recipe is read from its own table, and also takes outer settings that
            are its fields. `None`: the field is the endpoint itself.
        tier: Tier of the default endpoint; `None` if the node takes no endpoint.
        given: Earlier fields of the recipe that are passed to the node too.
    """

    make: Callable[..., object] | None = None
    tier: Tier | None = "llm"
    given: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> CoreSchema:
        """Validate the field with `read`. Called by pydantic."""
        del source, handler
        return core_schema.with_info_plain_validator_function(self.read)

    @property
    def table_fields(self) -> Mapping[str, FieldInfo]:
        """Fields that its table can set, by key."""
        return TABLES.open().table_fields(self)

    def read(self, value: object, info: ValidationInfo) -> object:
        """Return the node or endpoint, or make it from a name or a table."""
        expected = "an endpoint" if self.make is None else "a node"
        if self.make is not None and is_node(value):
            return value
        if self.tier and (is_endpoint(value) or (info.context is None and type(value) is str)):
            endpoint = as_endpoint(value, self.tier)
            return endpoint if self.make is None else self.make(endpoint)
        if not isinstance(info.context, TableReader):
            raise ValueError(f"takes {expected}, {no_endpoint(value)}")
        if self.make is None:
            return info.context.endpoint(value, self.tier or "llm")
        given = {name: info.data[name] for name in self.given if name in info.data}
        return info.context.node(self, value, given)


Small = Annotated[Endpoint, FromEndpoint(tier="slm")]
"""An endpoint. In a table: its name, or none for the default small one."""
Large = Annotated[Endpoint, FromEndpoint(tier="llm")]
"""An endpoint. In a table: its name, or none for the default large one."""


def only_in_tables(read: Callable[[object, TableReader], object]) -> BeforeValidator:
    """Return a validator that applies `read` to a table's value, or to `None` if it is missing."""

    def read_first(value: object, info: ValidationInfo) -> object:
        return read(value, info.context) if isinstance(info.context, TableReader) else value

    return BeforeValidator(read_first)


def lists_in_tables(
    complete: Callable[[list[object] | None, TableReader], list[object]],
) -> BeforeValidator:
    """Return a validator that completes a table's list (or `None`) before its items are read."""

    def complete_list(value: object, table: TableReader) -> object:
        return complete(value, table) if value is None or is_list(value) else value

    return only_in_tables(complete_list)


def _only_a_node(value: object) -> object:
    if not is_node(value):
        raise ValueError(f"takes a node, but was given {value!r}")
    return value


PythonNode = Annotated[Node[A, B], PlainValidator(_only_a_node)]
"""A node that can only be given in Python."""


def _graph(value: object, info: ValidationInfo) -> object:
    if is_node(value):
        return value
    if not isinstance(info.context, TableReader):
        raise ValueError(f"takes a node, {no_endpoint(value)}")
    if not isinstance(value, str):
        raise ValueError(
            f"takes the name of a graph, or file.py:object, not {value!r}; a ready one is set in "
            "its own table, and one of a file in that file"
        )
    return info.context.graph(value)


FROM_GRAPH = PlainValidator(_graph)
"""Reads a node. In a table: the name of a graph, or `file.py:object`."""


def resolve_path(path: str | Path, info: ValidationInfo) -> Path:
    """Resolve a table's path from the folder of its moa.toml. Used as an `AfterValidator`."""
    return info.context.path(path) if isinstance(info.context, TableReader) else Path(path)


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path):
        raise ValueError(f"takes a path, but was given {value!r}")
    return resolve_path(value, info)


File = Annotated[str | Path, PlainValidator(_path)]
"""A path. In a table, it is relative to the folder of its moa.toml."""


def from_file(load: Callable[[Path], object]) -> PlainValidator:
    """Return a validator that loads one or several files. Loaded objects pass unchanged."""

    def read(value: object, info: ValidationInfo) -> object:
        if isinstance(value, str | Path):
            return load(resolve_path(value, info))
        if is_list(value):
            return [read(item, info) for item in value]
        if isinstance(value, bool | int | float | dict):
            raise ValueError(f"takes a path, but was given {value!r}")
        return value

    return PlainValidator(read)
