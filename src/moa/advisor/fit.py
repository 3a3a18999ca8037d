"""Fit: whether a model fits a place of a machine, and how fast it runs there. All is an estimate.

The memory of a served model is its weights, the KV cache of all sequences in flight, and what the
server needs to work. vLLM takes a share of a GPU's memory and divides it so
(https://docs.vllm.ai/en/latest/configuration/conserving_memory/); llama.cpp takes what it needs.

Speed is estimated by the roofline. To write a token, the active weights and the KV cache of every
sequence are read from memory once; to read one, two operations a parameter are done. So decoding is
bounded by bandwidth, and reading by arithmetic (Williams and others, 2009,
https://doi.org/10.1145/1498765.1498785; Pope and others, 2022, https://arxiv.org/abs/2211.05102).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

from moa.advisor.catalogue import GGUF, Model, models
from moa.advisor.hardware import GIB, GPU, Machine, card
from moa.advisor.words import Quantisation
from moa.config import Config
from moa.errors import ConfigError
from moa.vllm.settings import UTILISATION

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

    Exact weights are taken where there is room enough, then coarser ones, then less room. Where the
    tokens of a prompt and its answer, or the sequences of that length at once, are not given, it is
    the first of `STEPS` that fits. What the configuration gives to other servers on the same GPUs
    is not taken.
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
        sizes = {
            it.repository: it.bytes for one in models().values() for it in one.weights.values()
        }
        weights = sum(sizes.get(it.model, 0) for it in config.served.values())
        caches = (it.vllm.env.get("VLLM_CPU_KVCACHE_SPACE", "0") for it in config.served.values())
        left = int(machine.ram * RAM_SHARE) - weights - sum(map(int, caches)) * GIB
    else:
        shares = (it.vllm.gpu_memory_utilization or UTILISATION for it in config.served.values())
        left = int((UTILISATION - sum(shares)) * place.gpu.memory * place.count)
    return max(0, place.memory - left)
