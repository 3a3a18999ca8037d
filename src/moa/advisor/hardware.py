"""Hardware: a machine's cores, RAM and GPUs, read or described, and its places for models.

Memory, memory bandwidth and dense 16-bit arithmetic of known GPUs are the makers' own figures:
NVIDIA's data sheets (https://www.nvidia.com/en-us/data-center/, the Ada and Ampere GA102 papers
for the RTX cards, https://developer.nvidia.com/embedded/jetson-modules for Jetson) and Apple's
technical specifications (https://support.apple.com/specs). Figures "with sparsity" are halved.
Apple publishes no 16-bit rate. There it is four times the published 32-bit rate of a GPU core count
times clock, rounded down: the least certain figure.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple, TypeVar

from moa.core.errors import ConfigError
from moa.local.machine import start_nvml, usable_cores, usable_memory
from moa.vllm.settings import UTILISATION

T = TypeVar("T")
GIB = 2**30
_BOARD = Path("/proc/device-tree/model")
_SYSTEM_SHARE = 0.75
"""Share of the RAM that macOS and Jetson leave to a GPU without memory of its own: Metal's
`recommendedMaxWorkingSetSize` is two thirds to three quarters of RAM."""
_FREE = 0.75
"""Share of a described machine's RAM that is assumed to be free."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(mi?b|gi?b|ti?b|g|m|t)?", re.IGNORECASE)
_UNITS = {"m": 2**20, "g": 2**30, "t": 2**40}
_RAM_SHARE = 0.9
"""Share of the free RAM that a model may take; the rest is left to everything else."""
_AMPERE = (8, 0)
"""Minimum compute capability for `bfloat16`."""
_BANDWIDTH_SHARE, _FLOPS_SHARE = 0.7, 0.4
"""Share of peak bandwidth that decoding reaches, and of peak arithmetic that reading reaches."""
_FLOPS_A_BYTE = 75
"""Assumed operations per byte of an unknown GPU: an RTX 3090 does 76, and newer cards do more."""
_CORE_BANDWIDTH, _SOCKET_BANDWIDTH, _SERVER_CORE_BANDWIDTH = 10e9, 50e9, 3e9
"""RAM bandwidth, bytes per second: about 10 GB/s for one core, and 50 GB/s for two channels of
DDR4 or DDR5. A processor with more than 16 cores has more channels: about 3 GB/s per core."""
_CORE_FLOPS = 58e9
"""Operations per second that one core reaches: the built-in model of 135M parameters read 430
tokens a second on two cores of an AMD EPYC (measured)."""


class Card(NamedTuple):
    """A GPU model, with its maker's figures."""

    name: str
    gib: float
    """Memory, GiB."""
    gb_per_s: float
    """Peak bandwidth of its memory, GB/s."""
    tflops: float
    """Peak of dense 16-bit arithmetic, TFLOPS."""
    capability: tuple[int, int] | None
    """CUDA compute capability; `None`: no CUDA."""
    shared: bool = False
    """True if its memory is the machine's RAM."""


CARDS = (
    Card("B200", 180, 7700, 2250, (10, 0)),
    Card("H200", 141, 4800, 989, (9, 0)),
    Card("H100 NVL", 94, 3900, 835, (9, 0)),
    Card("H100 PCIe", 80, 2000, 756, (9, 0)),
    Card("H100", 80, 3350, 989, (9, 0)),
    Card("A100 40GB", 40, 1555, 312, (8, 0)),
    Card("A100", 80, 2039, 312, (8, 0)),
    Card("L40S", 48, 864, 362, (8, 9)),
    Card("L4", 24, 300, 121, (8, 9)),
    Card("A10G", 24, 600, 70, (8, 6)),
    Card("A10", 24, 600, 125, (8, 6)),
    Card("T4", 16, 320, 65, (7, 5)),
    Card("V100", 16, 900, 125, (7, 0)),
    Card("RTX 5090", 32, 1792, 209, (12, 0)),
    Card("RTX 4090", 24, 1008, 165, (8, 9)),
    Card("RTX 3090", 24, 936, 71, (8, 6)),
    Card("RTX 4060", 8, 272, 60, (8, 9)),
    Card("RTX 3060", 12, 360, 51, (8, 6)),
    Card("Jetson AGX Orin", 64, 205, 85, (8, 7), shared=True),
    Card("Jetson Orin NX", 16, 102, 25, (8, 7), shared=True),
    Card("Jetson Orin Nano", 8, 102, 17, (8, 7), shared=True),
    Card("Jetson Orin 8GB", 8, 102, 17, (8, 7), shared=True),
    Card("Apple M1", 16, 68, 10, None, shared=True),
    Card("Apple M2", 16, 100, 14, None, shared=True),
    Card("Apple M3", 16, 100, 14, None, shared=True),
    Card("Apple M4", 16, 120, 17, None, shared=True),
    Card("Apple M4 Pro", 24, 273, 34, None, shared=True),
    Card("Apple M4 Max", 36, 410, 68, None, shared=True),
    Card("Apple M2 Ultra", 64, 800, 108, None, shared=True),
)
"""The known GPUs."""


