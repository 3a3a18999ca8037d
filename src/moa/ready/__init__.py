"""Ready: builds the named agents and graphs from a configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from moa.config import checked, nearest
from moa.errors import ConfigError
from moa.guards.guarded import Guarded, Guards, apart
from moa.ready.entries import READY
from moa.ready.entry import AnyNode, Ready, beside, named_by, read_by
from moa.ready.loading import loaded
from moa.tiers import Endpoints

__all__ = ["READY", "AnyNode", "Ready", "files_of", "fingerprints", "node_of"]


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
    own = _own(name)
    if own is not None:
        return loaded(*own, endpoints)
    ready, around, settings = _set_up(name, endpoints, given)
    node = ready.build(endpoints, settings)
    if around is None:
        return node
    made: dict[str, Any] = {
        place: [node_of(guard, endpoints) for guard in names]
        for place, names in around.model_dump().items()
    }
    return Guarded(node=node, name=node.name, **made)


def files_of(
    name: str, endpoints: Endpoints, *, given: Mapping[str, object] | None = None
) -> tuple[Path, ...]:
    """List the files and folders that `node_of` makes a node of, or that the node reads.

    What it writes itself, such as the state of an audit, is left out, and so is what a file of
    Python imports.

    Args:
        name: See `node_of`, as for the others.
        endpoints: Whose configuration says where they are.
        given: Settings that come before those of its table.

    Raises:
        ConfigError: there is no such name, or its settings are wrong.
    """
    own = _own(name)
    if own is not None:
        return (own[0],)
    _, around, settings = _set_up(name, endpoints, given)
    inner = [*named_by(settings)]
    if around is not None:
        inner += [*around.before, *around.beside, *around.after]
    return (
        *(beside(endpoints, path) for path in read_by(settings)),
        *(file for other in inner for file in files_of(other, endpoints)),
    )


def fingerprints(
    names: Iterable[str], endpoints: Endpoints, *, given: Mapping[str, object] | None = None
) -> dict[str, str]:
    """Say what the answers of each of some nodes depend on, so that another setup is told apart.

    That is the endpoints and graphs of the configuration, the settings given, and whatever stands
    in the files that the node is made of.

    Args:
        names: See `node_of`, as for the others. The nodes have been built.
        endpoints: Who is asked.
        given: Settings that come before those of its table.

    Raises:
        ConfigError: there is no such name, or its settings are wrong.
    """
    config = endpoints.config.model_dump(mode="json", include={"endpoints", "tiers", "graphs"})
    asked = sorted([one.name, one.model] for one in endpoints.used)
    said = [config, asked, {name: str(value) for name, value in (given or {}).items()}]
    return {
        name: json.dumps([*said, _digests(files_of(name, endpoints, given=given))])
        for name in names
    }


def _digests(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """Tell what stands in files, and in all files of folders."""
    files = [
        file
        for path in paths
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file()
    ]
    return [(str(file), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]


def _own(name: str) -> tuple[Path, str] | None:
    """Read `file.py:object`; `None` where it is the name of a ready one."""
    file, colon, attribute = name.rpartition(":")
    return (Path(file), attribute) if colon and file.endswith(".py") else None


def _set_up(
    name: str, endpoints: Endpoints, given: Mapping[str, object] | None
) -> tuple[Ready[Any], Guards | None, BaseModel]:
    """Find a ready one, what is put around it, and its settings."""
    tables = endpoints.config.graphs
    for table in tables:
        if table not in READY:
            raise ConfigError(f"[graphs.{table}] is no ready graph{nearest(table, list(READY))}")
    ready = READY.get(name)
    if ready is None:
        raise ConfigError(
            f"there is no ready graph or agent {name!r} (moa graphs lists them, and one of your "
            f"own is given as file.py:object){nearest(name, list(READY))}"
        )
    known = {k: v for k, v in (given or {}).items() if k in ready.settings.model_fields}
    config = endpoints.config.file
    around, table = apart({**tables.get(name, {}), **known}, name=name, file=config)
    return ready, around, checked(ready.settings, table, table=f"graphs.{name}", file=config)
