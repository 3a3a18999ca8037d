"""Mixtures of agents: small models decide, large ones write, typed end to end.

Every public name is loaded at first use, so `import moa` is quick and opens nothing.
"""

from __future__ import annotations

import logging
import re
from importlib import import_module
from pkgutil import get_data
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the one list of public names; `__getattr__` reads it too
    from moa import vllm as vllm
    from moa.adapters.langgraph import as_langgraph as as_langgraph
    from moa.agents.agent import Agent as Agent
    from moa.agents.classifier import Classifier as Classifier
    from moa.agents.deciding import Decider as Decider
    from moa.agents.extractor import Extractor as Extractor
    from moa.agents.filter import Filter as Filter
    from moa.agents.sentiment import Sentiment as Sentiment
    from moa.agents.tools import Tool as Tool
    from moa.chat.graph import Chat as Chat
    from moa.config.endpoints import Endpoints as Endpoints
    from moa.core.budget import Budget as Budget
    from moa.core.context import RunContext as RunContext
    from moa.core.errors import MoaError as MoaError
    from moa.core.messages import Message as Message
    from moa.core.node import Node as Node
    from moa.core.node import Reply as Reply
    from moa.core.node import Result as Result
    from moa.core.node import Text as Text
    from moa.core.questions import Choice as Choice
    from moa.core.questions import Predicate as Predicate
    from moa.core.questions import Score as Score
    from moa.core.questions import choice as choice
    from moa.core.questions import predicate as predicate
    from moa.core.questions import score as score
    from moa.core.usage import Price as Price
    from moa.decisions.file import Calibration as Calibration
    from moa.documents.preprocessor import Preprocessor as Preprocessor
    from moa.documents.rag import Rag as Rag
    from moa.documents.summarize import Summarize as Summarize
    from moa.endpoints.named import endpoint as endpoint
    from moa.endpoints.openai import OpenAIEndpoint as OpenAIEndpoint
    from moa.endpoints.wrappers import Fallback as Fallback
    from moa.graphs import Graph as Graph
    from moa.graphs import Skipped as Skipped
    from moa.graphs.cascade import Cascade as Cascade
    from moa.graphs.mixture import Mixture as Mixture
    from moa.guards.guarded import Guarded as Guarded
    from moa.inbox.support import Support as Support
    from moa.learning.fit import calibrate as calibrate
    from moa.learning.labelled import Labelled as Labelled
    from moa.local.embedded import EmbeddedEndpoint as EmbeddedEndpoint
    from moa.recipes.reasoner import Reasoner as Reasoner
    from moa.serving.app import serve as serve
    from moa.vllm.endpoint import VLLMEndpoint as VLLMEndpoint

logging.getLogger(__name__).addHandler(logging.NullHandler())

_HOMES: dict[str, str] = {
    name: home
    for home, name in re.findall(
        r"(?m)^    from (moa\.\S+) import (\w+) as \2$",
        (get_data(__name__, "__init__.py") or b"").decode(),
    )
}
_EXTRAS = ("moa.learning.fit", "moa.serving.app")
"""They import an extra. `import *` loads all that it names, so it leaves these out."""
__all__ = sorted(name for name, home in _HOMES.items() if home not in _EXTRAS)  # pyright: ignore[reportUnsupportedDunderAll]


if not TYPE_CHECKING:  # else a type checker would believe that every name exists

    def __getattr__(name: str) -> object:
        if name == "vllm":
            return import_module("moa.vllm")
        if name not in _HOMES:
            raise AttributeError(f"module 'moa' has no attribute {name!r}")
        value: object = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(_HOMES)
