"""Cells: what a person wants to see of an item, in a row of a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from pydantic import BaseModel

from moa.questions import NONE_OF_THESE, Choice, Predicate, Score
from moa.rows import Item

OUTCOME = "outcome"
_SHOWN = ("language", "kind")
"""Fields of text that are short and worth a column."""


def cells(item: Item) -> dict[str, str]:
    """Name the cells of an item's row, left to right; `outcome` is the last."""
    if item.status == "failed":
        return {"id": str(item.row.id), OUTCOME: f"failed: {item.error}"}
    shown = dict(_decided("", item.output))
    outcome = _said(item.output) or _input(item)
    return {"id": str(item.row.id), **shown, OUTCOME: outcome}


def _decided(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Find the decisions in an output, however deep, and the language."""
    if isinstance(value, Choice | Score | Predicate):
        typed = cast("Choice[object] | Score | Predicate", value)
        yield name or "decision", _answer(typed)
        if not name and typed.confidence is not None:
            yield "confidence", f"{typed.confidence:.2f}"
    elif isinstance(value, BaseModel):
        for key in type(value).model_fields:
            inner = getattr(value, key)
            if isinstance(inner, BaseModel):
                yield from _decided(key, inner)
            elif isinstance(inner, bool) and not name:
                yield key, "yes" if inner else "no"
            elif key in _SHOWN and isinstance(inner, str):
                yield key, inner


def _answer(value: Choice[object] | Score | Predicate) -> str:
    if value.status != "answered":
        return value.status
    if isinstance(value, Score):
        return value.level
    if isinstance(value, Predicate):
        return "yes" if value.value else "no"
    label = value.label
    return NONE_OF_THESE if label is None else str(getattr(label, "value", label))


def _said(output: object) -> str:
    """The text of an output, where it says what that is."""
    if isinstance(output, Choice | Score | Predicate):
        return ""
    if isinstance(output, BaseModel) and type(output).__str__ is BaseModel.__str__:
        return str(getattr(output, "reason", "") or getattr(output, "answer", ""))
    return str(output)


def _input(item: Item) -> str:
    given = item.row.input
    return given if isinstance(given, str) else str(given.get("text", given))
