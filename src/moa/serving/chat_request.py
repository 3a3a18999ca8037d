"""Chat request: a request of OpenAI's Chat Completions API, as far as it is supported.

Unsupported parameters that would change the answer are refused. The others are ignored.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.config import JsonDict

from moa.core.errors import InputError, RequestRefused
from moa.core.messages import Message
from moa.endpoints import ToolSchema
from moa.serving.asking import WHOLE, Body, Ignored, SomeText
from moa.serving.served import Schema

MOST_MESSAGES = 2048
MOST_TOOLS = 128
_NAME = r"^[a-zA-Z0-9_-]{1,64}$"


def _refuse_true(value: bool) -> bool:
    if value:
        raise ValueError("there are none to be had: leave it out")
    return value


_Data = Annotated[str, Field(json_schema_extra={"pattern": "^data:"})]
"""A file's content, as a `data:` URL."""
_FROM_USER: JsonDict = {
    "type": "object",
    "properties": {"role": {"const": "user"}},
    "required": ["role"],
}


class _Loose(Body):
    """A part of a request whose unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")


class Function(_Loose):
    """A client's function, as described to a model."""

    name: Annotated[str, Field(pattern=_NAME)]
    description: str | None = None
    parameters: Schema | None = None


class FunctionTool(_Loose):
    """A tool of the client."""

    type: Literal["function"]
    function: Function

    @property
    def tool_schema(self) -> ToolSchema:
        """The tool in the form that endpoints take."""
        function = self.function
        parameters = function.parameters or {"type": "object", "properties": {}}
        return ToolSchema(function.name, function.description or function.name, parameters)


class _ToolName(_Loose):
    name: Annotated[str, Field(pattern=_NAME)]


class NamedTool(_Loose):
    """The tool that has to be called."""

    type: Literal["function"]
    function: _ToolName


class _NamedSchema(_Loose):
    name: Annotated[str, Field(pattern=_NAME)]
    schema_: Annotated[Schema, Field(alias="schema")]


class _FreeText(_Loose):
    type: Literal["text"]


class _AnyObject(_Loose):
    type: Literal["json_object"]


class _BySchema(_Loose):
    type: Literal["json_schema"]
    json_schema: _NamedSchema


AnyFormat = Annotated[_FreeText | _AnyObject | _BySchema, Field(discriminator="type")]


class StreamOptions(_Loose):
    """Options of a stream."""

    include_usage: bool | None = None


class _TextPart(_Loose):
    type: Literal["text"]
    text: str


_TextParts = Annotated[list[_TextPart], Field(fail_fast=True)]


class _ImageAddress(_Loose):
    url: _Data


class _ImagePart(_Loose):
    type: Literal["image_url"]
    image_url: _ImageAddress


class _FileGiven(_Loose):
    file_data: _Data
    filename: str | None = None


class _FilePart(_Loose):
    type: Literal["file"]
    file: _FileGiven


_AnyPart = Annotated[_TextPart | _ImagePart | _FilePart, Field(discriminator="type")]


class _FunctionCall(_Loose):
    name: str
    arguments: str


class _CallMade(_Loose):
    id: str
    type: Literal["function"]
    function: _FunctionCall


class FromSystem(_Loose):
    """A system or developer message: instructions for the whole conversation."""

    role: Literal["system", "developer"]
    content: str | _TextParts


class FromUser(_Loose):
    """A message of the user, with files."""

    role: Literal["user"]
    content: SomeText | Annotated[list[_AnyPart], Field(min_length=1, fail_fast=True)]

    @property
    def is_blank(self) -> bool:
        """True if one of its text parts is blank."""
        parts = () if isinstance(self.content, str) else self.content
        return any(isinstance(part, _TextPart) and not part.text.strip() for part in parts)


class FromAssistant(_Loose):
    """An earlier answer, with its tool calls."""

    role: Literal["assistant"]
    content: str | _TextParts | None = None
    tool_calls: Annotated[list[_CallMade], Field(fail_fast=True)] | None = None


