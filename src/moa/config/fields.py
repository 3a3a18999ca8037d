"""Fields: turns values in a table of moa.toml into the fields of a recipe.

In Python, a recipe takes endpoints, nodes and loaded files. A table names them. The types and
validators here accept both. Pydantic's context is the table being read, a `Table`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import (
    Annotated,
    Any,
    TypeVar,
    Unpack,
    get_args,
    get_origin,
    get_overloads,
    get_type_hints,
)

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PydanticSchemaGenerationError,
    ValidationError,
    ValidationInfo,
    create_model,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypeIs

from moa.agents.base import no_endpoint
from moa.config.endpoints import Endpoints
from moa.config.tables import FILE
from moa.core._json import is_list, is_table
from moa.core.faults import explain, fields_of
from moa.core.node import Node
from moa.core.usage import Tier
from moa.endpoints import Endpoint
from moa.endpoints.named import as_endpoint
from moa.graphs.engine.forms import adapter_of
from moa.graphs.engine.types import is_node

A = TypeVar("A")
B = TypeVar("B")
_STRICT = ConfigDict(extra="forbid", protected_namespaces=())


@dataclass(frozen=True)
class Table:
    """Table being read. It is pydantic's context."""

    name: str
    """The table is `[graphs.NAME]`."""
    endpoints: Endpoints
    graph: Callable[[str], object]
    """Builds another graph by name."""
    shared: Mapping[str, object] = field(default_factory=dict[str, object])
    """Settings for nodes of the recipe that aren't its own fields."""

    @property
    def file(self) -> str:
        """Path of the file, for errors."""
        return str(self.endpoints.config.file or FILE)

    def explain(self, error: ValidationError, kind: object) -> str:
        """Explain in sentences what is wrong in the table, with the nearest valid key."""
        return explain(error, kind, path=self.file, table=f"graphs.{self.name}")

    def endpoint(self, name: object, tier: Tier) -> Endpoint:
        """Return the endpoint of a name, or without a name, the default of the tier."""
        if is_endpoint(name):
            return name
        if name is None or name == "":
            return self.endpoints.slm if tier == "slm" else self.endpoints.llm
        if isinstance(name, str):
            return self.endpoints.named(name)
        raise ValueError(f"takes the name of an endpoint, not {name!r}")


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
        settings = settings_of(self.make) if self.make else dict[str, FieldInfo]()
        return (
            settings if self.tier is None else {"endpoint": FieldInfo(annotation=str), **settings}
        )

    def read(self, value: object, info: ValidationInfo) -> object:
        """Return the node or endpoint, or make it from a name or a table."""
        expected = "an endpoint" if self.make is None else "a node"
        if self.make is not None and is_node(value):
            return value
        if self.tier and (is_endpoint(value) or (info.context is None and type(value) is str)):
            endpoint = as_endpoint(value, self.tier)
            return endpoint if self.make is None else self.make(endpoint)
        if not isinstance(info.context, Table):
            raise ValueError(f"takes {expected}, {no_endpoint(value)}")
        if self.make is None:
            return info.context.endpoint(value, self.tier or "llm")
        entry: object = dict[str, object]() if value is None else value
        if isinstance(entry, str) and self.tier:
            entry = {"endpoint": entry}
        if not is_table(entry):
            names = "takes the name of an endpoint, or " if self.tier else "takes "
            raise ValueError(f"{names}a table, not {value!r}")
        return self._make_node(self.make, entry, info.context, info)

    def _make_node(
        self,
        make: Callable[..., object],
        entry: Mapping[str, object],
        table: Table,
        info: ValidationInfo,
    ) -> object:
        settings = {key: value for key, value in table.shared.items() if key in settings_of(make)}
        settings |= {name: info.data[name] for name in self.given if name in info.data}
        settings |= entry
        if (from_table := getattr(make, "from_table", None)) is not None:
            return from_table(settings, table)
        endpoint_name = settings.pop("endpoint", None) if self.tier else None
        read = _model_of(make).model_validate(settings, context=table)
        endpoints = [table.endpoint(endpoint_name, self.tier)] if self.tier else []
        return make(*endpoints, **{key: getattr(read, key) for key in read.model_fields_set})


Small = Annotated[Endpoint, FromEndpoint(tier="slm")]
"""An endpoint. In a table: its name, or none for the default small one."""
Large = Annotated[Endpoint, FromEndpoint(tier="llm")]
"""An endpoint. In a table: its name, or none for the default large one."""


