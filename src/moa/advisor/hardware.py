"""Hardware: what a machine has, whether a model fits there, and how fast it runs.

Of known GPUs, memory, memory bandwidth and dense 16-bit arithmetic are the makers' own figures:
NVIDIA's data sheets (https://www.nvidia.com/en-us/data-center/, the Ada and Ampere GA102 papers
for the RTX cards, https://developer.nvidia.com/embedded/jetson-modules for Jetson) and Apple's
technical specifications (https://support.apple.com/specs). Figures "with sparsity" are halved.
Apple states no 16-bit rate; there it is four times the published 32-bit rate of a GPU core count
times clock, rounded down, and is the least certain of all.

The memory of a served model is its weights, the KV cache of all sequences in flight, and what the
server needs to work. vLLM takes a share of a GPU's memory and divides it so
(https://docs.vllm.ai/en/latest/configuration/conserving_memory/); llama.cpp takes what it needs.

Speed is estimated by the roofline. To write a token, the active weights and the KV cache of every
sequence are read from memory once; to read one, two operations a parameter are done. So decoding is
bounded by bandwidth, and reading by arithmetic (Williams and others, 2009,
https://doi.org/10.1145/1498765.1498785; Pope and others, 2022, https://arxiv.org/abs/2211.05102).
All of it is an estimate.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from moa._nvidia import nvidia
from moa.advisor import Quantisation
from moa.advisor.catalogue import GGUF, Model, models
from moa.config import Config, EndpointConfig
from moa.endpoints.cores import usable_cores, usable_memory
from moa.errors import ConfigError

GIB = 2**30
_BOARD = Path("/proc/device-tree/model")
_SYSTEM_SHARE = 0.75
"""Part of memory shared with the processor that macOS and Jetson leave to a GPU: Metal's
`recommendedMaxWorkingSetSize` is two thirds to three quarters of RAM."""
_FREE = 0.75
"""Part of its RAM that a machine that is described leaves to models."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(mi?b|gi?b|ti?b|g|m|t)?", re.IGNORECASE)
_UNITS = {"m": 2**20, "g": 2**30, "t": 2**40}

UTILISATION = 0.92
"""Share of a GPU's memory that vLLM takes, by its own default since version 0.32."""
RAM_SHARE = 0.9
"""Share of the free RAM that a model may take; the rest is left to everything else."""
SPARE = 1.1
"""Memory that is asked of a GPU for each that is reckoned with: the overhead is an estimate."""
_FIXED = {"vllm": int(1.25 * GIB), "llama.cpp": int(0.25 * GIB)}
"""CUDA context, CUDA graphs and the buffers of a batch. vLLM logs its own figures at start; for
models of 0.5B to 8B these came to 1 to 2 GiB."""
_ACTIVATIONS = 0.05
"""Activations grow with the width of a model, and so with its weights."""
_CAPABILITY: dict[Quantisation, tuple[int, int]] = {
    "bf16": (7, 5),
    "int4": (7, 5),
    "int8": (7, 5),
    "fp8": (8, 9),
}
"""Least CUDA compute capability by quantisation; a card before 8.0 computes in fp16 for bf16
(https://docs.vllm.ai/en/latest/features/quantization/)."""
_AMPERE = (8, 0)
"""Compute capability from which on cards know `bfloat16`."""
_MAX_SEQUENCES = 1024
"""More are never counted: a server takes a few hundred at once, whatever its memory."""

STEPS = ((8192, 16), (4096, 16), (4096, 8), (2048, 8), (2048, 4), (1024, 4), (1024, 1))
"""Longest prompt and answer together, and how many such sequences at once: as much as fits, where
nothing else is asked for."""
CPU_CONCURRENCY = 4
"""Maximum sequences at once on a processor: more would only share its cores."""
_GOOD = 3
"""So many of `STEPS` are room enough to keep weights that lose next to nothing."""
_NEAR_LOSSLESS: tuple[Quantisation, ...] = ("bf16", "fp8")
"""On two GPUs they are taken before coarser ones on one."""
_ON_CPU: tuple[Quantisation, ...] = ("bf16", "int8", "int4")
"""What vLLM computes with on a processor
(https://docs.vllm.ai/en/latest/features/quantization/)."""

_BANDWIDTH_SHARE, _FLOPS_SHARE = 0.7, 0.4
"""Parts of a memory's peak that decoding reaches, and of a GPU's arithmetic that reading does."""
_ACROSS = 0.85
"""What is left of both when GPUs have to wait for each other, by doubling of their number."""
_FLOPS_A_BYTE = 75
"""Of a GPU that isn't known: an RTX 3090 does 76 for each byte, and newer cards do more."""
_GPU_STEP_S, _CPU_STEP_S = 0.0015, 0.0005
"""Least seconds of a decoding step, whatever is read."""
_CORE_BANDWIDTH, _SOCKET_BANDWIDTH, _SERVER_CORE_BANDWIDTH = 10e9, 50e9, 3e9
"""Bytes a second of RAM: a core takes about 10 GB/s, two channels of DDR4 or DDR5 give about 50
GB/s together; a processor with more than 16 cores has more channels, about 3 GB/s a core."""
_CORE_FLOPS = 58e9
"""Operations a second of one core, reached: the built-in model of 135M parameters read 430 tokens
a second on two cores of an AMD EPYC (measured)."""
_VLLM_SLOTS = 256


class Card(NamedTuple):
    """One kind of GPU, as its maker describes it."""

    name: str
    gib: float
    """Memory."""
    gb_per_s: float
    """Peak bandwidth of its memory, GB/s."""
    tflops: float
    """Peak of dense 16-bit arithmetic, TFLOPS."""
    capability: tuple[int, int] | None
    """CUDA compute capability; `None`: no CUDA."""
    watts: float
    """Its board's, at most."""
    shared: bool = False
    """Whether its memory is the machine's RAM."""


CARDS = (
    Card("B200", 180, 7700, 2250, (10, 0), 1000),
    Card("H200", 141, 4800, 989, (9, 0), 700),
    Card("H100 NVL", 94, 3900, 835, (9, 0), 400),
    Card("H100 PCIe", 80, 2000, 756, (9, 0), 350),
    Card("H100", 80, 3350, 989, (9, 0), 700),
    Card("A100 40GB", 40, 1555, 312, (8, 0), 400),
    Card("A100", 80, 2039, 312, (8, 0), 400),
    Card("L40S", 48, 864, 362, (8, 9), 350),
    Card("L4", 24, 300, 121, (8, 9), 72),
    Card("A10G", 24, 600, 70, (8, 6), 300),
    Card("A10", 24, 600, 125, (8, 6), 150),
    Card("T4", 16, 320, 65, (7, 5), 70),
    Card("V100", 16, 900, 125, (7, 0), 300),
    Card("RTX 5090", 32, 1792, 209, (12, 0), 575),
    Card("RTX 4090", 24, 1008, 165, (8, 9), 450),
    Card("RTX 3090", 24, 936, 71, (8, 6), 350),
    Card("RTX 4060", 8, 272, 60, (8, 9), 115),
    Card("RTX 3060", 12, 360, 51, (8, 6), 170),
    Card("Jetson AGX Orin", 64, 205, 85, (8, 7), 60, shared=True),
    Card("Jetson Orin NX", 16, 102, 25, (8, 7), 25, shared=True),
    Card("Jetson Orin Nano", 8, 102, 17, (8, 7), 25, shared=True),
    Card("Jetson Orin 8GB", 8, 102, 17, (8, 7), 25, shared=True),
    Card("Apple M1", 16, 68, 10, None, 20, shared=True),
    Card("Apple M2", 16, 100, 14, None, 20, shared=True),
    Card("Apple M3", 16, 100, 14, None, 20, shared=True),
    Card("Apple M4", 16, 120, 17, None, 22, shared=True),
    Card("Apple M4 Pro", 24, 273, 34, None, 46, shared=True),
    Card("Apple M4 Max", 36, 410, 68, None, 78, shared=True),
    Card("Apple M2 Ultra", 64, 800, 108, None, 120, shared=True),
)
"""The known ones."""


def card(name: str) -> Card | None:
    """Find the card that a driver or a user means; `None` where it is none of the known ones.

    Every word of the card's name has to stand in `name`; of several, the one with most words is
    meant: `NVIDIA A100-SXM4-40GB` is the card `A100 40GB`.
    """
    given = _words(name)
    found = [known for known in CARDS if _words(known.name) <= given]
    return max(found, key=lambda known: len(_words(known.name)), default=None)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))


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

    @property
    def usable(self) -> int:
        """Bytes that a server may take of it."""
        return min(self.memory if self.shared else int(self.memory * UTILISATION), self.free)

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
        size = int((memory or known.gib * GIB) * (_SYSTEM_SHARE if known.shared else 1))
        return cls(
            name=known.name,
            memory=size,
            free=size,
            capability=known.capability,
            shared=known.shared,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A computer: this one as `machine()` reads it, or one that is described."""

    cores: int
    """Physical cores that may be used."""
    ram: int
    """Bytes that may be used, a container's limit included."""
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
            f"{len(same)} x {name} with {same[0].memory / GIB:.0f} GiB"
            for name, same in self.kinds_of_gpu.items()
        ]
        parts = (f"{self.cores} cores", f"{self.ram / GIB:.0f} GiB of RAM", *gpus)
        return ", ".join(parts if gpus else (*parts, "no GPU"))


