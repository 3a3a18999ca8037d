"""Served nodes: each with its public name, its schemas, and JSON input and output."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic.json_schema import JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from moa.agents.deciding import DecidingAgent
from moa.agents.filter import Filter
from moa.agents.prompts import WithoutExamples
from moa.chat.messages import ChatReply, UserMessage
from moa.core._files import dump_json, to_jsonable
from moa.core._json import JSON, object_of, objects_of
from moa.core.batch import reader_for, row_text
from moa.core.context import RunContext
from moa.core.errors import InputError
from moa.core.node import AnyNode, Result
from moa.graphs.engine.types import UNKNOWN, signature_of
from moa.serving.keys import Caller

Schema = JSON
"""A JSON schema."""
_OWN = "#/$defs/{model}"
"""Reference template of a schema that stands alone."""
_WORDS: Schema = {"type": "string", "pattern": r"\S"}
_SOME_TEXT: Schema = {
    "anyOf": [
        _WORDS,
        {"type": "object", "required": ["text"], "properties": {"text": _WORDS}},
    ]
}
"""Schema of a deciding node's text, which must not be empty."""


class ServedNode:
    """A node with its public name.

    Args:
        node: Node to run.
        name: Its name for clients; `None`: its own.
        description: Description for clients.

    Examples:
        >>> from moa.serving.served import ServedNode
        >>> greeter = ServedNode(Agent(ScriptedEndpoint(["Hello!"]), "Greet."))
        >>> greeter.input_schema["anyOf"][0], greeter.parse("Hi")
        ({'type': 'string'}, Text(text='Hi', language=None))
    """

    def __init__(self, node: AnyNode, *, name: str | None = None, description: str = "") -> None:
        self.node = node
        self.name = name or node.name
        self.description = description
        signature = signature_of(node)
        kind = signature.input(0)
        self._input = object if kind is UNKNOWN else kind
        self._output = object if signature.output is UNKNOWN else signature.output
        self._read = reader_for(self._input)

    def with_node(self, node: AnyNode) -> ServedNode:
        """Return a copy with another node, for one request. Name and schemas stay the same."""
        clone = copy.copy(self)
        clone.node, clone._input = node, object
        return clone

    def parse(self, value: object) -> object:
        """Read the node's input from JSON: a string as a text, other values by the schema.

        Raises:
            InputError: the value doesn't fit.
        """
        if not isinstance(value, str | dict) and self.takes_text:
            raise InputError(f"{self.name} takes a text: send a JSON string")
        return self._read(value)  # pyright: ignore[reportArgumentType]

    def node_of(self, caller: Caller) -> AnyNode:
        """Return the node for a caller. A chat keeps separate threads for each named caller."""
        of_a_chat = isinstance(self._input, type) and issubclass(self._input, UserMessage)
        return _OwnThreadsNode(self.node, caller.name) if of_a_chat and caller.name else self.node

    def dump(self, output: object) -> object:
        """Return an output as JSON, as `moa run --json` does."""
        return to_jsonable(output)

    @cached_property
    def takes_text(self) -> bool:
        """True if the node takes a JSON string."""
        try:
            self._read("")
        except InputError:
            return False
        return True

    @property
    def decides(self) -> bool:
        """True if the node is a deciding agent, whose answer is a label."""
        return isinstance(self.node, DecidingAgent)

    @cached_property
    def fields(self) -> frozenset[str] | None:
        """Names of the fields that an output may have; `None`: unknown."""
        schema = self.output_schema
        models = [object_of(model) for model in object_of(schema.get("$defs")).values()]
        parts = [schema, *objects_of(schema.get("anyOf")), *models]
        names = {name for part in parts for name in object_of(part.get("properties"))}
        questions = self.node.questions if isinstance(self.node, DecidingAgent) else ()
        return frozenset(names | {question.name for question in questions}) or None

    @cached_property
    def input_schema(self) -> Schema:
        """JSON schema of the value that `parse` takes; `{}` if unknown."""
        return self.input_in(_OWN)

    @cached_property
    def output_schema(self) -> Schema:
        """JSON schema of the value that `dump` returns; `{}` if unknown."""
        return _schema(self._output, "serialization", _OWN)

    def input_in(self, path: str) -> Schema:
        """Return the input schema for a document. `path` is a reference template with `{model}`."""
        if self.decides and not isinstance(self.node, Filter):  # it drops an empty text
            return copy.deepcopy(_SOME_TEXT)
        if self._read is row_text:
            return {"type": "string"}
        schema = _schema(self._input, "validation", path)
        if not schema or not self.takes_text:
            return schema
        definitions = schema.pop("$defs", None)
        union: Schema = {"anyOf": [{"type": "string"}, schema]}
        return union | ({"$defs": definitions} if definitions else {})

    def output_in(self, path: str) -> Schema:
        """Return the output schema for a document; see `input_in`."""
        return _schema(self._output, "serialization", path)

    def schemas(self) -> Mapping[str, object]:
        """Return the schemas of input and output, with name and description."""
        return {
            "name": self.name,
            "description": self.description,
            "input": self.input_schema,
            "output": self.output_schema,
        }


class _InputSchema(WithoutExamples):
    """Allows a number for a string where the model accepts one."""

    def str_schema(self, schema: core_schema.StringSchema) -> JsonSchemaValue:
        """See `GenerateJsonSchema`."""
        json_schema = super().str_schema(schema)
        if self.mode == "validation" and self._config.coerce_numbers_to_str:
            json_schema["type"] = ["string", "number"]
        return json_schema


class _OwnThreadsNode:
    """A chat with private threads for one caller."""

    def __init__(self, node: AnyNode, owner: str) -> None:
        self._node = node
        self._owner = owner
        self.name = node.name
        self.input_type = UserMessage

    async def run(
        self, request: UserMessage, context: RunContext | None = None, /
    ) -> Result[object]:
        """Answer in the caller's own thread of that name."""
        message = request.model_copy(update={"thread": dump_json([self._owner, request.thread])})
        result: Result[object] = await self._node.run(message, context)
        output = result.output
        if isinstance(output, ChatReply):
            output = output.model_copy(update={"thread": request.thread})
        return replace(result, output=output)


def _schema(kind: Any, mode: JsonSchemaMode, template: str) -> Schema:
    if kind is object or kind is Any:
        return {}
    try:
        adapter = TypeAdapter[object](kind)
        return adapter.json_schema(mode=mode, ref_template=template, schema_generator=_InputSchema)
    except (PydanticUserError, PydanticSchemaGenerationError):  # pydantic has no schema for it
        return {}
