"""Content: texts to and from models and tools, in the conventions' format.

It is recorded only on request. Of pictures and files, only the names are recorded.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from moa.core._json import JSON, is_list, is_object
from moa.core.telemetry import names

if TYPE_CHECKING:
    from moa.core.messages import Message, ToolCall
    from moa.core.telemetry.spans import Masks, Span

_logger = logging.getLogger(__name__)
_LONG = 4000
"""Texts with more characters are masked in a thread."""
Clean = Callable[[str], str]
"""Masks a text, or returns it unchanged."""
Writes = Mapping[str, Callable[[Clean], object]]
"""Functions that write the values of attributes, by name."""


def mask(text: str, pii: Masks | None) -> str | None:
    """Return a text, masked if `pii` is given; `None`: masking failed, so it is left out."""
    if pii is None:
        return text
    try:
        with pii.session() as session:
            return session.mask(text)
    except Exception as error:  # noqa: BLE001 recognisers may be the user's, and runs go on
        _leave_out(error)
        return None


async def record(span: Span, writes: Writes) -> None:
    """Set attributes to texts, masked if the tracer has `pii`. If masking fails, set none."""
    pii = span.tracer.pii

    def write_all(clean: Clean) -> dict[str, str]:
        return {name: _dump(write(clean)) for name, write in writes.items()}

    def write_masked() -> dict[str, str]:
        assert pii is not None, "there is something that masks"
        with pii.session() as session:
            return write_all(session.mask)

    texts = write_all(str)
    if pii is not None:
        try:
            is_long = sum(map(len, texts.values())) > _LONG
            texts = await asyncio.to_thread(write_masked) if is_long else write_masked()
        except Exception as error:  # noqa: BLE001 recognisers may be the user's, and runs go on
            _leave_out(error)
            return
    for name, value in texts.items():
        span.set(name, value)


def write_messages(messages: Sequence[Message]) -> Writes:
    """Write a prompt, with the instructions separate from the messages."""
    rules = [message.content for message in messages if message.role == "system"]
    conversation = [message for message in messages if message.role != "system"]
    writes: dict[str, Callable[[Clean], object]] = {
        names.INPUT_MESSAGES: lambda clean: [_message(message, clean) for message in conversation]
    }
    if rules:
        writes[names.SYSTEM] = lambda clean: [_text(rule, clean) for rule in rules]
    return writes


def write_text(text: str) -> Writes:
    """Write the text of a decision."""
    return {
        names.INPUT_MESSAGES: lambda clean: [{"role": "user", "parts": [_text(text, clean)]}],
    }


def write_answer(text: str, calls: Sequence[ToolCall], reasoning: str | None) -> Writes:
    """Write a model's answer."""

    def write(clean: Clean) -> object:
        parts: list[JSON] = []
        if reasoning:
            parts.append({"type": "reasoning", "content": clean(reasoning)})
        if text:
            parts.append(_text(text, clean))
        parts += [_call(call, clean) for call in calls]
        return [{"role": "assistant", "parts": parts}]

    return {names.OUTPUT_MESSAGES: write}


def write_arguments(arguments: str) -> Writes:
    """Write a tool's arguments."""
    return {names.ARGUMENTS: lambda clean: _values(arguments, clean)}


def write_result(result: str) -> Writes:
    """Write a tool's result."""
    return {names.RESULT: lambda clean: clean(result)}


def _message(message: Message, clean: Clean) -> JSON:
    if message.role == "tool":
        part = {
            "type": "tool_call_response",
            "id": message.tool_call_id,
            "response": clean(message.content),
        }
        return {"role": "tool", "parts": [part]}
    parts = [_text(message.content, clean)] if message.content else []
    parts += [_call(call, clean) for call in message.tool_calls]
    parts += [{"type": file.kind, "name": clean(file.name)} for file in message.files]
    return {"role": message.role, "parts": parts}


def _text(text: str, clean: Clean) -> JSON:
    return {"type": "text", "content": clean(text)}


def _call(call: ToolCall, clean: Clean) -> JSON:
    arguments = _values(call.arguments, clean)
    return {"type": "tool_call", "id": call.id, "name": call.name, "arguments": arguments}


def _values(arguments: str, clean: Clean) -> object:
    """Mask each text in JSON arguments. If they aren't JSON, mask them as one text."""
    try:
        return _clean(json.loads(arguments), clean)
    except (ValueError, RecursionError):
        return clean(arguments)


def _clean(value: object, clean: Clean) -> object:
    if isinstance(value, str):
        return clean(value)
    if is_list(value):
        return [_clean(item, clean) for item in value]
    if is_object(value):
        return {clean(name): _clean(item, clean) for name, item in value.items()}
    return value


def _dump(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _leave_out(error: Exception) -> None:
    _logger.warning("texts are left out of a span: masking raised %s", type(error).__name__)
