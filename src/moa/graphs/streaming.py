"""Streaming: a run told while it goes on, of any node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from moa.context import RunContext
from moa.node import Node, Result
from moa.trace import Event

In = TypeVar("In")
Out = TypeVar("Out")


async def streamed(
    node: Node[In, Out], request: In, context: RunContext | None = None, /
) -> AsyncIterator[Event | Result[Out]]:
    """Run, and tell what happens while it happens. The result comes last.

    Leaving the loop early cancels the run.

    Args:
        node: What runs.
        request: The input.
        context: Budget, deadline and ledger; `None` starts one without limits.

    Raises:
        MoaError: as `node.run`.
    """
    seen: asyncio.Queue[Event | None] = asyncio.Queue()
    outer = context or RunContext()
    inner = outer.nested()

    def listen(event: Event) -> None:
        seen.put_nowait(event)
        outer.emit(event)

    inner.listener = listen
    running = asyncio.ensure_future(node.run(request, inner))
    running.add_done_callback(lambda _: seen.put_nowait(None))
    try:
        while (event := await seen.get()) is not None:
            yield event
        yield await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
