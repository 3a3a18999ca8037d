"""Batch: many rows through one node, some at a time, out in the order they came in."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import chain
from typing import Any

from moa.cli.items import Item, Malformed, Row, finished
from moa.context import RunContext
from moa.errors import MoaError, NodeError
from moa.node import Node

AHEAD = 4
"""How many times `concurrency` rows may be read before the first of them is done, so that one slow
item doesn't hold up the others and memory stays bounded."""

Rows = Iterator[Row | Malformed]
Work = Callable[[Row], Awaitable[Item]]
Begun = asyncio.Queue[asyncio.Task[Item] | Item | None]


async def through(
    rows: Rows, work: Work, done: Callable[[Item], None], *, concurrency: int, live: bool = False
) -> None:
    """Work on every row and hand over each item, in the order of the rows.

    Args:
        rows: Read as they are needed.
        work: Makes the item of a row; its errors are its own to handle.
        done: Called with each item; after a cancellation, with those that were finished by then.
        concurrency: Most rows worked on at once.
        live: Whether reading a row can wait for somebody, as on a pipe; it is done aside then.
    """
    try:
        async with asyncio.TaskGroup() as group:
            await _through(group, _aside(rows) if live else _inline(rows), work, done, concurrency)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _through(
    group: asyncio.TaskGroup,
    rows: AsyncIterator[Row | Malformed],
    work: Work,
    done: Callable[[Item], None],
    concurrency: int,
) -> None:
    begun: Begun = asyncio.Queue()
    ahead = asyncio.Semaphore(AHEAD * concurrency)
    free = asyncio.Semaphore(concurrency)

    async def one(row: Row) -> Item:
        async with free:
            return await work(row)

    async def begin() -> None:
        async for row in rows:
            await ahead.acquire()
            ready = isinstance(row, Malformed)
            begun.put_nowait(malformed(row) if ready else group.create_task(one(row)))
        begun.put_nowait(None)

    group.create_task(begin())
    try:
        while (item := await begun.get()) is not None:
            done(item if isinstance(item, Item) else await item)
            ahead.release()
    except asyncio.CancelledError:
        for item in _done_already(begun):
            done(item)
        raise


def _done_already(begun: Begun) -> Iterator[Item]:
    while not begun.empty():
        item = begun.get_nowait()
        if isinstance(item, Item):
            yield item
        elif item is not None and item.done() and not item.cancelled() and not item.exception():
            yield item.result()


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
    read: asyncio.Queue[Row | Malformed | None] = asyncio.Queue(maxsize=64)

    def keep_reading() -> None:
        with suppress(RuntimeError, CancelledError):  # the run has ended before the rows did
            for row in chain(rows, (None,)):
                asyncio.run_coroutine_threadsafe(read.put(row), loop).result()

    threading.Thread(target=keep_reading, daemon=True, name="moa-rows").start()
    while (row := await read.get()) is not None:
        yield row
