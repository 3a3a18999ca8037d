"""Small nodes for tests of graphs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from moa.context import RunContext
from moa.endpoints import Endpoint, Prompt
from moa.node import Result, finish


@dataclass(frozen=True)
class Timed:
    """Gives back what it is given, after some time."""

    name: str
    seconds: float

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        await asyncio.sleep(self.seconds)
        return Result(output=request)


@dataclass(frozen=True)
class Asker:
    """Asks an endpoint once."""

    name: str
    endpoint: Endpoint

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        own = (context or RunContext()).nested(self.name)
        answer = await self.endpoint.complete(Prompt.of(request), own)
        return finish(answer.text, own, seconds=0.0)
