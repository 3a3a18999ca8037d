"""Frames: tables of pandas and polars, read and widened without importing either."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from enum import Enum
from types import NoneType
from typing import Any, TypeVar, cast

from moa.errors import ConfigError

Frame = TypeVar("Frame")

_WITH_GAPS = {frozenset((bool, NoneType)): "boolean", frozenset((int, NoneType)): "Int64"}
"""Types of pandas that keep such cells as they are; by itself it takes objects, or fractions."""


def rows_of(frame: object, column: str | None) -> list[Any]:
    """Read the cells of a column, or each row as a dictionary.

    Args:
        frame: A DataFrame of pandas or polars.
        column: Its name; `None` reads all columns.

    Raises:
        ConfigError: it is no DataFrame, or has no such column.
    """
    known: Any = frame
    if not hasattr(frame, "columns") or not (_is_polars(frame) or hasattr(frame, "assign")):
        raise ConfigError(f"takes a DataFrame of pandas or polars, not {type(frame).__name__}")
    if column is None:
        return known.to_dicts() if _is_polars(frame) else known.to_dict("records")
    names = [str(name) for name in known.columns]
    if column not in names:
        near = get_close_matches(column, names, n=1, cutoff=0.5) or names
        raise ConfigError(f"the frame has no column {column!r}: say column={near[0]!r}, or another")
    return known[column].to_list()


def widened(
    frame: Frame,
    rows: Sequence[Mapping[str, object]],
    *,
    prefix: str,
    names: Iterable[str] = (),
    only: Collection[str] | None = None,
) -> Frame:
    """Copy a frame with more columns.

    Args:
        frame: A DataFrame of pandas or polars.
        rows: Cells by column, of each row; what one lacks is `None`.
        prefix: Put before the name of a column that is there already, with `_` between; again,
            where that is there too.
        names: Of columns that there are in any case, first.
        only: Names of the columns to take; `None`: all.
    """
    known: Any = frame
    there: Collection[object] = set(known.columns)
    found = [*names, *(name for row in rows for name in row)]
    every = dict.fromkeys(found if only is None else only)
    columns = {
        _free(name, there, prefix): [_plain(row.get(name)) for row in rows] for name in every
    }
    if _is_polars(frame):
        return cast("Frame", known.hstack(type(known)(columns, strict=False)))
    gaps = {
        name: kind
        for name, cells in columns.items()
        if (kind := _WITH_GAPS.get(frozenset(map(type, cells))))
    }
    return cast("Frame", known.assign(**columns).astype(gaps))


def _plain(cell: object) -> object:
    """Give the value of a member of an Enum, as it stands in a file."""
    return cell.value if isinstance(cell, Enum) else cell


def _free(name: str, there: Collection[object], prefix: str) -> str:
    while name in there:
        name = f"{prefix}_{name}"
    return name


def _is_polars(frame: object) -> bool:
    return hasattr(frame, "hstack")
