"""Fields: reads a table of moa.toml into a recipe, or into the keywords of what makes a node.

The fields themselves are marked in `moa.graphs.fields`. Pydantic's context is the table being read,
a `Table`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import (
    Annotated,
    Any,
    TypeGuard,
    TypeVar,
    Unpack,
    get_args,
    get_origin,
    get_overloads,
    get_type_hints,
)

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    PydanticSchemaGenerationError,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic.fields import FieldInfo

from moa.agents.base import is_endpoint
from moa.config.endpoints import Endpoints
from moa.config.faults import explain, fields_of, nearest
from moa.config.tables import FILE
from moa.core._json import is_table
from moa.core.errors import ConfigError
from moa.core.usage import Tier
from moa.endpoints import Endpoint
from moa.graphs.engine.forms import adapter_of
from moa.graphs.fields import FromEndpoint
from moa.graphs.recipe import Recipe

R = TypeVar("R", bound=Recipe[Any, Any])
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

    def names(self, tier: Tier) -> list[str]:
        """Return the names of the configured endpoints of a tier."""
        configured = self.endpoints.config.endpoints
        return [name for name, endpoint in configured.items() if endpoint.tier == tier]

    def path(self, path: str | Path) -> Path:
        """Resolve a path from the folder of the file."""
        file = self.endpoints.config.file
        return Path(path) if file is None else file.parent / path

    def node(self, marker: FromEndpoint, value: object, given: Mapping[str, object]) -> object:
        """Make a marked node from the name of an endpoint, or a table. `given` is passed to it."""
        make = marker.make
        assert make is not None, "an endpoint isn't made"
        entry: object = dict[str, object]() if value is None else value
        if isinstance(entry, str) and marker.tier:
            entry = {"endpoint": entry}
        if not is_table(entry):
            names = "takes the name of an endpoint, or " if marker.tier else "takes "
            raise ValueError(f"{names}a table, not {value!r}")
        settings = {key: value for key, value in self.shared.items() if key in settings_of(make)}
        settings |= {**given, **entry}
        if _is_recipe(recipe := get_origin(make) or make):
            return recipe_from_table(recipe, settings, self)
        endpoint_name = settings.pop("endpoint", None) if marker.tier else None
        read = _model_of(make).model_validate(settings, context=self)
        endpoints = [self.endpoint(endpoint_name, marker.tier)] if marker.tier else []
        return make(*endpoints, **{key: getattr(read, key) for key in read.model_fields_set})


def recipe_from_table(recipe: type[R], table: Mapping[str, object], context: Table) -> R:
    """Build a recipe from its table in moa.toml.

    Fields that take a node or an endpoint may be left out. A key that isn't a field is the default
    for all nodes of the recipe that have that setting.

    Raises:
        ConfigError: a key is unknown, or a value is wrong. The error names each.
    """
    fields, table = fields_of(recipe), recipe.complete(table, context.endpoints)
    values = {name: value for name, value in table.items() if name in fields}
    for name, setting in fields.items():
        if setting.is_required() and any(markers_in(setting)):
            values.setdefault(name, None)
    shared = {name: value for name, value in table.items() if name not in fields}
    makers = [marker.make for name in values for marker in markers_in(fields[name]) if marker.make]
    keys = [*fields, *dict.fromkeys(key for make in makers for key in settings_of(make))]
    made, faults = None, list[str]()
    try:
        made = TypeAdapter(recipe).validate_python(values, context=replace(context, shared=shared))
    except ValidationError as error:
        faults.append(context.explain(error, recipe))
    location = f"{context.file}: [graphs.{context.name}]"
    unknown = (name for name in shared if name not in keys)
    faults += [f"{location} has no key {name!r}{nearest(name, keys)}" for name in unknown]
    if made is None or faults:
        raise ConfigError("\n".join(faults))
    return made


def _is_recipe(kind: object) -> TypeGuard[type[Recipe[Any, Any]]]:
    return isinstance(kind, type) and issubclass(kind, Recipe)


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


def table_fields(marker: FromEndpoint) -> Mapping[str, FieldInfo]:
    """Return the fields that the table of a marked node can set, by key."""
    settings = settings_of(marker.make) if marker.make else dict[str, FieldInfo]()
    return settings if marker.tier is None else {"endpoint": FieldInfo(annotation=str), **settings}


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