def card(name: str) -> Card | None:
    """Find the card for a driver's or user's name; `None` if it isn't a known one.

    Every word of the card's name must be in `name`. Of several, the one with most words is
    returned: `NVIDIA A100-SXM4-40GB` is the card `A100 40GB`.
    """
    words = _words(name)
    matches = [candidate for candidate in CARDS if _words(candidate.name) <= words]
    return max(matches, key=lambda candidate: len(_words(candidate.name)), default=None)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))


@dataclass(frozen=True, slots=True, kw_only=True)
class GPU:
    """One graphics card, or the graphics part of a chip."""

    name: str
    memory: int
    """Total bytes of memory; `free` are the free ones."""
    free: int
    capability: tuple[int, int] | None = None
    """CUDA compute capability; `None`: no CUDA, or not known."""
    bandwidth: float | None = None
    """Memory bandwidth, bytes per second, by the driver's bus width and clock; `None`: unknown."""
    shared: bool = False
    """True if its memory is the machine's RAM."""

    @property
    def usable(self) -> int:
        """Bytes that a server may use."""
        return min(self.memory if self.shared else int(self.memory * UTILISATION), self.free)

    @classmethod
    def from_name(cls, name: str, *, memory: int | None = None) -> GPU:
        """Return a card by its name, with all memory free.

        Args:
            name: Such as `L4`, `NVIDIA A100-SXM4-80GB` or `Jetson Orin 8GB`.
            memory: Bytes; `None`: as its maker says.

        Raises:
            ConfigError: it isn't one of the known cards, and its memory isn't given.
        """
        spec = card(name)
        if spec is None:
            if memory is None:
                raise ConfigError(
                    f"the GPU {name!r} is not known to moa: say how much memory it has, as in "
                    f'"{name}:1:24GB"'
                )
            return cls(name=name, memory=memory, free=memory)
        size = int((memory or spec.gib * GIB) * (_SYSTEM_SHARE if spec.shared else 1))
        return cls(
            name=spec.name,
            memory=size,
            free=size,
            capability=spec.capability,
            shared=spec.shared,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A computer: this one, as read by `machine()`, or a described one."""

    cores: int
    """Usable physical cores."""
    ram: int
    """Usable bytes of RAM, within a container's limit."""
    ram_free: int
    gpus: tuple[GPU, ...] = ()

    @property
    def kinds_of_gpu(self) -> dict[str, list[GPU]]:
        """Its GPUs by their name."""
        kinds: dict[str, list[GPU]] = {}
        for gpu in self.gpus:
            kinds.setdefault(gpu.name, []).append(gpu)
        return kinds

    def __str__(self) -> str:
        gpus = [
            f"{len(group)} x {name} with {group[0].memory / GIB:.0f} GiB"
            for name, group in self.kinds_of_gpu.items()
        ]
        parts = (f"{self.cores} cores", f"{self.ram / GIB:.0f} GiB of RAM", *(gpus or ["no GPU"]))
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A place for a model on a machine: some of its GPUs, or its CPU."""

    engine: Literal["vllm", "llama.cpp"]
    gpu: GPU | None = None
    """Kind of GPU; `None`: the processor."""
    count: int = 1
    """GPUs that share the weights, by tensor parallelism."""
    replicas: int = 1
    """Number of such places on the machine; as many servers can share the work."""
    cores: int = 1
    memory: int = 0
    """Usable bytes, of all its GPUs together."""

    @property
    def only_float16(self) -> bool:
        """True if its GPU doesn't compute in `bfloat16`."""
        able = self.gpu.capability if self.gpu else None
        return able is not None and able < _AMPERE

    @cached_property
    def throughput(self) -> tuple[float, float] | None:
        """Bytes and operations per second that it reaches; `None`: its GPU is unknown."""
        if self.gpu is None:
            limit = max(_SOCKET_BANDWIDTH, self.cores * _SERVER_CORE_BANDWIDTH)
            bandwidth = min(self.cores * _CORE_BANDWIDTH, limit)
            return bandwidth * _BANDWIDTH_SHARE, self.cores * _CORE_FLOPS
        spec = card(self.gpu.name)
        bandwidth = self.gpu.bandwidth or (spec.gb_per_s * 1e9 if spec else None)
        if bandwidth is None:
            return None
        flops = spec.tflops * 1e12 if spec else bandwidth * _FLOPS_A_BYTE
        return bandwidth * _BANDWIDTH_SHARE * self.count, flops * _FLOPS_SHARE * self.count

    def __str__(self) -> str:
        if self.gpu is None:
            return f"the processor ({self.cores} cores)"
        return f"{self.count} x {self.gpu.name}" if self.count > 1 else self.gpu.name


def machine() -> Machine:
    """Read this machine's cores, RAM and GPUs. Nothing is started or sent.

    A container's limits apply. Without NVIDIA's driver, no NVIDIA GPU is found; that is no error.
    """
    memory = usable_memory()
    return Machine(
        cores=usable_cores(),
        ram=memory.total,
        ram_free=memory.free,
        gpus=_nvidia() or _on_chip(*memory),
    )


def list_placements(machine: Machine) -> list[Placement]:
    """List the places on a machine where a model can run, with their memory.

    Equal GPUs are grouped in powers of two, as tensor parallelism needs. llama.cpp runs on the
    processor, and on GPUs that share the machine's memory.
    """
    ram = int(machine.ram_free * _RAM_SHARE)
    placement = partial(Placement, cores=machine.cores)
    placements = [placement(engine="llama.cpp", memory=ram)]
    for group in machine.kinds_of_gpu.values():
        gpu = min(group, key=lambda gpu: gpu.usable)
        if gpu.shared:
            placements.append(placement(engine="llama.cpp", gpu=gpu, memory=min(gpu.usable, ram)))
            continue
        for count in (2**power for power in range(len(group).bit_length())):
            servers, memory = len(group) // count, gpu.usable * count
            placements.append(
                placement(engine="vllm", gpu=gpu, count=count, replicas=servers, memory=memory)
            )
    return placements


def describe_machine(
    machine: Machine,
    *,
    gpus: Sequence[str] = (),
    no_gpu: bool = False,
    ram: str | None = None,
    cores: int | None = None,
) -> Machine:
    """Describe another machine; parts that aren't given are those of `machine`.

    GPUs are written as `NAME`, `NAME:COUNT` or `NAME:COUNT:MEMORY`, memory as `64GB`.
    """
    if no_gpu and gpus:
        raise ConfigError("--gpu and --no-gpu contradict each other: give one of them")
    if not (gpus or no_gpu or ram or cores):
        return machine
    size = _size(ram) if ram else machine.ram
    parsed_gpus = tuple(gpu for text in gpus for gpu in _parse_gpus(text))
    return Machine(
        cores=cores or machine.cores,
        ram=size,
        ram_free=int(size * _FREE),
        gpus=() if no_gpu else parsed_gpus or machine.gpus,
    )


def _parse_gpus(text: str) -> tuple[GPU, ...]:
    name, _, rest = text.partition(":")
    count, _, memory = rest.partition(":")
    if not name or (count and not count.isdigit()) or count == "0":
        raise ConfigError(
            f"--gpu {text!r} can't be read: write NAME, NAME:COUNT or NAME:COUNT:24GB"
        )
    return (GPU.from_name(name, memory=_size(memory) if memory else None),) * int(count or 1)


def _size(text: str) -> int:
    hit = _SIZE.fullmatch(text.strip())
    if hit is None or not float(hit[1]):
        raise ConfigError(f"{text!r} is no size of memory: write it as 16GB")
    return int(float(hit[1]) * _UNITS[(hit[2] or "g")[0].lower()])


def _nvidia() -> tuple[GPU, ...]:
    nvml, count = start_nvml()
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in _visible(count)]
    return tuple(gpu for gpu in (_read(nvml, handle) for handle in handles) if gpu)


