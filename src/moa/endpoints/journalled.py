"""Journalled: methods whose answers a run keeps, so that one that goes on finds them.

Where somebody hears of the spans of a run, each has one here: what is found is not asked, and has
none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache, wraps
from typing import Any, TypeVar

from moa._async import closed_after
from moa.context import RunContext
from moa.journal_records import Call, Form, call_once

T = TypeVar("T")
Journalled = tuple[str, object, Form[T]]
"""What kind of call it is, what is asked, and how its answer is written."""


def journalled(
    asked_of: Callable[..., Journalled[Any] | None],
) -> Callable[[Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Any]]]:
    """Make what wraps a method, whose last argument by place is the context.

    `asked_of` is given the endpoint and what it is asked; where it gives `None`, nothing is kept.
    """

    def wrapping(ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @wraps(ask)
        def call(self: object, *given: Any, **named: Any) -> Awaitable[Any]:
            *asked, context = given
            if context.journal is None or (kept := asked_of(self, *asked, **named)) is None:
                if context.tracer is None:
                    return ask(self, *given, **named)
                return _in_spans()[0](ask, self, asked, context, named)

            def again(inner: RunContext) -> Awaitable[Any]:
                if inner.tracer is None:
                    return ask(self, *asked, inner, **named)
                return _in_spans()[0](ask, self, asked, inner, named)

            return call_once(context, *kept, again)

        return call

    return wrapping


def journalled_stream(
    asked_of: Callable[[Any, Any], Journalled[Any]],
) -> Callable[[Callable[..., AsyncIterator[Any]]], Callable[..., AsyncIterator[Any]]]:
    """Make what wraps a method that gives the pieces of a text, and what is no text: the whole."""

    def wrapping(ask: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
        @wraps(ask)
        def stream(self: object, prompt: Any, context: RunContext, /) -> AsyncIterator[Any]:
            if context.journal is None:
                return _asking(ask, self, prompt, context)
            what, request, form = asked_of(self, prompt)
            return streamed(Call(context, what, request), form, self, prompt)

        async def streamed(
            call: Call, form: Form[Any], endpoint: object, prompt: Any
        ) -> AsyncIterator[Any]:
            if call.is_kept(form):
                whole = call.reuse()
                if whole.text:
                    yield whole.text
                yield whole
                return
            async with call, closed_after(_asking(ask, endpoint, prompt, call.inner)) as pieces:
                async for piece in pieces:
                    if not isinstance(piece, str):
                        await call.keep(form.dump(piece))
                    yield piece

        return stream

    return wrapping


@cache
def _in_spans() -> tuple[Callable[..., Awaitable[Any]], Callable[..., AsyncIterator[Any]]]:
    """Give what asks in a span; where nobody hears of spans it isn't loaded."""
    from moa.endpoints.call_spans import ask_in_span, stream_in_span

    return ask_in_span, stream_in_span


def _asking(
    ask: Callable[..., AsyncIterator[Any]], endpoint: object, prompt: Any, context: RunContext
) -> AsyncIterator[Any]:
    if context.tracer is None:
        return ask(endpoint, prompt, context)
    return _in_spans()[1](ask, endpoint, prompt, context)
