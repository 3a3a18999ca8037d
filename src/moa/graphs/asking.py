"""Asking: which endpoints a node asks, so that nothing is started or fetched in vain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from moa.agents import Agent
from moa.agents.deciding import DecidingAgent
from moa.agents.preprocessor import Preprocessor
from moa.graphs.engine.handles import NodeStep


def asked_by(node: object) -> frozenset[str] | None:
    """Name the endpoints that a node may ask, but for those that a calibration reads beside.

    A deciding agent that finds out at its first use whether its endpoint is asked counts as asking.

    Args:
        node: An agent, a cascade or a graph, however deep, or anything else.

    Returns:
        Names; `None`: a node in it doesn't say what it `runs`, and may ask any.
    """
    if isinstance(node, DecidingAgent):
        return frozenset({node.endpoint.name} if node.asks_endpoint else ())
    if isinstance(node, Agent):
        return frozenset({node.endpoint.name})
    parts = _parts(node)
    found = None if parts is None else [asked_by(part) for part in parts]
    if found is None or None in found:
        return None
    return frozenset(name for names in found if names for name in names)


def _parts(node: object) -> Iterable[object] | None:
    """Give the nodes that a node runs; none where it asks nothing, `None` where nobody knows."""
    if isinstance(node, Preprocessor):
        return (node.rewriter,) if node.rewriter else ()
    plan = getattr(node, "plan", None)
    if plan is None:
        return cast("Iterable[object] | None", getattr(node, "runs", None))
    steps: list[Any] = [step for step in plan.steps if isinstance(step, NodeStep)]
    # A quick function waits for nobody.
    return [step.node for step in steps if step.thread or not step.signature.quick]
