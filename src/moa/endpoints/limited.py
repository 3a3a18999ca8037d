"""Limited: bounds how many requests are in flight, and how many start in a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from moa.context import RunContext
from moa.endpoints import Completion, Decision, Embeddings, Endpoint, Example, Prompt
from moa.endpoints.closing import closed_after
from moa.endpoints.wrapping import Wrapping
from moa.errors import ConfigError, DeadlineExceeded
from moa.questions import Question


class Limited(Wrapping):
    """Lets requests wait for their turn, and no longer than their run's deadline.

    Args:
        endpoint: What is asked.
        concurrency: Most requests in flight, in each event loop; `None` is no limit.
        per_second: Most requests that start in a second, evenly spaced; `None` is no limit.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        concurrency: int | None = None,
        per_second: float | None = None,
    ) -> None:
        if (concurrency is not None and concurrency < 1) or (
            per_second is not None and per_second <= 0
        ):
            raise ConfigError(f"{endpoint.name}: concurrency and per_second must be positive")
        super().__init__(endpoint)
        self._concurrency = concurrency
        self._gap_s = 0.0 if per_second is None else 1.0 / per_second
        self._next_start = 0.0
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`."""
        async with self._turn(context):
            return await self.endpoint.complete(prompt, context)

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        """See `Endpoint.stream`; the whole stream counts as one request in flight."""
        stream = self.endpoint.stream(prompt, context)
        async with self._turn(context), closed_after(stream) as pieces:
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
        """See `Endpoint.decide`."""
        async with self._turn(context):
            return await self.endpoint.decide(state, questions, context, examples=examples)

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """See `Endpoint.embed`."""
        async with self._turn(context):
            return await self.endpoint.embed(texts, context)

    @asynccontextmanager
    async def _turn(self, context: RunContext) -> AsyncGenerator[None, None]:
        slots = self._of_this_loop()
        try:
            async with asyncio.timeout(context.remaining_s()):
                await slots.acquire()
        except TimeoutError as error:
            raise self._late() from error
        try:
            await self._wait_for_start(context)
            yield
        finally:
            slots.release()

    async def _wait_for_start(self, context: RunContext) -> None:
        if not self._gap_s:
            return
        now = time.monotonic()
        start = max(now, self._next_start)
        left = context.remaining_s()
        if left is not None and start - now >= left:
            raise self._late()
        self._next_start = start + self._gap_s
        if start > now:
            await asyncio.sleep(start - now)

    def _of_this_loop(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        slots = self._slots.get(loop)
        if slots is None:
            slots = self._slots[loop] = asyncio.Semaphore(self._concurrency or 2**31)
        return slots

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self.name}: the run's time was up before its turn came. "
            "Raise the limit, or give it more time"
        )
