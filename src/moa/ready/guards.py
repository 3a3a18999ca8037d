"""The ready guards, and what puts them around a ready graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from moa.config import checked
from moa.graphs.guarded import guarded
from moa.ready.entry import AnyNode

KEY = "guards"
"""The key of a graph's table that names its guards."""


class Guards(BaseModel):
    """`guards` in the table of a ready graph: names of ready guards, by place."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    before: list[str] = Field(default_factory=list[str])
    beside: list[str] = Field(default_factory=list[str])
    after: list[str] = Field(default_factory=list[str])


def apart(
    table: Mapping[str, Any], *, name: str, file: Path | None = None
) -> tuple[Guards | None, dict[str, Any]]:
    """Part what a graph's table says of guards from the rest of it.

    A plain list puts `pii` before the graph, and whatever else beside it.

    Raises:
        ConfigError: it is neither such a list nor a table of places.
    """
    rest = {key: value for key, value in table.items() if key != KEY}
    given: Any = table.get(KEY)
    if given is None:
        return None, rest
    if isinstance(given, list):
        names = cast("list[object]", given)
        masks = [guard for guard in names if guard == "pii"]
        given = {"before": masks, "beside": [guard for guard in names if guard != "pii"]}
    return checked(Guards, given, table=f"graphs.{name}.{KEY}", file=file), rest


def around(node: AnyNode, guards: Guards, made: Callable[[str], AnyNode]) -> AnyNode:
    """Put the guards around a node.

    Args:
        node: What is guarded; it keeps its name.
        guards: Names of guards.
        made: Builds a guard by its name.

    Raises:
        ConfigError: there is no such guard, or its settings are wrong.
        WiringError: what is named is no guard, or can't stand there.
    """
    return guarded(
        node,
        before=[made(name) for name in guards.before],
        beside=[made(name) for name in guards.beside],
        after=[made(name) for name in guards.after],
        name=node.name,
    )
