"""Entry: what a ready agent or graph is, to the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict

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


def beside(endpoints: Endpoints, path: Path) -> Path:
    """Find a file that a configuration names: beside it, unless the path is absolute."""
    file = endpoints.config.file
    return path if file is None else file.parent / path
