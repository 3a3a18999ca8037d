"""Checkpoints hold JSON, never revived classes; it is validated on the way in and out.

LangGraph's own serializer revives any class that a checkpoint names, unless it is told not to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from langgraph.channels.ephemeral_value import EphemeralValue
from langgraph.channels.last_value import LastValue
from pydantic import TypeAdapter, ValidationError

from moa.agents.boundary import said
from moa.errors import OutputError, StoreError, WiringError
from moa.graphs.engine.types import UNKNOWN, Skipped, is_union, shown


class JsonForm:
    """Turns values of one type into JSON and back.

    A union keeps the place of the member beside the value, since two models can look alike. Of
    a subclass only the fields of the declared class are kept.

    Args:
        kind: Type of the values.
        owner: Name of the node whose output they are, or `input`.
    """

    def __init__(self, kind: Any, *, owner: str) -> None:
        self.kind = kind
        self._owner = owner
        members = get_args(kind) if is_union(kind) else (kind,)
        self._adapters = [TypeAdapter[Any](member) for member in (*members, Skipped)]
        self._whole = TypeAdapter[Any](kind)

    def dump(self, value: object) -> list[Any]:
        """Write a value as JSON, with its place among the members.

        Raises:
            OutputError: it is of another type.
        """
        for place, adapter in enumerate(self._adapters):
            try:
                adapter.validate_python(value, strict=True)
            except ValidationError:
                continue
            return [place, adapter.dump_python(value, mode="json")]
        raise OutputError(
            f"gave {type(value).__name__}, but says that it gives {shown(self.kind)}",
            node=self._owner,
            text=repr(value),
        )

    def load(self, written: Sequence[Any]) -> Any:
        """Read a value back.

        Raises:
            StoreError: a checkpoint holds something else.
        """
        try:
            place, value = written
            return self._adapters[int(place)].validate_python(value)
        except (TypeError, ValueError, IndexError) as error:
            raise StoreError(
                f"the checkpoint holds for {self._owner!r} no {shown(self.kind)}: {said(error)}. "
                "Was another graph kept in this thread? Take another one"
            ) from error

    def admit(self, value: object) -> list[Any]:
        """Take a value as it is, or as the JSON of it."""
        request: object = self._whole.validate_python(value)
        return self.dump(request)


class AsItIs(JsonForm):
    """Passes values of an unknown type on, where no checkpoint keeps them."""

    def dump(self, value: object) -> list[Any]:
        """Pass a value on."""
        return [0, value]

    def load(self, written: Sequence[Any]) -> Any:
        """Pass a value on."""
        return written[1]


def form_of(kind: object, *, owner: str, kept: bool) -> JsonForm:
    """Choose how values of a type are passed on.

    Args:
        kind: Their type.
        owner: Name of the node whose output they are, or `input`.
        kept: Whether a checkpoint keeps them.

    Raises:
        WiringError: the type is not known, so their JSON could not be turned back.
    """
    known = kind is not UNKNOWN and kind is not Any
    if kept and not known:
        raise WiringError(
            f"the type of {owner!r} is not known, so a checkpoint can't keep it: "
            "annotate what its function returns"
        )
    return JsonForm(kind, owner=owner) if known else AsItIs(Any, owner=owner)


class JsonInput(EphemeralValue[Any]):
    """The channel of the request: JSON inside, a value for who reads it."""

    typ: JsonForm

    @property
    def ValueType(self) -> type[Any]:
        """Type of the request, for LangGraph's own schemas."""
        return self.typ.kind

    @property
    def UpdateType(self) -> type[Any]:
        """Type of what is written to it."""
        return self.typ.kind

    def update(self, values: Sequence[Any]) -> bool:
        """Keep the JSON of a request."""
        return super().update([self.typ.admit(value) for value in values])

    def get(self) -> Any:
        """Read the request."""
        return self.typ.load(super().get())


class JsonOutput(LastValue[Any]):
    """The channel of the output: JSON inside, a value for who reads it."""

    typ: JsonForm

    @property
    def ValueType(self) -> type[Any]:
        """Type of the output, for LangGraph's own schemas."""
        return self.typ.kind

    @property
    def UpdateType(self) -> type[Any]:
        """Type of what is written to it."""
        return self.typ.kind

    def get(self) -> Any:
        """Read the output."""
        return self.typ.load(super().get())
