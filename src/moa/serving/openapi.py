"""OpenAPI: the document that says which routes there are, what they take, and what they give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import TypedDict

from moa._json import object_of
from moa.serving.keys import Caller
from moa.serving.served import Schema
from moa.serving.server import Server

Operation = dict[str, object]
"""One method of a path."""
Parameter = TypedDict("Parameter", {"name": str, "in": str, "required": bool, "schema": Schema})
"""A parameter of a path or a query."""
_ERRORS = {
    400: "The request is wrong: the message says what to change.",
    401: "The key is missing, unknown or revoked.",
    402: "A budget doesn't pay for it; what was paid is in x-moa-cost.",
    403: "The key may not do this.",
    404: "There is no such thing.",
    408: "The request, or the reader of its answer, was too slow.",
    413: "The request is too large.",
    415: "The request is no JSON.",
    421: "The server doesn't answer for this host.",
    422: "The questions don't fit: detail has each fault, and its place.",
    429: "Too many requests: Retry-After says when to come again.",
    500: "The server has a fault, which is in its log.",
    501: "The server was started without this.",
    502: "A model gave no valid answer.",
    503: "A model or the server has too much to do.",
    504: "The time was up.",
}
"""Meaning of each status; `faults.py` maps errors to them."""
_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        },
        "detail": {"type": ["object", "array"]},
    },
}


def operation(
    summary: str,
    answer: Schema,
    *,
    body: Schema | None = None,
    answers_with: str = "application/json",
    parameters: list[Parameter] | None = None,
    status: int = 200,
    streams: bool = False,
) -> Operation:
    """Describe one method of a path; each may fail in the ways of `faults.py`.

    Args:
        summary: What it does, in a line.
        answer: Schema of what it gives.
        body: Schema of what it takes; `None`: nothing.
        answers_with: Content type of the answer.
        parameters: Those in the path or the query; see `parameter`.
        status: Where it goes well.
        streams: Whether it also gives server-sent events, if these are accepted.
    """
    content = {answers_with: {"schema": answer}}
    if streams:
        content["text/event-stream"] = {"schema": {}}
    error_content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses: dict[str, object] = {
        str(status): {"description": "It went well.", "content": content}
    }
    for code, description in _ERRORS.items():
        responses[str(code)] = {"description": description, "content": error_content}
    method: Operation = {"summary": summary, "responses": responses}
    if body is not None:
        content = {"application/json": {"schema": body}}
        method["requestBody"] = {"required": True, "content": content}
    if parameters:
        method["parameters"] = parameters
    return method


def parameter(name: str, schema: Schema, *, location: str = "path") -> Parameter:
    """Describe a parameter of a path, or of a query."""
    return {"name": name, "in": location, "required": location == "path", "schema": schema}


class Schemas:
    """Collects the schemas of models, so that those of two graphs don't mix."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {"Error": _ERROR}

    def reference_template(self, name: str, way: str) -> str:
        """Return the reference template for the models of a node, on the way `in` or `out`."""
        safe_name = re.sub(r"[^A-Za-z0-9._-]", "_", name)
        return f"#/components/schemas/{safe_name}.{way}.{{model}}"

    def add(self, schema: Schema, path: str) -> Schema:
        """Take the models out of a schema, and give what is left."""
        for name, model in object_of(schema.pop("$defs", None)).items():
            self.found[path.rpartition("/")[2].format(model=name)] = object_of(model)
        return schema


def document(
    server: Server, caller: Caller, paths: Mapping[str, object], schemas: Schemas
) -> dict[str, object]:
    """Write the document for a caller, who is told only of what it may run."""
    names = ", ".join(served.name for served in server.visible_to(caller))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "moa",
            "version": version("mixture-of-agents"),
            "description": f"Serves {names}.",
        },
        "paths": dict(paths),
        "components": {
            "schemas": schemas.found,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }
