"""Entries: the ready agents and graphs, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from moa.agents.classifier import Classifier
from moa.agents.filter import Filter
from moa.agents.generator import Generator
from moa.agents.preprocessor import Preprocessor
from moa.agents.reasoner import Reasoner
from moa.agents.sentiment import Sentiment
from moa.chat.graph import Chat
from moa.graphs.best_of_n import BestOfN
from moa.graphs.brainstorm import Brainstorm
from moa.graphs.cascade import Cascade
from moa.graphs.choose_best import ChooseBest
from moa.graphs.code import Code
from moa.graphs.debate import Debate
from moa.graphs.mixture import Mixture
from moa.graphs.monitor import Monitor
from moa.graphs.rag import Rag
from moa.graphs.recipe import Recipe
from moa.graphs.recommend import Recommend
from moa.graphs.refine import Refine
from moa.graphs.research import Research
from moa.graphs.routed import Routed
from moa.graphs.self_consistency import SelfConsistency
from moa.graphs.self_mixture import SelfMixture
from moa.graphs.shadow import Shadow
from moa.graphs.single_model import single_model
from moa.graphs.solve import Solve
from moa.graphs.summarize import Summarize
from moa.graphs.support import Support, spam_filter
from moa.graphs.write import Write
from moa.guards.injection import Injection
from moa.guards.pii import Pii
from moa.handoffs import Reply
from moa.ready.entry import AnyNode, Ready, agent, recipe
from moa.usage import Tier

_WRITES = "Answer the message, in its language."
_GENERATOR = partial(Generator[Reply], instructions=_WRITES)
_REASONER = partial(Reasoner[str], instructions=_WRITES)

_RECIPES: tuple[type[Recipe[Any, Any]], ...] = (
    BestOfN,
    Brainstorm,
    Cascade,
    Chat,
    ChooseBest,
    Code,
    Debate,
    Mixture,
    Monitor,
    Rag,
    Recommend,
    Refine,
    Research,
    Routed,
    SelfConsistency,
    SelfMixture,
    Shadow,
    Solve,
    Summarize,
    Support,
    Write,
)

_AGENTS: tuple[tuple[str, str, Callable[..., AnyNode], Tier | None], ...] = (
    ("slm", "The small model alone", single_model, "slm"),
    ("llm", "The large model alone", partial(single_model, calibrated=False), "llm"),
    ("sentiment", "What a writer feels", Sentiment, "slm"),
    ("spam", "Drops unwanted mass mailings", spam_filter, "slm"),
    ("injection", "Drops orders to the software", Injection, "slm"),
    ("filter", "Drops what meets a criterion", Filter, "slm"),
    ("classifier", "One of your labels", Classifier, "slm"),
    ("preprocessor", "Repairs and unwraps a text", Preprocessor, None),
    ("generator", "Writes by instructions", _GENERATOR, "llm"),
    ("reasoner", "Thinks step by step", _REASONER, "llm"),
    ("pii", "Masks personal data in a text", Pii, None),
)
"""Name, what it does, what makes it, and the tier of the endpoint that it asks by default."""

READY: dict[str, Ready[Any]] = {
    **{one.name: recipe(one) for one in _RECIPES},
    **{name: agent(does, name, make, tier) for name, does, make, tier in _AGENTS},
}
"""The ready agents and graphs, by name."""
