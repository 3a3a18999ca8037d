"""GPUs: which of them each replica takes, and what share of their memory."""

from __future__ import annotations

import math

from moa.advisor.hardware import Machine
from moa.advisor.performance import UTILISATION
from moa.errors import ConfigError
from moa.servers import VLLMConfig

VISIBLE = "CUDA_VISIBLE_DEVICES"


def devices(config: VLLMConfig, machine: Machine, *, replica: int) -> str | None:
    """Name the GPUs of a replica, as `CUDA_VISIBLE_DEVICES` does; `None`: all are everybody's."""
    each = config.gpus_each
    groups = len(machine.gpus) // each
    if config.replicas == 1 or groups < 2:
        return None
    first = replica % groups * each
    return ",".join(map(str, range(first, first + each)))


def share(config: VLLMConfig, machine: Machine, *, name: str, pinned: bool) -> float | None:
    """Give the share of a GPU's memory that each replica takes; `None`: vLLM's default.

    vLLM counts the share for each server, so that those on one GPU divide it among them.

    Args:
        config: How the model is served.
        machine: Whose GPUs they share.
        name: Of the model, for the error.
        pinned: Whether the GPUs are chosen already, so that all replicas have the same.

    Raises:
        ConfigError: the share that is set, times the replicas on one GPU, is more than all of it.
    """
    groups = 1 if pinned else max(1, len(machine.gpus) // config.gpus_each)
    together = math.ceil(config.replicas / groups)
    set_ = config.gpu_memory_utilization
    if together == 1:
        return set_
    most = math.floor(UTILISATION / together * 100) / 100
    if set_ is None:
        return most
    if set_ * together > 1:
        raise ConfigError(
            f"{config.replicas} servers of {name} come to {together} on one GPU, and each takes "
            f"gpu_memory_utilization = {set_:g} of it, which is more than there is. Set at most "
            f"{most:g}, or fewer replicas"
        )
    return set_
