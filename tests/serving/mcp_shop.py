"""What the tests of MCP serve: no node asks a model that isn't here, and some misbehave."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field

from moa import Agent, Graph, Price, Result
from moa.core.errors import ConfigError, InputError
from moa.graphs import BuiltGraph
from moa.testing import SimulatedEndpoint

In = TypeVar("In")
Out = TypeVar("Out")
sys.stdout.write("loaded\n")  # as files of users do


class Order(BaseModel):
    """An order of a shop."""

    item: str
    pieces: int = Field(1, ge=1)


class Bill(BaseModel):
    """What an order costs."""

    item: str
    total: float


async def priced(order: Order) -> Bill:
    if order.item == "gold":
        raise InputError("gold is sold out: order pens")
    if order.item == "ink":
        raise ConfigError("$INK_KEY is missing: put the key into it")
    return Bill(item=order.item, total=2.5 * order.pieces)


async def _loud(text: str) -> str:
    return text.upper()


async def _printed(text: str) -> list[str]:
    sys.stdout.write("printed\n")
    os.write(1, b"written past Python\n")
    await asyncio.to_thread(subprocess.run, ["echo", "said by a child"], check=True)
    return text.split()


async def _failed(text: str) -> str:
    raise ValueError(f"the password is {text}")


class Waits:
    """Waits until it is cancelled, and counts that; its request is a file to write it into."""

    name = "wait"
    input_type, output_type = str, str

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0

    async def run(self, request: str, context: object = None, /) -> Result[str]:
        self.begun += 1
        try:
            await asyncio.sleep(600)
        finally:
            for _ in range(3):  # what has to be settled is awaited
                await asyncio.sleep(0)
            self.cancelled += 1
            if request:
                await asyncio.to_thread(Path(request).write_text, "cancelled")
        return Result(output=request)


def _graph(name: str, kind: type[In], work: Callable[[In], Awaitable[Out]]) -> BuiltGraph[In, Out]:
    g = Graph(name, kind)
    return g.build(g.add(work, g.input))


price = _graph("price", Order, priced)
loud = _graph("loud", str, _loud)
noisy = _graph("noisy", str, _printed)
broken = _graph("broken", str, _failed)
wait = Waits()
COSTS_A_DOLLAR = Price(input=Decimal(100_000), output=Decimal(0))
dear = Agent(SimulatedEndpoint(price=COSTS_A_DOLLAR), "Greet.", name="dear")
slow = Agent(SimulatedEndpoint(latency_s=600), "Greet.", name="slow")
