"""Cores and memory: how much of this machine's a process may really use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")
_QUOTA = _CGROUP / "cpu.max"


def usable_cores(*, cpus: Path = _CPUS, quota: Path = _QUOTA) -> int:
    """Count the physical cores that this process may use, at least 1.

    Two threads of one core count once, since arithmetic gains nothing from the second; so do only
    the processors that this process is bound to, and no more than its container's quota.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
    else:
        allowed = set(range(os.cpu_count() or 1))
    cores = {_siblings(cpus, cpu) for cpu in allowed}
    return max(1, min(len(cores), _limit(quota)))


class Memory(NamedTuple):
    """Bytes of RAM that this process may use."""

    total: int
    free: int


def usable_memory(*, cgroup: Path = _CGROUP) -> Memory:
    """Read this machine's memory, and hold it against the limit of this process's container."""
    import psutil

    found = psutil.virtual_memory()
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most = int((cgroup / limit).read_text())
            left = most - int((cgroup / used).read_text())
        except (OSError, ValueError):  # not in a container, or without a limit
            continue
        return Memory(min(found.total, most), max(0, min(found.available, left)))
    return Memory(found.total, found.available)


def _siblings(cpus: Path, cpu: int) -> str:
    try:
        return (cpus / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _limit(quota: Path) -> int:
    try:
        allowed, period = quota.read_text().split()
        return max(1, round(int(allowed) / int(period)))
    except (OSError, ValueError):  # not in a container, or without a limit
        return os.cpu_count() or 1
