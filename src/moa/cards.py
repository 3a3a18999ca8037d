"""Cards: what is known of GPUs before anything is measured on them.

Memory, memory bandwidth and dense 16-bit arithmetic are the makers' own figures: NVIDIA's data
sheets of each card (https://www.nvidia.com/en-us/data-center/, the Ada and Ampere GA102 whitepapers
for the RTX cards, https://developer.nvidia.com/embedded/jetson-modules for Jetson) and Apple's
technical specifications (https://support.apple.com/specs). Figures "with sparsity" are halved.
Apple states no 16-bit rate; there it is four times the published 32-bit rate of a GPU core count
times clock, rounded down, and is the least certain of all.
"""

from __future__ import annotations

import re
from typing import NamedTuple

GB = 10**9
GIB = 2**30


class Card(NamedTuple):
    """One kind of GPU, as its maker describes it."""

    name: str
    memory: int
    """Bytes."""
    bandwidth: float
    """Bytes a second that its memory gives at most."""
    flops: float
    """Dense 16-bit operations a second at most."""
    capability: tuple[int, int] | None
    """CUDA compute capability; `None`: no CUDA."""
    watts: float
    """Its board's, at most."""
    shared: bool = False
    """Whether its memory is the machine's RAM."""


def _card(
    name: str,
    gib: float,
    gb_per_s: float,
    tflops: float,
    capability: tuple[int, int] | None,
    watts: float,
    *,
    shared: bool = False,
) -> Card:
    memory, bandwidth, flops = int(gib * GIB), gb_per_s * GB, tflops * 1e12
    return Card(name, memory, bandwidth, flops, capability, watts, shared)


CARDS = (
    _card("B200", 180, 7700, 2250, (10, 0), 1000),
    _card("H200", 141, 4800, 989, (9, 0), 700),
    _card("H100 NVL", 94, 3900, 835, (9, 0), 400),
    _card("H100 PCIe", 80, 2000, 756, (9, 0), 350),
    _card("H100", 80, 3350, 989, (9, 0), 700),
    _card("A100 40GB", 40, 1555, 312, (8, 0), 400),
    _card("A100", 80, 2039, 312, (8, 0), 400),
    _card("L40S", 48, 864, 362, (8, 9), 350),
    _card("L4", 24, 300, 121, (8, 9), 72),
    _card("A10G", 24, 600, 70, (8, 6), 300),
    _card("A10", 24, 600, 125, (8, 6), 150),
    _card("T4", 16, 320, 65, (7, 5), 70),
    _card("V100", 16, 900, 125, (7, 0), 300),
    _card("RTX 5090", 32, 1792, 209, (12, 0), 575),
    _card("RTX 4090", 24, 1008, 165, (8, 9), 450),
    _card("RTX 3090", 24, 936, 71, (8, 6), 350),
    _card("RTX 4060", 8, 272, 60, (8, 9), 115),
    _card("RTX 3060", 12, 360, 51, (8, 6), 170),
    _card("Jetson AGX Orin", 64, 205, 85, (8, 7), 60, shared=True),
    _card("Jetson Orin NX", 16, 102, 25, (8, 7), 25, shared=True),
    _card("Jetson Orin Nano", 8, 102, 17, (8, 7), 25, shared=True),
    _card("Jetson Orin 8GB", 8, 102, 17, (8, 7), 25, shared=True),
    _card("Apple M1", 16, 68, 10, None, 20, shared=True),
    _card("Apple M2", 16, 100, 14, None, 20, shared=True),
    _card("Apple M3", 16, 100, 14, None, 20, shared=True),
    _card("Apple M4", 16, 120, 17, None, 22, shared=True),
    _card("Apple M4 Pro", 24, 273, 34, None, 46, shared=True),
    _card("Apple M4 Max", 36, 410, 68, None, 78, shared=True),
    _card("Apple M2 Ultra", 64, 800, 108, None, 120, shared=True),
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
