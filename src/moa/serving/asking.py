"""Asking: the request bodies of other APIs, and the errors of invalid ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from moa.core._json import at, is_object, object_of
from moa.core.batch import count_more, told_faults
from moa.core.errors import RequestRefused
from moa.serving.openapi import Schemas
from moa.serving.served import Schema

M = TypeVar("M", bound=BaseModel)

_SOME = r"\S"
SomeText = Annotated[str, Field(pattern=_SOME)]
"""A text that isn't blank."""
WHOLE = BeforeValidator(lambda n: int(n) if isinstance(n, float) and n.is_integer() else n)
"""Accepts a whole number in any JSON notation."""
Ignored = Annotated[object, BeforeValidator(lambda _: None)]
"""Accepts any value, and keeps none of it: a run may last for minutes."""
MOST_FIELDS = 255
"""Maximum number of fields of an object in a body, unless that takes any JSON."""
_LONGEST = 500
"""Maximum number of characters of an error message about an invalid request."""
_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}


def _few(value: object) -> object:
    """Refuse an object of many fields, of which each could be a fault."""
    if is_object(value) and len(value) > MOST_FIELDS:
        raise ValueError(f"it has {len(value)} fields, and {MOST_FIELDS} are the most")
    return value


FEW = BeforeValidator(_few)
"""Refuses an object of more than `MOST_FIELDS` fields before these are looked at."""


class Body(BaseModel):
    """A request body, or a part of one, without type conversion and unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_many_fields(cls, value: object) -> object:
        return _few(value)


def read_as(kind: type[M], value: object, *, status: int = 400) -> M:
    """Validate the body of a request.

    Args:
        kind: Model to read it as.
        value: The body, parsed from JSON.
        status: HTTP status of the refusal.

    Raises:
        RequestRefused: it is invalid. Its faults are named, of many the first 20.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        faults, more = told_faults(error)
        raise misfit(faults, more, value, status=status) from None


def body_of(
    kind: type[BaseModel],
    schemas: Schemas,
    *,
    models: Sequence[str],
    way: str = "body",
    change: Callable[[Schema], None] = lambda _: None,
) -> Schema:
    """Return the schema of a body for OpenAPI.

    Args:
        kind: Model that the body is read as.
        schemas: Collects its parts.
        models: Names of the models that take this body.
        way: Distinguishes it from other bodies of this kind.
        change: Adapts the schema to these models.
    """
    ref_template = schemas.reference_template(kind.__name__, way)
    schema = kind.model_json_schema(ref_template=ref_template)
    object_of(schema["properties"])["model"] = {"enum": [*models]}
    change(schema)
    return schemas.add(schema, ref_template)


def misfit(
    faults: Sequence[ErrorDetails], more: int, value: object, *, status: int
) -> RequestRefused:
    """Make the error of an invalid request, in OpenAI's format with a list of its faults.

    The deepest fault counts as the cause: of several allowed forms, it is in the one that fits
    best.

    Args:
        faults: The faults to tell.
        more: Number of further ones.
        value: The body.
        status: HTTP status of the refusal.
    """
    further = count_more(more)
    if not faults:
        problem = f"{further[0]}: GET /openapi.json says what a request is"
        return RequestRefused(problem, status=status, code="invalid_value")
    paths = [_find_place(fault["loc"], value) for fault in faults]
    path, first = max(zip(paths, faults, strict=True), key=lambda pair: len(pair[0]))
    param = _write_place(path) or None
    problem = "; ".join(
        f"{_write_place(path)}: {_message(fault)}".removeprefix(": ")
        for path, fault in zip(paths, faults, strict=True)
    )
    if first["type"] == "extra_forbidden":
        problem = f"Unrecognized request argument supplied: {param}. Leave it out"
    problem = problem if len(problem) <= _LONGEST else f"{problem[:_LONGEST]} …"
    told: list[Mapping[str, object]] = [
        {"loc": ["body", *path], "msg": _message(fault), "type": fault["type"]}
        for path, fault in zip(paths, faults, strict=True)
    ]
    told += [{"loc": ["body"], "msg": text, "type": "too_many"} for text in further]
    return RequestRefused(
        "; ".join([problem, *further]),
        status=status,
        code=_CODES.get(first["type"], "invalid_value"),
        param=param,
        faults=told,
    )


def _message(fault: ErrorDetails) -> str:
    if fault.get("ctx", {}).get("pattern") == _SOME:
        return "it is empty"
    return fault["msg"].removeprefix("Value error, ")


def _find_place(location: tuple[str | int, ...], value: object) -> list[str | int]:
    """Find the path of a fault in a request. Pydantic's location also names the types it tried."""
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
    """Format a path as clients do, such as `messages[0].role`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")[:_LONGEST]
