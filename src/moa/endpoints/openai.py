"""OpenAIEndpoint: a model on any server with OpenAI's protocol."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Self, TypedDict

from pydantic import ConfigDict, SecretStr, TypeAdapter

from moa.core._async import off_loop
from moa.core._files import join_surrogates
from moa.core._json import JSON, is_list, is_object, list_of, number_of, object_of, objects_of
from moa.core.context import RunContext
from moa.core.errors import EndpointError, EndpointRejected, InvalidResponse, OutputError
from moa.core.messages import Message, ToolCall
from moa.core.usage import UNKNOWN_PRICE, Amount, Price, Tier
from moa.endpoints import (
    Capability,
    Completion,
    Decision,
    DecisionRequest,
    Embeddings,
    EndpointBase,
    Examples,
    Pieces,
    Prompt,
    Questions,
    TokenLogprobs,
    require,
)
from moa.endpoints.calls import way_of_call
from moa.endpoints.client import Client, PostResult
from moa.endpoints.decide import Decides, DecisionClient
from moa.endpoints.dialects import OPENAI, UNKNOWN, Dialect
from moa.endpoints.given import address_of
from moa.endpoints.known import Identity
from moa.endpoints.sent import SentPrompt, show
from moa.endpoints.tokens import estimate_of, length_of, may_fit, neutralise
from moa.endpoints.wrappers import is_json

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_STREAMING = {"stream": True, "stream_options": {"include_usage": True}}
_OPTIONAL = (
    *("temperature", "stop", "stream_options", "logprobs", "top_logprobs"),
    *("reasoning_effort", "chat_template_kwargs"),
)
"""Fields without which a request is sent again, if the model refuses them."""
_REFUSES = re.compile(
    r"unsupported|(not|n't) support|extra inputs|unknown (parameter|name)|unrecognized",
    re.IGNORECASE,
)

CHAT: frozenset[Capability] = frozenset(
    ("complete", "stream", "decide", "tools", "images", "files")
)
"""Default capabilities of a server. It refuses itself what its model doesn't support."""
_as_json = json.JSONEncoder(ensure_ascii=False).encode
_DATA_URL = re.compile(r"data:[\w/+.-]+;base64,[\w+/=]+")
_IS_PICTURE = re.compile("data:image/|https?:")
_TAGS = {
    "<think>": "</think>",
    "<thought>": "</thought>",  # Gemini's compatible endpoint
    "[THINK]": "[/THINK]",  # Magistral, if the server has no parser for it
}
"""Closing tags of a thought, by opening tag."""
_CLOSE = "</think>"
"""Closing tag of a thought whose opening tag is in the chat template."""
_VECTOR = TypeAdapter(tuple[float, ...], config=ConfigDict(defer_build=True))


class Settings(TypedDict, total=False):
    """Further settings of an `OpenAIEndpoint`; see there."""

    api_key: SecretStr | str | None
    price: Price | Callable[[], Price]
    context_window: int | None
    concurrency: int
    connect_timeout_s: float
    timeout_s: float
    capabilities: Collection[Capability]
    decides: Decides


