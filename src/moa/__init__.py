"""Mixtures of agents: small models decide, large ones write, typed end to end.

Every public name is loaded at first use, so `import moa` is quick and opens nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moa import serving as serving
    from moa.agents import Agent
    from moa.agents.classifier import Classifier
    from moa.agents.decider import Decider
    from moa.agents.extractor import Extractor
    from moa.agents.filter import Filter
    from moa.agents.generator import Generator
    from moa.agents.preprocessor import Preprocessor
    from moa.agents.reasoner import Reasoner
    from moa.agents.sentiment import Sentiment
    from moa.choosing.ranking import choose
    from moa.choosing.task import Task
    from moa.context import RunContext
    from moa.endpoints import Endpoint, Example
    from moa.endpoints.embedded import EmbeddedEndpoint
    from moa.endpoints.openai import OpenAIEndpoint
    from moa.endpoints.vllm import VLLMEndpoint
    from moa.errors import MoaError
    from moa.graphs import Graph
    from moa.graphs.brainstorm import Brainstorm
    from moa.graphs.code import Code
    from moa.graphs.rag import Rag
    from moa.graphs.recommend import Recommend
    from moa.graphs.research import Research
    from moa.graphs.solve import Solve
    from moa.graphs.summarize import Summarize
    from moa.graphs.write import Write
    from moa.handoffs import Reply, Text
    from moa.node import Node, Result
    from moa.questions import Choice, Predicate, Score, choice, predicate, score
    from moa.tiers import Endpoints
    from moa.usage import Budget, Price

_HOMES = {
    "Agent": "agents",
    "Brainstorm": "graphs.brainstorm",
    "Budget": "usage",
    "Choice": "questions",
    "Classifier": "agents.classifier",
    "Code": "graphs.code",
    "Decider": "agents.decider",
    "EmbeddedEndpoint": "endpoints.embedded",
    "Endpoint": "endpoints",
    "Endpoints": "tiers",
    "Example": "endpoints",
    "Extractor": "agents.extractor",
    "Filter": "agents.filter",
    "Generator": "agents.generator",
    "Graph": "graphs",
    "MoaError": "errors",
    "Node": "node",
    "OpenAIEndpoint": "endpoints.openai",
    "Predicate": "questions",
    "Preprocessor": "agents.preprocessor",
    "Price": "usage",
    "Rag": "graphs.rag",
    "Reasoner": "agents.reasoner",
    "Recommend": "graphs.recommend",
    "Reply": "handoffs",
    "Research": "graphs.research",
    "Result": "node",
    "RunContext": "context",
    "Score": "questions",
    "Sentiment": "agents.sentiment",
    "Solve": "graphs.solve",
    "Summarize": "graphs.summarize",
    "Task": "choosing.task",
    "Text": "handoffs",
    "VLLMEndpoint": "endpoints.vllm",
    "Write": "graphs.write",
    "choice": "questions",
    "choose": "choosing.ranking",
    "predicate": "questions",
    "score": "questions",
}

__all__ = [
    "Agent",
    "Brainstorm",
    "Budget",
    "Choice",
    "Classifier",
    "Code",
    "Decider",
    "EmbeddedEndpoint",
    "Endpoint",
    "Endpoints",
    "Example",
    "Extractor",
    "Filter",
    "Generator",
    "Graph",
    "MoaError",
    "Node",
    "OpenAIEndpoint",
    "Predicate",
    "Preprocessor",
    "Price",
    "Rag",
    "Reasoner",
    "Recommend",
    "Reply",
    "Research",
    "Result",
    "RunContext",
    "Score",
    "Sentiment",
    "Solve",
    "Summarize",
    "Task",
    "Text",
    "VLLMEndpoint",
    "Write",
    "choice",
    "choose",
    "predicate",
    "score",
]


def __getattr__(name: str) -> object:
    if name == "serving":
        return import_module("moa.vllm")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'moa' has no attribute {name!r}")
    value: object = getattr(import_module(f"moa.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
