"""Mixtures of agents: small models decide, large ones write, typed end to end.

Every public name is loaded at first use, so `import moa` is quick and opens nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moa.context import RunContext
    from moa.endpoints import Endpoint, Example, Prompt
    from moa.errors import MoaError
    from moa.handoffs import Reply, Text
    from moa.node import Node, Result
    from moa.questions import Choice, Predicate, Score, choice, predicate, score
    from moa.usage import Budget, Price, Usage

_HOMES = {
    "Budget": "usage",
    "Choice": "questions",
    "Endpoint": "endpoints",
    "Example": "endpoints",
    "MoaError": "errors",
    "Node": "node",
    "Predicate": "questions",
    "Price": "usage",
    "Prompt": "endpoints",
    "Reply": "handoffs",
    "Result": "node",
    "RunContext": "context",
    "Score": "questions",
    "Text": "handoffs",
    "Usage": "usage",
    "choice": "questions",
    "predicate": "questions",
    "score": "questions",
}

__all__ = [
    "Budget",
    "Choice",
    "Endpoint",
    "Example",
    "MoaError",
    "Node",
    "Predicate",
    "Price",
    "Prompt",
    "Reply",
    "Result",
    "RunContext",
    "Score",
    "Text",
    "Usage",
    "choice",
    "predicate",
    "score",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'moa' has no attribute {name!r}")
    value: object = getattr(import_module(f"moa.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
