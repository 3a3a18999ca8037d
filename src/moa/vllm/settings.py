"""Settings: how a vLLM server that `moa` starts is configured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Self, TypedDict

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

UTILISATION = 0.92
"""vLLM's default share of a GPU's memory, since version 0.32."""
_LAST_PORT = 65535
_TENSOR_PARALLEL = ("--tensor-parallel-size", "-tp")


def _no_option(text: str) -> str:
    if text.startswith("-"):
        raise ValueError(f"{text!r} begins with '-', so that vLLM would take it for an option")
    return text


Word = Annotated[str, AfterValidator(_no_option)]
"""A value or a name on vLLM's command line."""


class VLLMConfig(BaseModel):
    """One `[endpoints.NAME.vllm]` table: how `moa up` starts vLLM for an endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    port: int = Field(default=8000, ge=1, le=_LAST_PORT)
    """Port on 127.0.0.1. Further replicas use the ports after it."""
    replicas: int = Field(default=1, ge=1)
    """Servers of the same model, behind one name."""
    dtype: Word = "auto"
    """Type of weights and activations: `auto`, `bfloat16`, `float16`, `float32`."""
    max_model_len: int | None = Field(default=None, gt=0)
    """Maximum tokens of a prompt and its answer; `None`: as the model says. A lower limit takes
    less memory."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Share of the GPU's memory that each server may take; `None`: vLLM's default, 0.92 in version
    0.32, divided among replicas on one GPU."""
    quantization: Word | None = None
    """Quantisation of the weights; `None`: as the model's files say."""
    lora: dict[Word, str] = Field(default_factory=dict[str, str])
    """LoRA adapters: folder or repository, by name."""
    block_size: int | None = Field(default=None, gt=0)
    """Tokens per block of the KV cache. Prefixes are cached in whole blocks. `None`: 32 without a
    GPU, where vLLM's default of 128 would never cache a short prompt; else vLLM's default."""
    max_num_seqs: int | None = Field(default=None, gt=0)
    """Maximum concurrent requests; `None`: vLLM's default."""
    priority: bool = False
    """True if requests are served by priority: see `priority` of an endpoint."""
    python: str | None = None
    """Interpreter or virtual environment with vLLM; `None`: this one, else the one that
    `moa doctor` explains how to make."""
    args: tuple[str, ...] = ()
    """Further arguments of vLLM, such as `["--enforce-eager"]`."""
    env: dict[str, str] = Field(default_factory=dict[str, str])
    """Further environment variables of vLLM, such as `CUDA_VISIBLE_DEVICES`. No secrets."""

    @model_validator(mode="after")
    def _has_ports(self) -> Self:
        if self.port + self.replicas - 1 > _LAST_PORT:
            raise ValueError(f"{self.replicas} replicas from port {self.port} on pass {_LAST_PORT}")
        return self

    @property
    def gpus_each(self) -> int:
        """Number of GPUs per server, from its arguments."""
        words = [part for word in self.args for part in word.split("=", 1)]
        sizes = [after for word, after in pairwise(words) if word in _TENSOR_PARALLEL]
        return max(1, int(sizes[-1])) if sizes and sizes[-1].isdecimal() else 1

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports of its replicas."""
        return tuple(range(self.port, self.port + self.replicas))


class VLLMSettings(TypedDict, total=False):
    """The fields of `VLLMConfig` as keyword arguments."""

    port: int
    dtype: str
    max_model_len: int | None
    gpu_memory_utilization: float | None
    quantization: str | None
    lora: Mapping[str, str]
    block_size: int | None
    max_num_seqs: int | None
    priority: bool
    python: str | None
    args: Sequence[str]
    env: Mapping[str, str]


def local_url(port: int) -> str:
    """Return the URL of a server that `moa` starts on this machine."""
    return f"http://127.0.0.1:{port}/v1"
