"""Parallel calls, time limits, locks, and asynchronous code called from synchronous code.

Synchronous callers share one event loop, which runs in a thread of moa's own.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from typing_extensions import TypeIs

from moa.core._turns import Turns
from moa.core.errors import ConfigError, DeadlineExceeded

T = TypeVar("T")
Item = TypeVar("Item")


_LONG = 1 << 16
"""Characters whose work is done at once: some milliseconds."""


class Lock:
    """A lock for any event loop; one of asyncio's belongs to a single loop.

    Calls in different loops don't wait for each other.
    """

    def __init__(self) -> None:
        self._locks = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]()

    @asynccontextmanager
    async def hold(self, left_s: float | None) -> AsyncGenerator[None]:
        """Hold the lock for the block; raise `DeadlineExceeded` if it isn't free in time."""
        lock = self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        async with time_limit(left_s):
            await lock.acquire()
        try:
            yield
        finally:
            lock.release()


_long_texts = Turns("moa-texts")


@asynccontextmanager
async def time_limit(
    left_s: float | None, message: str = "the run's time is up"
) -> AsyncGenerator[None]:
    """Limit the block to `left_s` seconds; then raise `DeadlineExceeded`."""
    limit = asyncio.timeout(left_s)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeadlineExceeded(message) from error


async def off_loop(work: Callable[[], T], left_s: float | None, *, size: int, owner: str = "") -> T:
    """Do work on texts: on short ones at once, on long ones in a thread, one after the other.

    Owners whose texts wait take turns.

    A single call of `re` or `str` holds Python's lock until it ends, so the event loop waits for
    one such call, but never for all that are due.

    Args:
        work: Function to call; it can't be stopped.
        left_s: Seconds to wait for those before; `None`: as long as it takes.
        size: Characters of the texts.
        owner: Owner of the run that they are of.

    Raises:
        DeadlineExceeded: those before took too long; `work` was not called.
    """
    if size <= _LONG:
        return work()
    return await _long_texts.take(owner, work, limit=lambda: time_limit(left_s))


async def gather(calls: Iterable[Coroutine[object, object, T]]) -> list[T]:
    """Await calls in parallel. If one fails, cancel the others and raise only its error."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return [task.result() for task in tasks]


def is_group(error: BaseException) -> TypeIs[BaseExceptionGroup[BaseException]]:
    """Return True if an error is a group of errors."""
    return isinstance(error, BaseExceptionGroup)


def first_error(error: BaseException) -> BaseException:
    """Return the first error in a group, even if nested; return any other error unchanged."""
    while is_group(error):
        error = error.exceptions[0]
    return error


async def cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel tasks, and wait until they end. Their errors are dropped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def map_async(
    function: Callable[[Item], Awaitable[T]], items: Iterable[Item], *, max_concurrency: int
) -> list[T]:
    """Call a function with each item, at most `max_concurrency` at once; keep the order.

    Items are taken one by one, as earlier calls end.
    """
    results: dict[int, T] = {}
    left = iter(enumerate(items))

    async def work() -> None:
        for index, item in left:
            results[index] = await function(item)

    await gather(work() for _ in range(max_concurrency))
    return [results[index] for index in sorted(results)]


class _Loop(threading.Thread):
    """An event loop that runs in a thread until the process ends."""

    def __init__(self) -> None:
        super().__init__(name="moa", daemon=True)
        self._ready = threading.Event()
        self.start()
        self._ready.wait()

    def run(self) -> None:
        """Run the loop."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._ending.wait()

    def end(self) -> None:
        """Stop the loop, which cancels its tasks and closes its generators."""
        if self.is_alive():
            self.loop.call_soon_threadsafe(self._ending.set)
            self.join(timeout=_LONGEST_END_S)


_LONGEST_END_S = 5.0
_lock = threading.Lock()
_started: list[_Loop] = []


def run_sync(work: Callable[[], Coroutine[object, object, T]]) -> T:
    """Run a coroutine in the event loop of moa's thread, and return its result."""
    with _lock:
        if not _started or not _started[-1].is_alive():  # a forked process has no threads
            _started.append(_Loop())
            atexit.register(_started[-1].end)
        loop = _started[-1].loop
    if asyncio.events._get_running_loop() is loop:
        raise ConfigError(
            "run_sync, map_sync or stream_sync is called by what such a run awaits: "
            "use `await node.run(…)`"
        )
    future = asyncio.run_coroutine_threadsafe(work(), loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()  # such as by Ctrl-C
        raise


@asynccontextmanager
async def closing_stream(pieces: AsyncIterator[T]) -> AsyncGenerator[AsyncIterator[T], None]:
    """Close a stream at the end of the block, even if left early, so that its call is settled.

    An iterator that isn't a generator needs no closing.
    """
    try:
        yield pieces
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


def iterate_sync(source: AsyncGenerator[T]) -> Generator[T]:
    """Iterate over an asynchronous generator in synchronous code; close it at the end."""

    async def following() -> T:
        return await anext(source)

    try:
        with suppress(StopAsyncIteration):
            while True:
                yield run_sync(following)
    finally:
        run_sync(source.aclose)
