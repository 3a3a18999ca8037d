"""Writes what schemathesis asks: the OpenAPI document of a server, with the routes that it lacks.

    python .ci/whole_document.py URL [KEY] > document.json

The document describes what clients ask; health, metrics, tools of MCP and the page of `--studio`
are routes too.
"""

from __future__ import annotations

import json
import sys
import urllib.request

from moa.serving.openapi import Operation, operation, parameter
from moa.serving.served import Schema

ANYTHING: Schema = {}
PLACE = parameter("place", {"type": "integer", "minimum": 0})
ID = parameter("id", {"type": "string"})
NAME = parameter("name", {"type": "string"})
NUMBER = parameter("limit", {"type": "integer"}, location="query")
WORDS = parameter("text", {"type": "string"}, location="query")
LABEL: Schema = {
    "type": "object",
    "properties": {
        "place": {"type": "integer"},
        "question": {"type": "string"},
        "label": {},
        "id": {},
    },
}
CALL: Schema = {
    "type": "object",
    "properties": {
        "jsonrpc": {"const": "2.0"},
        "id": {"type": ["integer", "string"]},
        "method": {"enum": ["initialize", "tools/list", "tools/call", "ping", "resources/list"]},
        "params": {"type": "object"},
    },
}


def _get(*parameters: object, kind: str = "application/json") -> dict[str, Operation]:
    return {"get": operation("", ANYTHING, answers_with=kind, parameters=[*parameters])}


def _post(body: Schema, *parameters: object) -> dict[str, Operation]:
    return {"post": operation("", ANYTHING, body=body, parameters=[*parameters], streams=True)}


REST: dict[str, dict[str, Operation]] = {
    "/health": _get(),
    "/ready": _get(),
    "/openapi.json": _get(),
    "/metrics": _get(kind="text/plain"),
    "/mcp": _post(CALL),
    "/studio/": _get(kind="text/html"),
    "/studio/{name}": _get(NAME, kind="text/html"),
    "/studio/api/state": _get(),
    "/studio/api/overview": _get(),
    "/studio/api/rows": _get(NUMBER, WORDS),
    "/studio/api/rows/{place}": _get(PLACE),
    "/studio/api/learn": _get() | _post({"type": "object"}),
    "/studio/api/labels": _post(LABEL),
    "/studio/api/undo": _post({"type": "object"}),
    "/studio/api/reload": _post({"type": "object"}),
    "/studio/api/run/{name}": _post({"type": ["string", "object"]}, NAME),
    "/studio/api/questions": _get(),
    "/studio/api/questions/{id}": _post({"type": "object", "properties": {"answer": {}}}, ID),
}


def main(url: str, key: str = "") -> None:
    """Write it."""
    asked = urllib.request.Request(f"{url}/openapi.json")
    if key:
        asked.add_header("authorization", f"Bearer {key}")
    with urllib.request.urlopen(asked) as answer:
        document = json.load(answer)
    document["paths"] = REST | document["paths"]
    json.dump(document, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
