"""Energy: joules that this machine uses, measured if possible, else estimated.

Sources: RAPL counters, https://docs.kernel.org/power/powercap/powercap.html; NVML's
`nvmlDeviceGetTotalEnergyConsumption`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moa.local.machine import start_nvml

SYSFS = Path("/sys")
WATTS_PER_CORE = 5.0
"""Assumed power of a busy core if nothing is measured: a guess for a small computer."""

_MICRO = 1e-6
_MILLI = 1e-3

Part = Literal["processor", "gpu"]
"""Hardware that a model runs on."""
Read = Callable[[], float]
"""Reads a counter of joules that only rises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Joules used in a span of time."""

    joules: float
    measured: bool
    """True if measured, False if estimated."""
    source: str
    """Meter, or the assumption of the estimate."""

    def __str__(self) -> str:
        return f"{self.joules:.2f} J ({'measured' if self.measured else 'estimate'}: {self.source})"


class Meter:
    """Counts joules since its start, of everything that runs on the hardware."""

    def __init__(self, read: Sequence[Read], *, measured: bool, source: str) -> None:
        self._read = tuple(read)
        self.measured = measured
        self.source = source
        self._start = self._now()

    def joules(self) -> float:
        """Return the joules since the start."""
        return max(0.0, self._now() - self._start)

    def since(self, before: float) -> Reading:
        """Return the joules since an earlier reading of `joules`."""
        spent = max(0.0, self.joules() - before)
        return Reading(joules=spent, measured=self.measured, source=self.source)

    def _now(self) -> float:
        return sum(read() for read in self._read)


def meter(*, on: Part = "processor", watts_per_core: float = WATTS_PER_CORE) -> Meter:
    """Return the best meter that this machine has for a model's hardware.

    RAPL counts processors and memory, NVML the GPUs. GPUs are counted only for a model that runs on
    them, since they use power at rest too. Without a counter, it estimates: CPU seconds of this
    process and its children, times `watts_per_core`, and nothing for GPUs.

    Args:
        on: Hardware of the model. The built-in model runs on the processor.
        watts_per_core: Assumed power of a busy core, if nothing is measured.
    """
    processors, cards = rapl(), nvml() if on == "gpu" else []
    if processors and (cards or on == "processor"):
        source = "RAPL and NVML" if cards else "RAPL"
        return Meter([*processors, *cards], measured=True, source=source)
    if cards:
        return Meter(cards, measured=True, source="NVML, the GPUs alone")
    assumed = f"CPU seconds at {watts_per_core:g} W a core"
    if on == "gpu":
        assumed += ", without the GPU"
    return Meter([cpu_estimate(watts_per_core)], measured=False, source=assumed)


def rapl() -> list[Read]:
    """Find the counters of processors and memory; none if missing or readable only by root.

    Returns the counter of the whole platform if there is one, else those of each package and each
    memory: a package's counter includes its other parts. Some packages have a second counter, in
    memory-mapped registers, which counts the same.
    """
    counters: list[tuple[str, Read]] = []
    zones = (SYSFS / "class" / "powercap").glob("*:*")
    for zone in sorted(zones, key=lambda zone: (_is_second(zone), zone.name)):
        with suppress(OSError, ValueError):
            name = (zone / "name").read_text().strip()
            if not (_is_second(zone) and name in (counter_name for counter_name, _ in counters)):
                counters.append((name, _rising(zone)))
    platform = [read for name, read in counters if name == "psys"]
    return platform or [
        read for name, read in counters if name.startswith("package") or name == "dram"
    ]


def nvml() -> list[Read]:
    """Find the GPUs that count their energy (NVIDIA, since Volta); none without a driver."""
    library, count = start_nvml()
    counters: list[Read] = []
    for index in range(count):
        with suppress(library.NVMLError):  # a card that doesn't count
            card = library.nvmlDeviceGetHandleByIndex(index)
            library.nvmlDeviceGetTotalEnergyConsumption(card)
            counters.append(
                lambda card=card: library.nvmlDeviceGetTotalEnergyConsumption(card) * _MILLI
            )
    return counters


def cpu_estimate(watts_per_core: float = WATTS_PER_CORE) -> Read:
    """Estimate from the CPU seconds of this process and its children, such as the engine."""
    import psutil

    parent = psutil.Process()
    cpu_seconds: dict[int, float] = {}

    def read() -> float:
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = process.cpu_times()
                cpu_seconds[process.pid] = times.user + times.system
        return sum(cpu_seconds.values()) * watts_per_core

    return read


def _rising(zone: Path) -> Read:
    """Read a counter that wraps around to zero at its maximum."""
    file, span = zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())
    last, total = int(file.read_text()), 0

    def read() -> float:
        nonlocal last, total
        reading = int(file.read_text())
        total += reading - last if reading >= last else reading + span - last
        last = reading
        return total * _MICRO

    return read


def _is_second(zone: Path) -> bool:
    return zone.name.startswith("intel-rapl-mmio:")
