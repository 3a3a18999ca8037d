"""Guard drawing: what a guarded node looks like as a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moa.context import RunContext
from moa.graphs.building.builder import Graph
from moa.graphs.building.handles import Handle
from moa.graphs.building.plan import Plan
from moa.node import Node, Result

AnyNode = Node[Any, Any]


@dataclass(frozen=True)
class _Stands:
    """A node in a drawing, in the place of one that runs otherwise."""

    name: str
    input_type: Any = object
    output_type: Any = Any

    async def run(self, request: Any, context: RunContext | None = None, /) -> Result[Any]:
        raise AssertionError("it is drawn, and doesn't run")


def plan_of_guarded(
    graph: Graph[Any],
    node: AnyNode,
    *,
    before: Sequence[AnyNode],
    beside: Sequence[AnyNode],
    after: Sequence[AnyNode],
    output: Any,
) -> Plan:
    """Wire the guards and the node: one after another, but for those beside it."""
    names = _Names()
    text: Handle[Any] = graph.input
    for guard in before:
        text = graph.add(_Stands(names.of(guard)), text)
    checks = [graph.add(_Stands(names.of(guard)), text) for guard in beside]
    answer: Handle[Any] = graph.add(node, text, name=names.of(node))
    if checks:
        # One join takes eight handles, and more guards than that stand beside nothing.
        answer = graph.add(
            _Stands("hold back", object, output), graph.join(_first, answer, *checks[:7])
        )
    for guard in after:
        answer = graph.add(_Stands(names.of(guard), object, output), answer)
    return graph.build(answer).plan


class _Names:
    """Tells those apart that have one name."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def of(self, node: AnyNode) -> str:
        self._seen[node.name] += 1
        times = self._seen[node.name]
        return node.name if times == 1 else f"{node.name} {times}"


def _first(answer: object, *verdicts: object) -> object:
    del verdicts
    return answer
