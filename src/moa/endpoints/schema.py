"""JSON schemas in the form that endpoints ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Build OpenAI's `response_format` for a JSON schema.

    `strict`, which makes OpenAI enforce the schema, asks that each object lists all its
    properties as required and allows no others; it is set where the schema can meet that
    without a change of meaning.
    """
    closed, strict = _closed(schema)
    strict = strict and schema.get("type") == "object" and "anyOf" not in schema
    name = str(schema.get("title") or "answer")
    name = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in name)[:64]
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": closed if strict else schema, "strict": strict},
    }


_NAMED = ("properties", "$defs", "definitions")
_UNENFORCED = {
    *("allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas"),
    *("patternProperties", "propertyNames", "minProperties", "maxProperties"),
    *("contains", "minContains", "maxContains", "uniqueItems", "minLength", "maxLength"),
}
"""Keywords that OpenAI refuses in a strict schema:
<https://platform.openai.com/docs/guides/structured-outputs#supported-schemas>."""


def _closed(value: Any, *, named: bool = False) -> tuple[Any, bool]:
    """Close every object of a schema, and say whether all of them could be."""
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value)
        pairs = {key: _closed(inner, named=key in _NAMED) for key, inner in items.items()}
        closed = {key: inner for key, (inner, _) in pairs.items()}
        strict = all(fine for _, fine in pairs.values())
        if named:  # its keys are names of the user's own
            return closed, strict
        strict = strict and not _UNENFORCED & items.keys()
        if items.get("type") == "object":
            properties = items.get("properties", {})
            extra = closed.setdefault("additionalProperties", False)
            complete = set(items.get("required", ())) == set(properties)
            strict = strict and extra is False and complete
        return closed, strict
    if isinstance(value, list):
        parts = [_closed(inner) for inner in cast("list[Any]", value)]
        return [inner for inner, _ in parts], all(fine for _, fine in parts)
    return value, True
