"""Turns: work of many milliseconds, one after the other in a thread, fairly by caller.

Python's lock belongs to one thread at a time, so more threads would end nothing sooner, and each
would delay the event loop. Whoever has many requests waits for these, and others for one of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import copy_context
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")
_CREDIT_S = 0.25
"""Seconds that a late turn may make up for. Without them, a busy event loop slows the pace too."""


class Turns:
    """A thread for work of one kind, in each event loop.

    Callers take turns: of each that waits, one piece of work is done, in the order of its coming.

    Args:
        kind: Name of the thread.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._lines = WeakKeyDictionary[asyncio.AbstractEventLoop, _Line]()

    async def take(
        self,
        name: str,
        work: Callable[[], T],
        *,
        least_s: float = 0.0,
        limit: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
    ) -> T:
        """Do work in the thread once it is the caller's turn.

        Args:
            name: Name of the caller.
            work: The work. Once begun it isn't stopped, and keeps its turn until it ends. It sees
                the caller's context variables.
            least_s: Seconds before the next turn, from the beginning of this one, on average.
            limit: Limits the wait for the turn.
        """
        loop = asyncio.get_running_loop()
        line = self._lines.get(loop) or self._lines.setdefault(loop, _Line(self._kind))
        async with limit():
            await line.wait(name)
        return await asyncio.shield(line.begin(work, least_s))


class _Line:
    """Who waits in an event loop."""

    def __init__(self, kind: str) -> None:
        self._thread = ThreadPoolExecutor(1, kind)
        self._is_taken = False
        self._ends_at = 0.0
        """When the turn may end, by the clock of the loop."""
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """Who waits, by the caller's name. The first caller's turn is next."""

    async def wait(self, name: str) -> None:
        """Wait until it is the caller's turn."""
        if not self._is_taken:
            self._is_taken = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(name, turn)
            else:  # the turn has come at the same moment
                self._pass_on()
            raise

    def begin(self, work: Callable[[], T], least_s: float) -> asyncio.Future[T]:
        """Begin the work whose turn it is. The turn ends with it, but not before `least_s`."""
        loop = asyncio.get_running_loop()
        self._ends_at = max(self._ends_at, loop.time() - _CREDIT_S) + least_s
        try:
            working = loop.run_in_executor(self._thread, copy_context().run, work)
        except RuntimeError:  # this machine gives no thread
            self._pass_on()
            raise

        def end(done: asyncio.Future[Any]) -> None:
            if not done.cancelled():
                done.exception()  # retrieve it, or asyncio reports it if nobody waits
            loop.call_at(self._ends_at, self._pass_on)

        working.add_done_callback(end)
        return working

    def _leave(self, name: str, turn: asyncio.Future[None]) -> None:
        line = self._waiting.get(name)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._waiting[name]

    def _pass_on(self) -> None:
        """Give the turn to the next caller, which then goes to the end."""
        while self._waiting:
            name = next(iter(self._waiting))
            line = self._waiting.pop(name)
            turn = line.popleft()
            if line:
                self._waiting[name] = line
            if not turn.cancelled():
                turn.set_result(None)
                return
        self._is_taken = False
