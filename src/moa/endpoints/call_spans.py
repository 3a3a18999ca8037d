"""Call spans: a span around each call of an endpoint, including its retries."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from moa.core._async import closing_stream
from moa.core.context import RunContext
from moa.core.telemetry import Span, content, names
from moa.endpoints import (
    Completion,
    Decision,
    Embeddings,
    Endpoint,
    EndpointBase,
    Pieces,
    Prompt,
)
from moa.endpoints.dialects import OPENAI
from moa.endpoints.wrappers import innermost

if TYPE_CHECKING:
    from moa.core.telemetry.spans import Value

AnyAnswer = Completion | Decision | Embeddings
T = TypeVar("T", bound=AnyAnswer)


async def ask_in_span(
    ask: Callable[..., Awaitable[T]],
    endpoint: Endpoint,
    request: Sequence[object],
    context: RunContext,
    attributes: Mapping[str, object],
) -> T:
    """Ask an endpoint in the span of a call, unless there is one already or it only delegates."""
    span = _start_span(endpoint, request[0], context, embeds=ask.__name__ == "embed")
    if span is None:
        return await ask(endpoint, *request, context, **attributes)
    with span:
        inner = context.in_span(span)
        if span.content:
            await _record_request(span, request[0])
        answer = await ask(endpoint, *request, inner, **attributes)
        _set_answer(span, answer, endpoint)
        if span.content:
            await _record_answer(span, answer)
        return answer


async def stream_in_span(
    ask: Callable[[Endpoint, Prompt, RunContext], Pieces],
    endpoint: Endpoint,
    prompt: Prompt,
    context: RunContext,
) -> AsyncIterator[str | Completion]:
    """Stream in the span of a call, which ends with the stream."""
    span = _start_span(endpoint, prompt, context)
    if span is None:
        async with closing_stream(ask(endpoint, prompt, context)) as pieces:
            async for piece in pieces:
                yield piece
        return
    with span:
        inner = context.in_span(span)
        span.set(names.STREAM, True)
        if span.content:
            await _record_request(span, prompt)
        start = time.perf_counter()
        first_s: float | None = None
        async with closing_stream(ask(endpoint, prompt, inner)) as pieces:
            async for piece in pieces:
                if first_s is None:
                    span.set(names.FIRST_CHUNK_S, first_s := time.perf_counter() - start)
                if not isinstance(piece, str):
                    _set_answer(span, piece, endpoint)
                    if span.content:
                        await _record_answer(span, piece)
                yield piece


def _start_span(
    endpoint: Endpoint, request: object, context: RunContext, *, embeds: bool = False
) -> Span | None:
    """Start the span of a call; `None`: there is one already, or the asked endpoints make it."""
    tracer = context.tracer
    assert tracer is not None, "somebody hears of it"
    asks_several = isinstance(endpoint, EndpointBase) and endpoint.asks_several
    if tracer.is_call or not tracer.is_recorded or asks_several:
        return None
    operation = names.EMBEDDINGS if embeds else names.CHAT
    model, name = endpoint.model, endpoint.name
    attributes: dict[str, Value] = {
        names.OPERATION: operation,
        names.REQUEST_MODEL: model,
        names.TIER: endpoint.tier,
        **_server_of(endpoint),
    }
    if name != model:
        attributes[names.ENDPOINT] = name
    if isinstance(request, Prompt):
        attributes[names.MAX_TOKENS] = request.max_tokens
        if request.temperature is not None:
            attributes[names.TEMPERATURE] = request.temperature
        if request.json_schema is not None:
            attributes[names.OUTPUT_TYPE] = "json"
    return tracer.start(f"{operation} {model}", attributes, side="client", is_call=True)


def _set_answer(span: Span, answer: AnyAnswer, endpoint: Endpoint) -> None:
    """Record the model that answered, if it is another one, and the finish reason."""
    if answer.model != endpoint.model:
        span.set(names.RESPONSE_MODEL, answer.model)
    if isinstance(answer, Completion):
        span.set(names.FINISH_REASONS, (answer.finish_reason,))


async def _record_request(span: Span, request: object) -> None:
    """Record the request; texts to embed are not recorded."""
    if isinstance(request, Prompt):
        await content.record(span, content.write_messages(request.messages))
    elif isinstance(request, str):
        await content.record(span, content.write_text(request))


async def _record_answer(span: Span, answer: AnyAnswer) -> None:
    """Record the answer."""
    if isinstance(answer, Completion):
        output = content.write_answer(answer.text, answer.tool_calls, answer.reasoning)
        await content.record(span, output)


def _server_of(endpoint: Endpoint) -> Mapping[str, Value]:
    """Return the address of an endpoint, and its provider."""
    server = innermost(endpoint)
    url: object = getattr(server, "base_url", None)
    if url is None and getattr(server, "dialect", None) is OPENAI:
        url = OPENAI.base_url
    return _server_at(url if isinstance(url, str) else None)


@cache  # there are few addresses
def _server_at(url: str | None) -> Mapping[str, Value]:
    if url is None:
        return {names.PROVIDER: names.OWN_PROVIDER}
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in names.PROVIDERS:
        return {names.PROVIDER: names.PROVIDERS[host]}
    if host.endswith(names.AZURE_HOST):
        return {names.PROVIDER: names.AZURE, names.ADDRESS: host}
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {names.PROVIDER: names.OTHER_PROVIDER, names.ADDRESS: host, names.PORT: port}
