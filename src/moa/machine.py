"""Machine: what a computer has for models to run on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from moa.advisor.hardware import GIB, card
from moa.endpoints.cores import usable_cores
from moa.errors import ConfigError, MissingDependency

_CGROUP = Path("/sys/fs/cgroup")
_BOARD = Path("/proc/device-tree/model")
_SYSTEM_SHARE = 0.75
"""Part of memory shared with the processor that macOS and Jetson leave to a GPU: Metal's
`recommendedMaxWorkingSetSize` is two thirds to three quarters of RAM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GPU:
    """One graphics card, or the graphics part of a chip."""

    name: str
    memory: int
    """Bytes, of which `free` are free."""
    free: int
    capability: tuple[int, int] | None = None
    """CUDA compute capability; `None`: no CUDA, or not known."""
    bandwidth: float | None = None
    """Bytes a second of its memory, as the driver's bus width and clock say; `None`: not known."""
    shared: bool = False
    """Whether its memory is the machine's RAM."""

    @classmethod
    def named(cls, name: str, *, memory: int | None = None) -> GPU:
        """Describe a known card by its name, with nothing on it.

        Args:
            name: Such as `L4`, `NVIDIA A100-SXM4-80GB` or `Jetson Orin 8GB`.
            memory: Bytes; `None`: as its maker says.

        Raises:
            ConfigError: it is none of the known cards, and its memory isn't given.
        """
        known = card(name)
        if known is None:
            if memory is None:
                raise ConfigError(
                    f"the GPU {name!r} is not known to moa: say how much memory it has, as in "
                    f'"{name}:1:24GB"'
                )
            return cls(name=name, memory=memory, free=memory)
        size = memory or known.memory
        usable = int(size * _SYSTEM_SHARE) if known.shared else size
        return cls(
            name=known.name,
            memory=usable,
            free=usable,
            capability=known.capability,
            shared=known.shared,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """A battery, and whether it is being used up."""

    plugged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A computer: this one as `machine()` reads it, or one that is described."""

    cores: int
    """Physical cores that may be used."""
    ram: int
    """Bytes that may be used, a container's limit included."""
    ram_free: int
    gpus: tuple[GPU, ...] = ()
    battery: Battery | None = None
    """`None`: it has none."""
    disk_free: int | None = None
    """Bytes where `moa` keeps its models; `None`: not known."""
    online: bool = True
    """Whether it may use a network while it runs. Never probed: whoever describes it says so."""

    @property
    def hardware(self) -> str:
        """What doesn't change from one hour to the next, by which measurements know it again."""
        parts = [f"{self.cores} cores", f"{self.ram / GIB:.0f} GiB of RAM"]
        for name in dict.fromkeys(gpu.name for gpu in self.gpus):
            same = [gpu for gpu in self.gpus if gpu.name == name]
            parts.append(f"{len(same)} x {name} with {same[0].memory / GIB:.0f} GiB")
        if not self.gpus:
            parts.append("no GPU")
        return ", ".join(parts)

    def __str__(self) -> str:
        parts = [self.hardware]
        if self.battery:
            parts.append("on mains" if self.battery.plugged else "on its battery")
        return ", ".join(parts) + ("" if self.online else ", without a network")


def machine(*, online: bool = True, folder: Path | None = None) -> Machine:
    """Read what this machine has: cores, RAM, GPUs, battery, disk. Starts and sends nothing.

    A container's limits hold. A machine without NVIDIA's driver has no NVIDIA GPU; that is no
    error.

    Args:
        online: Whether it may use a network; never probed.
        folder: Where free disk is counted; `None`: the current folder.

    Raises:
        MissingDependency: psutil is not installed.
    """
    try:
        psutil: Any = import_module("psutil")
    except ImportError as error:
        purpose = "to read the memory of this machine"
        raise MissingDependency("psutil", extra="local", purpose=purpose) from error
    memory = psutil.virtual_memory()
    ram, free = _contained(memory.total, memory.available, _CGROUP)
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return Machine(
        cores=usable_cores(),
        ram=ram,
        ram_free=free,
        gpus=_nvidia() or _on_chip(ram, free),
        battery=None if battery is None else Battery(plugged=battery.power_plugged is not False),
        disk_free=shutil.disk_usage(folder or Path.cwd()).free,
        online=online,
    )


def _contained(total: int, available: int, cgroup: Path) -> tuple[int, int]:
    """Hold the machine's memory against the limit of this process's container."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most = int((cgroup / limit).read_text())
            now = int((cgroup / used).read_text())
        except (OSError, ValueError):  # not in a container, or without a limit
            continue
        if most < total:
            return most, max(0, min(available, most - now))
    return total, available


def _nvidia() -> tuple[GPU, ...]:
    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver, so no GPU
        return ()
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in _visible(nvml.nvmlDeviceGetCount())]
        return tuple(gpu for gpu in (_read(nvml, handle) for handle in handles) if gpu)
    finally:
        nvml.nvmlShutdown()


def _visible(count: int) -> list[int]:
    """Number the GPUs that this process may use; a list of identifiers hides none."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [] if listed is None else listed.replace(" ", "").split(",")
    if listed is None or not all(name.lstrip("-").isdigit() for name in names if name):
        return list(range(count))
    return [int(name) for name in names if name.isdigit() and int(name) < count]


def _read(nvml: Any, handle: Any) -> GPU | None:
    def asked(question: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return question(handle, *arguments)
        except nvml.NVMLError:  # this card or this driver doesn't say
            return None

    name = asked(nvml.nvmlDeviceGetName)
    memory = asked(nvml.nvmlDeviceGetMemoryInfo)
    if name is None or memory is None:
        return None  # its memory is the machine's: found by the name of the board instead
    capability = asked(nvml.nvmlDeviceGetCudaComputeCapability)
    bits = asked(nvml.nvmlDeviceGetMemoryBusWidth)
    megahertz = asked(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_MEM)
    return GPU(
        name=name.decode() if isinstance(name, bytes) else name,
        memory=memory.total,
        free=memory.free,
        capability=None if capability is None else tuple(capability),
        # two transfers a clock: 300 GB/s on an L4 (192 bits, 6251 MHz), as its data sheet says
        bandwidth=bits / 8 * megahertz * 1e6 * 2 if bits and megahertz else None,
    )


def _on_chip(ram: int, free: int) -> tuple[GPU, ...]:
    known = card(_chip())
    if known is None or not known.shared:
        return ()
    usable = int(ram * _SYSTEM_SHARE)
    return (
        GPU(
            name=known.name,
            memory=usable,
            free=min(usable, free),
            capability=known.capability,
            shared=True,
        ),
    )


def _chip() -> str:
    """Name the board or the chip, where graphics share the machine's memory."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    try:
        return _BOARD.read_text()
    except OSError:
        return ""
