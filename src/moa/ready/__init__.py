"""Ready: builds the named agents and graphs from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moa.config import checked, nearest
from moa.errors import ConfigError
from moa.ready import (
    agents,
    conversations,
    documents,
    guards,
    labelling,
    mixtures,
    reasoning,
    routing,
    sampling,
    shadowing,
    streams,
    writing,
)
from moa.ready.entry import AnyNode, Ready
from moa.ready.loading import loaded
from moa.tiers import Endpoints

__all__ = ["READY", "AnyNode", "Ready", "node_of"]

READY: dict[str, Ready[Any]] = {
    **agents.READY,
    **conversations.READY,
    **documents.READY,
    **guards.READY,
    **labelling.READY,
    **mixtures.READY,
    **reasoning.READY,
    **routing.READY,
    **sampling.READY,
    **shadowing.READY,
    **streams.READY,
    **writing.READY,
}
"""The ready agents and graphs, by name."""


def node_of(
    name: str, endpoints: Endpoints, *, given: Mapping[str, object] | None = None
) -> AnyNode:
    """Build a ready agent or graph, or load one from a file.

    Args:
        name: Of a ready one, or `file.py:object`: a node, or a function that gives one, with
            these endpoints as its only argument or without any.
        endpoints: Who is asked.
        given: Settings that come before those of its table, where it has them.

    Raises:
        ConfigError: there is no such name, file or object, its settings are wrong, or an endpoint
            that it needs is not configured.
    """
    tables = endpoints.config.graphs
    for table in tables:
        if table not in READY:
            raise ConfigError(f"[graphs.{table}] is no ready graph{nearest(table, list(READY))}")
    file, colon, attribute = name.rpartition(":")
    if colon and file.endswith(".py"):
        return loaded(Path(file), attribute, endpoints)
    ready = READY.get(name)
    if ready is None:
        raise ConfigError(
            f"there is no ready graph or agent {name!r}{nearest(name, list(READY))} "
            "One of your own is given as file.py:object"
        )
    known = {k: v for k, v in (given or {}).items() if k in ready.settings.model_fields}
    config = endpoints.config.file
    around, table = guards.apart({**tables.get(name, {}), **known}, name=name, file=config)
    settings = checked(ready.settings, table, table=f"graphs.{name}", file=config)
    node = ready.build(endpoints, settings)
    if around is None:
        return node
    return guards.around(node, around, lambda guard: node_of(guard, endpoints))
