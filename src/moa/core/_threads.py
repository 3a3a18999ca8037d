"""Threads for users' functions: one that hangs blocks neither moa's own work nor the exit.

asyncio's own pool has few threads, and joins them at exit. These are daemons, and a call that is
no longer awaited gives its place to the next one.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from moa.core.errors import ConfigError

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class _Call:
    """A call that has a thread."""

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self.name = name
        self.work = work
        self.future = Future[Any]()
        self.future.set_running_or_notify_cancel()
        self.began = time.monotonic()
        self.is_stuck = False

    def outcome(self) -> Callable[[], None]:
        """Do the work, and return a function that reports its outcome to the caller."""
        try:
            return partial(self.future.set_result, self.work())
        except StopIteration as error:  # no future can hold one
            failure = RuntimeError("StopIteration")
            failure.__cause__ = error
            return partial(self.future.set_exception, failure)
        except BaseException as error:  # noqa: BLE001  what users wrote may raise anything
            return partial(self.future.set_exception, error)


class Threads:
    """A pool of daemon threads that detects stuck calls.

    A call is stuck if it still runs but is no longer awaited, or if it has run for `late_s` and
    another one needs its place. A thread can't be stopped, so a stuck one is left alone, and no
    longer counts towards `most`.

    """

    most = 32
    """Maximum calls at once; others wait."""
    most_stuck = 256
    """Number of stuck calls at which no further call is started."""
    most_stuck_of_one = 32
    """Number of stuck calls of one function at which it is no longer called."""
    late_s = 60.0
    """Seconds after which a call gives its place to a waiting one."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Reset the pool: a forked process has none of the threads, and perhaps a held lock."""
        self._lock = threading.Lock()
        self._calls = set[_Call]()
        self._idle: list[SimpleQueue[_Call]] = []
        self._waiting = deque[Future[None]]()
        self._warned = set[str]()

    async def run(self, work: Callable[[], T], name: str) -> T:
        """Call a function in a thread, with the caller's context variables.

        Args:
            work: The function, without arguments. It runs on if the caller is cancelled.
            name: Its name in logs and errors.

        Raises:
            ConfigError: too many calls are stuck, of this function or altogether.
        """
        work = partial(contextvars.copy_context().run, work)
        while (call := self._begin(name, work)) is None:
            await self._wait_for_turn()
        try:
            return await asyncio.wrap_future(call.future)
        except asyncio.CancelledError:
            self._leave(call)
            raise

    def count_stuck(self) -> Mapping[str, int]:
        """Count the stuck calls, by name."""
        with self._lock:
            return Counter(call.name for call in self._calls if call.is_stuck)

    def _begin(self, name: str, work: Callable[[], object]) -> _Call | None:
        """Start a call in a thread; return `None` if the pool is full."""
        stuck = self.count_stuck()
        count = stuck.get(name, 0)
        if count >= self.most_stuck_of_one or sum(stuck.values()) >= self.most_stuck:
            raise self._overload_error(name, stuck)
        with self._lock:
            if sum(not call.is_stuck for call in self._calls) >= self.most:
                return None
            call = _Call(name, work)
            calls = self._idle.pop() if self._idle else self._thread()
            self._calls.add(call)
            calls.put(call)
            return call

    def _thread(self) -> SimpleQueue[_Call]:
        calls = SimpleQueue[_Call]()
        threading.Thread(target=self._serve, args=(calls,), daemon=True, name="moa-user").start()
        return calls

    def _serve(self, calls: SimpleQueue[_Call]) -> None:
        while True:
            call = calls.get()
            tell = call.outcome()
            with self._lock:
                self._calls.discard(call)
                self._idle.append(calls)
            tell()
            self._wake()
            del call, tell  # an idle thread holds nothing of the last call

    async def _wait_for_turn(self) -> None:
        """Wait until a place may be free."""
        turn = Future[None]()
        with self._lock:
            self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._until_late()):
                await asyncio.wrap_future(turn)
        except TimeoutError:
            self._leave_late()
        except asyncio.CancelledError:
            self._wake()  # it may have been this one's turn
            raise
        finally:
            with self._lock, suppress(ValueError):
                self._waiting.remove(turn)

    def _wake(self) -> None:
        with self._lock:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(None)
                    return

    def _until_late(self) -> float:
        with self._lock:
            began = [call.began for call in self._calls if not call.is_stuck]
        return max(0.0, min(began, default=0.0) + self.late_s - time.monotonic())

    def _leave_late(self) -> None:
        with self._lock:
            cutoff = time.monotonic() - self.late_s
            late_calls = [
                call for call in self._calls if not call.is_stuck and call.began <= cutoff
            ]
        for call in late_calls:
            self._leave(call)

    def _leave(self, call: _Call) -> None:
        """Mark a call as stuck if it still runs, and log that once for each name."""
        with self._lock:
            if call not in self._calls or call.is_stuck:
                return
            call.is_stuck = True
            is_new = call.name not in self._warned
            self._warned.add(call.name)
        self._wake()
        if is_new:
            _logger.warning(
                "%s still runs in its thread after %.1f s, and nothing can stop it: "
                "give what it waits for a time limit of its own",
                call.name,
                time.monotonic() - call.began,
            )

    def _overload_error(self, name: str, stuck: Mapping[str, int]) -> ConfigError:
        functions = ", ".join(f"{function} ({count})" for function, count in sorted(stuck.items()))
        return ConfigError(
            f"{name} is not called: {sum(stuck.values())} calls of this process hang in threads "
            f"that nothing can stop: {functions}. Give what they wait for a time limit of their "
            "own, or make them asynchronous; a new process starts with none"
        )


USER_THREADS = Threads()
"""The pool of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=USER_THREADS.reset)
