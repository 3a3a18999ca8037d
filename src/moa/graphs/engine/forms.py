"""Forms: values of a type as JSON and back, as checkpoints store them."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from moa.agents.base import fault_in
from moa.core._json import at, list_of
from moa.core.errors import InputError, OutputError, StoreError, WiringError
from moa.graphs.engine.types import UNKNOWN, Skipped, describe_type, is_union


class JsonForm:
    """Turns values of one type, those of `owner`, into JSON and back.

    For a union, the index of the member is stored with the value, since two models can look alike.
    For a subclass, only the fields of the declared class are stored.
    """

    def __init__(self, kind: object, *, owner: str) -> None:
        self.kind: Any = kind
        self._type = describe_type(kind)
        self._owner = owner
        members = [member for member in _members(kind) if member is not BaseModel]
        self._adapters = [adapter_of(member) for member in (*members, Skipped)]
        self._whole = adapter_of(kind)

    def dump(self, value: object) -> list[object]:
        """Write a value as JSON, with the index of its type among the union's members.

        Raises:
            OutputError: it is of another type.
        """
        for index, adapter in enumerate(self._adapters):
            try:
                adapter.validate_python(value, strict=True)
            except ValidationError:
                continue
            return [index, adapter.dump_python(value, mode="json")]
        type_name = type(value).__name__
        if isinstance(value, BaseModel) and BaseModel in _members(self.kind):
            raise InputError(
                f"{self._owner}: a checkpoint can't keep {type_name}, since {self._type} doesn't "
                f"name it. Put the node into a graph that does, as Graph('name', {type_name})"
            )
        raise OutputError(
            f"gave {type_name}, but says that it gives {self._type}",
            node=self._owner,
            text=repr(value),
        )

    def load(self, stored: object) -> object:
        """Read a value back.

        Raises:
            StoreError: the checkpoint holds something else.
        """
        try:
            index, value = list_of(stored)
            return self._adapters[_number(index)].validate_python(value)
        except (TypeError, ValueError, IndexError) as error:
            raise StoreError(
                f"the checkpoint holds for {self._owner!r} no {self._type}: {fault_in(error)}. "
                "Was another graph kept in this thread? Take another one"
            ) from error

    def admit(self, value: object) -> list[object]:
        """Validate a value, or its JSON, and dump it.

        Raises:
            InputError: it is of another type.
        """
        try:
            request = self._whole.validate_python(value)
        except ValidationError as error:
            raise InputError(f"the request is no {self._type}: {fault_in(error)}") from error
        return self.dump(request)


class AsItIs(JsonForm):
    """Passes on values of unknown type, if no checkpoint stores them."""

    def dump(self, value: object) -> list[object]:
        """Pass a value on."""
        return [0, value]

    def load(self, stored: object) -> object:
        """Pass a value on."""
        return at(stored, 1)


def is_known(kind: object) -> bool:
    """Return True if values of a type can be read back from JSON."""
    return kind is not UNKNOWN and kind is not Any and kind is not BaseModel


def adapter_of(kind: Any) -> TypeAdapter[object]:
    """Return pydantic's adapter of a type known only at run time."""
    return TypeAdapter[object](kind)


@cache
def json_form(kind: object, owner: str) -> JsonForm | None:
    """Return the form of values in a journal; `None` for an unknown type, which isn't stored."""
    return JsonForm(kind, owner=owner) if is_known(kind) else None


def channel_form(kind: object, owner: str, *, is_kept: bool) -> JsonForm:
    """Return the form in which LangGraph passes on values, and a checkpoint stores them.

    Raises:
        WiringError: they are stored, and their type is unknown, so they could not be read back.
    """
    if is_known(kind) and (is_kept or BaseModel not in get_args(kind)):
        return JsonForm(kind, owner=owner)
    if is_kept:
        raise WiringError(
            f"the type of {owner!r} is not known, so a checkpoint can't keep it: "
            "annotate what its function returns"
        )
    return AsItIs(Any, owner=owner)


def _number(index: object) -> int:
    if not isinstance(index, int):
        raise TypeError(f"{index!r} is no place of a member")
    return index


def _members(kind: object) -> tuple[object, ...]:
    return get_args(kind) if is_union(kind) else (kind,)
