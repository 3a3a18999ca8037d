"""Batch: many rows through one node, some at a time, out as they are finished."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import chain
from typing import Any

from moa.context import RunContext
from moa.errors import MoaError, NodeError
from moa.node import Node
from moa.rows import Item, Malformed, Row, finished

Rows = Iterator[Row | Malformed]
Work = Callable[[Row], Awaitable[Item]]


async def through(
    rows: Rows, work: Work, done: Callable[[Item], None], *, concurrency: int, live: bool = False
) -> None:
    """Work on every row, begun in their order, and hand over each item as it is finished.

    Args:
        rows: Read as they are needed.
        work: Makes the item of a row; its errors are its own to handle.
        done: Called with each item, at once.
        concurrency: Most rows worked on at once.
        live: Whether reading a row can wait for somebody, as on a pipe; it is done aside then.
    """
    found = _aside(rows) if live else _inline(rows)
    turn = asyncio.Lock()

    async def worker() -> None:
        while True:
            async with turn:
                row = await anext(found, None)
            if row is None:
                return
            done(malformed(row) if isinstance(row, Malformed) else await work(row))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def malformed(row: Malformed) -> Item:
    """Make the item of a line that is none."""
    return Item(row=row, status="failed", error=f"line {row.number} is malformed: {row.error}")


async def run_one(
    node: Node[Any, object], row: Row, read: Callable[[Any], object], context: RunContext
) -> Item:
    """Run a node on one row; whatever goes wrong is this item's alone.

    Args:
        node: The agent or graph.
        row: The item of input.
        read: Turns the row's value into the node's input.
        context: The context of the whole batch; the item runs in one nested in it.
    """
    own = context.nested()
    start = time.perf_counter()
    try:
        return finished(row, await node.run(read(row.value), own))
    except MoaError as error:
        problem = error
    except Exception as error:  # noqa: BLE001  a bug in a user's node must not stop the other rows
        problem = NodeError(node.name, error)
    return Item(
        row=row,
        status="failed",
        error=f"{type(problem).__name__}: {problem}",
        seconds=time.perf_counter() - start,
        usage=own.usage,
        trace=own.trace,
    )


async def _inline(rows: Rows) -> AsyncIterator[Row | Malformed]:
    for row in rows:
        yield row


async def _aside(rows: Rows) -> AsyncIterator[Row | Malformed]:
    """Read in a thread that nobody waits for when the run is stopped."""
    loop = asyncio.get_running_loop()
    read: asyncio.Queue[Row | Malformed | MoaError | None] = asyncio.Queue(maxsize=64)

    def hand_over(found: Row | Malformed | MoaError | None) -> None:
        asyncio.run_coroutine_threadsafe(read.put(found), loop).result()

    def keep_reading() -> None:
        with suppress(RuntimeError, CancelledError):  # the run has ended before the rows did
            try:
                for row in chain(rows, (None,)):
                    hand_over(row)
            except MoaError as error:
                hand_over(error)

    threading.Thread(target=keep_reading, daemon=True, name="moa-rows").start()
    while (row := await read.get()) is not None:
        if isinstance(row, MoaError):
            raise row
        yield row
