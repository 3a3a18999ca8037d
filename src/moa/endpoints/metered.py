"""Metered: charges what an endpoint on this machine takes in energy to the runs that ask it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

from moa.context import RunContext
from moa.endpoints import Completion, Decision, Embeddings, Endpoint, Example, Prompt
from moa.endpoints.closing import closed_after
from moa.endpoints.wrapping import Wrapping
from moa.energy import Meter
from moa.errors import ConfigError
from moa.questions import Question
from moa.usage import NOTHING, Amount

_NO_TIME = 1e-12
"""Seconds of a charge for energy alone: those of the call are charged by the endpoint itself."""


class Metered(Wrapping):
    """Adds measured joules to the usage of each call, and their price.

    What the machine takes while calls are in flight is shared among them in equal parts, so that
    it adds up. Whatever else runs on the machine meanwhile is in it.

    Args:
        endpoint: A model that runs on this machine.
        meter: Measures it; see `moa.energy.meter`.

    Raises:
        ConfigError: the meter only estimates; an estimate is no usage.
    """

    def __init__(self, endpoint: Endpoint, meter: Meter) -> None:
        if not meter.measured:
            raise ConfigError(
                f"{endpoint.name}: no energy is measured on this machine, and an estimate "
                f"({meter.source}) is not charged as usage: read the meter yourself"
            )
        super().__init__(endpoint)
        self._meter = meter
        self._last = meter.joules()
        self._open: dict[int, float] = {}
        self._numbers = count()

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        """See `Endpoint.complete`."""
        async with self._charged(context):
            return await self.endpoint.complete(prompt, context)

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        """See `Endpoint.stream`."""
        stream = self.endpoint.stream(prompt, context)
        async with self._charged(context), closed_after(stream) as pieces:
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
        async with self._charged(context):
            return await self.endpoint.decide(state, questions, context, examples=examples)

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        """See `Endpoint.embed`."""
        async with self._charged(context):
            return await self.endpoint.embed(texts, context)

    @asynccontextmanager
    async def _charged(self, context: RunContext) -> AsyncGenerator[None]:
        with await context.reserve(self.name, self.tier, NOTHING) as charge:
            number = next(self._numbers)
            self._share()
            self._open[number] = 0.0
            try:
                yield
            finally:
                self._share()
                spent = Amount(joules=self._open.pop(number), seconds=_NO_TIME)
                charge.settle(self.price.charge(spent))

    def _share(self) -> None:
        """Give each call in flight its part of what was taken since the last look."""
        now = self._meter.joules()
        for number in self._open:
            self._open[number] += (now - self._last) / len(self._open)
        self._last = now
