"""Sizing: what a model takes on a machine, and how many sequences fit beside its weights.

The memory of a served model is its weights, the KV cache of all sequences in flight, and what the
server needs to work. vLLM takes a share of a GPU's memory and divides it so
(https://docs.vllm.ai/en/latest/configuration/conserving_memory/); llama.cpp takes what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from moa.advisor.catalogue import Model, Quantisation
from moa.advisor.hardware import GIB, GPU, Machine
from moa.errors import ConfigError

Engine = Literal["vllm", "llama.cpp"]

UTILISATION = 0.92
"""Share of a GPU's memory that vLLM takes, by its own default since version 0.32."""
RAM_SHARE = 0.9
"""Share of the free RAM that a model may take; the rest is left to everything else."""
_VLLM_FIXED = int(1.25 * GIB)
"""CUDA context, CUDA graphs and the buffers of a batch. vLLM logs its own figures at start; for
models of 0.5B to 8B these came to 1 to 2 GiB."""
_VLLM_SHARE = 0.05
"""Activations grow with the width of a model, and so with its weights."""
_LLAMACPP_FIXED = int(0.25 * GIB)
_LLAMACPP_SHARE = 0.05
_CAPABILITY: dict[Quantisation, tuple[int, int]] = {
    "bf16": (7, 5),
    "int4": (7, 5),
    "int8": (7, 5),
    "fp8": (8, 9),
}
"""Least CUDA compute capability by quantisation; a card before 8.0 computes in fp16 for bf16
(https://docs.vllm.ai/en/latest/features/quantization/)."""
GGUF: tuple[Quantisation, ...] = ("q8_0", "q4_k_m")
_MOST_SEQUENCES = 1024
"""More are never counted: a server takes a few hundred at once, whatever its memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where on a machine a model runs: so many of its GPUs, or its processor."""

    engine: Engine
    gpu: GPU | None = None
    """Kind of GPU; `None`: the processor."""
    count: int = 1
    """GPUs that share the weights, by tensor parallelism."""
    replicas: int = 1
    """How often the machine has such a place, so that as many servers share the work."""
    cores: int = 1
    """Of the processor."""
    memory: int = 0
    """Bytes that may be taken, of all its GPUs together."""

    def __str__(self) -> str:
        if self.gpu is None:
            return f"the processor ({self.cores} cores)"
        return f"{self.count} x {self.gpu.name}" if self.count > 1 else self.gpu.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether a model fits a place, and what takes how much."""

    quantisation: Quantisation
    tokens: int
    """Of one sequence, prompt and answer."""
    asked: int
    """Sequences in flight that were asked for."""
    budget: int
    """Bytes that may be taken."""
    weights: int
    kv: int
    """Bytes of the KV cache of all that were asked for."""
    overhead: int
    """Bytes of activations, CUDA graphs, buffers."""
    concurrency: int
    """Most sequences of `tokens` in flight at once; 0: not one."""
    max_model_len: int
    """Most tokens of one sequence alone; 0: the weights don't fit."""

    @property
    def needed(self) -> int:
        """Bytes of all parts together."""
        return self.weights + self.kv + self.overhead

    @property
    def fits(self) -> bool:
        """Whether all that was asked for fits."""
        return self.needed <= self.budget


def places(machine: Machine) -> list[Place]:
    """List where on a machine a model can run, and with how much memory.

    Equal GPUs are taken together, in powers of two, as tensor parallelism wants them. A GPU that
    shares the machine's memory is driven by llama.cpp, as is the processor.
    """
    ram = int(machine.ram_free * RAM_SHARE)
    found = [Place(engine="llama.cpp", cores=machine.cores, memory=ram)]
    for name in dict.fromkeys(gpu.name for gpu in machine.gpus):
        same = [gpu for gpu in machine.gpus if gpu.name == name]
        least = min(same, key=_usable)
        if least.shared:
            memory = min(_usable(least), ram)
            found.append(Place(engine="llama.cpp", gpu=least, cores=machine.cores, memory=memory))
            continue
        count = 1
        while count <= len(same):
            found.append(
                Place(
                    engine="vllm",
                    gpu=least,
                    count=count,
                    replicas=len(same) // count,
                    cores=machine.cores,
                    memory=_usable(least) * count,
                )
            )
            count *= 2
    return found


