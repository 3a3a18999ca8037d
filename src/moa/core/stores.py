"""Stores: JSON values on disk by key, behind a door, since few runs keep any."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from moa.core._json import JSONValue
from moa.core.doors import Door

T = TypeVar("T")


class Store(AbstractContextManager["Store"], Protocol):
    """A cache of JSON values on disk; see `moa.adapters.sqlite.ContentStore`."""

    path: Path

    def get(self, key: str) -> JSONValue | None: ...  # noqa: D102
    def put(self, key: str, value: JSONValue) -> None: ...  # noqa: D102
    async def offload(self, work: Callable[[], T]) -> T: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class SQLiteStores(Protocol):
    """What stands behind the door."""

    def open_store(self, path: Path, *, optional: bool) -> Store: ...  # noqa: D102


_SQLITE: Door[SQLiteStores] = Door("moa.adapters.sqlite")


def open_store(path: Path, *, optional: bool = False) -> Store:
    """Open a store; see `moa.adapters.sqlite.ContentStore`."""
    return _SQLITE.open().open_store(path, optional=optional)