def _visible(count: int) -> list[int]:
    """List the GPUs that this process may use; identifiers in the variable hide none."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [] if listed is None else listed.replace(" ", "").split(",")
    if listed is None or not all(name.lstrip("-").isdigit() for name in names if name):
        return list(range(count))
    return [int(name) for name in names if name.isdigit() and int(name) < count]


def _read(nvml: ModuleType, handle: object) -> GPU | None:
    def ask(question: Callable[..., T], *arguments: object) -> T | None:
        try:
            return question(handle, *arguments)
        except nvml.NVMLError:  # this card or this driver doesn't say
            return None

    name = ask(nvml.nvmlDeviceGetName)
    memory = ask(nvml.nvmlDeviceGetMemoryInfo)
    if name is None or memory is None:
        return None  # its memory is the machine's: found by the name of the board instead
    capability = ask(nvml.nvmlDeviceGetCudaComputeCapability)
    bits = ask(nvml.nvmlDeviceGetMemoryBusWidth)
    megahertz = ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_MEM)
    return GPU(
        name=name.decode() if isinstance(name, bytes) else name,
        memory=memory.total,
        free=memory.free,
        capability=None if capability is None else tuple(capability),
        # two transfers a clock: 300 GB/s on an L4 (192 bits, 6251 MHz), as its data sheet says
        bandwidth=bits / 8 * megahertz * 1e6 * 2 if bits and megahertz else None,
    )


def _on_chip(ram: int, free: int) -> tuple[GPU, ...]:
    """Return the GPU that shares the machine's memory, if the board has a known one."""
    spec = card(_chip())
    if spec is None or not spec.shared:
        return ()
    gpu = GPU.from_name(spec.name, memory=ram)
    return (replace(gpu, free=min(gpu.memory, free)),)


def _chip() -> str:
    """Return the name of the board or chip, to find a GPU that shares the machine's memory."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    try:
        return _BOARD.read_text()
    except OSError:
        return ""
