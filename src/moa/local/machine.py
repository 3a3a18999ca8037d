"""Machine: the cores and memory that this process may use, and NVIDIA's GPU library."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def usable_cores() -> int:
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
            siblings.add((_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip())
        except OSError:
            siblings.add(str(cpu))
    try:
        share, period = (_CGROUP / "cpu.max").read_text().split()
        limit = max(1, round(int(share) / int(period)))
    except (OSError, ValueError):  # not in a container, or without a limit
        limit = len(siblings)
    return max(1, min(len(siblings), limit))


class Memory(NamedTuple):
    """Bytes of RAM that this process may use."""

    total: int
    free: int


def usable_memory() -> Memory:
    """Return this machine's memory, or the limit of this process's container if that is lower."""
    import psutil

    memory = psutil.virtual_memory()
    for limit_file, usage_file in _LIMITS:
        try:
            limit = int((_CGROUP / limit_file).read_text())
            free = limit - int((_CGROUP / usage_file).read_text())
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
