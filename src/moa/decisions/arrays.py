"""Arrays: numpy, and what arrays of it are called here."""

from __future__ import annotations

from moa.errors import MissingDependency

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError as error:
    raise MissingDependency(
        "numpy", extra="local", purpose="to fit an agent to its task"
    ) from error

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

__all__ = ["Bools", "Floats", "Ints", "log_softmax", "np"]


def log_softmax(scores: Floats) -> Floats:
    """Logarithms of probabilities that add up to 1 along the last axis."""
    moved = scores - scores.max(-1, keepdims=True)
    return moved - np.log(np.exp(moved).sum(-1, keepdims=True))
