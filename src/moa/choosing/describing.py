"""Describing: a machine in words, such as `L4:2` and `64GB`, in place of the one that is here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from moa.errors import ConfigError
from moa.machine import GPU, Machine

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(mi?b|gi?b|ti?b|g|m|t)?", re.IGNORECASE)
_UNITS = {"m": 2**20, "g": 2**30, "t": 2**40}
_FREE = 0.75
"""Part of its RAM that a machine leaves to models, where nothing else is known."""
_CORES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is said of a machine; `None` and empty: as it is here."""

    gpus: Sequence[str] = ()
    """Each as `NAME`, `NAME:COUNT` or `NAME:COUNT:MEMORY`."""
    no_gpu: bool = False
    ram: str | None = None
    cores: int | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is said, so that it is this machine."""
        return not (self.gpus or self.no_gpu or self.ram or self.cores)


def described(description: Description, here: Machine) -> Machine:
    """Describe a machine, with what is not said taken from another one.

    Raises:
        ConfigError: a size or a GPU can't be read, or its memory isn't known.
    """
    if description.no_gpu and description.gpus:
        raise ConfigError("--gpu and --no-gpu contradict each other: give one of them")
    if description.empty:
        return here
    ram = _size(description.ram) if description.ram else here.ram
    return Machine(
        cores=description.cores or here.cores,
        ram=ram,
        ram_free=int(ram * _FREE),
        gpus=() if description.no_gpu else _gpus(description.gpus) or here.gpus,
        disk_free=None,
        online=here.online,
    )


def _gpus(given: Sequence[str]) -> tuple[GPU, ...]:
    return tuple(gpu for text in given for gpu in _gpu(text))


def _gpu(text: str) -> tuple[GPU, ...]:
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
