"""Graphs: nodes wired into one node, checked before it runs, drawn, and run side by side."""

from __future__ import annotations

from moa.graphs.bridges import as_langgraph, as_runnable, retry_on
from moa.graphs.builder import Graph
from moa.graphs.built import BuiltGraph
from moa.graphs.handles import Handle
from moa.graphs.skipped import Skipped

__all__ = ["BuiltGraph", "Graph", "Handle", "Skipped", "as_langgraph", "as_runnable", "retry_on"]
