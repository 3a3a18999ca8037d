"""OpenAPI: the document that describes the routes, their requests and their responses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import TypedDict

from moa.core._json import object_of
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
    """Describe one method of a path, with the errors of `faults.py`.

    Args:
        summary: Summary in one line.
        answer: Schema of the response.
        body: Schema of the request body; `None`: no body.
        answers_with: Content type of the response.
        parameters: Parameters of the path or the query; see `parameter`.
        status: HTTP status of success.
        streams: True if it also sends server-sent events to clients that accept them.
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
    """Collects the schemas of models, and keeps those of different graphs apart."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {"Error": _ERROR}

    def reference_template(self, name: str, way: str) -> str:
        """Return the reference template for models of a node's input (`in`) or output (`out`)."""
        safe_name = re.sub(r"[^A-Za-z0-9._-]", "_", name)
        return f"#/components/schemas/{safe_name}.{way}.{{model}}"

    def add(self, schema: Schema, path: str) -> Schema:
        """Move the models out of a schema, and return the rest."""
        for name, model in object_of(schema.pop("$defs", None)).items():
            self.found[path.rpartition("/")[2].format(model=name)] = object_of(model)
        return schema


def document(
    server: Server, caller: Caller, paths: Mapping[str, object], schemas: Schemas
) -> dict[str, object]:
    """Return the document for a caller. It describes only the nodes that the caller may run."""
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
