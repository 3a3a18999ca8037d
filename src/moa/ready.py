"""Ready: builds the named agents and graphs from a configuration."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from moa.agents.classifier import Classifier
from moa.agents.filter import Filter
from moa.agents.generator import Generator
from moa.agents.preprocessor import Preprocessor
from moa.agents.reasoner import Reasoner
from moa.agents.sentiment import Sentiment
from moa.config import checked, nearest
from moa.errors import ConfigError
from moa.graphs.shop import SupportSettings
from moa.graphs.support import injection_filter, spam_filter, support
from moa.node import Node
from moa.tiers import Endpoints

AnyNode = Node[Any, Any]
_SHOP = SupportSettings()
S = TypeVar("S", bound=BaseModel)


class NoSettings(BaseModel):
    """A table in which nothing can be set."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
    labels: dict[str, str] = Field(min_length=2)
    """What each label means, by label."""
    none: bool = True
    """Whether "none of these" is an answer too."""


class WriterSettings(BaseModel):
    """`[graphs.generator]` and `[graphs.reasoner]`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    instructions: str = "Answer the message, in its language."
    """What to do with the input."""
    max_tokens: int = Field(default=512, gt=0)
    """Most tokens to write."""


class Ready(NamedTuple, Generic[S]):
    """A named agent or graph."""

    does: str
    """In words, for whoever looks for one."""
    settings: type[S]
    """What its table in `moa.toml` may say."""
    build: Callable[[Endpoints, S], AnyNode]


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
    return injection_filter(endpoints.slm, settings.criterion, threshold=settings.threshold)


def _generator(endpoints: Endpoints, settings: WriterSettings) -> AnyNode:
    return Generator(endpoints.llm, settings.instructions, max_tokens=settings.max_tokens)


def _reasoner(endpoints: Endpoints, settings: WriterSettings) -> AnyNode:
    return Reasoner(
        endpoints.llm, instructions=settings.instructions, max_tokens=settings.max_tokens
    )


READY: dict[str, Ready[Any]] = {
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
"""The ready agents and graphs, by name."""


def node_of(name: str, endpoints: Endpoints) -> AnyNode:
    """Build a ready agent or graph, or load one from a file.

    Args:
        name: Of a ready one, or `file.py:object`: a node, or a function that gives one, with
            these endpoints as its only argument or without any.
        endpoints: Who is asked.

    Raises:
        ConfigError: there is no such name, file or object, its settings are wrong, or an endpoint
            that it needs is not configured.
    """
    tables = endpoints.config.graphs
    for table in tables:
        if table not in READY:
            raise ConfigError(f"[graphs.{table}] is no ready graph{nearest(table, list(READY))}")
    file, colon, attribute = name.rpartition(":")
    if colon and file.endswith(".py"):
        return _loaded(Path(file), attribute, endpoints)
    ready = READY.get(name)
    if ready is None:
        raise ConfigError(
            f"there is no ready graph or agent {name!r}{nearest(name, list(READY))} "
            "One of your own is given as file.py:object"
        )
    settings = checked(ready.settings, tables.get(name, {}), table=f"graphs.{name}")
    return ready.build(endpoints, settings)


def _loaded(file: Path, attribute: str, endpoints: Endpoints) -> AnyNode:
    where = f"{file}:{attribute}"
    module = _module(file)
    if not hasattr(module, attribute):
        names = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"{file} has no {attribute!r}{nearest(attribute, names)}")
    found: object = getattr(module, attribute)
    if callable(found) and not _is_node(found):
        needed = [
            parameter
            for parameter in inspect.signature(found).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        if len(needed) > 1:
            raise ConfigError(
                f"{where} takes {len(needed)} arguments: give a node, or a function of the "
                "endpoints, or of nothing, that returns one"
            )
        found = found(*([endpoints] if needed else []))
    if not _is_node(found):
        raise ConfigError(
            f"{where} is {type(found).__name__}, and no node: a node has a name and an "
            "asynchronous run. Give an agent, or what Graph.build returns"
        )
    return cast("AnyNode", found)


def _module(file: Path) -> ModuleType:
    if not file.is_file():
        raise ConfigError(f"there is no file {str(file)!r}")
    spec = importlib.util.spec_from_file_location(f"_moa_file_{file.stem}", file)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # so that it finds its neighbours, as a script does
    sys.modules[spec.name] = module  # pydantic looks annotations up by the name of their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        (*_, last) = traceback.extract_tb(error.__traceback__)
        raise ConfigError(
            f"{file} can't be loaded: {type(error).__name__}: {error} "
            f"({last.filename}, line {last.lineno})"
        ) from error
    return module


def _is_node(value: object) -> bool:
    return (
        not isinstance(value, type)
        and isinstance(getattr(value, "name", None), str)
        and inspect.iscoroutinefunction(getattr(value, "run", None))
    )
