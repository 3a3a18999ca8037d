"""Inputs: a row as what a node takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from moa.errors import InputError
from moa.node import Node
from moa.rows import Value, text_of

Reader = Callable[[Value], object]


def reader_of(node: Node[Any, Any]) -> Reader:
    """Give the function that turns a row's value into the node's input.

    It raises `InputError` where a row does not fit.
    """
    kind: Any = getattr(node, "input_type", object)
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if str in members:
        return text_of
    if kind is object:
        return _as_it_is
    return partial(_validated, TypeAdapter[object](kind), _shown(kind))


def _as_it_is(value: Value) -> object:
    return value


def _validated(adapter: TypeAdapter[object], name: str, value: Value) -> object:
    try:
        return adapter.validate_python({"text": value} if isinstance(value, str) else value)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'row'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        )
        raise InputError(f"the row is no {name}: {faults}") from error


def _shown(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