def machine() -> Machine:
    """Read what this machine has: cores, RAM, GPUs. Starts and sends nothing.

    A container's limits hold. A machine without NVIDIA's driver has no NVIDIA GPU; that is no
    error.
    """
    memory = usable_memory()
    return Machine(
        cores=usable_cores(),
        ram=memory.total,
        ram_free=memory.free,
        gpus=_nvidia() or _on_chip(*memory),
    )


def described(
    here: Machine,
    *,
    gpus: Sequence[str] = (),
    no_gpu: bool = False,
    ram: str | None = None,
    cores: int | None = None,
) -> Machine:
    """Describe another machine in words; what is not said is as it is here.

    Args:
        here: Which it is where nothing is said.
        gpus: Each as `NAME`, `NAME:COUNT` or `NAME:COUNT:MEMORY`.
        no_gpu: Whether there is none.
        ram: Such as `64GB`.
        cores: Of the processor.

    Raises:
        ConfigError: a size or a GPU can't be read, or its memory isn't known.
    """
    if no_gpu and gpus:
        raise ConfigError("--gpu and --no-gpu contradict each other: give one of them")
    if not (gpus or no_gpu or ram or cores):
        return here
    size = _size(ram) if ram else here.ram
    given = tuple(gpu for text in gpus for gpu in _described_gpus(text))
    return Machine(
        cores=cores or here.cores,
        ram=size,
        ram_free=int(size * _FREE),
        gpus=() if no_gpu else given or here.gpus,
    )


def _described_gpus(text: str) -> tuple[GPU, ...]:
    name, _, rest = text.partition(":")
    count, _, memory = rest.partition(":")
    if not name or (count and not count.isdigit()) or count == "0":
        raise ConfigError(
            f"--gpu {text!r} can't be read: write NAME, NAME:COUNT or NAME:COUNT:24GB"
        )
    return (GPU.named(name, memory=_size(memory) if memory else None),) * int(count or 1)


def _size(text: str) -> int:
    hit = _SIZE.fullmatch(text.strip())
    if hit is None or not float(hit[1]):
        raise ConfigError(f"{text!r} is no size of memory: write it as 16GB")
    return int(float(hit[1]) * _UNITS[(hit[2] or "g")[0].lower()])


def _nvidia() -> tuple[GPU, ...]:
    nvml, count = nvidia()
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in _visible(count)]
    return tuple(gpu for gpu in (_read(nvml, handle) for handle in handles) if gpu)


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
    """Give the GPU that shares the machine's memory, where the board has one that is known."""
    known = card(_chip())
    if known is None or not known.shared:
        return ()
    gpu = GPU.named(known.name, memory=ram)
    return (replace(gpu, free=min(gpu.memory, free)),)


