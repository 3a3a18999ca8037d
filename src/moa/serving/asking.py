"""Asking: the bodies of requests of other APIs, and the errors of those that don't fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from moa._json import at, is_object, object_of
from moa.errors import RequestRefused
from moa.serving.openapi import Schemas
from moa.serving.served import Schema

M = TypeVar("M", bound=BaseModel)

_SOME = r"\S"
SomeText = Annotated[str, Field(pattern=_SOME)]
"""A text that is more than spaces."""
WHOLE = BeforeValidator(lambda n: int(n) if isinstance(n, float) and n.is_integer() else n)
"""Takes a whole number however JSON writes it."""
_LONGEST = 500
"""Characters of what is said of a request that doesn't fit."""
_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}


class Body(BaseModel):
    """The body of a request, or a part of it: no type is converted, no unknown field allowed."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def read_as(kind: type[M], value: object, *, status: int = 400) -> M:
    """Read the body of a request.

    Args:
        kind: What it is to be.
        value: What was sent, read as JSON.
        status: HTTP status of the refusal.

    Raises:
        RequestRefused: it doesn't fit; each fault is named.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise misfit(faults, value, status=status) from None


def body_of(
    kind: type[BaseModel],
    schemas: Schemas,
    *,
    models: Sequence[str],
    way: str = "body",
    change: Callable[[Schema], None] = lambda _: None,
) -> Schema:
    """Write the schema of a body for OpenAPI.

    Args:
        kind: What it is read as.
        schemas: Where its parts go.
        models: Names of the models that may be asked so.
        way: Tells it from other bodies of this kind.
        change: What is otherwise for these models.
    """
    ref_template = schemas.reference_template(kind.__name__, way)
    schema = kind.model_json_schema(ref_template=ref_template)
    object_of(schema["properties"])["model"] = {"enum": [*models]}
    change(schema)
    return schemas.add(schema, ref_template)


def misfit(faults: Sequence[ErrorDetails], value: object, *, status: int) -> RequestRefused:
    """Make the error of a request that doesn't fit: as OpenAI's, with a list of all faults.

    The one that lies deepest is what is at fault: of a choice, the form that fits best.
    """
    paths = [_find_place(fault["loc"], value) for fault in faults]
    path, first = max(zip(paths, faults, strict=True), key=lambda pair: len(pair[0]))
    param = _write_place(path) or None
    problem = "; ".join(
        f"{_write_place(path)}: {_message(fault)}".removeprefix(": ")
        for path, fault in zip(paths, faults, strict=True)
    )
    if first["type"] == "extra_forbidden":
        problem = f"Unrecognized request argument supplied: {param}. Leave it out"
    return RequestRefused(
        problem if len(problem) <= _LONGEST else f"{problem[:_LONGEST]} …",
        status=status,
        code=_CODES.get(first["type"], "invalid_value"),
        param=param,
        faults=[
            {"loc": ["body", *path], "msg": _message(fault), "type": fault["type"]}
            for path, fault in zip(paths, faults, strict=True)
        ],
    )


def _message(fault: ErrorDetails) -> str:
    if fault.get("ctx", {}).get("pattern") == _SOME:
        return "it is empty"
    return fault["msg"].removeprefix("Value error, ")


def _find_place(location: tuple[str | int, ...], value: object) -> list[str | int]:
    """Find where in a request a fault is; pydantic's location also names the types it tried."""
    path: list[str | int] = []
    for number, part in enumerate(location, start=1):
        try:
            value = at(value, part)
        except (KeyError, IndexError, TypeError):  # a type that was tried, or a missing field
            if number < len(location) or not is_object(value):
                continue
        path.append(part)
    return path


def _write_place(path: Sequence[str | int]) -> str:
    """Write a path as clients do, such as `messages[0].role`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")[:_LONGEST]