class OpenAIEndpoint(EndpointBase):
    """A model on any server with OpenAI's protocol.

    Args:
        name: Shown in traces, errors and usage.
        model: Name of the model on the server.
        base_url: Address up to `/v1`. `None` uses `$OPENAI_BASE_URL`, else OpenAI.
        api_key: Sent as a bearer token. `None` sends no key to a `base_url`, and
            `$OPENAI_API_KEY` to OpenAI.
        tier: `slm` or `llm`.
        price: Price, or a function that returns it, called when it is first needed.
        context_window: Maximum tokens of a request, prompt and answer together. `None`: unknown. A
            prompt with at least as many words is refused before it is sent. Otherwise the server
            decides.
        concurrency: Maximum concurrent requests. Others wait for a slot.
        connect_timeout_s: Maximum seconds to wait for a connection.
        timeout_s: Maximum seconds of a whole request.
        capabilities: What the model can do. An embedding model has `{"embed"}`.
        decides: How it decides; see `Decides`.
        dialect: How the server differs from OpenAI's format. `None`: none for OpenAI, else a
            general one, and the first decision detects the server's.
        client: An `openai.AsyncOpenAI`, `AsyncAzureOpenAI` or a subclass, which sends the requests
            with its own address, key, headers, proxy, hooks and timeouts. So omit `base_url`,
            `api_key` and `connect_timeout_s`. It sends each request once, with its method `post` or
            `get`, without redirects. It belongs to the event loop of its first use; `close` leaves
            it open.

    Raises:
        ConfigError: `base_url` is not an HTTP address, the key is invalid, a number is not
            positive, `client` has another type, or comes with `base_url` or `api_key`.

    Examples:
        >>> large = OpenAIEndpoint("large", base_url="http://127.0.0.1:8000/v1", model="served")
        >>> Agent(large, "Greet.").run_sync("Hi")  # doctest: +SKIP
    """

    shows_requests = True

    def __init__(
        self,
        name: str,
        *,
        model: str,
        base_url: str | None = None,
        api_key: SecretStr | str | None = None,
        tier: Tier = "llm",
        price: Price | Callable[[], Price] = UNKNOWN_PRICE,
        context_window: int | None = None,
        concurrency: int = 64,
        connect_timeout_s: float = 5.0,
        timeout_s: float = 120.0,
        capabilities: Collection[Capability] = CHAT,
        decides: Decides = "auto",
        dialect: Dialect | None = None,
        client: AsyncOpenAI | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.tier: Tier = tier
        self.context_window = context_window
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.capabilities = frozenset(capabilities)
        self._dropped_fields: set[str] = set()
        self.client = Client(
            name,
            tier=tier,
            model=model,
            base_url=base_url,
            api_key=api_key,
            price=price,
            context_window=context_window,
            concurrency=concurrency,
            connect_timeout_s=connect_timeout_s,
            timeout_s=timeout_s,
            client=client,
        )
        self.base_url = base_url if client is None else address_of(client)
        self.dialect = dialect or (OPENAI if self.client.is_hosted_by_openai else UNKNOWN)
        self.decides: Decides = decides
        self._decider = DecisionClient(self.client, self, decides=decides, dialect=dialect)

    @property
    def price(self) -> Price:
        """Price of its calls."""
        return self.client.price

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`.

        Raises:
            InvalidResponse: the answer has no text.
            EndpointRejected: the prompt can't fit into `context_window`, or the server refuses it.
            OutputError: the model stopped before it wrote an answer, or refused to.
        """
        require(self, "complete", prompt)
        self._check_length(prompt)
        answer, amount = await self._post(prompt, context)
        if not objects_of(answer.get("choices")):
            raise InvalidResponse("the answer holds no choice", endpoint=self.name)
        transcript = _Transcript(self.model)
        transcript.add(answer, "message")
        transcript.splitter.finish()
        return self._completion(transcript, prompt, amount, context)

    async def stream(self, prompt: Prompt, context: RunContext, /) -> Pieces:
        """See `Endpoint.stream`. It raises the errors of `complete`.

        If the server omits a thought's opening tag, the thought is detected only at its end. Then
        it is in the pieces, but not in the text of the `Completion`.
        """
        require(self, "stream", prompt)
        self._check_length(prompt)
        transcript, amount = _Transcript(self.model), Amount()
        async with aclosing(self._events(prompt, context)) as events:
            tokens = 0
            async for event in events:
                if isinstance(event, Amount):
                    amount = event
                    continue
                if context.watcher is not None and event.get("choices"):
                    tokens += 1  # llama.cpp and vLLM send one event per token
                    context.watcher(context.node or self.name, tokens)
                if piece := transcript.add(event, "delta"):
                    yield piece
        if not transcript.finish_reason:
            raise InvalidResponse("the stream ended before its answer did", endpoint=self.name)
        if piece := transcript.splitter.finish():
            yield piece
        yield self._completion(transcript, prompt, amount, context)

    async def decide(
        self, text: str, questions: Questions, context: RunContext, /, *, examples: Examples = ()
    ) -> Decision:
        """See `Endpoint.decide`.

        Raises:
            OutputError: the model had to write labels, and wrote something else.
            ConfigError: a question is over a limit of this server, or `decides="labels"` with a
                server whose log-probabilities can't be read. No question was sent.
        """
        require(self, "decide")
        work = partial(_neutral_request, text, questions, examples)
        request = await off_loop(work, context.remaining_s(), owner=context.owner, size=len(text))
        return await self._decider.decide(request, context)

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """See `Endpoint.embed`. `InvalidResponse`: a vector is missing or invalid."""
        require(self, "embed")
        size = sum(map(len, texts))
        neutral_texts = await off_loop(
            lambda: [*map(neutralise, texts)], context.remaining_s(), owner=context.owner, size=size
        )
        body = {"model": self.model, "input": neutral_texts}
        estimate = replace(estimate_of(*texts, max_tokens=0, price=self.price), encodings=1)
        answer, amount = await self.client.post("/embeddings", body, context, estimate=estimate)
        rows = objects_of(answer.get("data"))
        try:
            rows.sort(key=lambda row: number_of(row["index"]))
            vectors = tuple(_VECTOR.validate_python(row["embedding"]) for row in rows)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidResponse("an embedding is no vector", endpoint=self.name) from error
        if len(vectors) != len(texts):
            raise InvalidResponse(
                f"{len(vectors)} vectors came back for {len(texts)} texts", endpoint=self.name
            )
        context.note("answered", self.model, endpoint=self.name)
        model = _as_text(answer.get("model")) or self.model
        return Embeddings(vectors=vectors, endpoint=self.name, model=model, amount=amount)

    def deciding_by(self, way: Literal["chat", "labels"]) -> Self:
        """Return a copy that decides in one way; it shares the connections."""
        copied = copy.copy(self)
        copied.decides = "labels" if way == "labels" else "text"
        copied._decider = DecisionClient(
            self.client, copied, decides=copied.decides, dialect=self._decider.dialect
        )
        return copied

    async def identity(self, context: RunContext, /) -> Identity:
        """Return the model, and the server's version if it has `/version`, as vLLM does."""
        try:
            answer = await self.client.get("/version", context, at_root=True)
        except EndpointError:
            answer = {}
        version = _as_text(answer.get("version")) or None
        return Identity(model=self.model, server="OpenAI-compatible", version=version)

    async def close(self) -> None:
        """Close the connections of this event loop. A given `client` stays open.

        A second call does nothing.
        """
        await self.client.close()

    def _describe(self, body: Mapping[str, object], prompt: Prompt) -> list[SentPrompt]:
        shown_fields = {"messages", "model", "stream", "stream_options", self.dialect.schema_field}
        messages = objects_of(body["messages"])
        return [
            SentPrompt(
                self.name,
                self.model,
                way_of_call.get(),
                tuple((_as_text(turn["role"]), _format_message(turn)) for turn in messages),
                schema=prompt.json_schema,
                settings={key: value for key, value in body.items() if key not in shown_fields},
            )
        ]

    def chat(self, prompt: Prompt) -> JSON:
        """Return the body of a request in this server's dialect."""
        schema, messages = prompt.json_schema, prompt.messages
        is_shown = not (prompt.tools or prompt.explained)
        if schema is not None and is_shown and not self.dialect.enforces_schema(schema):
            messages = with_schema(messages, schema)
        body: JSON = {
            "model": self.model,
            "messages": [message.as_dict(neutralise) for message in messages],
            self.dialect.answer_limit: prompt.max_tokens,
        }
        if prompt.temperature is not None:
            body["temperature"] = prompt.temperature
        if prompt.stop:
            body["stop"] = list(prompt.stop)
        if prompt.tools:
            body["tools"] = [
                {"type": "function", "function": asdict(tool)} for tool in prompt.tools
            ]
        if schema is not None and (not prompt.tools or self.dialect.schema_beside_tools):
            body.update(self.dialect.constrain(schema))
        if prompt.top_logprobs:
            body.update(logprobs=True, top_logprobs=prompt.top_logprobs)
        if not prompt.thinks:
            body.update(self.dialect.answers_at_once)
        return body

    async def _post(self, prompt: Prompt, context: RunContext) -> PostResult:
        while True:
            body, estimate = await self._prepare(prompt, context)
            await show(partial(self._describe, body, prompt), context)
            try:
                return await self.client.post("/chat/completions", body, context, estimate=estimate)
            except EndpointRejected as error:
                self._leave_out(body, error, context)

    async def _events(
        self, prompt: Prompt, context: RunContext
    ) -> AsyncGenerator[JSON | Amount, None]:
        has_begun = False
        while True:
            body, estimate = await self._prepare(prompt, context, **_STREAMING)
            await show(partial(self._describe, body, prompt), context)
            stream = self.client.stream("/chat/completions", body, context, estimate=estimate)
            try:
                async with aclosing(stream) as events:
                    async for event in events:
                        has_begun = True
                        yield event
                return
            except EndpointRejected as error:
                if has_begun:
                    raise
                self._leave_out(body, error, context)

    async def _prepare(
        self, prompt: Prompt, context: RunContext, **extra_fields: object
    ) -> tuple[JSON, Amount]:
        """Return the body and its estimate; long texts are looked through in a thread."""
        work = partial(self._request, prompt, **extra_fields)
        return await off_loop(
            work, context.remaining_s(), owner=context.owner, size=length_of(prompt.messages)
        )

    def _request(self, prompt: Prompt, **extra_fields: object) -> tuple[JSON, Amount]:
        """Return the body without fields that the model refuses, and its estimate."""
        body = {
            k: v
            for k, v in {**self.chat(prompt), **extra_fields}.items()
            if k not in self._dropped_fields
        }
        # The JSON around the messages accounts for the tokens of the chat template.
        return body, estimate_of(
            _as_json(body),
            pictures=_pictures_in(body),
            max_tokens=prompt.max_tokens,
            price=self.price,
        )

    def _leave_out(
        self, body: Mapping[str, object], error: EndpointRejected, context: RunContext
    ) -> None:
        """Drop optional fields that the model refuses, permanently. Raise other errors.

        OpenAI's reasoning models take no temperature, no stop and no log-probabilities, Mistral no
        `stream_options`.
        """
        message = error.message
        fields = [key for key in _OPTIONAL if key in body and re.search(rf"\b{key}\b", message)]
        if "logprobs" in fields and "top_logprobs" not in fields:  # it needs the other one
            fields.append("top_logprobs")
        if error.status not in (400, 422) or not fields or not _REFUSES.search(message):
            raise error
        self._dropped_fields.update(fields)
        for key in fields:
            context.note("dropped", f"{key}: {self.model} takes none", endpoint=self.name)

    def _check_length(self, prompt: Prompt) -> None:
        """Refuse a prompt that is too long for any tokenizer. Servers differ in handling it."""
        if self.context_window is None:
            return
        texts = [message.content for message in prompt.messages]
        words = sum(len(text.split()) for text in texts)  # no token is longer than a word
        if words >= self.context_window or not may_fit(self.context_window, texts):
            raise EndpointRejected(
                f"the prompt is longer than the context window of {self.model}, which is "
                f"{self.context_window} tokens, so it was not sent. Shorten it, or ask an endpoint "
                "with a larger `context_window`",
                endpoint=self.name,
            )

    def _completion(
        self, transcript: _Transcript, prompt: Prompt, amount: Amount, context: RunContext
    ) -> Completion:
        text, reasoning = transcript.split()
        tool_calls = transcript.tool_calls(prompt)
        finish_reason = transcript.finish_reason or "stop"
        if not (text.strip() or tool_calls) or finish_reason == "content_filter":
            wrote = "thoughts and no answer" if reasoning else "nothing"
            raise self._make_no_answer_error(
                text, transcript.refusal, finish_reason, context, wrote=wrote
            )
        if finish_reason == "length":
            context.note("truncated", "`max_tokens` cut the answer", endpoint=self.name)
        context.note("answered", transcript.model, endpoint=self.name)
        return Completion(
            text=text,
            reasoning=reasoning,
            tool_calls=tool_calls,
            finish_reason=finish_reason,
            endpoint=self.name,
            model=transcript.model,
            amount=amount,
            tokens=tuple(transcript.tokens),
        )

    def _make_no_answer_error(
        self, text: str, refusal: str, finish_reason: str, context: RunContext, *, wrote: str
    ) -> InvalidResponse | OutputError:
        node = context.node or self.name
        if finish_reason == "content_filter":
            refusal = refusal or "the content filter stopped it"
        if refusal:
            context.note("refused", refusal, endpoint=self.name)
            message = f"the model refused to answer: {refusal}"
            return OutputError(message, node=node, text=text or refusal)
        message = f"the model wrote {wrote} (finish reason {finish_reason!r})"
        if finish_reason == "length":
            return OutputError(f"{message}: raise `max_tokens`", node=node, text="")
        return InvalidResponse(message, endpoint=self.name)


def _as_text(value: object) -> str:
    return join_surrogates(value) if isinstance(value, str) else ""


def _read_content(message: Mapping[str, object]) -> tuple[str, str]:
    """Return the text of a message and the reasoning before it. Mistral sends both in parts."""
    content = message.get("content")
    thought = _as_text(message.get("reasoning_content")) or _as_text(message.get("reasoning"))
    if not is_list(content):
        return _as_text(content), thought
    parts = objects_of(content)
    thoughts = [part for parent in parts for part in objects_of(parent.get("thinking"))]
    text = "".join(_as_text(part.get("text")) for part in parts)
    return text, thought + "".join(_as_text(part.get("text")) for part in thoughts)


def _read_tokens(choice: JSON) -> list[TokenLogprobs]:
    """Read the log-probabilities of a message or of an event; none if the server sends none."""
    tokens: list[TokenLogprobs] = []
    for entry in objects_of(object_of(choice.get("logprobs")).get("content")):
        others = [_read_token(other) for other in objects_of(entry.get("top_logprobs"))]
        token = _read_token(entry)
        tokens.append(TokenLogprobs(token[0], tuple(dict([*others, token]).items())))
    return tokens


def _read_token(entry: JSON) -> tuple[bytes, float]:
    """Return a token's bytes and log-probability. vLLM writes minus infinity as -9999."""
    sent, logprob = entry.get("bytes"), entry.get("logprob")
    parts = [byte for byte in list_of(sent) if isinstance(byte, int) and 0 <= byte < 256]
    token = bytes(parts) if is_list(sent) else _as_text(entry.get("token")).encode()
    return token, float(logprob) if isinstance(logprob, int | float) else -math.inf


def _pictures_in(body: JSON) -> list[str]:
    """List the URLs of files whose tokens don't depend on their bytes: pictures, and addresses."""
    contents = (message.get("content") for message in objects_of(body["messages"]))
    urls = (_as_text(_url_of(part)) for content in contents for part in objects_of(content))
    return [url for url in urls if url and _IS_PICTURE.match(url)]


def _url_of(part: JSON) -> object:
    picture = object_of(part.get("image_url")).get("url")
    return picture or object_of(part.get("file")).get("file_data")


def _neutral_request(text: str, questions: Questions, examples: Examples) -> DecisionRequest:
    neutral_examples = [replace(example, text=neutralise(example.text)) for example in examples]
    return DecisionRequest(neutralise(text), questions, neutral_examples)


def _format_message(message: Mapping[str, object]) -> str:
    """Format a message for display: other parts as JSON, without the data of files."""
    content = message.get("content")
    extra = {k: v for k, v in message.items() if k not in ("role", "content")}
    parts = [content if isinstance(content, str) else _as_json(content)] if content else []
    parts += [_as_json(extra)] if extra else []
    return _DATA_URL.sub("(data)", "\n".join(parts))


def with_schema(messages: Sequence[Message], schema: Mapping[str, object]) -> tuple[Message, ...]:
    """Append a schema for the model to the system message."""
    form = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return add_instruction(messages, f"Answer with JSON alone, by this schema: {form}")


def add_instruction(messages: Sequence[Message], instruction: str) -> tuple[Message, ...]:
    """Append an instruction to the system message."""
    if messages[0].role != "system":
        return (Message("system", instruction), *messages)
    return (Message("system", f"{messages[0].content}\n\n{instruction}"), *messages[1:])


@dataclass(slots=True)
class _ToolCallPart:
    """A tool call, whole or in part, from a message or a stream's event."""

    index: object
    id: str
    """Id of the call. Gemini leaves it empty."""
    name: str
    arguments: str

    @classmethod
    def of(cls, part: JSON) -> _ToolCallPart:
        """Read a tool call. Some servers write the arguments as an object instead of a text."""
        function = object_of(part.get("function"))
        arguments = function.get("arguments")
        if is_object(arguments):
            arguments = json.dumps(arguments, ensure_ascii=False)
        id, name = _as_text(part.get("id")), _as_text(function.get("name"))
        return cls(part.get("index"), id, name, _as_text(arguments))

    def goes_on_with(self, part: _ToolCallPart) -> bool:
        """Return True if a later part of a stream continues this call.

        A new call has another id. Without ids, it has a name and follows complete arguments. A name
        alone isn't enough, as some servers repeat it in each part.
        """
        if self.index != part.index:
            return False
        return self.id == part.id if part.id else not (part.name and is_json(self.arguments))


@dataclass(slots=True)
class ThinkingSplitter:
    """Splits a streamed text into reasoning and answer.

    Servers without a reasoning parser leave tags such as `<think>…</think>` in the text. After a
    thought that isn't closed, there is no answer.
    """

    _blanks: list[str] = field(default_factory=list[str])
    """White space before the first word, until it is known whether a thought starts there."""
    _held: str = ""
    """Text that may be the start of a tag."""
    _thought: list[str] = field(default_factory=list[str])
    _text: list[str] = field(default_factory=list[str])
    _closing: str = ""
    _state: Literal["start", "thinking", "answering"] = "start"

    def split(self) -> tuple[str, str | None]:
        """Return the answer, and the reasoning or `None`, at the end of the text."""
        text = "".join(self._text)
        if self._closing:
            return text, "".join(self._thought).strip()
        # If the opening tag is in the chat template, only the closing tag shows what was a thought.
        thought, closed, answer = text.lstrip().partition(_CLOSE)
        if closed and "<think>" not in thought:
            return answer.lstrip(), thought.strip()
        return text, None

    def feed(self, piece: str) -> str:
        """Add a piece. Return the part that belongs to the answer."""
        if self._state == "start":
            if not self._held:
                start = piece.lstrip()
                self._blanks.append(piece[: len(piece) - len(start)])
                piece = start
            self._held += piece
            if any(len(self._held) < len(tag) and tag.startswith(self._held) for tag in _TAGS):
                return ""
            piece = self._open_thought()
        return self._think(piece) if self._state == "thinking" else self._answer(piece)

    def finish(self) -> str:
        """End the text. Return the held part that belongs to the answer."""
        if self._state == "thinking":
            self._thought.append(self._held)
            return ""
        return self._answer(self._take())

    def _open_thought(self) -> str:
        """Detect an opening tag. Return the text after it, or everything."""
        opening = next((tag for tag in _TAGS if self._held.startswith(tag)), None)
        if opening is None:
            self._state = "answering"
            return self._take()
        self._state, self._closing = "thinking", _TAGS[opening]
        return self._take().lstrip().removeprefix(opening)

    def _think(self, piece: str) -> str:
        thought, closed, answer = (self._held + piece).partition(self._closing)
        if closed:
            self._thought.append(thought)
            self._state, self._held = "answering", ""
            return self._answer(answer)
        end = max(0, len(thought) - len(self._closing) + 1)
        self._thought.append(thought[:end])
        self._held = thought[end:]
        return ""

    def _take(self) -> str:
        text = "".join(self._blanks) + self._held
        self._blanks, self._held = [], ""
        return text

    def _answer(self, piece: str) -> str:
        if self._closing and not self._text:
            piece = piece.lstrip()
        if piece:
            self._text.append(piece)
        return piece


@dataclass(slots=True)
class _Transcript:
    """The model's output so far, as one message or in pieces."""

    model: str
    thought: str = ""
    refusal: str = ""
    finish_reason: str = ""
    calls: list[_ToolCallPart] = field(default_factory=list[_ToolCallPart])
    tokens: list[TokenLogprobs] = field(default_factory=list[TokenLogprobs])
    splitter: ThinkingSplitter = field(default_factory=ThinkingSplitter)

    def add(self, body: JSON, key: Literal["message", "delta"]) -> str:
        """Read an answer, or an event of a stream. Return its text."""
        self.model = _as_text(body.get("model")) or self.model
        answer_text = ""
        for choice in objects_of(body.get("choices"))[:1]:
            message = object_of(choice.get(key))
            content, thought = _read_content(message)
            self.thought += thought
            self.refusal += _as_text(message.get("refusal"))
            self.finish_reason = _as_text(choice.get("finish_reason")) or self.finish_reason
            for part in map(_ToolCallPart.of, objects_of(message.get("tool_calls"))):
                matches = (
                    call for call in self.calls if key == "delta" and call.goes_on_with(part)
                )
                if (call := next(matches, None)) is None:
                    self.calls.append(part)
                else:
                    call.name = call.name or part.name
                    call.arguments += part.arguments
            self.tokens += _read_tokens(choice)
            answer_text = self.splitter.feed(content)
        return answer_text

    def split(self) -> tuple[str, str | None]:
        """Return the answer and the reasoning."""
        text, thought = self.splitter.split()
        return text, self.thought or thought

    def tool_calls(self, prompt: Prompt) -> tuple[ToolCall, ...]:
        """Return the requested tool calls, each with an id; none if no tool was offered."""
        id_prefix = f"call_{len(prompt.messages)}"
        return tuple(
            ToolCall(call.name, call.arguments or "{}", call.id or f"{id_prefix}_{number}")
            for number, call in enumerate(self.calls if prompt.tools else ())
        )
