"""Frames: tables of pandas and polars through a node, without importing either."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeGuard, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel

from moa.batch import Item, Malformed, Row
from moa.errors import ConfigError
from moa.node import Node

Frame = TypeVar("Frame")

_WITH_GAPS = {frozenset((bool, NoneType)): "boolean", frozenset((int, NoneType)): "Int64"}
"""Types of pandas that keep such cells as they are; by itself it takes objects, or fractions."""


def framed(
    frame: Frame, node: Node[Any, Any], column: str | None
) -> tuple[list[Row | Malformed], Callable[[Sequence[Item[object]]], Frame]]:
    """Return the rows of a frame, and a function that copies it with a node's outputs."""
    rows = [_row(cell, column, i) for i, cell in enumerate(_cells_in(frame, column), 1)]
    names = _names(getattr(node, "output_type", None))

    def widened(items: Sequence[Item[object]]) -> Frame:
        cells = [_cells(item) for item in items]
        return _widened(frame, cells, prefix=node.name, names=[*names, "error"])

    return rows, widened


def _cells_in(frame: object, column: str | None) -> list[Any]:
    """Read the cells of a column, or each row as a dictionary."""
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


def _row(cell: Any, column: str | None, number: int) -> Row | Malformed:
    if column is None or isinstance(cell, str):
        return Row(number=number, id=number, value=cell)
    return Malformed(number=number, error=f"{column!r} is no text: {cell!r}", raw=repr(cell))


def _names(kind: object) -> list[str]:
    """Name what the cells of outputs of a type are called; nothing where it doesn't tell."""
    if get_origin(kind) in (Union, UnionType):
        members = [_names(member) for member in get_args(kind)]
        return [*dict.fromkeys(name for one in members for name in one)] if all(members) else []
    if _is_model(kind):
        aliased = kind.model_config.get("serialize_by_alias")
        fields = kind.model_fields.items()
        names = [(aliased and field.serialization_alias) or name for name, field in fields]
        return [*names, *kind.model_computed_fields]
    return ["output"] if kind is str else []


def _is_model(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _cells(item: Item[object]) -> dict[str, object]:
    output, fields = item.output, dict[str, object]()
    if isinstance(output, BaseModel):
        fields = output.model_dump()
    elif is_dataclass(output) and not isinstance(output, type):
        fields = asdict(output)
    elif isinstance(output, Mapping):
        fields = {str(name): value for name, value in cast("Mapping[Any, Any]", output).items()}
    elif item.error is None:
        fields = {"output": output}
    return {**fields, "error": item.problem}


def _widened(
    frame: Frame, rows: Sequence[Mapping[str, object]], *, prefix: str, names: Sequence[str]
) -> Frame:
    """Copy a frame with more columns: `names`, then what else the rows have.

    What a row lacks is `None`. `prefix` stands before a name that the frame has, until it is free.
    """
    known: Any = frame
    there: Collection[object] = set(known.columns)
    found = [*names, *(name for row in rows for name in row)]
    columns = {
        _free(name, there, prefix): [_plain(row.get(name)) for row in rows]
        for name in dict.fromkeys(found)
    }
    if _is_polars(frame):
        return cast("Frame", known.hstack(type(known)(columns, strict=False)))
    kinds = {name: _WITH_GAPS.get(frozenset(map(type, cells))) for name, cells in columns.items()}
    gaps = {name: kind for name, kind in kinds.items() if kind}
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
