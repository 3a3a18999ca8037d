"""Entry: what a ready agent or graph is, to the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model

from moa.errors import ConfigError
from moa.graphs.recipe import (
    FromEndpoint,
    FromFile,
    FromGraph,
    FromTable,
    Mark,
    Recipe,
    Table,
    in_sentences,
    made,
    settings_of,
)
from moa.node import Node
from moa.tiers import Endpoints
from moa.usage import Tier

AnyNode = Node[Any, Any]
S = TypeVar("S", bound=BaseModel)
_OPEN = ConfigDict(extra="allow", protected_namespaces=())


class Ready(NamedTuple, Generic[S]):
    """A named agent or graph."""

    does: str
    """In words, for whoever looks for one."""
    settings: type[S]
    """What its table in `moa.toml` may say."""
    build: Callable[[Endpoints, S], AnyNode]


def recipe(cls: type[Recipe[Any, Any]]) -> Ready[Any]:
    """Enter a recipe, whose fields are its settings, beside those of its nodes."""
    hints = _hints(cls)
    takes = {
        name: _whole(one)
        for hint in hints.values()
        for mark in _marks(hint)
        if isinstance(mark, FromEndpoint)
        for name, one in settings_of(mark.make).model_fields.items()
    }

    def build(endpoints: Endpoints, given: BaseModel) -> AnyNode:
        graph = _others(cls.name, endpoints)
        return cls.from_table(
            _given(given), endpoints, where=_where(cls.name, endpoints), graph=graph
        )

    return Ready(cls.does(), _listed(cls.__name__, {**takes, **hints}), build)


def agent(
    does: str, name: str, make: Callable[..., AnyNode], tier: Tier | None = None
) -> Ready[Any]:
    """Enter an agent, whose keywords are its settings.

    Args:
        does: In words, for whoever looks for one.
        name: Of its table.
        make: Its class, or a function that makes it.
        tier: Of the endpoint that it asks by default; `None`: it asks none.
    """
    hints = {key: _whole(one) for key, one in settings_of(make).model_fields.items()}

    def build(endpoints: Endpoints, given: BaseModel) -> AnyNode:
        where, table = _where(name, endpoints), _given(given)
        context = Table(endpoints, where, {}, _others(name, endpoints))
        try:
            if tier is None:
                return made(make, table, context)
            entered = Annotated[Any, FromEndpoint(make, tier)]
            return TypeAdapter(entered).validate_python(table, context=context)
        except ValidationError as error:
            raise ConfigError(in_sentences(error, [*hints], f"{where} ")) from None

    asked = {} if tier is None else {"endpoint": str}
    return Ready(does, _listed(name, {**hints, **asked}), build)


def _hints(cls: type[Recipe[Any, Any]]) -> dict[str, Any]:
    """Give the annotations of its fields, and of those of a recipe that its table makes."""
    fields: Mapping[str, Any] = cast("Any", cls).__pydantic_fields__
    hints = {name: _whole(one) for name, one in fields.items()}
    inner = [mark for hint in hints.values() for mark in _marks(hint)]
    for mark in inner:
        if isinstance(mark, FromTable):
            hints = {**_hints(mark.recipe), **hints}
    return hints


def _given(settings: BaseModel) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.model_fields_set}


def _where(name: str, endpoints: Endpoints) -> str:
    return f"{endpoints.config.file or 'moa.toml'}: [graphs.{name}]"


def _others(name: str, endpoints: Endpoints) -> Callable[[str], AnyNode]:
    """Build the other ready graphs."""
    from moa.ready import node_of

    def other(wanted: str) -> AnyNode:
        if wanted == name:
            raise ConfigError(f"graphs.{name}: a {name} can't stand in its own {name}")
        return node_of(wanted, endpoints)

    return other


def _listed(name: str, hints: Mapping[str, object]) -> type[BaseModel]:
    """List the keys of a table; what they hold is checked where it is built."""
    keys: Any = {key: _entered(hint) for key, hint in hints.items()}
    return create_model(name, __config__=_OPEN, **keys)


def _entered(hint: object) -> tuple[object, object]:
    marks = [*_marks(hint)]
    graphs = [mark.default for mark in marks if isinstance(mark, FromGraph)]
    if graphs:
        return Annotated[str | list[str], Mark.READY], graphs[0] or []
    if any(isinstance(mark, FromFile) for mark in marks):
        return Path | list[Path] | None, None
    return (hint if "Path" in str(hint) and Mark.WRITTEN not in marks else Any), None


def _whole(field: Any) -> Any:
    """Give the annotation of a field with its marks."""
    if not field.metadata:
        return field.annotation
    return Annotated[field.annotation, *field.metadata]


def _marks(hint: object) -> Iterator[object]:
    """List the marks of an annotation, and of those in it."""
    yield from getattr(hint, "__metadata__", ())
    for inner in get_args(hint):
        yield from _marks(inner)


def read_by(settings: BaseModel) -> Iterator[Path]:
    """List the files and folders that settings name to be read."""
    for name, field in type(settings).model_fields.items():
        if Mark.WRITTEN not in field.metadata:
            yield from _paths(getattr(settings, name))


def named_by(settings: BaseModel) -> Iterator[str]:
    """List the ready graphs and agents that settings name."""
    for name, field in type(settings).model_fields.items():
        if Mark.READY in field.metadata:
            named: str | list[str] = getattr(settings, name)
            yield from [named] if isinstance(named, str) else named


def _paths(value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, BaseModel):
        yield from read_by(value)
    elif isinstance(value, Mapping):
        for inner in cast("Mapping[object, object]", value).values():
            yield from _paths(inner)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for inner in cast("Sequence[object]", value):
            yield from _paths(inner)


def beside(endpoints: Endpoints, path: Path) -> Path:
    """Find a file that a configuration names: beside it, unless the path is absolute."""
    file = endpoints.config.file
    return path if file is None else file.parent / path
