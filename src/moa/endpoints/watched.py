"""Watched: waits for a server that somebody starts again after a crash."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from moa.context import RunContext
from moa.endpoints import Completion, Decision, Embeddings, Endpoint, Example, Prompt
from moa.endpoints.closing import closed_after
from moa.endpoints.wrapping import Wrapping
from moa.errors import EndpointUnavailable
from moa.questions import Question

T = TypeVar("T")


class Watched(Wrapping):
    """Fails with a lost server's error only when the server is back, or will not come back.

    So whoever asks again, such as `Retried` around it, asks a server that is there, however long
    its start takes. The wait ends with the run's deadline at the latest.

    Args:
        endpoint: What is asked.
        is_coming: Whether somebody is starting the server, or watches over it.
        is_ready: Whether it is there.
        longest_wait_s: Most seconds to wait for it.
        poll_s: Seconds between two looks.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        is_coming: Callable[[], bool],
        is_ready: Callable[[], Awaitable[bool]],
        longest_wait_s: float = 900.0,
        poll_s: float = 0.5,
    ) -> None:
        super().__init__(endpoint)
        self._is_coming = is_coming
        self._is_ready = is_ready
        self._longest_wait_s = longest_wait_s
        self._poll_s = poll_s

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`."""
        return await self._patiently(self.endpoint.complete(prompt, context), context)

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        """See `Endpoint.stream`."""
        try:
            async with closed_after(self.endpoint.stream(prompt, context)) as pieces:
                async for piece in pieces:
                    yield piece
        except EndpointUnavailable as error:
            await self._wait(error, context)
            raise

    async def decide(
        self,
        state: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example] = (),
    ) -> Decision:
        """See `Endpoint.decide`."""
        call = self.endpoint.decide(state, questions, context, examples=examples)
        return await self._patiently(call, context)

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """See `Endpoint.embed`."""
        return await self._patiently(self.endpoint.embed(texts, context), context)

    async def _patiently(self, call: Coroutine[Any, Any, T], context: RunContext) -> T:
        try:
            return await call
        except EndpointUnavailable as error:
            await self._wait(error, context)
            raise

    async def _wait(self, error: EndpointUnavailable, context: RunContext) -> None:
        start = time.monotonic()
        while time.monotonic() - start < self._longest_wait_s and self._is_coming():
            if await self._is_ready():
                break
            left_s = context.remaining_s()
            await asyncio.sleep(self._poll_s if left_s is None else min(self._poll_s, left_s))
        waited_s = time.monotonic() - start
        if waited_s >= self._poll_s:
            text = f"{waited_s:.0f} s waited for the server to be started again: {error}"
            context.note("retried", text, endpoint=self.name)
