"""Mixtures of agents: small models decide, large ones write, typed end to end.

Every public name is loaded at first use, so `import moa` is quick and opens nothing.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moa import vllm as vllm
    from moa.advisor.choice import choose
    from moa.agents import Agent
    from moa.agents.classifier import Classifier
    from moa.agents.deciding import Decider
    from moa.agents.extractor import Extractor
    from moa.agents.filter import Filter, Verdict
    from moa.agents.mcp import mcp_tools
    from moa.agents.preprocessor import Preprocessor
    from moa.agents.reasoner import Reasoner
    from moa.agents.sentiment import Mood, Sentiment
    from moa.agents.tools import Tool
    from moa.budget import Budget
    from moa.chat.graph import Chat
    from moa.config.endpoints import Endpoints
    from moa.context import RunContext
    from moa.endpoints import Completion, Endpoint, Example, Prompt
    from moa.endpoints.embedded import EmbeddedEndpoint
    from moa.endpoints.langchain import LangChainEndpoint
    from moa.endpoints.named import endpoint
    from moa.endpoints.openai import OpenAIEndpoint
    from moa.endpoints.retries import Retried
    from moa.endpoints.vllm import VLLMEndpoint
    from moa.endpoints.wrappers import Fallback, Wrapping
    from moa.errors import (
        BudgetExceeded,
        CapabilityError,
        EndpointUnavailable,
        MoaError,
        WiringError,
    )
    from moa.graphs import BuiltGraph, Graph, Handle, Skipped, as_langgraph, as_runnable
    from moa.graphs.best_of_n import BestOfN
    from moa.graphs.brainstorm import Brainstorm
    from moa.graphs.cascade import Cascade
    from moa.graphs.choose_best import ChooseBest
    from moa.graphs.code import Code
    from moa.graphs.debate import Debate
    from moa.graphs.mixture import Mixture
    from moa.graphs.monitor import Monitor
    from moa.graphs.rag import Rag
    from moa.graphs.recommend import Recommend
    from moa.graphs.refine import Refine
    from moa.graphs.research import Research
    from moa.graphs.routed import Routed
    from moa.graphs.self_consistency import SelfConsistency
    from moa.graphs.self_mixture import SelfMixture
    from moa.graphs.shadow import Shadow
    from moa.graphs.solve import Solve
    from moa.graphs.summarize import Summarize
    from moa.graphs.support import Support
    from moa.graphs.write import Write
    from moa.guards import Blocked
    from moa.guards.guarded import Guarded
    from moa.guards.injection import Injection
    from moa.guards.pii import Pii
    from moa.guards.spam import Spam
    from moa.messages import Image, Message, ToolCall
    from moa.node import Dropped, Node, Reply, Result, Text
    from moa.questions import Choice, Predicate, Score, choice, predicate, score
    from moa.trace import (
        NodeFinished,
        NodeSkipped,
        NodeStarted,
        TextDelta,
        ToolFinished,
        ToolStarted,
    )
    from moa.usage import Price

logging.getLogger(__name__).addHandler(logging.NullHandler())

_HOMES = {
    "Agent": "agents",
    "BestOfN": "graphs.best_of_n",
    "Brainstorm": "graphs.brainstorm",
    "Budget": "budget",
    "Blocked": "guards",
    "BudgetExceeded": "errors",
    "BuiltGraph": "graphs",
    "CapabilityError": "errors",
    "Cascade": "graphs.cascade",
    "Chat": "chat.graph",
    "Choice": "questions",
    "ChooseBest": "graphs.choose_best",
    "Classifier": "agents.classifier",
    "Code": "graphs.code",
    "Completion": "endpoints",
    "Debate": "graphs.debate",
    "Decider": "agents.deciding",
    "Dropped": "node",
    "EmbeddedEndpoint": "endpoints.embedded",
    "Endpoint": "endpoints",
    "EndpointUnavailable": "errors",
    "Endpoints": "config.endpoints",
    "Example": "endpoints",
    "Extractor": "agents.extractor",
    "Fallback": "endpoints.wrappers",
    "Filter": "agents.filter",
    "Graph": "graphs",
    "Guarded": "guards.guarded",
    "Handle": "graphs",
    "Image": "messages",
    "Injection": "guards.injection",
    "LangChainEndpoint": "endpoints.langchain",
    "Message": "messages",
    "Mixture": "graphs.mixture",
    "MoaError": "errors",
    "Monitor": "graphs.monitor",
    "Mood": "agents.sentiment",
    "Node": "node",
    "NodeFinished": "trace",
    "NodeSkipped": "trace",
    "NodeStarted": "trace",
    "OpenAIEndpoint": "endpoints.openai",
    "Pii": "guards.pii",
    "Predicate": "questions",
    "Preprocessor": "agents.preprocessor",
    "Price": "usage",
    "Prompt": "endpoints",
    "Rag": "graphs.rag",
    "Reasoner": "agents.reasoner",
    "Recommend": "graphs.recommend",
    "Refine": "graphs.refine",
    "Reply": "node",
    "Research": "graphs.research",
    "Result": "node",
    "Retried": "endpoints.retries",
    "Routed": "graphs.routed",
    "RunContext": "context",
    "Score": "questions",
    "SelfConsistency": "graphs.self_consistency",
    "SelfMixture": "graphs.self_mixture",
    "Sentiment": "agents.sentiment",
    "Shadow": "graphs.shadow",
    "Skipped": "graphs",
    "Solve": "graphs.solve",
    "Spam": "guards.spam",
    "Summarize": "graphs.summarize",
    "Support": "graphs.support",
    "Text": "node",
    "TextDelta": "trace",
    "Tool": "agents.tools",
    "ToolCall": "messages",
    "ToolFinished": "trace",
    "ToolStarted": "trace",
    "VLLMEndpoint": "endpoints.vllm",
    "Verdict": "agents.filter",
    "WiringError": "errors",
    "Wrapping": "endpoints.wrappers",
    "Write": "graphs.write",
    "as_langgraph": "graphs",
    "as_runnable": "graphs",
    "choice": "questions",
    "choose": "advisor.choice",
    "endpoint": "endpoints.named",
    "mcp_tools": "agents.mcp",
    "predicate": "questions",
    "score": "questions",
}

__all__ = [
    "Agent",
    "BestOfN",
    "Blocked",
    "Brainstorm",
    "Budget",
    "BudgetExceeded",
    "BuiltGraph",
    "CapabilityError",
    "Cascade",
    "Chat",
    "Choice",
    "ChooseBest",
    "Classifier",
    "Code",
    "Completion",
    "Debate",
    "Decider",
    "Dropped",
    "EmbeddedEndpoint",
    "Endpoint",
    "EndpointUnavailable",
    "Endpoints",
    "Example",
    "Extractor",
    "Fallback",
    "Filter",
    "Graph",
    "Guarded",
    "Handle",
    "Image",
    "Injection",
    "LangChainEndpoint",
    "Message",
    "Mixture",
    "MoaError",
    "Monitor",
    "Mood",
    "Node",
    "NodeFinished",
    "NodeSkipped",
    "NodeStarted",
    "OpenAIEndpoint",
    "Pii",
    "Predicate",
    "Preprocessor",
    "Price",
    "Prompt",
    "Rag",
    "Reasoner",
    "Recommend",
    "Refine",
    "Reply",
    "Research",
    "Result",
    "Retried",
    "Routed",
    "RunContext",
    "Score",
    "SelfConsistency",
    "SelfMixture",
    "Sentiment",
    "Shadow",
    "Skipped",
    "Solve",
    "Spam",
    "Summarize",
    "Support",
    "Text",
    "TextDelta",
    "Tool",
    "ToolCall",
    "ToolFinished",
    "ToolStarted",
    "VLLMEndpoint",
    "Verdict",
    "WiringError",
    "Wrapping",
    "Write",
    "as_langgraph",
    "as_runnable",
    "choice",
    "choose",
    "endpoint",
    "mcp_tools",
    "predicate",
    "score",
]


def __getattr__(name: str) -> object:
    if name == "vllm":
        return import_module("moa.vllm")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'moa' has no attribute {name!r}")
    value: object = getattr(import_module(f"moa.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
