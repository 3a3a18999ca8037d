"""BLAS: numpy and SciPy in one thread, while small arrays are at work."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib import import_module
from typing import Protocol


class _OneThread:
    """Limits numpy to one thread while in use: the first user sets the limit, the last lifts it."""

    def __init__(self) -> None:
        self._start()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        """Start without users: a forked process has none of the threads."""
        self._lock = threading.Lock()
        self._wanted = 0
        self._limit: AbstractContextManager[object] | None = None

    def begin(self) -> None:
        with self._lock:
            self._wanted += 1
            if self._wanted == 1 and (pools := _thread_pools(_has_scipys_pool())) is not None:
                self._limit = pools.limit(limits=1, user_api="blas")
                self._limit.__enter__()

    def end(self) -> None:
        with self._lock:
            self._wanted -= 1
            if not self._wanted and self._limit is not None:
                self._limit.__exit__(None, None, None)
                self._limit = None


_one_thread = _OneThread()


@contextmanager
def one_blas_thread() -> Generator[None]:
    """Limit numpy and SciPy to one thread in the block, for the whole process.

    On the small arrays of decisions a second thread gains nothing, and spins while it waits: on a
    busy machine a text took 65 ms of CPU instead of 10. Without threadpoolctl nothing changes.
    """
    _one_thread.begin()
    try:
        yield
    finally:
        _one_thread.end()


class _Pools(Protocol):
    """The used part of threadpoolctl's controller."""

    def limit(self, *, limits: int, user_api: str) -> AbstractContextManager[object]: ...


def _has_scipys_pool() -> bool:
    # The import of `scipy` alone loads no pool, but either of these does.
    return "scipy.special" in sys.modules or "scipy.linalg" in sys.modules


@cache
def _thread_pools(with_scipy: bool) -> _Pools | None:
    """Return the controller of the thread pools; `None` without threadpoolctl."""
    del with_scipy  # part of the cache key, since SciPy adds a pool of its own
    try:
        import_module("numpy")
        return import_module("threadpoolctl").ThreadpoolController()
    except ImportError:
        return None
