"""Entry: what a ready agent or graph is, to the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast

from pydantic import BaseModel, ConfigDict

from moa.node import Node
from moa.tiers import Endpoints

AnyNode = Node[Any, Any]
S = TypeVar("S", bound=BaseModel)


class Mark(Enum):
    """What a setting is, where its type doesn't tell: `Annotated[Path, Mark.WRITTEN]`."""

    WRITTEN = "written"
    """A file or folder that what is built writes itself, and reads again."""
    READY = "ready"
    """The name of another ready graph or agent, or `file.py:object`."""


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
