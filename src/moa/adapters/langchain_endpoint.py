"""LangChainEndpoint: a LangChain chat model as an endpoint."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import cast

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages import ToolCall as LangChainToolCall
from langchain_core.runnables import Runnable
from pydantic import BaseModel

from moa.core._async import closing_stream, off_loop, time_limit
from moa.core._json import object_of
from moa.core.budget import Reservation
from moa.core.context import RunContext
from moa.core.errors import EndpointRejected, InvalidResponse, MoaError, OutputError
from moa.core.messages import Message, ToolCall
from moa.core.usage import UNKNOWN_PRICE, Price, Tier
from moa.endpoints import Capability, Completion, EndpointBase, Pieces, Prompt, require
from moa.endpoints.openai import with_schema
from moa.endpoints.sent import describe_prompt, show
from moa.endpoints.tokens import NO_USAGE, amount_of, estimate_of, length_of, neutralise
from moa.endpoints.transport import describe_error, map_error

_LIMITS = ("max_tokens", "max_output_tokens", "num_predict")
"""Field names of the limit on an answer's tokens."""
_TAKES_HEADERS = {"default_headers", "model_kwargs"}
"""Fields of HTTP models whose `model_kwargs` go to a client that takes `extra_headers`, such as
OpenAI's and Anthropic's."""
_CUT = ("length", "max_tokens")
_ENDED = ("finish_reason", "stop_reason", "done_reason")


