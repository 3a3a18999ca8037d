"""Journalled: wraps an endpoint's methods, so that a resumed run finds earlier answers.

If spans of a run are recorded, each call that is made has one; a call found in the journal has
none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache, wraps
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from moa.core._async import closing_stream
from moa.core.context import RunContext
from moa.core.journal_records import Call, Form, call_once

if TYPE_CHECKING:
    from moa.endpoints import Completion, Decision, Embeddings, Endpoint, Pieces, Prompt

    Stream = Callable[[Endpoint, Prompt, RunContext], Pieces]

T = TypeVar("T", bound="Completion | Decision | Embeddings")
Ask = Callable[..., Awaitable[T]]
"""An endpoint's method; its last positional argument is the context."""
JournalEntry = tuple[str, object, Form[T]]
"""The kind of a call, the request, and the form of its answer."""


def journal_answer(entry_of: Callable[..., JournalEntry[T] | None]) -> Callable[[Ask[T]], Ask[T]]:
    """Return the wrapper of a method that returns one answer.

    Args:
        entry_of: Called with the endpoint and the request; if it returns `None`, the
            answer isn't stored.
    """

    def wrap(ask: Ask[T]) -> Ask[T]:
        @wraps(ask)
        def call(self: Endpoint, *arguments: object, **keywords: object) -> Awaitable[T]:
            *request, context = arguments
            assert isinstance(context, RunContext), "it is the last argument without a name"

            def ask_within(inner: RunContext) -> Awaitable[T]:
                if inner.tracer is None:
                    return ask(self, *request, inner, **keywords)
                return _spans().ask_in_span(ask, self, request, inner, keywords)

            entry = None if context.journal is None else entry_of(self, *request, **keywords)
            return ask_within(context) if entry is None else call_once(context, *entry, ask_within)

        return call

    return wrap


def journal_stream(
    entry_of: Callable[[Endpoint, Prompt], JournalEntry[Completion]],
) -> Callable[[Stream], Stream]:
    """Return the wrapper of a method that yields a text in pieces, and last the completion."""

    def wrap(ask: Stream) -> Stream:
        @wraps(ask)
        def stream(self: Endpoint, prompt: Prompt, context: RunContext, /) -> Pieces:
            if context.journal is None:
                return _stream(ask, self, prompt, context)
            kind, request, form = entry_of(self, prompt)
            call = Call(context, kind, request)
            return _replay_or_stream(lambda: _stream(ask, self, prompt, call.inner), call, form)

        return stream

    return wrap


async def _replay_or_stream(
    stream: Callable[[], Pieces], call: Call, form: Form[Completion]
) -> AsyncIterator[str | Completion]:
    """Yield a stored answer; without one, stream it and store its completion."""
    if finished := call.find(form):
        completion = call.reuse(finished)
        if completion.text:
            yield completion.text
        yield completion
        return
    async with call, closing_stream(stream()) as pieces:
        async for piece in pieces:
            if not isinstance(piece, str):
                await call.keep(form.dump(piece))
            yield piece


def _stream(ask: Stream, endpoint: Endpoint, prompt: Prompt, context: RunContext) -> Pieces:
    if context.tracer is None:
        return ask(endpoint, prompt, context)
    return _spans().stream_in_span(ask, endpoint, prompt, context)


@cache
def _spans() -> ModuleType:
    """Import the module for spans, at the first call of a run whose spans are recorded."""
    return import_module("moa.endpoints.call_spans")
