"""Machine: the cores and memory that this process may use, and NVIDIA's GPU library."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
_QUOTA = _CGROUP / "cpu.max"
_LIMITS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def usable_cores(*, cpus: Path = _CPUS, quota: Path = _QUOTA) -> int:
    """Count the physical cores that this process may use, at least 1.

    Two threads of one core count once, since arithmetic gains nothing from the second. Only
    processors that this process is bound to count, and at most its container's quota.
    """
    if hasattr(os, "sched_getaffinity"):
        cpu_ids = os.sched_getaffinity(0)
    else:
        cpu_ids = set(range(os.cpu_count() or 1))
    siblings: set[str] = set()
    for cpu in cpu_ids:
        try:
            siblings.add((cpus / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip())
        except OSError:
            siblings.add(str(cpu))
    try:
        share, period = quota.read_text().split()
        limit = max(1, round(int(share) / int(period)))
    except (OSError, ValueError):  # not in a container, or without a limit
        limit = len(siblings)
    return max(1, min(len(siblings), limit))


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


class Memory(NamedTuple):
    """Bytes of RAM that this process may use."""

    total: int
    free: int


def usable_memory(*, cgroup: Path = _CGROUP) -> Memory:
    """Return this machine's memory, or the limit of this process's container if that is lower."""
    import psutil

    memory = psutil.virtual_memory()
    for limit_file, usage_file in _LIMITS:
        try:
            limit = int((cgroup / limit_file).read_text())
            free = limit - int((cgroup / usage_file).read_text())
        except (OSError, ValueError):  # not in a container, or without a limit
            continue
        return Memory(min(memory.total, limit), max(0, min(memory.available, free)))
    return Memory(memory.total, memory.available)


def start_nvml() -> tuple[ModuleType, int]:
    """Start `pynvml` for the life of the process, and count the driver's GPUs.

    The count is 0 if there is no driver, or the package is not installed.
    """
    try:
        library = import_module("pynvml")
    except ImportError:
        return ModuleType("pynvml"), 0
    try:
        library.nvmlInit()
        return library, library.nvmlDeviceGetCount()
    except library.NVMLError:
        return library, 0
