"""Calls side by side: one failure is raised, the rest is cancelled; and who waits for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")
Item = TypeVar("Item")


class Lock:
    """A lock for calls of any event loop; one of asyncio's belongs to a single loop.

    Calls of different loops don't wait for each other.
    """

    def __init__(self) -> None:
        self._locks = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]()

    async def __aenter__(self) -> None:
        await self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()).acquire()

    async def __aexit__(self, *_: object) -> None:
        self._locks[asyncio.get_running_loop()].release()


async def gather(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await several calls side by side; where some fail the first failure is raised, alone."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return [task.result() for task in tasks]


async def cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel tasks, and wait until they have ended; what they raise is let go."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def map_async(
    function: Callable[[Item], Awaitable[T]], items: Iterable[Item], *, max_concurrency: int
) -> list[T]:
    """Call a function with each item, a few at once, and give what it returns in their order.

    Args:
        function: What is called.
        items: They are taken one by one, as earlier calls end.
        max_concurrency: Calls at once.
    """
    found: dict[int, T] = {}
    left = iter(enumerate(items))

    async def work() -> None:
        for place, item in left:
            found[place] = await function(item)

    await gather(work() for _ in range(max_concurrency))
    return [found[place] for place in sorted(found)]
