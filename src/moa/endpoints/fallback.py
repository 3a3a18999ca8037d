"""Fallback: asks the next endpoint when one fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from moa.context import RunContext
from moa.endpoints import (
    Capability,
    Completion,
    Decision,
    Embeddings,
    Endpoint,
    Example,
    Prompt,
)
from moa.endpoints.closing import close_all, closed_after
from moa.endpoints.wrapping import Wrapping
from moa.errors import EndpointError
from moa.questions import Question

T = TypeVar("T")


class Fallback(Wrapping):
    """Asks the next endpoint when one fails. The trace says why, and the answer who gave it.

    Args:
        endpoint: Who is asked first; its name, tier and price are shown.
        others: Who is asked then, in order.
    """

    def __init__(self, endpoint: Endpoint, *others: Endpoint) -> None:
        super().__init__(endpoint)
        self._endpoints = (endpoint, *others)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What all of them can do."""
        shared = self.endpoint.capabilities
        for other in self._endpoints[1:]:
            shared &= other.capabilities
        return shared

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`; raises the error of the last one."""
        return await self._first(lambda one: one.complete(prompt, context), context)

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        """See `Endpoint.stream`; falls back only before the first piece."""

        async def start(one: Endpoint) -> tuple[AsyncIterator[str | Completion], str | Completion]:
            pieces = one.stream(prompt, context)
            return pieces, await anext(pieces)

        pieces, first = await self._first(start, context)
        async with closed_after(pieces):
            yield first
            async for piece in pieces:
                yield piece

    async def decide(
        self,
        state: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example] = (),
    ) -> Decision:
        """See `Endpoint.decide`; raises the error of the last one."""

        def ask(one: Endpoint) -> Awaitable[Decision]:
            return one.decide(state, questions, context, examples=examples)

        return await self._first(ask, context)

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """See `Endpoint.embed`; raises the error of the last one."""
        return await self._first(lambda one: one.embed(texts, context), context)

    async def close(self) -> None:
        """Close all of them, also where one can't be; its error is raised at the end."""
        await close_all(self._endpoints)

    async def _first(self, ask: Callable[[Endpoint], Awaitable[T]], context: RunContext) -> T:
        *tried, last = self._endpoints
        for one, following in zip(tried, self._endpoints[1:], strict=True):
            try:
                return await ask(one)
            except EndpointError as error:
                context.note("fell back", f"to {following.name}: {error}", endpoint=one.name)
        return await ask(last)
