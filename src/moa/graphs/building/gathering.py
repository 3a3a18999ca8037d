"""Gathering: any number of handles as one, for what takes a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from moa.graphs.building.builder import Graph
from moa.graphs.building.handles import Handle

_MOST = 8
"""Handles that one join takes."""


def gathered(
    g: Graph[Any], handles: Sequence[Handle[Any]], *, into: Callable[..., Any] | None = None
) -> Handle[Any]:
    """Bring handles together, eight at a time where there are more.

    Args:
        g: The graph they stand in.
        handles: At least one.
        into: Makes one value of them in the end; `None` leaves them side by side.
    """
    left = list(handles)
    while len(left) > (1 if into is None else _MOST):
        left = [g.join(side_by_side, *left[i : i + _MOST]) for i in range(0, len(left), _MOST)]
    return left[0] if into is None else g.join(into, *left)


def side_by_side(*values: Any) -> tuple[Any, ...]:
    """Give the values as they are."""
    return values
