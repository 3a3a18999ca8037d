"""Asking: which endpoints a node asks, so that nothing is started or fetched in vain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from moa.agents import Agent
from moa.agents.deciding import DecidingAgent
from moa.agents.preprocessor import Preprocessor
from moa.graphs.cascade import Cascade
from moa.graphs.engine.builder import BuiltGraph
from moa.graphs.engine.handles import NodeStep
from moa.graphs.engine.human import Human
from moa.graphs.engine.loop import Loop
from moa.graphs.recipe import WiredRecipe
from moa.graphs.support import Excerpt, Waiting
from moa.guards.injection import Injection, InjectionRules


def asked_by(node: object) -> frozenset[str] | None:
    """Name the endpoints that a node may ask, but for those that a calibration reads beside.

    A deciding agent that finds out at its first use whether its endpoint is asked counts as asking.

    Args:
        node: An agent, a cascade or a graph, however deep, or anything else.

    Returns:
        Names; `None`: a node in it is of another kind, and may ask any.
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
    if isinstance(node, Cascade):
        return cast("Cascade[Any, Any]", node).tiers
    if isinstance(node, BuiltGraph | WiredRecipe | Loop):
        steps = (step for step in node.plan.steps if isinstance(step, NodeStep))
        # A quick function waits for nobody.
        return [step.node for step in steps if step.thread or not step.signature.quick]
    if isinstance(node, Injection):
        return (node.filter,)
    if isinstance(node, Preprocessor):
        return (node.rewriter,) if node.rewriter else ()
    return () if isinstance(node, Excerpt | Human | InjectionRules | Waiting) else None