class FromTool(_Loose):
    """The result of a tool call."""

    role: Literal["tool"]
    content: str | _TextParts
    tool_call_id: str


AnyMessage = Annotated[
    FromSystem | FromUser | FromAssistant | FromTool, Field(discriminator="role")
]


class ChatRequest(Body):
    """A conversation whose last message is to be answered."""

    model: str
    messages: Annotated[
        list[AnyMessage],
        Field(min_length=1, max_length=MOST_MESSAGES, json_schema_extra={"contains": _FROM_USER}),
    ]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: AnyFormat | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None

    # Parameters that would change the answer, with the only value that doesn't.
    n: Annotated[int, Field(ge=1, le=1), WHOLE] | None = None
    top_p: Annotated[float, Field(ge=1, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logprobs: (
        Annotated[bool, Field(json_schema_extra={"const": False}), AfterValidator(_refuse_true)]
        | None
    ) = None
    top_logprobs: Annotated[int, Field(ge=0, le=0), WHOLE] | None = None
    logit_bias: Annotated[dict[str, object], Field(max_length=0)] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    functions: Annotated[list[object], Field(max_length=0)] | None = None
    function_call: Literal["none", "auto"] | None = None
    audio: None = None
    reasoning_effort: None = None
    verbosity: None = None
    web_search_options: None = None
    moderation: None = None

    # Parameters that don't change the answer: whose request it is, and how it is processed.
    user: Ignored = None
    metadata: Ignored = None
    store: Ignored = None
    seed: Ignored = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    prediction: Ignored = None

    @property
    def json_schema(self) -> Schema | None:
        """JSON schema of the answer; `None` if it is free text."""
        match self.response_format:
            case _BySchema(json_schema=named_schema):
                return named_schema.schema_
            case _AnyObject():
                return {"type": "object"}
            case _:
                return None

    @property
    def includes_usage(self) -> bool:
        """True if a stream is to end with its usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def max_output(self) -> int | None:
        """Maximum number of tokens of the answer."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def tool_schemas(self) -> tuple[ToolSchema, ...]:
        """Tools that may be called.

        Raises:
            RequestRefused: two different tools have the same name, or the one to call isn't among
                them.
        """
        schemas = [tool.tool_schema for tool in self.tools or ()]
        schemas_by_name = {tool.name: tool for tool in schemas}
        if any(tool != schemas_by_name[tool.name] for tool in schemas):
            raise request_error("two tools have the same name: give them others", "tools")
        if schemas_by_name and isinstance(self.tool_choice, NamedTool):
            name = self.tool_choice.function.name
            if name not in schemas_by_name:
                raise request_error(f"there is no tool {name!r} among `tools`", "tool_choice")
            return (schemas_by_name[name],)
        return () if self.tool_choice == "none" else tuple(schemas_by_name.values())

    @property
    def must_call(self) -> bool:
        """True if a tool has to be called."""
        is_required = self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)
        return is_required and bool(self.tools)


def request_error(message: str, param: str, *, code: str = "invalid_value") -> RequestRefused:
    """Make the error of a request that is refused (400)."""
    return RequestRefused(message, status=400, code=code, param=param)


def unsupported_error(message: str, param: str) -> RequestRefused:
    """Make the error of an unsupported parameter that would change the answer."""
    return request_error(message, param, code="unsupported_parameter")


def messages_of(request: ChatRequest) -> tuple[Message, ...]:
    """Read the conversation.

    Raises:
        RequestRefused: a message is invalid, a file is given by its address, or there is no user
            message.
    """
    messages: list[Message] = []
    for index, raw_message in enumerate(request.messages):
        try:
            message = Message.of(raw_message.model_dump())
        except InputError as error:
            raise request_error(str(error), f"messages[{index}]") from error
        if not all(file.url.startswith("data:") for file in message.files):
            raise request_error(
                "this server has nobody fetch an address: send the file itself, as a data: URL",
                f"messages[{index}]",
            )
        messages.append(message)
    if not any(message.role == "user" for message in messages):
        raise request_error(
            "there is no message of the user: nothing is to be answered", "messages"
        )
    return tuple(messages)
