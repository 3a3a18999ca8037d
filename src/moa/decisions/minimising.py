"""Minimising: finds the lowest point of a smooth convex function.

L-BFGS with the two-loop recursion (Nocedal 1980, "Updating quasi-Newton matrices with limited
storage", Mathematics of Computation 35), with steps halved until they lower the function enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from moa.decisions.arrays import Floats

Function = Callable[[Floats], tuple[float, Floats]]
"""Gives the value at a point, and the slope there."""

_KEPT = 12
_ENOUGH = 1e-4
_SMALLEST_STEP = 1e-10


def minimise(function: Function, start: Floats, *, steps: int = 200, near: float = 1e-5) -> Floats:
    """Go downhill from `start` until no part of the slope is above `near`.

    Args:
        function: Smooth and convex.
        start: A vector.
        steps: Most steps.
        near: How flat it must be where it ends.
    """
    point = start
    value, slope = function(point)
    kept: deque[tuple[Floats, Floats, float]] = deque(maxlen=_KEPT)
    for _ in range(steps):
        if np.abs(slope).max() <= near:
            break
        direction = _downhill(slope, kept)
        length = 1.0 if kept else min(1.0, 1.0 / float(np.abs(slope).sum()))
        gain = float(slope @ direction)
        while True:
            there = point + length * direction
            new_value, new_slope = function(there)
            if new_value <= value + _ENOUGH * length * gain:
                break
            length /= 2
            if length < _SMALLEST_STEP:  # as flat as the arithmetic can tell
                return point
        moved, turned = there - point, new_slope - slope
        curvature = float(moved @ turned)
        if curvature > 0:
            kept.append((moved, turned, 1.0 / curvature))
        point, value, slope = there, new_value, new_slope
    return point


def _downhill(slope: Floats, kept: deque[tuple[Floats, Floats, float]]) -> Floats:
    """Turn the slope by what the last steps have shown of the curvature."""
    direction: Floats = -slope
    shares: list[float] = []
    for moved, turned, rho in reversed(kept):
        share = rho * float(moved @ direction)
        direction = direction - share * turned
        shares.append(share)
    if kept:
        moved, turned, _ = kept[-1]
        direction = direction * (float(moved @ turned) / float(turned @ turned))
    for (moved, turned, rho), share in zip(kept, reversed(shares), strict=True):
        direction = direction + (share - rho * float(turned @ direction)) * moved
    return direction
