"""Small nodes and endpoints for tests of graphs, and what they left in the trace."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from moa.context import RunContext
from moa.endpoints import Endpoint, Prompt
from moa.node import Result, finish
from moa.testing import ScriptedEndpoint, SimulatedEndpoint, Step


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


def large(*steps: Step) -> ScriptedEndpoint:
    """A large model that answers by a script."""
    return ScriptedEndpoint(name="large", tier="llm", steps=steps)


def tiny() -> SimulatedEndpoint:
    """A model that is too small to write; nobody may ask it to."""
    return SimulatedEndpoint(name="tiny", model="SmolLM2-135M-Instruct.Q4_1")


def notes(result: Result[object], kind: str) -> list[str]:
    """What notes of a kind say, in order."""
    return [note.text for note in result.trace if note.kind == kind]
