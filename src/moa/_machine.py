"""Machine: how much of it this process may use: cores, memory, and the library of NVIDIA's GPUs."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
_QUOTA = _CGROUP / "cpu.max"
_LIMITS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def usable_cores(*, cpus: Path = _CPUS, quota: Path = _QUOTA) -> int:
    """Count the physical cores that this process may use, at least 1.

    Two threads of one core count once, since arithmetic gains nothing from the second; so do only
    the processors that this process is bound to, and no more than its container's quota.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
    else:
        allowed = set(range(os.cpu_count() or 1))
    siblings: set[str] = set()
    for cpu in allowed:
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


class Memory(NamedTuple):
    """Bytes of RAM that this process may use."""

    total: int
    free: int


def usable_memory(*, cgroup: Path = _CGROUP) -> Memory:
    """Read this machine's memory, and hold it against the limit of this process's container."""
    import psutil

    found = psutil.virtual_memory()
    for limit, used in _LIMITS:
        try:
            most = int((cgroup / limit).read_text())
            left = most - int((cgroup / used).read_text())
        except (OSError, ValueError):  # not in a container, or without a limit
            continue
        return Memory(min(found.total, most), max(0, min(found.available, left)))
    return Memory(found.total, found.available)


def nvidia() -> tuple[Any, int]:
    """Start `pynvml`, for as long as the process lives, and count the GPUs that the driver knows.

    The count is 0 where there is no driver, or the package is not installed.
    """
    try:
        library: Any = import_module("pynvml")
    except ImportError:
        return None, 0
    try:
        library.nvmlInit()
        return library, library.nvmlDeviceGetCount()
    except library.NVMLError:
        return library, 0
