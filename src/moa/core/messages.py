"""Messages: the messages of a chat, with their roles, files and tool calls."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from moa.core._json import JSON, at, is_object, is_sequence, object_of
from moa.core.errors import InputError

Role = Literal["system", "user", "assistant", "tool"]
_ROLES: Mapping[object, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_MAGIC = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
    b"%PDF": "application/pdf",
}
"""First bytes of the formats that models read, with their media types."""
IN_WORDS: Mapping[str, object] = {"moa": "in words"}
"""Pydantic serialization context in which a file is written as its name."""


class File(BaseModel):
    """A file that a model reads, such as a PDF: `File("bill.pdf")`, `File(data)`, `File(url)`.

    Args:
        source: A path, which is read now; the bytes themselves; or an http, https or data URL.

    Raises:
        InputError: the path can't be read, or the format of the bytes is unknown.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)
    kind: ClassVar[Literal["images", "files"]] = "files"
    """Capability that an endpoint needs to read it."""

    url: str = Field(pattern="^(https?|data):", repr=False)
    """An http or https URL, or the content as a `data:` URL."""
    name: str = "file"

    def __init__(self, source: str | Path | bytes | None = None, /, **fields: object) -> None:
        if isinstance(source, bytes):
            fields["url"] = _data_url(source, str(fields.get("name", "")))
        elif isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
            fields["url"] = source
        elif source is not None:
            path = Path(source)
            fields = {"name": path.name, **fields}
            try:
                fields["url"] = _data_url(path.read_bytes(), path.name)
            except OSError as error:
                raise InputError(f"{path} can't be read: {error.strerror}") from error
        super().__init__(**fields)

    @model_serializer(mode="wrap")
    def _serialize(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> object:
        return f"({self.name})" if info.context is IN_WORDS else write(self)

    def part(self) -> JSON:
        """Write it as a part of a message, as OpenAI does."""
        return {"type": "file", "file": {"filename": self.name, "file_data": self.url}}


class Image(File):
    """A picture that a model looks at: `Image("cat.png")`, `Image(data)`, `Image(url)`.

    Examples:
        >>> cat = Image("https://example.org/cat.png")
        >>> cat.part()
        {'type': 'image_url', 'image_url': {'url': 'https://example.org/cat.png'}}
    """

    kind: ClassVar[Literal["images", "files"]] = "images"
    name: str = "image"

    def __init__(self, source: str | Path | bytes | None = None, /, **fields: object) -> None:
        super().__init__(source, **fields)

    def part(self) -> JSON:
        """Write it as a part of a message, as OpenAI does."""
        return {"type": "image_url", "image_url": {"url": self.url}}


def _data_url(data: bytes, name: str) -> str:
    kinds = (kind for magic, kind in _MAGIC.items() if data.startswith(magic))
    kind = next(kinds, None) or mimetypes.guess_type(name)[0]
    if kind is None:
        raise InputError(
            f"nothing tells what the {len(data)} bytes of {name or 'a file'} are: "
            'give them a name, such as name="notes.txt"'
        )
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def files_of(value: object) -> Iterator[File]:
    """Yield the files in an input: the input itself, or those in its fields and lists."""
    if isinstance(value, File):
        yield value
    elif isinstance(value, BaseModel):
        for _, field in value:
            yield from files_of(field)
    elif is_sequence(value):
        for item in value:
            yield from files_of(item)


def required_file_kinds(kind: object) -> Iterator[Literal["images", "files"]]:
    """Yield the kinds of files that the values of a type require."""
    if isinstance(kind, type) and issubclass(kind, File):
        yield kind.kind
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        for field in kind.model_fields.values():
            if field.is_required():
                yield from required_file_kinds(field.annotation)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call that a model asks for.

    Examples:
        >>> ToolCall("in_stock", '{"item": "pens"}').values
        {'item': 'pens'}
    """

    name: str
    arguments: str = "{}"
    """JSON as the model wrote it; it may be invalid."""
    id: str = ""
    """Identifies the call in its conversation."""

    @classmethod
    def of(cls, name: str, /, **arguments: object) -> ToolCall:
        """Make a call from Python arguments, as in a script for tests.

        Args:
            name: Name of the tool.
            arguments: The arguments by name, as values that JSON can hold.
        """
        return cls(name, json.dumps(arguments, ensure_ascii=False))

    @property
    def values(self) -> dict[str, Any]:
        """The arguments by name.

        Raises:
            ValueError: they aren't a JSON object.
        """
        values: object = json.loads(self.arguments or "{}")
        if not is_object(values):
            raise ValueError("they must be one JSON object")
        return values


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat.

    Examples:
        >>> message = Message("user", "I am Ada.").as_dict()
        >>> message
        {'role': 'user', 'content': 'I am Ada.'}
        >>> Message.of(message).role
        'user'
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """Tool calls of an assistant's message."""
    tool_call_id: str = ""
    """`id` of the call that a tool's message answers."""
    files: tuple[File, ...] = ()
    """Files of a user's message."""

    def as_dict(self, clean: Callable[[str], str] = str) -> JSON:
        """Return it in OpenAI's format.

        Args:
            clean: Applied to every text in it.
        """
        content: object = clean(self.content)
        if self.files:
            content = [{"type": "text", "text": content}, *(file.part() for file in self.files)]
        message: JSON = {"role": self.role, "content": content}
        if self.tool_calls:
            message["content"] = content or None
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": clean(call.arguments)},
                }
                for call in self.tool_calls
            ]
        if self.tool_call_id:
            message["tool_call_id"] = self.tool_call_id
        return message

    @classmethod
    def of(cls, message: Message | Mapping[str, object]) -> Message:
        """Read a message in OpenAI's format; return a `Message` as it is.

        Raises:
            InputError: it is not a message.
        """
        if isinstance(message, Message):
            return message
        if not hasattr(message, "get"):
            raise InputError(f"no message: {message!r:.200}")
        role = _ROLES.get(message.get("role"))
        if role is None:
            raise InputError(f"no message: its role is {message.get('role')!r}, not {list(_ROLES)}")
        try:
            content = message.get("content") or ""
            parts: list[JSON] = [{"text": content}]
            if not isinstance(content, str):
                parts = _parts_of(content)
            calls = _parts_of(message.get("tool_calls") or [])
            return cls(
                role,
                "\n".join(_text_at(part, "text") for part in parts if "text" in part),
                tuple(
                    ToolCall(
                        _text_at(call, "function", "name"),
                        _text_at(call, "function", "arguments"),
                        _text_at(call, "id"),
                    )
                    for call in calls
                ),
                str(message.get("tool_call_id") or ""),
                tuple(_file_in(part) for part in parts if "text" not in part),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"no message: {error} is missing or wrong in {message!r:.200}"
            ) from error


def _parts_of(value: object) -> list[JSON]:
    if not is_sequence(value) or not all(map(is_object, value)):
        raise TypeError("a list of objects")
    return [object_of(part) for part in value]


def _text_at(part: JSON, *path: str) -> str:
    text = at(part, *path)
    if not isinstance(text, str):
        raise TypeError(f"the text {path[-1]!r}")
    return text


def _file_in(part: JSON) -> File:
    if part.get("type") == "image_url":
        return Image(url=_text_at(part, "image_url", "url"))
    name = object_of(part["file"]).get("filename") or "file"
    return File(url=_text_at(part, "file", "file_data"), name=str(name))
