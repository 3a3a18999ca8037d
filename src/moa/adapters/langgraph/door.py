"""Door: all that the core asks of LangGraph; see `moa.graphs.engine.compilable`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph.types import interrupt

from moa.adapters.langgraph.durable import compile_node
from moa.adapters.langgraph.internals import can_ask

__all__ = ["ask", "can_ask", "compile_node"]


def ask(question: str | Mapping[str, object], answers: dict[str, Any]) -> object:
    """Ask a person by `interrupt`. `answers` is the JSON schema of what can be answered."""
    return interrupt(question, response_schema=answers)
