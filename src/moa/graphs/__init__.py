"""Graphs: nodes wired into one node, checked before it runs, drawn, and run side by side."""

from __future__ import annotations

from moa.graphs.building.bridges import as_langgraph, as_runnable, retry_on
from moa.graphs.building.builder import Graph
from moa.graphs.building.built import BuiltGraph
from moa.graphs.building.handles import Handle
from moa.graphs.building.skipped import Skipped

__all__ = ["BuiltGraph", "Graph", "Handle", "Skipped", "as_langgraph", "as_runnable", "retry_on"]
