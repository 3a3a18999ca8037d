"""Chat completions: served nodes as models of OpenAI's Chat Completions API.

`chat_request.py` defines the requests, and `chat_turns.py` what is run for them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moa.core._files import dump_json
from moa.core._json import at, object_of, objects_of
from moa.core.node import Reply
from moa.core.trace import Event, TextDelta
from moa.core.usage import Amount
from moa.guards import Blocked
from moa.serving.asking import body_of, read_as
from moa.serving.chat_request import ChatRequest
from moa.serving.chat_turns import Turn, turn_of
from moa.serving.events import event_of
from moa.serving.faults import fault_of
from moa.serving.http import caller_of, json_response, read_run
from moa.serving.keys import Caller
from moa.serving.openapi import Schemas, operation
from moa.serving.relay import ToolRequest, as_relayable
from moa.serving.runs import FinishedRun, Stream
from moa.serving.served import Schema, ServedNode
from moa.serving.server import Server

DONE = event_of("[DONE]")
"""Marks the end of a stream."""
_PIECE = 64 << 10
"""Characters of a text that a chunk has, if it is known at the end alone."""


def routes(server: Server) -> list[Route]:
    """Make the route `/v1/chat/completions`."""

    async def completions(request: Request) -> Response | Stream:
        turn, chunks = await read_turn(request)
        if chunks is not None:
            write = chunks.write
            return server.runs.stream(request, turn.served, turn.value, write, turn.prepare)
        finished = await server.runs.finish(request, turn.served, turn.value, turn.prepare)
        return json_response(completion(turn, finished), finished.headers)

    async def read_turn(request: Request) -> tuple[Turn, Chunks | None]:
        """Read what a run needs, and drop the rest of the body, since a run may last for minutes.

        Returns:
            What is to be run, and the chunks to write if the answer is streamed.
        """
        body = await read_run(request, server.settings, partial(read_as, ChatRequest))
        caller = caller_of(request)
        turn = turn_of(body, server.find(body.model, caller), caller.name)
        return turn, Chunks(turn, body.includes_usage) if body.stream else None

    return [Route("/v1/chat/completions", completions, methods=["POST"])]


def paths(server: Server, caller: Caller, schemas: Schemas) -> dict[str, object]:
    """Describe these routes for OpenAPI."""
    answer: Schema = {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "chat.completion"},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "minItems": 1, "maxItems": 1},
            "usage": {"type": "object"},
        },
    }
    bodies = _bodies(server.visible_to(caller), schemas)
    if not bodies:
        return {}
    body: Schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
    answer = operation("Answer a conversation, as OpenAI does", answer, body=body, streams=True)
    return {"/v1/chat/completions": {"post": answer}}


class _Abilities(NamedTuple):
    """Parts of a request that a model supports, besides texts."""

    settings: bool
    """True if sampling settings reach its only model."""
    tools: bool
    most_tokens: bool
    objects: bool
    """True if its answers can be objects."""
    files: tuple[str, ...]
    """Kinds of files that it reads."""


def _abilities_of(served: ServedNode) -> _Abilities:
    agent = as_relayable(served.node)
    if agent is None:
        return _Abilities(False, False, served.decides, served.fields is not None, ())
    files = tuple(sorted({"images", "files"} & agent.endpoint.capabilities))
    writes = agent.output_type is Reply
    return _Abilities(True, writes and not agent.tools, True, True, files)


def _bodies(served_nodes: Sequence[ServedNode], schemas: Schemas) -> list[Schema]:
    """Return the request schema of each kind of model. `/run` calls nodes that take no text."""
    kinds: dict[_Abilities, list[str]] = {}
    for served in served_nodes:
        if served.takes_text:
            kinds.setdefault(_abilities_of(served), []).append(served.name)
    return [
        body_of(
            ChatRequest,
            schemas,
            models=names,
            way=f"body.{number}",
            change=partial(_drop_unsupported, kind),
        )
        for number, (kind, names) in enumerate(kinds.items(), start=1)
    ]


def _drop_unsupported(abilities: _Abilities, schema: Schema) -> None:
    """Remove what a kind of model doesn't support from the schema of a request."""
    fields, parts = object_of(schema["properties"]), object_of(schema["$defs"])
    nothing = {"type": "null"}
    if not abilities.settings:
        fields["temperature"] = {"enum": [None, 0, 1]}
        fields["stop"] = {"anyOf": [nothing, {"type": "array", "maxItems": 0}]}
    if not abilities.tools:
        fields["tools"] = {"anyOf": [nothing, {"type": "array", "maxItems": 0}]}
    if not abilities.most_tokens:
        fields["max_tokens"] = fields["max_completion_tokens"] = nothing
    if not abilities.objects:
        fields["response_format"] = {"anyOf": [nothing, {"const": {"type": "text"}}]}
    part_kinds = {"_ImagePart": "images", "_FilePart": "files"}
    items = object_of(at(parts, "FromUser", "properties", "content", "anyOf", 1, "items"))
    if not abilities.files:
        object_of(at(parts, "_TextPart", "properties", "text"))["pattern"] = r"\S"
    left_out = tuple(name for name, kind in part_kinds.items() if kind not in abilities.files)
    items["oneOf"] = [
        option
        for option in objects_of(items["oneOf"])
        if not str(option["$ref"]).endswith(left_out)
    ]
    items.pop("discriminator", None)