class LangChainEndpoint(EndpointBase):
    """A LangChain chat model. It can complete and stream, and takes tools with `bind_tools`.

    A model without `bind_tools` gets tools described in words, and chooses them in JSON by a
    schema. A schema is passed to the model's `with_structured_output`. Without that method, or with
    tools, it is shown in the prompt. The model keeps its settings, except the maximum tokens, and
    the temperature if the prompt sets one. It retries errors as it is set to.

    Args:
        model: The chat model.
        name: Shown in traces, errors and usage; `None` uses the name of the model.
        tier: `slm` or `llm`.
        price: Price of its calls.

    Examples:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> large = LangChainEndpoint(FakeListChatModel(responses=["Tomorrow."]), name="large")
        >>> print(Agent(large, "Answer.").run_sync("When?").output)
        Tomorrow.
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        name: str | None = None,
        tier: Tier = "llm",
        price: Price = UNKNOWN_PRICE,
    ) -> None:
        model_name: object = getattr(model, "model_name", None) or getattr(model, "model", None)
        self.chat_model = model
        self.model = model_name if isinstance(model_name, str) else type(model).__name__
        self.name = name or self.model
        self.tier: Tier = tier
        self.price = price
        capabilities: tuple[Capability, ...] = ("complete", "stream")
        if type(model).bind_tools is not BaseChatModel.bind_tools:
            capabilities = (*capabilities, "tools")
        self.capabilities: frozenset[Capability] = frozenset(capabilities)

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`.

        Raises:
            InvalidResponse: the answer has no text.
            OutputError: the model stopped before it wrote an answer.
        """
        with await self._reserve(prompt, context) as call, self._map_errors():
            async with time_limit(context.remaining_s()):
                message, parsed = await self._ask(prompt, context)
            return self._completion(prompt, message, parsed, call, context)

    async def stream(self, prompt: Prompt, context: RunContext, /) -> Pieces:
        """See `Endpoint.stream`. It raises the errors of `complete`. JSON comes in one piece."""
        if prompt.json_schema is not None:
            completion = await self.complete(prompt, context)
            yield completion.text
            yield completion
            return
        with await self._reserve(prompt, context) as call, self._map_errors():
            message: AIMessageChunk | None = None
            model = self._with_tools(prompt, context)
            messages = await _messages(prompt.messages, context)
            stream = model.astream(messages, stop=_stop(prompt))
            async with closing_stream(stream) as pieces:
                while True:
                    async with time_limit(context.remaining_s()):
                        piece = cast("AIMessageChunk | None", await anext(pieces, None))
                    if piece is None:
                        break
                    message = piece if message is None else message + piece
                    if piece.text:
                        yield str(piece.text)
            if message is None:
                raise InvalidResponse("the stream brought nothing", endpoint=self.name)
            yield self._completion(prompt, message, None, call, context)

    async def close(self) -> None:
        """Do nothing: the model owns its connections."""

    async def _reserve(self, prompt: Prompt, context: RunContext) -> Reservation:
        require(self, "complete", prompt)
        await show(lambda: [describe_prompt(self, prompt)], context)
        texts = [message.content for message in prompt.messages]
        if prompt.json_schema is not None:
            texts.append(json.dumps(prompt.json_schema))
        texts += [json.dumps(asdict(tool)) for tool in prompt.tools]
        estimate = estimate_of(*texts, max_tokens=prompt.max_tokens, price=self.price)
        return await context.reserve(self.name, self.tier, estimate, price=self.price)

    def _model(self, prompt: Prompt, context: RunContext) -> BaseChatModel:
        """Return the model with the settings of a prompt and the headers of the trace."""
        fields = type(self.chat_model).model_fields
        limit = next((name for name in _LIMITS if name in fields), None)
        update: dict[str, object] = {} if limit is None else {limit: prompt.max_tokens}
        # A model without a temperature may refuse one, as OpenAI's reasoning models do.
        temperature = getattr(self.chat_model, "temperature", None)
        if prompt.temperature is not None and temperature is not None:
            update["temperature"] = prompt.temperature
        headers = context.tracer and context.tracer.headers
        if headers and fields.keys() >= _TAKES_HEADERS:
            model_kwargs = object_of(getattr(self.chat_model, "model_kwargs", None))
            extra_headers = object_of(model_kwargs.get("extra_headers"))
            update["model_kwargs"] = {**model_kwargs, "extra_headers": {**headers, **extra_headers}}
        return self.chat_model.model_copy(update=update)

    def _with_tools(
        self, prompt: Prompt, context: RunContext
    ) -> Runnable[LanguageModelInput, AIMessage]:
        model = self._model(prompt, context)
        if not prompt.tools:
            return model
        tools = [{"type": "function", "function": asdict(tool)} for tool in prompt.tools]
        try:
            return model.bind_tools(tools)
        except NotImplementedError as error:  # some models have the method but raise here
            message = f"{self.model}: tools are not supported"
            raise EndpointRejected(message, endpoint=self.name, status=501) from error

    async def _ask(self, prompt: Prompt, context: RunContext) -> tuple[AIMessage, object]:
        """Return the message, and its parsed form if the model enforces the schema."""
        model, schema = self._model(prompt, context), prompt.json_schema
        messages = prompt.messages
        if schema is None or prompt.tools:
            sent_messages = messages if schema is None else with_schema(messages, schema)
            chat_messages = await _messages(sent_messages, context)
            model = self._with_tools(prompt, context)
            return await model.ainvoke(chat_messages, stop=_stop(prompt)), None
        try:
            if "properties" not in schema:  # LangChain would make it a function and drop the rest
                raise NotImplementedError
            titled_schema = {"title": "answer", **schema}
            structured_model = model.with_structured_output(titled_schema, include_raw=True)
        except NotImplementedError:
            chat_messages = await _messages(with_schema(messages, schema), context)
            return await model.ainvoke(chat_messages, stop=_stop(prompt)), None
        chat_messages = await _messages(messages, context)
        result = object_of(await structured_model.ainvoke(chat_messages))
        raw = result["raw"]
        assert isinstance(raw, AIMessage), "`include_raw` says so"
        return raw, result["parsed"]

    def _completion(
        self,
        prompt: Prompt,
        message: AIMessage,
        parsed: object,
        call: Reservation,
        context: RunContext,
    ) -> Completion:
        calls = _calls(message, prompt)
        amount = amount_of(
            {"usage": message.usage_metadata},
            estimate=call.estimate,
            sent=[turn.content for turn in prompt.messages],
            texts=[str(message.text), *(tool_call.arguments for tool_call in calls)],
        )
        if amount is None:
            amount = call.estimate
            context.note("degraded", NO_USAGE, endpoint=self.name)
        amount = self.price.charge(amount)
        call.settle(amount)
        metadata = object_of(message.response_metadata)
        finish_reason = next(
            (str(metadata[key]) for key in _ENDED if metadata.get(key)), "stop"
        ).lower()
        was_cut = finish_reason in _CUT
        if parsed is None:
            text = str(message.text)
        elif isinstance(parsed, BaseModel):
            text = parsed.model_dump_json()
        else:
            text = json.dumps(parsed, ensure_ascii=False)
        if not text.strip() and not calls:
            if was_cut:
                advice = "the model wrote nothing before `max_tokens`: raise it"
                raise OutputError(advice, node=context.node or self.name, text="")
            raise InvalidResponse(f"the model wrote nothing ({finish_reason})", endpoint=self.name)
        if was_cut:
            context.note("truncated", "`max_tokens` cut the answer", endpoint=self.name)
        model = str(metadata.get("model_name") or metadata.get("model") or self.model)
        context.note("answered", model, endpoint=self.name)
        thoughts = [
            str(block.get("reasoning", ""))
            for block in message.content_blocks
            if block["type"] == "reasoning"
        ]
        return Completion(
            text=text,
            reasoning="".join(thoughts) or None,
            tool_calls=calls,
            finish_reason="length" if was_cut else "stop",
            endpoint=self.name,
            model=model,
            amount=amount,
        )

    @contextmanager
    def _map_errors(self) -> Generator[None]:
        """Map the model's exceptions to errors of `moa`."""
        try:
            yield
        except (MoaError, AssertionError):
            raise
        except Exception as error:
            source = "the chat model"
            message = f"{source} raised {describe_error(error)}"
            mapped_error = map_error(error, endpoint=self.name, model=self.model, who=source)
            raise mapped_error or EndpointRejected(message, endpoint=self.name) from error


