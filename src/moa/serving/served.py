"""Served: a node under the name by which clients know it, with its schemas, JSON in and out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from moa._files import jsonable
from moa.batch import reader_for
from moa.errors import InputError
from moa.graphs.engine.types import UNKNOWN, signature_of
from moa.node import Node

Schema = dict[str, Any]
"""A JSON schema."""


class Served:
    """A node under the name by which clients know it.

    Args:
        node: What runs.
        name: Its name for clients; `None`: its own.
        description: What it does, in words.

    Examples:
        >>> from moa.serving.served import Served
        >>> greeter = Served(Agent(ScriptedEndpoint(["Hello!"]), "Greet."))
        >>> greeter.input_schema["anyOf"][0], greeter.parse("Hi")
        ({'type': 'string'}, Text(text='Hi', language=None))
    """

    def __init__(
        self, node: Node[Any, Any], *, name: str | None = None, description: str = ""
    ) -> None:
        self.node = node
        self.name = name or node.name
        self.description = description
        signature = signature_of(node)
        kind = signature.input(0)
        self._input: Any = object if kind is UNKNOWN else kind
        self._output: Any = object if signature.output is UNKNOWN else signature.output
        self._read = reader_for(self._input)

    def parse(self, given: object) -> Any:
        """Make the node's input of JSON: a text of a string, anything else by its schema.

        Raises:
            InputError: it doesn't fit.
        """
        if not isinstance(given, str | dict) and self.takes_text:
            raise InputError(f"{self.name} takes a text: send a JSON string")
        return self._read(given)  # pyright: ignore[reportArgumentType]

    def dump(self, output: object) -> Any:
        """Write an output as JSON, as `moa run --json` does."""
        return jsonable(output)

    @cached_property
    def takes_text(self) -> bool:
        """Whether a JSON string is an input of it."""
        try:
            self._read("")
        except InputError:
            return False
        return True

    @cached_property
    def input_schema(self) -> Schema:
        """The JSON schema of what `parse` takes."""
        schema = _schema(self._input, "validation")
        if not self.takes_text or not schema or schema.get("type") == "string":
            return schema
        definitions = schema.pop("$defs", None)
        both: Schema = {"anyOf": [{"type": "string"}, schema]}
        return both | ({"$defs": definitions} if definitions else {})

    @cached_property
    def output_schema(self) -> Schema:
        """The JSON schema of what `dump` gives; `{}` where nothing says what that is."""
        return _schema(self._output, "serialization")

    def schemas(self) -> Mapping[str, object]:
        """Say what goes in and what comes out."""
        return {
            "name": self.name,
            "description": self.description,
            "input": self.input_schema,
            "output": self.output_schema,
        }


def _schema(kind: Any, mode: Any) -> Schema:
    if kind is object or kind is Any:
        return {}
    try:
        return TypeAdapter(kind).json_schema(mode=mode)
    except (PydanticUserError, PydanticSchemaGenerationError):  # a class that pydantic can't tell
        return {}