def completion(turn: Turn, finished: FinishedRun) -> dict[str, object]:
    """Return a complete response."""
    output = finished.output
    message: dict[str, object] = {"role": "assistant", "content": None, "refusal": None}
    if isinstance(output, ToolRequest):
        message |= {"content": output.text or None, "tool_calls": _calls(output)}
    else:
        message["content"] = turn.content(output)
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": _reason(turn, output),
    }
    return {
        "id": f"chatcmpl-{finished.id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": turn.served.name,
        "choices": [choice],
        "usage": usage(finished.item.usage.total),
    }


def _calls(output: ToolRequest) -> list[dict[str, object]]:
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in output.calls
    ]


def _reason(turn: Turn, output: object) -> str:
    """Return the finish reason."""
    if isinstance(output, ToolRequest):
        return "tool_calls"
    if isinstance(output, Blocked):
        return "content_filter"
    return "length" if turn.is_cut else "stop"


def usage(amount: Amount) -> dict[str, object]:
    """Return a run's usage in OpenAI's format, without an unknown cost."""
    fields: dict[str, object] = {
        "prompt_tokens": amount.input_tokens,
        "completion_tokens": amount.output_tokens,
        "total_tokens": amount.tokens,
        "prompt_tokens_details": {"cached_tokens": amount.cached_input_tokens},
    }
    if amount.cost is not None:
        fields["cost"] = float(amount.cost)
    return fields


@dataclass
class Chunks:
    """Chunks of one stream."""

    turn: Turn
    includes_usage: bool
    """True if the client wants the usage in a last chunk."""
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(16)}")
    created: int = field(default_factory=lambda: int(time.time()))
    sent: StringIO = field(default_factory=StringIO, init=False)
    """Text sent so far."""
    has_begun: bool = field(default=False, init=False)

    def write(self, event: Event | FinishedRun) -> Iterable[bytes]:
        """Yield the chunks to send for an event, or for the end of the run."""
        if isinstance(event, FinishedRun):
            yield from self._end(event)
        elif isinstance(event, TextDelta) and self._is_shown(event) and event.text:
            yield from self._begin()
            yield self._delta({"content": event.text})
            self.sent.write(event.text)

    def _is_shown(self, event: TextDelta) -> bool:
        path = self.turn.shown
        return path is not None and (event.node == path or event.node.startswith(f"{path}/"))

    def _begin(self) -> Iterator[bytes]:
        if not self.has_begun:
            self.has_begun = True
            yield self._delta({"role": "assistant", "content": ""})

    def _end(self, finished: FinishedRun) -> Iterator[bytes]:
        if finished.item.error is not None:  # raised here, it would lead to itself
            yield event_of(dump_json(fault_of(finished.item.error).body))
            yield DONE
            return
        try:
            output = finished.output
            rest = self._unsent(output)
        except Exception as error:  # noqa: BLE001  the status is already sent: report it here
            yield event_of(dump_json(fault_of(error).body))
            yield DONE
            return
        yield from self._begin()
        for start in range(0, len(rest), _PIECE):
            yield self._delta({"content": rest[start : start + _PIECE]})
        if isinstance(output, ToolRequest):
            calls = [{"index": index, **call} for index, call in enumerate(_calls(output))]
            yield self._delta({"tool_calls": calls})
        yield self._delta({}, _reason(self.turn, output))
        if self.includes_usage:
            yield self._chunk([], usage(finished.item.usage.total))
        yield DONE

    def _unsent(self, output: object) -> str:
        """Return the part of the answer that wasn't sent yet."""
        text = output.text if isinstance(output, ToolRequest) else self.turn.content(output)
        sent = self.sent.getvalue()
        if text.startswith(sent):
            return text[len(sent) :]
        if text.strip() == sent.strip():
            return ""
        return f"\n\n{text}"  # what was sent can't be taken back

    def _delta(self, delta: Mapping[str, object], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._chunk([choice], None)

    def _chunk(self, choices: Sequence[object], run_usage: Mapping[str, object] | None) -> bytes:
        chunk: dict[str, object] = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.turn.served.name,
            "choices": choices,
        }
        if self.includes_usage:
            chunk["usage"] = run_usage
        return event_of(dump_json(chunk))
