"""Entry: what a ready agent or graph is, to the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, cast

from pydantic import BaseModel, ConfigDict, create_model

from moa.graphs.recipe import FromEndpoint, FromTable, Mark, Recipe
from moa.node import Node
from moa.tiers import Endpoints

AnyNode = Node[Any, Any]
S = TypeVar("S", bound=BaseModel)


class NoSettings(BaseModel):
    """A table in which nothing can be set."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Ready(NamedTuple, Generic[S]):
    """A named agent or graph."""

    does: str
    """In words, for whoever looks for one."""
    settings: type[S]
    """What its table in `moa.toml` may say."""
    build: Callable[[Endpoints, S], AnyNode]


def recipe(cls: type[Recipe[Any, Any]]) -> Ready[Any]:
    """Enter a recipe, whose fields are its settings."""
    fields: dict[str, Any] = dict(cast("Any", cls).__pydantic_fields__)
    for mark in [mark for field in fields.values() for mark in field.metadata]:
        if isinstance(mark, FromTable):
            fields = {**cast("Any", mark.recipe).__pydantic_fields__, **fields}
    paths = {name: f for name, f in fields.items() if "Path" in str(f.annotation)}
    made: Any = {
        name: (Any if name not in paths else Annotated[f.annotation, *(f.metadata or [None])], None)
        for name, f in fields.items()
    }
    if any(_takes_labels(m) for f in fields.values() for m in f.metadata):
        made["labels"] = (Any, None)
    settings = create_model(
        cls.__name__, __config__=ConfigDict(extra="allow", arbitrary_types_allowed=True), **made
    )

    def build(endpoints: Endpoints, given: BaseModel) -> AnyNode:
        table = {name: getattr(given, name) for name in given.model_fields_set}
        where = f"{endpoints.config.file or 'moa.toml'}: [graphs.{cls.name}]"
        return cls.from_table(table, endpoints, where=where)

    return Ready(cls.does(), settings, build)


def _takes_labels(mark: object) -> bool:
    return isinstance(mark, FromEndpoint) and "labels" in signature(mark.make).parameters


def read_by(settings: BaseModel) -> Iterator[Path]:
    """List the files and folders that settings name to be read."""
    for name, field in type(settings).model_fields.items():
        if Mark.WRITTEN not in field.metadata:
            yield from _paths(getattr(settings, name))


def named_by(settings: BaseModel) -> Iterator[str]:
    """List the ready graphs and agents that settings name."""
    for name, field in type(settings).model_fields.items():
        if Mark.READY in field.metadata:
            yield getattr(settings, name)


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
