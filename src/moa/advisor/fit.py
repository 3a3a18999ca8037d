"""Fit: estimates whether a model fits a place of a machine, and how fast it runs there.

A served model needs memory for its weights, the KV cache of all sequences in flight, and the
server's overhead. vLLM divides a share of a GPU's memory among them
(https://docs.vllm.ai/en/latest/configuration/conserving_memory/); llama.cpp takes what it needs.

Speed is estimated by the roofline model. Writing a token reads the active weights and the KV cache
of every sequence from memory once; reading one takes two operations per parameter. So decoding is
bounded by bandwidth, and reading by arithmetic (Williams and others, 2009,
https://doi.org/10.1145/1498765.1498785; Pope and others, 2022, https://arxiv.org/abs/2211.05102).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain, product

from moa.advisor.hardware import GIB, Machine, Placement, list_placements
from moa.config.catalogue import GGUF, Model
from moa.config.tables import Config
from moa.core.errors import ConfigError
from moa.local.words import Quantisation
from moa.vllm.settings import UTILISATION

SPARE = 1.1
"""Factor on the estimated memory when reserving it, since the overhead is an estimate."""
_FIXED = {"vllm": int(1.25 * GIB), "llama.cpp": int(0.25 * GIB)}
"""Bytes of the CUDA context, CUDA graphs and batch buffers. vLLM logs its own figures at start:
1 to 2 GiB for models of 0.5B to 8B."""
_ACTIVATIONS = 0.05
"""Bytes of activations per byte of weights; both grow with the width of a model."""
_BY_VLLM: tuple[Quantisation, ...] = ("bf16", "int4", "int8", "fp8")
_TURING, _ADA = (7, 5), (8, 9)
"""Minimum CUDA compute capability, in general and for `fp8`. A card before 8.0 computes in fp16
instead of bf16 (https://docs.vllm.ai/en/latest/features/quantization/)."""
MAX_SEQUENCES = 256
"""Maximum sequences that a server runs at once, whatever its memory."""

STEPS = ((8192, 16), (4096, 16), (4096, 8), (2048, 8), (2048, 4), (1024, 4), (1024, 1))
"""Pairs of maximum tokens (prompt and answer) and sequences at once. The first that fits is the
default."""
CPU_CONCURRENCY = 4
"""Maximum sequences at once on a processor: more would only share its cores."""
_GOOD = 3
"""Number of first `STEPS` at which near-lossless weights are preferred to coarser ones."""
_NEAR_LOSSLESS: tuple[Quantisation, ...] = ("bf16", "fp8")
"""Formats that lose next to nothing; on two GPUs they are preferred to coarser ones on one."""
_ON_CPU: tuple[Quantisation, ...] = ("bf16", "int8", "int4")
"""Formats that vLLM runs on a processor
(https://docs.vllm.ai/en/latest/features/quantization/)."""

_STEP_S = 0.0015
"""Fixed seconds of a decoding step, whatever is read."""
_REQUEST_S = 0.0015
"""Seconds of the server's processor per request: HTTP, tokenizer, scheduling."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalModel:
    """A model at a place of the machine, with its memory and speed there."""

    model: Model
    place: Placement
    quantisation: Quantisation
    tokens: int
    """Tokens of one sequence, prompt and answer."""
    concurrency: int = 1
    """Sequences in flight to make room for."""
    taken: int = 0
    """Bytes of the place that others use already."""

    def __str__(self) -> str:
        return f"{self.model.name} ({self.quantisation}, {self.place})"

    @cached_property
    def weights(self) -> int:
        """Bytes of the weights."""
        return self.model.weights[self.quantisation].bytes

    @cached_property
    def active(self) -> float:
        """Share of the weights used per token; below 1 only in a mixture of experts."""
        every = self.model.parameters or 1
        return (self.model.active_parameters or every) / every

    @property
    def _flops_a_token(self) -> float:
        return 2.0 * (self.model.parameters or 1) * self.active

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
        """Bytes available for it."""
        return max(0, self.place.memory - self.taken)

    @property
    def total_bytes(self) -> int:
        """Bytes of all parts together."""
        return self.weights + self.kv + self.overhead

    @property
    def lacking_bytes(self) -> int:
        """Bytes of memory that the place lacks; 0: it fits."""
        return max(0, self.total_bytes - self.budget)

    @property
    def fits(self) -> bool:
        """True if it fits the place."""
        return not self.lacking_bytes

    @property
    def max_sequences(self) -> int:
        """Maximum of sequences in flight at once; 0: not one fits."""
        left = self.budget - self.weights - self.overhead
        if left < self.kv_each:
            return 0
        return min(MAX_SEQUENCES, left // self.kv_each) if self.kv_each else MAX_SEQUENCES

    def seconds(self, reads: int, writes: int) -> float | None:
        """Return the seconds of an item alone, with `reads` uncached tokens; `None`: unknown."""
        if self.place.throughput is None:
            return None
        return self.read_s(reads) + writes * self.write_s(1)

    def read_s(self, tokens: int) -> float:
        """Return the seconds to read `tokens` uncached tokens; the GPU must be known."""
        assert self.place.throughput, "asked only of a GPU that is known"
        return tokens * self._flops_a_token / self.place.throughput[1]

    def write_s(self, batch: float) -> float:
        """Return the seconds of a decoding step that gives each of `batch` sequences a token."""
        assert self.place.throughput, "asked only of a GPU that is known"
        bandwidth, flops = self.place.throughput
        touched = 1 - (1 - self.active) ** max(1.0, batch)  # experts that any of them needs
        memory_s = (self.weights * touched + self.model.kv_bytes(self.tokens) * batch) / bandwidth
        return max(memory_s, batch * self._flops_a_token / flops) + _STEP_S

    def busy_s(self, reads: int, writes: int) -> float:
        """Return the server seconds per item, if the server works on as many as fit.

        Args:
            reads: Tokens of a prompt that are not cached.
            writes: Tokens of an answer.
        """
        slots = 1  # on a processor more would share its cores
        if self.place.engine == "vllm":
            slots = max(1, self.max_sequences)
        return self.read_s(reads) + _REQUEST_S + writes * self.write_s(slots) / slots


def quantisations(model: Model, placement: Placement) -> list[Quantisation]:
    """List the formats in which a place can run a model.

    vLLM makes `fp8` from `bf16` while it loads; other formats need published files.
    """
    if placement.engine not in model.servers or (model.no_float16 and placement.only_float16):
        return []
    if placement.engine == "llama.cpp":
        return [kind for kind in GGUF if kind in model.weights]
    able = placement.gpu.capability if placement.gpu else None
    return [
        kind
        for kind in _BY_VLLM
        if kind in model.weights
        and (able is None or able >= (_ADA if kind == "fp8" else _TURING))
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
    """Find how vLLM can serve a model on a machine; if it can't, what lacks the least memory.

    Near-lossless weights are taken if there is room enough, then coarser ones, then less room. If
    `tokens` (of a prompt and its answer) or `concurrency` (sequences of that length) is `None`, it
    comes from the first of `STEPS` that fits. GPU memory that the configuration gives to other
    servers is not used.

    Raises:
        ConfigError: vLLM serves no known format of the model on this machine.
    """
    ways = _ways(model, machine, quantisation)
    if not ways:
        raise ConfigError(
            f"vLLM serves no form of {model.name!r} that the catalogue knows on this machine "
            f"({machine}). Cards before Ampere (2020) compute in float16, in which some models go "
            "wrong"
        )

    def at(step: tuple[int, int], way: tuple[Placement, Quantisation]) -> LocalModel:
        (length, sequences), (place, kind) = step, way
        return LocalModel(
            model=model,
            place=place,
            quantisation=kind,
            tokens=tokens or min(length, model.context or length),
            concurrency=concurrency
            or (sequences if place.gpu else min(sequences, CPU_CONCURRENCY)),
            taken=_count_used_bytes(place, config),
        )

    exact = [way for way in ways if way[1] in _NEAR_LOSSLESS]
    orders = chain(product(STEPS[:_GOOD], exact), product(STEPS, ways))
    fitting = (candidate for candidate in (at(*pair) for pair in orders) if candidate.fits)
    return next(fitting, None) or min(
        (at(STEPS[-1], way) for way in ways), key=lambda it: it.lacking_bytes
    )


def _ways(
    model: Model, machine: Machine, quantisation: Quantisation | None = None
) -> list[tuple[Placement, Quantisation]]:
    """List the places and formats to serve a model with vLLM: few GPUs first, exact ones first."""
    processor, *gpu_places = list_placements(machine)
    placements = [place for place in gpu_places if place.engine == "vllm"]
    placements.sort(key=lambda place: place.count)
    placements = placements or [
        Placement(engine="vllm", cores=machine.cores, memory=processor.memory)
    ]
    return [
        (place, kind)
        for place in placements
        for kind in quantisations(model, place)
        if quantisation in (None, kind) and (place.gpu or kind in _ON_CPU)
    ]


def _count_used_bytes(placement: Placement, config: Config | None) -> int:
    """Return the bytes of GPUs that the configuration gives to others, running or not."""
    if config is None or placement.gpu is None:
        return 0
    shares = (
        endpoint.vllm.gpu_memory_utilization or UTILISATION
        for endpoint in config.served_endpoints.values()
    )
    free = int((UTILISATION - sum(shares)) * placement.gpu.memory * placement.count)
    return max(0, placement.memory - free)
