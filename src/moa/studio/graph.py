"""Graph: a drawing laid out in layers, with the figures of each node over the rows.

A box's layer is its longest path from the input. Within a layer, boxes are ordered by where their
arrows come from (Sugiyama, Tagawa and Toda 1981). A page draws the result without a library.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import TypedDict

from moa.adapters.drawing import diagram_of
from moa.graphs.engine.sketch import Box, Drawable
from moa.studio.book import Book, NodeTotals, percentile
from moa.studio.data import Drawing, Line, Place

_WIDE, _HIGH, _SMALL = 148.0, 46.0, 84.0
"""Width and height of a box, and the width of a join or an end."""
_BESIDE, _BELOW = 18.0, 40.0
_THIN = 14.0
"""Width of an arrow that passes through a layer."""
_SWEEPS = 8
_SLIM = ("join", "terminal")


def draw(graph: Drawable, name: str, book: Book) -> Drawing:
    """Lay out a graph.

    Args:
        graph: Graph to draw. Graphs within it stay closed.
        name: First part of the paths of its nodes.
        book: The rows.
    """
    diagram = diagram_of(graph, opened=False)
    arrows = {pair: arrow for pair, arrow in diagram.arrows.items() if pair[0] != pair[1]}
    layers = _assign_layers([*diagram.boxes], [*arrows])
    ways = {pair: _stops_of(pair, layers) for pair in arrows}
    rows = _order_layers(layers, ways)
    widths = {key: _SMALL if box.look in _SLIM else _WIDE for key, box in diagram.boxes.items()}
    middles, width = _place_stops(rows, widths)
    height = len(rows) * (_HIGH + _BELOW) - _BELOW
    places = tuple(
        place(key, box, f"{name}/{box.label}", book, middles[key], layers[key], widths[key])
        for key, box in diagram.boxes.items()
    )
    lines = tuple(
        Line(
            points=tuple(_points_of(ways[pair], middles, layers)),
            label=", ".join(arrow.labels),
            decides=arrow.decides_only,
        )
        for pair, arrow in arrows.items()
    )
    return Drawing(name=name, width=width, height=height, places=places, lines=lines)


def place(
    key: str, box: Box, path: str, book: Book, middle: float, layer: int, width: float
) -> Place:
    """Return a placed box with the figures of its node."""
    spent = book.spent.get(path)
    return Place(
        key=key,
        label=box.label,
        detail=box.detail,
        look=box.look or "agent",
        node=path if spent else "",
        x=middle - width / 2,
        y=layer * (_HIGH + _BELOW),
        width=width,
        height=_HIGH,
        **figures(spent, len(book.entries)),
    )


def stats(book: Book) -> tuple[Place, ...]:
    """Return the figures of each node that did something, the largest total time first."""
    totals = sorted(book.spent.items(), key=lambda item: -sum(item[1].seconds))
    return tuple(
        Place(
            key=path,
            label=path.partition("/")[2] or path,
            detail="",
            look="agent",
            node=path,
            **figures(spent, len(book.entries)),
        )
        for path, spent in totals
    )


class NodeFigures(TypedDict, total=False):
    """The fields of a `Place` with its node's rows, time and cost."""

    rows: int
    share: float | None
    p50: float | None
    p95: float | None
    cost: float | None


def figures(spent: NodeTotals | None, rows: int) -> NodeFigures:
    """Return a node's rows, time and cost."""
    if spent is None:
        return {}
    return {
        "rows": spent.rows,
        "share": spent.rows / rows if rows else None,
        "p50": percentile(spent.seconds, 0.5),
        "p95": percentile(spent.seconds, 0.95),
        "cost": spent.cost,
    }


def _assign_layers(boxes: list[str], pairs: list[tuple[str, str]]) -> dict[str, int]:
    """Assign each box a layer below all boxes that it waits for."""
    layers = dict.fromkeys(boxes, 0)
    for _ in boxes:  # no path is longer
        has_moved = False
        for start, end in pairs:
            if layers[end] <= layers[start] < len(boxes):
                layers[end] = layers[start] + 1
                has_moved = True
        if not has_moved:
            break
    return layers


def _stops_of(pair: tuple[str, str], layers: Mapping[str, int]) -> list[str]:
    """Return the stops of an arrow: its ends, and one in each layer between them."""
    start, end = pair
    between = range(layers[start] + 1, layers[end])
    return [start, *(f"{start}>{end}@{layer}" for layer in between), end]


def _order_layers(
    layers: dict[str, int], ways: Mapping[tuple[str, str], list[str]]
) -> list[list[str]]:
    """Order the stops of each layer by the mean position of their neighbours."""
    rows: dict[int, list[str]] = defaultdict(list)
    for key, layer in layers.items():
        rows[layer].append(key)
    above, below = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for way in ways.values():
        for first, second in pairwise(way):
            above[second].append(first)
            below[first].append(second)
        for stop in way[1:-1]:
            layers[stop] = int(stop.rpartition("@")[2])
            rows[layers[stop]].append(stop)
    order = [rows[layer] for layer in sorted(rows)]
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        ties, sweep_rows = (above, order[1:]) if down else (below, order[-2::-1])
        for row in sweep_rows:
            positions = {key: i / max(1, len(r) - 1) for r in order for i, key in enumerate(r)}
            middle = {
                key: sum(positions[neighbour] for neighbour in ties[key]) / len(ties[key])
                if ties[key]
                else positions[key]
                for key in row
            }
            row.sort(key=lambda key: middle[key])
    return order


def _place_stops(
    rows: list[list[str]], widths: Mapping[str, float]
) -> tuple[dict[str, float], float]:
    """Return the middle of each stop, and the width of the widest layer."""
    totals = [sum(widths.get(key, _THIN) + _BESIDE for key in row) - _BESIDE for row in rows]
    widest = max(totals, default=0.0)
    middles: dict[str, float] = {}
    for row, total in zip(rows, totals, strict=True):
        x = (widest - total) / 2
        for key in row:
            width = widths.get(key, _THIN)
            middles[key] = x + width / 2
            x += width + _BESIDE
    return middles, widest


def _points_of(
    way: list[str], middles: Mapping[str, float], layers: Mapping[str, int]
) -> list[tuple[float, float]]:
    """Return the points of an arrow, from below its start to above its end."""
    points: list[tuple[float, float]] = []
    for stop in way:
        top = layers[stop] * (_HIGH + _BELOW)
        if stop != way[0]:
            points.append((middles[stop], top))
        if stop != way[-1]:
            points.append((middles[stop], top + _HIGH))
    return points
