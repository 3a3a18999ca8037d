"""Wrapping: what endpoints that wrap an endpoint share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

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
from moa.endpoints.closing import Closing
from moa.questions import Question
from moa.usage import Price, Tier


def unwrapped(endpoint: Endpoint) -> Endpoint:
    """Look through all that wraps an endpoint; of replicas, at the first."""
    while isinstance(endpoint, Wrapping):
        endpoint = endpoint.endpoint
    return endpoint


class Wrapping(Closing):
    """Passes everything on. A wrapper overrides what it changes, and keeps the name.

    Args:
        endpoint: What is wrapped.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @property
    def name(self) -> str:
        """Name of the endpoint that is wrapped."""
        return self.endpoint.name

    @property
    def tier(self) -> Tier:
        """Its tier."""
        return self.endpoint.tier

    @property
    def model(self) -> str:
        """Its model."""
        return self.endpoint.model

    @property
    def price(self) -> Price:
        """What it charges."""
        return self.endpoint.price

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What can be asked of it."""
        return self.endpoint.capabilities

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`."""
        return await self.endpoint.complete(prompt, context)

    def stream(self, prompt: Prompt, context: RunContext, /) -> AsyncIterator[str | Completion]:
        """See `Endpoint.stream`."""
        return self.endpoint.stream(prompt, context)

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
        return await self.endpoint.decide(state, questions, context, examples=examples)

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """See `Endpoint.embed`."""
        return await self.endpoint.embed(texts, context)

    async def close(self) -> None:
        """Close what is wrapped."""
        await self.endpoint.close()
