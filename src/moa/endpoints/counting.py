"""Counting: how many tokens a text has for a model, by its own tokenizer where there is one."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.endpoints.metering import approximate_tokens
from moa.endpoints.wrapping import unwrapped
from moa.errors import EndpointError


@runtime_checkable
class CountsTokens(Protocol):
    """An endpoint whose server lends its tokenizer. Counting is free, and charged nowhere."""

    async def count_tokens(self, text: str, context: RunContext, /) -> int:
        """Count the tokens of a text, in which nothing is a control token.

        Raises:
            EndpointError: the request failed.
            DeadlineExceeded: the run's time is up.
        """
        ...


async def tokens_of(endpoint: Endpoint | None, text: str, context: RunContext) -> int:
    """Count tokens by the endpoint's tokenizer, else approximately, on the safe side.

    Args:
        endpoint: Who will read the text; wrappers are looked through. `None` is unknown.
        text: Any text.
        context: Deadline of the run.

    Raises:
        DeadlineExceeded: the run's time is up.
    """
    server = None if endpoint is None else unwrapped(endpoint)
    if text and isinstance(server, CountsTokens):
        try:
            return await server.count_tokens(text, context)
        except EndpointError:  # it lends none after all; a safe count does as well
            return approximate_tokens(text)
    return approximate_tokens(text)


def window_of(endpoint: Endpoint | None) -> int | None:
    """Tokens that fit into one request, prompt and answer together; `None` is unknown."""
    server = None if endpoint is None else unwrapped(endpoint)
    window: object = getattr(server, "context_window", None)
    return window if isinstance(window, int) else None


def concurrency_of(endpoint: Endpoint) -> int | None:
    """Requests that an endpoint works on at once, while further ones wait; `None` is unknown."""
    most: object = getattr(unwrapped(endpoint), "concurrency", None)
    return most if isinstance(most, int) else None
