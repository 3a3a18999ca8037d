"""Graphs: nodes wired into one node, checked before it runs, drawn, and run in parallel."""

from __future__ import annotations

from moa.graphs.engine.graph import BuiltGraph, Graph
from moa.graphs.engine.steps import Handle
from moa.graphs.engine.types import Skipped

__all__ = ["BuiltGraph", "Graph", "Handle", "Skipped"]
