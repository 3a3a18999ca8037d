"""The ready agents, and the support graph."""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from moa.agents.classifier import Classifier
from moa.agents.filter import Filter
from moa.agents.generator import Generator
from moa.agents.preprocessor import Preprocessor
from moa.agents.reasoner import Reasoner
from moa.agents.sentiment import Sentiment
from moa.graphs.cascade import Cascade
from moa.graphs.routed import Routed
from moa.graphs.shadow import Shadow
from moa.graphs.shop import SupportSettings
from moa.graphs.single_model import single_model
from moa.graphs.support import spam_filter, support
from moa.guards.injection import Injection
from moa.ready.entry import AnyNode, NoSettings, Ready, agent, recipe
from moa.tiers import Endpoints

_SHOP = SupportSettings()


class FilterSettings(BaseModel):
    """`[graphs.filter]`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    criterion: str = Field(min_length=1)
    """What is dropped: "unsolicited advertising"."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Probability from which on a text meets the criterion."""


class SpamSettings(FilterSettings):
    """`[graphs.spam]`."""

    criterion: str = Field(default=_SHOP.spam, min_length=1)
    threshold: float = Field(default=_SHOP.threshold, gt=0, lt=1)


class InjectionSettings(FilterSettings):
    """`[graphs.injection]`."""

    criterion: str = Field(default=_SHOP.injection, min_length=1)
    threshold: float = Field(default=_SHOP.threshold, gt=0, lt=1)


class ClassifierSettings(BaseModel):
    """`[graphs.classifier]`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = "What is this text about?"
    """The question that the labels answer."""
    labels: dict[str, str] | list[str] = Field(min_length=2)
    """The labels, or what each means, by label."""
    none: bool = True
    """Whether "none of these" is an answer too."""


class WriterSettings(BaseModel):
    """`[graphs.generator]` and `[graphs.reasoner]`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    instructions: str = "Answer the message, in its language."
    """What to do with the input."""
    max_tokens: int = Field(default=512, gt=0)
    """Most tokens to write."""


def _support(endpoints: Endpoints, settings: SupportSettings) -> AnyNode:
    return support(endpoints.slm, endpoints.llm, settings=settings)


def _sentiment(endpoints: Endpoints, settings: NoSettings) -> AnyNode:
    del settings
    return Sentiment(endpoints.slm)


def _preprocessor(endpoints: Endpoints, settings: NoSettings) -> AnyNode:
    del endpoints, settings
    return Preprocessor()


def _classifier(endpoints: Endpoints, settings: ClassifierSettings) -> AnyNode:
    return Classifier(endpoints.slm, settings.labels, task=settings.task, none=settings.none)


def _filter(endpoints: Endpoints, settings: FilterSettings) -> AnyNode:
    return Filter(endpoints.slm, settings.criterion, threshold=settings.threshold)


def _spam(endpoints: Endpoints, settings: FilterSettings) -> AnyNode:
    return spam_filter(endpoints.slm, settings.criterion, threshold=settings.threshold)


def _injection(endpoints: Endpoints, settings: FilterSettings) -> AnyNode:
    return Injection(endpoints.slm, criterion=settings.criterion, threshold=settings.threshold)


def _generator(endpoints: Endpoints, settings: WriterSettings) -> AnyNode:
    return Generator(endpoints.llm, settings.instructions, max_tokens=settings.max_tokens)


def _reasoner(endpoints: Endpoints, settings: WriterSettings) -> AnyNode:
    return Reasoner(
        endpoints.llm, instructions=settings.instructions, max_tokens=settings.max_tokens
    )


READY: dict[str, Ready[Any]] = {
    "cascade": recipe(Cascade),
    "routed": recipe(Routed),
    "shadow": recipe(Shadow),
    "slm": agent("the small model alone", "slm", single_model, "slm"),
    "llm": agent("the large model alone", "llm", partial(single_model, calibrated=False), "llm"),
    "support": Ready("a support inbox: drop, route, answer", SupportSettings, _support),
    "sentiment": Ready("what a writer feels", NoSettings, _sentiment),
    "spam": Ready("drops unwanted mass mailings", SpamSettings, _spam),
    "injection": Ready("drops orders to the software", InjectionSettings, _injection),
    "filter": Ready("drops what meets a criterion", FilterSettings, _filter),
    "classifier": Ready("one of your labels", ClassifierSettings, _classifier),
    "preprocessor": Ready("repairs and unwraps a text", NoSettings, _preprocessor),
    "generator": Ready("writes by instructions", WriterSettings, _generator),
    "reasoner": Ready("thinks step by step", WriterSettings, _reasoner),
}
