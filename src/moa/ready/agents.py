"""The ready agents, and graphs that decide."""

from __future__ import annotations

from functools import partial
from typing import Any

from moa.agents.classifier import Classifier
from moa.agents.filter import Filter
from moa.agents.generator import Generator
from moa.agents.preprocessor import Preprocessor
from moa.agents.reasoner import Reasoner
from moa.agents.sentiment import Sentiment
from moa.chat.graph import Chat
from moa.graphs.cascade import Cascade
from moa.graphs.monitor import Monitor
from moa.graphs.routed import Routed
from moa.graphs.shadow import Shadow
from moa.graphs.single_model import single_model
from moa.graphs.support import Support, spam_filter
from moa.guards.injection import Injection
from moa.guards.pii import Pii
from moa.handoffs import Reply
from moa.ready.entry import Ready, agent, recipe

_WRITES = "Answer the message, in its language."
_GENERATOR = partial(Generator[Reply], instructions=_WRITES)
_REASONER = partial(Reasoner[str], instructions=_WRITES)


READY: dict[str, Ready[Any]] = {
    "cascade": recipe(Cascade),
    "routed": recipe(Routed),
    "shadow": recipe(Shadow),
    "monitor": recipe(Monitor),
    "chat": recipe(Chat),
    "slm": agent("the small model alone", "slm", single_model, "slm"),
    "llm": agent("the large model alone", "llm", partial(single_model, calibrated=False), "llm"),
    "support": recipe(Support),
    "sentiment": agent("what a writer feels", "sentiment", Sentiment, "slm"),
    "spam": agent("drops unwanted mass mailings", "spam", spam_filter, "slm"),
    "injection": agent("drops orders to the software", "injection", Injection, "slm"),
    "filter": agent("drops what meets a criterion", "filter", Filter, "slm"),
    "classifier": agent("one of your labels", "classifier", Classifier, "slm"),
    "preprocessor": agent("repairs and unwraps a text", "preprocessor", Preprocessor),
    "generator": agent("writes by instructions", "generator", _GENERATOR, "llm"),
    "reasoner": agent("thinks step by step", "reasoner", _REASONER, "llm"),
    "pii": agent("masks personal data in a text", "pii", Pii),
}
