"""Retried: asks again after failures that asking again can mend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from moa.context import RunContext
from moa.endpoints import Completion, Decision, Embeddings, Endpoint, Example, Prompt
from moa.endpoints.closing import closed_after
from moa.endpoints.wrapping import Wrapping
from moa.errors import ConfigError, EndpointError, MoaError
from moa.questions import Question

T = TypeVar("T")


class Retried(Wrapping):
    """Asks again after a retryable error, and says so in the trace.

    Waits grow exponentially with full jitter; a server that says when to come back is obeyed. A
    wait that would end after the run's deadline is not begun: the error is raised at once. Each
    try is charged, as it is sent.

    Args:
        endpoint: What is asked.
        attempts: Most tries, the first included.
        first_wait_s: Most seconds before the second try; doubles with each further one.
        longest_wait_s: Most seconds between two tries, unless the server asks for more.
        longest_asked_s: Most seconds to wait because the server asks for it. Where it asks for
            more, its error, which says how long, is raised at once.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        attempts: int = 3,
        first_wait_s: float = 0.5,
        longest_wait_s: float = 20.0,
        longest_asked_s: float = 60.0,
    ) -> None:
        if attempts < 1 or min(first_wait_s, longest_wait_s, longest_asked_s) < 0:
            raise ConfigError(f"{endpoint.name}: attempts must be positive, and waits not negative")
        super().__init__(endpoint)
        self._attempts = attempts
        self._first_wait_s = first_wait_s
        self._longest_wait_s = longest_wait_s
        self._longest_asked_s = longest_asked_s

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`; raises the last error."""
        return await self._again(lambda: self.endpoint.complete(prompt, context), context)

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        """See `Endpoint.stream`; asks again only before the first piece."""

        async def start() -> tuple[AsyncIterator[str | Completion], str | Completion]:
            pieces = self.endpoint.stream(prompt, context)
            return pieces, await anext(pieces)

        pieces, first = await self._again(start, context)
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
        """See `Endpoint.decide`; raises the last error."""

        def ask() -> Awaitable[Decision]:
            return self.endpoint.decide(state, questions, context, examples=examples)

        return await self._again(ask, context)

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """See `Endpoint.embed`; raises the last error."""
        return await self._again(lambda: self.endpoint.embed(texts, context), context)

    async def _again(self, ask: Callable[[], Awaitable[T]], context: RunContext) -> T:
        try:
            return await ask()  # most calls succeed, and pay nothing for tenacity
        except MoaError as error:
            if not error.retryable or self._attempts == 1:
                raise
            return await self._with_waits(ask, context, error)

    async def _with_waits(
        self, ask: Callable[[], Awaitable[T]], context: RunContext, failed: MoaError
    ) -> T:
        from tenacity import (
            AsyncRetrying,
            RetryCallState,
            retry_if_exception,
            wait_random_exponential,
        )

        jittered = wait_random_exponential(self._first_wait_s, max=self._longest_wait_s)

        def wait(state: RetryCallState) -> float:
            return max(jittered(state), _asked_s(state))

        def is_last(state: RetryCallState) -> bool:
            left = context.remaining_s()
            no_time = left is not None and state.upcoming_sleep >= left
            too_long = _asked_s(state) > self._longest_asked_s
            return no_time or too_long or state.attempt_number >= self._attempts

        def note(state: RetryCallState) -> None:
            text = f"after {state.upcoming_sleep:.1f} s: {_error(state)}"
            context.note("retried", text, endpoint=self.name)

        errors = [failed]

        async def attempt() -> T:
            if errors:
                raise errors.pop()  # the first try has been made
            return await ask()

        retrying = AsyncRetrying(
            retry=retry_if_exception(_retryable),
            wait=wait,
            stop=is_last,
            before_sleep=note,
            reraise=True,
        )
        return await retrying(attempt)


def _retryable(error: BaseException) -> bool:
    return isinstance(error, MoaError) and error.retryable


def _asked_s(state: object) -> float:
    error = _error(state)
    return (error.retry_after_s or 0.0) if isinstance(error, EndpointError) else 0.0


def _error(state: object) -> BaseException | None:
    outcome = getattr(state, "outcome", None)
    return None if outcome is None else outcome.exception()
