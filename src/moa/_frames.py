"""Frames: tables of pandas and polars, read and widened without importing either."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, cast

from moa.errors import ConfigError

Frame = TypeVar("Frame")


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
    frame: Frame, rows: Sequence[Mapping[str, object]], *, prefix: str, names: Iterable[str] = ()
) -> Frame:
    """Copy a frame with more columns.

    Args:
        frame: A DataFrame of pandas or polars.
        rows: Cells by column, of each row; what one lacks is `None`.
        prefix: Put before the name of a column that is there already, with `_` between; again,
            where that is there too.
        names: Of columns that there are in any case, first.
    """
    known: Any = frame
    there: Collection[object] = set(known.columns)
    every = dict.fromkeys([*names, *(name for row in rows for name in row)])
    columns = {_free(name, there, prefix): [row.get(name) for row in rows] for name in every}
    if _is_polars(frame):
        return cast("Frame", known.hstack(type(known)(columns, strict=False)))
    return cast("Frame", known.assign(**columns))


def _free(name: str, there: Collection[object], prefix: str) -> str:
    while name in there:
        name = f"{prefix}_{name}"
    return name


def _is_polars(frame: object) -> bool:
    return hasattr(frame, "hstack")