def markers_in(kind: object) -> Iterator[FromEndpoint]:
    """Yield the `FromEndpoint` markers of a field or an annotation, at any depth."""
    if isinstance(kind, FromEndpoint):
        yield kind
    elif isinstance(kind, FieldInfo):
        for part in (*kind.metadata, kind.annotation):
            yield from markers_in(part)
    else:
        for part in (*getattr(kind, "__metadata__", ()), *get_args(kind)):
            yield from markers_in(part)


def only_in_tables(read: Callable[[object, Table], object]) -> BeforeValidator:
    """Return a validator that applies `read` to a table's value, or to `None` if it is missing."""

    def read_first(value: object, info: ValidationInfo) -> object:
        return read(value, info.context) if isinstance(info.context, Table) else value

    return BeforeValidator(read_first)


def lists_in_tables(
    complete: Callable[[list[object] | None, Table], list[object]],
) -> BeforeValidator:
    """Return a validator that completes a table's list (or `None`) before its items are read."""

    def complete_list(value: object, table: Table) -> object:
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
    if not isinstance(info.context, Table):
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
    file = info.context.endpoints.config.file if isinstance(info.context, Table) else None
    return Path(path) if file is None else file.parent / path


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


def settings_of(make: Callable[..., object]) -> Mapping[str, FieldInfo]:
    """Return the keys of a table: the fields of a recipe, or the keywords of a node's maker."""
    fields = fields_of(make) or _model_of(make).model_fields
    return {name: setting for name, setting in fields.items() if setting.exclude is None}


def settings_below(make: Callable[..., object]) -> dict[str, FieldInfo]:
    """Return the keys of a table and of the nodes in it; see `settings_of`."""
    settings, inner_settings = settings_of(make), dict[str, FieldInfo]()
    for marker in (marker for setting in settings.values() for marker in markers_in(setting)):
        inner_settings |= settings_below(marker.make) if marker.make else {}
    return inner_settings | dict(settings)


@cache
def _model_of(make: Callable[..., object]) -> type[BaseModel]:
    """Return the model of a maker's keywords. For a class with overloads, the first one counts.

    Keywords whose types a table can't express are excluded, and rejected if given or required.
    """
    inner = getattr(make, "func", make)
    inner = get_origin(inner) or inner
    called: Any = inner.__init__ if isinstance(inner, type) else inner
    called = next(iter(get_overloads(called)), called)
    bound: Mapping[str, object] = getattr(make, "keywords", {})
    fields = dict[str, Any]()
    for name, parameter in inspect.signature(called).parameters.items():
        hint = _hint_of(parameter.annotation, called.__globals__)
        is_needed = parameter.default is parameter.empty and name not in bound
        if get_origin(hint) is Unpack:
            hints = get_type_hints(get_args(hint)[0], include_extras=True)
            fields |= {key: _field(kind, is_needed=False) for key, kind in hints.items()}
        elif parameter.kind is parameter.KEYWORD_ONLY or _is_read(hint):
            fields[name] = _field(hint, is_needed=is_needed)
    return create_model(getattr(inner, "__name__", "Settings"), __config__=_STRICT, **fields)


def _field(hint: object, *, is_needed: bool) -> tuple[object, object]:
    """Return the pydantic field of a keyword."""
    if _is_read(hint):
        return hint, ... if is_needed else None
    return _ONLY_IN_PYTHON, Field(default=None, exclude=True, validate_default=is_needed)


def _refuse(value: object) -> object:
    del value
    raise ValueError("can be given in Python alone: no table can say its type, as it is annotated")


_ONLY_IN_PYTHON = Annotated[object, PlainValidator(_refuse)]


def _hint_of(annotation: object, names: dict[str, object]) -> object:
    """Evaluate an annotation; `None` if it is imported only for type checkers."""
    try:
        namespace = SimpleNamespace(__annotations__={"it": annotation})
        return get_type_hints(namespace, names, include_extras=True)["it"]
    except NameError:
        return None


def _is_read(hint: object) -> bool:
    """Return True if pydantic can read a type from a table. Endpoints are passed separately."""
    if hint is None or hint is inspect.Parameter.empty:
        return False
    try:
        return adapter_of(hint).pydantic_complete
    except PydanticSchemaGenerationError:
        return False


def is_endpoint(value: object) -> TypeIs[Endpoint]:
    """Return True if a value is an endpoint, not a node or a name."""
    return hasattr(value, "capabilities") and not isinstance(value, type)