async def _messages(
    messages: Sequence[Message], context: RunContext
) -> list[BaseMessage | tuple[str, str]]:
    """Write messages for LangChain; long texts are looked through in a thread."""
    work = partial(_write_messages, messages)
    return await off_loop(
        work, context.remaining_s(), owner=context.owner, size=length_of(messages)
    )


def _write_messages(messages: Sequence[Message]) -> list[BaseMessage | tuple[str, str]]:
    chat_messages: list[BaseMessage | tuple[str, str]] = []
    for message in messages:
        text = neutralise(message.content)
        if message.role == "tool":
            chat_messages.append(ToolMessage(text, tool_call_id=message.tool_call_id))
        elif message.tool_calls:
            chat_messages.append(
                AIMessage(text, tool_calls=[_write_call(call) for call in message.tool_calls])
            )
        else:
            chat_messages.append((message.role, text))
    return chat_messages


def _write_call(call: ToolCall) -> LangChainToolCall:
    """Convert a call to LangChain's form, whose arguments must be an object."""
    try:
        values = replace(call, arguments=neutralise(call.arguments)).values
    except ValueError:
        values = {}
    return LangChainToolCall(type="tool_call", name=call.name, args=values, id=call.id)


def _calls(message: AIMessage, prompt: Prompt) -> tuple[ToolCall, ...]:
    """Read the requested calls, including those whose arguments are invalid JSON."""
    calls = [
        (call["name"], json.dumps(call["args"], ensure_ascii=False), call["id"])
        for call in message.tool_calls
    ]
    calls += [(call["name"], call["args"], call["id"]) for call in message.invalid_tool_calls]
    return tuple(
        ToolCall(name or "", arguments or "", id or f"call_{len(prompt.messages)}_{number}")
        for number, (name, arguments, id) in enumerate(calls)
    )


def _stop(prompt: Prompt) -> list[str] | None:
    return list(prompt.stop) or None