def quantisations(model: Model, place: Place) -> list[Quantisation]:
    """List in which forms a place can run a model.

    vLLM makes `fp8` out of `bf16` while it loads; other forms need files that are published.
    """
    if "vllm" not in model.servers and "llama.cpp" not in model.servers:
        return []
    if place.engine == "llama.cpp":
        if "llama.cpp" not in model.servers:
            return []
        return [kind for kind in GGUF if kind in model.weights]
    if "vllm" not in model.servers:
        return []
    able = place.gpu.capability if place.gpu else None
    return [
        kind
        for kind, least in _CAPABILITY.items()
        if kind in model.weights
        and (able is None or able >= least)
        and (kind in ("bf16", "fp8") or model.weights[kind].repository is not None)
    ]


def fit(
    model: Model,
    place: Place,
    *,
    quantisation: Quantisation,
    tokens: int,
    concurrency: int = 1,
    taken: int = 0,
) -> Fit:
    """Work out whether a model fits, with the KV cache of so many sequences.

    Args:
        model: With its parameters and its attention known.
        place: Where it is to run.
        quantisation: How its weights are kept.
        tokens: Of one sequence, prompt and answer.
        concurrency: Sequences in flight at once.
        taken: Bytes of the place that another model has already.

    Raises:
        ConfigError: the size of its weights or of its KV cache is not known.
    """
    if quantisation not in model.weights:
        raise ConfigError(f"the size of {model.name!r} in {quantisation} is not known")
    weights = model.weights[quantisation].bytes
    overhead = _overhead(place, weights)
    budget = max(0, place.memory - taken)
    left = budget - weights - overhead
    each = _kv(model, tokens, place)
    return Fit(
        quantisation=quantisation,
        tokens=tokens,
        asked=concurrency,
        budget=budget,
        weights=weights,
        kv=each * concurrency,
        overhead=overhead,
        concurrency=_at_most(left, each),
        max_model_len=_longest(model, place, left),
    )


def widened(fitted: Fit, concurrency: int) -> Fit:
    """Give the same fit for another number of sequences in flight."""
    return replace(fitted, asked=concurrency, kv=fitted.kv // fitted.asked * concurrency)


def _usable(gpu: GPU) -> int:
    if gpu.shared:
        return min(gpu.memory, gpu.free)
    return min(int(gpu.memory * UTILISATION), gpu.free)


def _overhead(place: Place, weights: int) -> int:
    if place.engine == "llama.cpp":
        return _LLAMACPP_FIXED + int(weights * _LLAMACPP_SHARE)
    return _VLLM_FIXED * place.count + int(weights * _VLLM_SHARE)


def _kv(model: Model, tokens: int, place: Place) -> int:
    """Bytes of one sequence in 16 bits; GPUs beyond the number of key heads keep copies."""
    heads = model.attention.kv_heads if model.attention else place.count
    return model.kv_bytes(tokens) * max(1, place.count // heads)


def _at_most(left: int, each: int) -> int:
    if left < each or left < 0:
        return 0
    return _MOST_SEQUENCES if each == 0 else min(_MOST_SEQUENCES, left // each)


def _longest(model: Model, place: Place, left: int) -> int:
    """Longest sequence that fits alone: layers with a window stop growing once it is full."""
    context = model.context or 0
    if left <= 0:
        return 0
    window = model.attention.window if model.attention and model.attention.window else context
    filling = _kv(model, 2, place) - _kv(model, 1, place)
    state = _kv(model, 1, place) - filling  # of layers that keep one, whatever the length
    left -= state
    if left < 0:
        return 0
    if filling == 0 or left <= filling * window:
        return min(context, left // filling if filling else context)
    growing = _kv(model, window + 1, place) - _kv(model, window, place)
    if growing == 0:
        return context
    return min(context, window + (left - filling * window) // growing)
