"""Speeds: how fast a model runs at a place, estimated by the roofline, or measured.

To write a token, the active weights and the KV cache of every sequence are read from memory once;
to read one, two operations a parameter are done. So decoding is bounded by bandwidth, and reading
by arithmetic (Williams and others, 2009, https://doi.org/10.1145/1498765.1498785; Pope and others,
2022, https://arxiv.org/abs/2211.05102). The shares of the peak that are reached are stated below.
Everything from here is an estimate, unless it came from `moa bench`.
"""

from __future__ import annotations

from dataclasses import dataclass

from moa.advisor.bench import Measurement, TokenSeconds
from moa.advisor.catalogue import Model, Quantisation
from moa.advisor.hardware import GB, GPU, card
from moa.advisor.performance import Place

BANDWIDTH_SHARE = 0.7
"""Part of a memory's peak that decoding reaches; across GPUs a little less, see `_ACROSS`."""
FLOPS_SHARE = 0.4
"""Part of a GPU's peak arithmetic that reading a prompt reaches."""
_ACROSS = 0.85
"""What is left of both when GPUs have to wait for each other, by doubling of their number."""
_GPU_STEP_S = 0.0015
"""Least seconds of a decoding step on a GPU, whatever is read."""
_CPU_STEP_S = 0.0005
CORE_BANDWIDTH, _SOCKET_BANDWIDTH, _SERVER_CORE_BANDWIDTH = 10 * GB, 50 * GB, 3 * GB
"""Bytes a second of RAM: a core takes about 10 GB/s, two channels of DDR4 or DDR5 give about 50
GB/s together; a processor with more than 16 cores has more channels, about 3 GB/s a core."""
CORE_FLOPS = 58e9
"""Operations a second of one core, reached: the built-in model of 135M parameters read 430 tokens
a second on two cores of an AMD EPYC (measured)."""
_VLLM_REQUEST_S, _LLAMACPP_REQUEST_S = 0.0015, 0.001
"""Seconds of the server's own processor a request: HTTP, tokenizer, scheduling."""
_CORES_A_SLOT = 4
"""Cores for one request at a time on a processor: more at once only share them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast a model runs at one place."""

    weights: float
    """Bytes of all weights."""
    active: float
    """Part of the weights that one token goes through; 1 but in a mixture of experts."""
    flops_a_token: float
    kv_bytes: float
    """Bytes of KV cache of one sequence."""
    bandwidth: float
    """Bytes a second, reached."""
    flops: float
    """Operations a second, reached."""
    step_s: float
    """Least seconds of a decoding step."""
    request_s: float
    """Seconds of the server's own processor a request."""
    slots: int
    """Most sequences worked on at once, memory apart."""
    measured: Measurement | None = None
    """Replaces the estimate where there is one."""

    def read_s(self, tokens: int) -> float:
        """Seconds to read a prompt of `tokens` that are not cached."""
        found = self._tokens()
        if found is not None:
            return found.input * tokens
        return tokens * self.flops_a_token / self.flops

    def write_s(self, batch: float) -> float:
        """Seconds of one decoding step, in which each of `batch` sequences gets a token."""
        found = self._written(batch)
        if found is not None:
            return found
        touched = 1 - (1 - self.active) ** max(1.0, batch)  # experts that any of them needs
        moved = (self.weights * touched + self.kv_bytes * batch) / self.bandwidth
        return max(moved, batch * self.flops_a_token / self.flops) + self.step_s

    @property
    def decision_s(self) -> float | None:
        """Seconds of the hardware a decision about a short text; `None`: not measured."""
        rate = self.measured.decisions_per_s if self.measured else None
        return None if rate is None else 1 / rate

    @property
    def tokens_per_s(self) -> float:
        """Tokens written in a second by one sequence alone."""
        return 1 / self.write_s(1)

    def _tokens(self) -> TokenSeconds | None:
        return self.measured.token_seconds if self.measured else None

    def _written(self, batch: float) -> float | None:
        steps = [s for s in self.measured.of("write") if s.requests] if self.measured else []
        wide = [step for step in steps if step.concurrency >= batch] or steps[-1:]
        if not wide or not wide[0].output_tokens:
            return None
        step = min(wide, key=lambda it: it.concurrency)
        return step.latency_median_s * step.requests / step.output_tokens


def speed(
    model: Model,
    place: Place,
    *,
    quantisation: Quantisation,
    tokens: int,
    measured: Measurement | None = None,
) -> Speed | None:
    """Estimate how fast a model runs; `None`: nothing is known of the GPU.

    Args:
        model: With its parameters known.
        place: Where it runs.
        quantisation: How its weights are kept.
        tokens: Of one sequence, prompt and answer.
        measured: What `moa bench` found for this model here.
    """
    peak = _peak(place)
    parameters = model.parameters
    if peak is None or parameters is None:
        return None
    bandwidth, flops = peak
    active = (model.active_parameters or parameters) / parameters
    gpu = place.gpu is not None
    return Speed(
        weights=model.weights[quantisation].bytes,
        active=active,
        flops_a_token=2.0 * parameters * active,
        kv_bytes=model.kv_bytes(tokens),
        bandwidth=bandwidth,
        flops=flops,
        step_s=_GPU_STEP_S if gpu else _CPU_STEP_S,
        request_s=_VLLM_REQUEST_S if place.engine == "vllm" else _LLAMACPP_REQUEST_S,
        slots=256 if place.engine == "vllm" else max(1, place.cores // _CORES_A_SLOT),
        measured=measured,
    )


def _peak(place: Place) -> tuple[float, float] | None:
    """Bytes and operations a second that are reached at a place."""
    if place.gpu is None:
        many = max(_SOCKET_BANDWIDTH, place.cores * _SERVER_CORE_BANDWIDTH)
        bandwidth = min(place.cores * CORE_BANDWIDTH, many)
        return bandwidth * BANDWIDTH_SHARE, place.cores * CORE_FLOPS
    found = _of_gpu(place.gpu)
    if found is None:
        return None
    together = place.count * _ACROSS ** (place.count.bit_length() - 1)
    bandwidth, flops = found
    return bandwidth * BANDWIDTH_SHARE * together, flops * FLOPS_SHARE * together


def _of_gpu(gpu: GPU) -> tuple[float, float] | None:
    known = card(gpu.name)
    if known is not None:
        return gpu.bandwidth or known.bandwidth, known.flops
    if gpu.bandwidth is None:
        return None
    # an RTX 3090 does 76 operations for each byte; newer cards do more
    return gpu.bandwidth, gpu.bandwidth * 75