def _chip() -> str:
    """Name the board or the chip, where graphics share the machine's memory."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    try:
        return _BOARD.read_text()
    except OSError:
        return ""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where on a machine a model runs: so many of its GPUs, or its processor."""

    engine: Literal["vllm", "llama.cpp"]
    gpu: GPU | None = None
    """Kind of GPU; `None`: the processor."""
    count: int = 1
    """GPUs that share the weights, by tensor parallelism."""
    replicas: int = 1
    """How often the machine has such a place, so that as many servers share the work."""
    cores: int = 1
    memory: int = 0
    """Bytes that may be taken, of all its GPUs together."""

    @property
    def only_float16(self) -> bool:
        """Whether its GPU doesn't compute in `bfloat16`."""
        able = self.gpu.capability if self.gpu else None
        return able is not None and able < _AMPERE

    @cached_property
    def reached(self) -> tuple[float, float] | None:
        """Bytes and operations a second that it reaches; `None`: its GPU isn't known."""
        if self.gpu is None:
            many = max(_SOCKET_BANDWIDTH, self.cores * _SERVER_CORE_BANDWIDTH)
            bandwidth = min(self.cores * _CORE_BANDWIDTH, many)
            return bandwidth * _BANDWIDTH_SHARE, self.cores * _CORE_FLOPS
        known = card(self.gpu.name)
        bandwidth = self.gpu.bandwidth or (known.gb_per_s * 1e9 if known else None)
        if bandwidth is None:
            return None
        flops = known.tflops * 1e12 if known else bandwidth * _FLOPS_A_BYTE
        together = self.count * _ACROSS ** (self.count.bit_length() - 1)
        return bandwidth * _BANDWIDTH_SHARE * together, flops * _FLOPS_SHARE * together

    @property
    def watts(self) -> float | None:
        """What its GPUs draw while they work; `None`: not known."""
        known = card(self.gpu.name) if self.gpu else None
        return known.watts * self.count if known else None

    def __str__(self) -> str:
        if self.gpu is None:
            return f"the processor ({self.cores} cores)"
        return f"{self.count} x {self.gpu.name}" if self.count > 1 else self.gpu.name


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalModel:
    """A model at a place of the machine: what it takes there, and how fast it runs."""

    model: Model
    place: Placement
    quantisation: Quantisation
    tokens: int
    """Of one sequence, prompt and answer."""
    concurrency: int = 1
    """Sequences in flight that there has to be room for."""
    taken: int = 0
    """Bytes of the place that others have already."""

    def __str__(self) -> str:
        return f"{self.model.name} ({self.quantisation}, {self.place})"

    @cached_property
    def weights(self) -> int:
        """Bytes of the weights."""
        return self.model.weights[self.quantisation].bytes

    @cached_property
    def active(self) -> float:
        """Part of the weights that one token goes through; 1 but in a mixture of experts."""
        every = self.model.parameters or 1
        return (self.model.active_parameters or every) / every

    @cached_property
    def overhead(self) -> int:
        """Bytes of activations, CUDA graphs, buffers."""
        return _FIXED[self.place.engine] * self.place.count + int(self.weights * _ACTIVATIONS)

    @cached_property
    def kv_each(self) -> int:
        """Bytes of one sequence's KV cache; GPUs beyond the number of key heads keep copies."""
        attention = self.model.attention
        copies = self.place.count // attention.kv_heads if attention else 1
        return self.model.kv_bytes(self.tokens) * max(1, copies)

    @property
    def kv(self) -> int:
        """Bytes of the KV cache of all sequences."""
        return self.kv_each * self.concurrency

    @property
    def budget(self) -> int:
        """Bytes that may be taken."""
        return max(0, self.place.memory - self.taken)

    @property
    def needed(self) -> int:
        """Bytes of all parts together."""
        return self.weights + self.kv + self.overhead

    @property
    def fits(self) -> bool:
        """Whether all that was asked for fits."""
        return self.needed <= self.budget

    @property
    def max_sequences(self) -> int:
        """Maximum of sequences in flight at once; 0: not one fits."""
        left = self.budget - self.weights - self.overhead
        if left < self.kv_each:
            return 0
        return min(_MAX_SEQUENCES, left // self.kv_each) if self.kv_each else _MAX_SEQUENCES

    @property
    def slots(self) -> int:
        """Maximum of sequences worked on at once; on a processor more would share its cores."""
        return max(1, min(_VLLM_SLOTS, self.max_sequences)) if self.place.engine == "vllm" else 1

    def read_s(self, tokens: int) -> float:
        """Seconds to read a prompt of `tokens` that are not cached; not of an unknown GPU."""
        assert self.place.reached, "asked only of a GPU that is known"
        return tokens * self._flops_a_token / self.place.reached[1]

    def write_s(self, batch: float) -> float:
        """Seconds of one decoding step, in which each of `batch` sequences gets a token."""
        assert self.place.reached, "asked only of a GPU that is known"
        bandwidth, flops = self.place.reached
        touched = 1 - (1 - self.active) ** max(1.0, batch)  # experts that any of them needs
        moved = (self.weights * touched + self.model.kv_bytes(self.tokens) * batch) / bandwidth
        least = _GPU_STEP_S if self.place.gpu else _CPU_STEP_S
        return max(moved, batch * self._flops_a_token / flops) + least

    @property
    def _flops_a_token(self) -> float:
        return 2.0 * (self.model.parameters or 1) * self.active


def places(machine: Machine) -> list[Placement]:
    """List where on a machine a model can run, and with how much memory.

    Equal GPUs are taken together, in powers of two, as tensor parallelism wants them. A GPU that
    shares the machine's memory is driven by llama.cpp, as is the processor.
    """
    ram, cores = int(machine.ram_free * RAM_SHARE), machine.cores
    found = [Placement(engine="llama.cpp", cores=cores, memory=ram)]
    for same in machine.kinds_of_gpu.values():
        gpu = min(same, key=lambda it: it.usable)
        if gpu.shared:
            memory = min(gpu.usable, ram)
            found.append(Placement(engine="llama.cpp", gpu=gpu, cores=cores, memory=memory))
            continue
        found += [
            Placement(
                engine="vllm",
                gpu=gpu,
                count=count,
                replicas=len(same) // count,
                cores=cores,
                memory=gpu.usable * count,
            )
            for count in (2**power for power in range(len(same).bit_length()))
        ]
    return found


def quantisations(model: Model, place: Placement) -> list[Quantisation]:
    """List in which forms a place can run a model.

    vLLM makes `fp8` out of `bf16` while it loads; other forms need files that are published.
    """
    if place.engine not in model.servers:
        return []
    if place.engine == "llama.cpp":
        return [kind for kind in GGUF if kind in model.weights]
    able = place.gpu.capability if place.gpu else None
    return [
        kind
        for kind, least in _CAPABILITY.items()
        if kind in model.weights
        and (able is None or able >= least)
        and (kind in _NEAR_LOSSLESS or model.weights[kind].repository is not None)
    ]


def vllm_fit(
    model: Model,
    machine: Machine,
    *,
    tokens: int | None = None,
    concurrency: int | None = None,
    quantisation: Quantisation | None = None,
    config: Config | None = None,
) -> LocalModel:
    """Find how vLLM can serve a model on a machine; where it can't, what lacks the least memory.

    Exact weights are taken where there is room enough, then coarser ones, then less room. What the
    configuration gives to other servers on the same GPUs is not taken.

    Args:
        model: An open one.
        machine: Where.
        tokens: Longest prompt and answer together; `None`: the first of `STEPS` that fits.
        concurrency: Sequences of that length at once; `None`: the first of `STEPS` that fits.
        quantisation: How the weights are kept; `None`: as said above.
        config: What is served already.

    Raises:
        ConfigError: vLLM serves no form of it there.
    """
    ways = _ways(model, machine, quantisation)
    if not ways:
        raise ConfigError(
            f"vLLM serves no form of {model.name!r} that the catalogue knows on this machine "
            f"({machine}). Cards before Ampere (2020) compute in float16, in which some models go "
            "wrong"
        )

    def at(way: tuple[Placement, Quantisation], length: int, many: int) -> LocalModel:
        place, kind = way
        return LocalModel(
            model=model,
            place=place,
            quantisation=kind,
            tokens=tokens or min(length, model.context or length),
            concurrency=concurrency or (many if place.gpu else min(many, CPU_CONCURRENCY)),
            taken=_taken(place, machine, config),
        )

    exact = [way for way in ways if way[1] in _NEAR_LOSSLESS]
    coarse = [way for way in ways if way[1] not in _NEAR_LOSSLESS]
    for kinds, steps in ((exact, STEPS[:_GOOD]), (coarse, STEPS), (exact, STEPS[_GOOD:])):
        for step, way in product(steps, kinds):
            found = at(way, *step)
            if found.fits:
                return found
    return min((at(way, *STEPS[-1]) for way in ways), key=lambda it: it.needed - it.budget)


def _ways(
    model: Model, machine: Machine, only: Quantisation | None = None
) -> list[tuple[Placement, Quantisation]]:
    """List where and in which form vLLM may serve a model: few GPUs first, exact forms first."""
    processor, *others = places(machine)
    where = [place for place in others if place.engine == "vllm"]
    where.sort(key=lambda place: place.count)
    where = where or [Placement(engine="vllm", cores=machine.cores, memory=processor.memory)]
    return [
        (place, quantisation)
        for place in where
        for quantisation in quantisations(model, place)
        if only in (None, quantisation)
        and (place.gpu or quantisation in _ON_CPU)
        and not (model.no_float16 and place.only_float16)
    ]


def _taken(place: Placement, machine: Machine, config: Config | None) -> int:
    """Bytes of a place that the configuration gives to others, be they up already or not."""
    if config is None:
        return 0
    if place.gpu is None:
        left = int(machine.ram * RAM_SHARE) - sum(map(_served_bytes, config.served.values()))
    else:
        shares = (it.vllm.gpu_memory_utilization or UTILISATION for it in config.served.values())
        left = int((UTILISATION - sum(shares)) * place.gpu.memory * place.count)
    return max(0, place.memory - left)


def _served_bytes(endpoint: EndpointConfig) -> int:
    """Bytes of RAM that a served model takes; 0 where the catalogue doesn't know its weights."""
    cache = int(endpoint.vllm.env.get("VLLM_CPU_KVCACHE_SPACE", "0")) * GIB
    weights = (kept for known in models().values() for kept in known.weights.values())
    return cache + next((it.bytes for it in weights if it.repository == endpoint.model), 0)
