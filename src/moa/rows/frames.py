"""Frames: tables of pandas and polars through a node, without importing either."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Never, TypeGuard, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel

from moa.core._json import is_mapping, is_object
from moa.core.batch import Item, MalformedLine, Row
from moa.core.errors import ConfigError
from moa.core.node import Node

Frame = TypeVar("Frame")

_WITH_GAPS = {frozenset((bool, NoneType)): "boolean", frozenset((int, NoneType)): "Int64"}
"""Types of pandas that keep such cells as they are; by itself it takes objects, or fractions."""


def open_frame(
    frame: Frame, node: Node[Never, object], column: str | None
) -> tuple[list[Row | MalformedLine], Callable[[Sequence[Item[object]]], Frame]]:
    """Return the rows of a frame, and a function that copies it with a node's outputs."""
    rows = [_read_row(cell, column, i) for i, cell in enumerate(_cells_in(frame, column), 1)]
    names = _name_cells(getattr(node, "output_type", None))

    def widen(items: Sequence[Item[object]]) -> Frame:
        cells = [_cells(item) for item in items]
        return _add_columns(frame, cells, prefix=node.name, names=[*names, "error"])

    return rows, widen


def _cells_in(frame: Any, column: str | None) -> list[object]:
    """Read the cells of a column, or each row as a dictionary."""
    if not hasattr(frame, "columns") or not (_is_polars(frame) or hasattr(frame, "assign")):
        raise ConfigError(f"takes a DataFrame of pandas or polars, not {type(frame).__name__}")
    if column is None:
        return frame.to_dicts() if _is_polars(frame) else frame.to_dict("records")
    names = [str(name) for name in frame.columns]
    if column not in names:
        suggestions = get_close_matches(column, names, n=1, cutoff=0.5) or names
        raise ConfigError(
            f"the frame has no column {column!r}: say column={suggestions[0]!r}, or another"
        )
    return frame[column].to_list()


def _read_row(cell: object, column: str | None, number: int) -> Row | MalformedLine:
    if isinstance(cell, str) or (column is None and is_object(cell)):
        return Row(number=number, id=number, value=cell)
    return MalformedLine(number=number, error=f"{column!r} is no text: {cell!r}", raw=repr(cell))


def _name_cells(kind: object) -> list[str]:
    """Name what the cells of outputs of a type are called; nothing if it doesn't tell."""
    if get_origin(kind) in (Union, UnionType):
        members = [_name_cells(member) for member in get_args(kind)]
        return (
            [*dict.fromkeys(name for member in members for name in member)] if all(members) else []
        )
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
    elif is_mapping(output):
        fields = {str(name): value for name, value in output.items()}
    elif item.error is None:
        fields = {"output": output}
    return {**fields, "error": item.problem}


def _add_columns(
    frame: Frame, rows: Sequence[Mapping[str, object]], *, prefix: str, names: Sequence[str]
) -> Frame:
    """Copy a frame with more columns: `names`, then what else the rows have.

    What a row lacks is `None`. `prefix` is put before a name that the frame has, until it is free.
    """
    table: Any = frame
    frame_columns: Collection[object] = set(table.columns)
    all_names = [*names, *(name for row in rows for name in row)]
    columns = {
        _free_name(name, frame_columns, prefix): [_plain_value(row.get(name)) for row in rows]
        for name in dict.fromkeys(all_names)
    }
    if _is_polars(frame):
        return table.hstack(type(table)(columns, strict=False))
    kinds = {name: _WITH_GAPS.get(frozenset(map(type, cells))) for name, cells in columns.items()}
    gaps = {name: kind for name, kind in kinds.items() if kind}
    return table.assign(**columns).astype(gaps)


def _plain_value(cell: object) -> object:
    """Return the value of a member of an Enum, as a file has it."""
    return cell.value if isinstance(cell, Enum) else cell


def _free_name(name: str, names: Collection[object], prefix: str) -> str:
    while name in names:
        name = f"{prefix}_{name}"
    return name


def _is_polars(frame: object) -> bool:
    return hasattr(frame, "hstack")
