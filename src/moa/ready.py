"""Ready: builds the named agents and graphs from a configuration."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from moa.acceptance import Confident
from moa.agents.classifier import Classifier
from moa.agents.filter import Filter
from moa.agents.generator import Generator
from moa.agents.preprocessor import Preprocessor
from moa.agents.reasoner import Reasoner
from moa.agents.sentiment import Sentiment
from moa.config import checked, nearest
from moa.endpoints import Endpoint
from moa.errors import ConfigError
from moa.graphs.cascade import cascade
from moa.graphs.monitor import Monitor
from moa.graphs.shop import SupportSettings
from moa.graphs.support import injection_filter, spam_filter, support
from moa.guarantees.audit import Audit
from moa.node import Node
from moa.questions import NONE_OF_THESE
from moa.tiers import Endpoints

if TYPE_CHECKING:
    from moa.calibration import Calibration

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


class LabelSettings(BaseModel):
    """What a text is decided on: by a calibration's question and labels, or by those given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = "What is this text about?"
    """The question that the labels answer."""
    labels: dict[str, str] | list[str] | None = None
    """The labels, or what each means, by label; `None`: those of the calibration."""
    none: bool = False
    """Whether "none of these" is an answer too."""
    calibration: Path | None = None
    """A file that `moa calibrate` made for the small model, beside `moa.toml`; its question and
    labels come before those given here."""


class AloneSettings(LabelSettings):
    """`[graphs.slm]` and `[graphs.llm]`: with labels it decides, without them it writes."""

    instructions: str = "Answer the message, in its language."
    """What to do with the input, where nothing is decided."""
    max_tokens: int = Field(default=512, gt=0)
    """Most tokens to write."""


class CascadeSettings(LabelSettings):
    """`[graphs.cascade]`."""

    confidence: float | None = Field(default=None, ge=0, le=1)
    """From which confidence on the small model is believed, where there is no calibration. Nothing
    is promised of it."""
    audit: float = Field(default=0.02, ge=0, le=1)
    """Share of what is accepted that the large model checks, where there is a calibration."""
    state: Path | None = None
    """File that keeps the audit from one run to the next, beside `moa.toml`."""

    @model_validator(mode="after")
    def _says_what_is_accepted(self) -> Self:
        if self.calibration is None and (self.labels is None or self.confidence is None):
            raise ValueError(
                "a cascade needs calibration = the file that moa calibrate wrote, or both labels "
                "and confidence, of which nothing is promised"
            )
        return self


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


def _slm(endpoints: Endpoints, settings: AloneSettings) -> AnyNode:
    return _alone(endpoints, endpoints.slm, settings, calibrated=True)


def _llm(endpoints: Endpoints, settings: AloneSettings) -> AnyNode:
    return _alone(endpoints, endpoints.llm, settings, calibrated=False)


def _alone(
    endpoints: Endpoints, endpoint: Endpoint, settings: AloneSettings, *, calibrated: bool
) -> AnyNode:
    if settings.labels is None and settings.calibration is None:
        return Generator(endpoint, settings.instructions, max_tokens=settings.max_tokens)
    return _labelling(endpoint, settings, _calibration(endpoints, settings), calibrated=calibrated)


def _cascade(endpoints: Endpoints, settings: CascadeSettings) -> AnyNode:
    calibration = _calibration(endpoints, settings)
    monitor = Monitor(
        audit=calibration and Audit.of(calibration.bound, share=settings.audit),
        file=settings.state and beside(endpoints, settings.state),
    )
    return cascade(
        _labelling(endpoints.slm, settings, calibration, calibrated=True),
        _labelling(endpoints.llm, settings, calibration, calibrated=False),
        accept=None if calibration else Confident(settings.confidence or 0.0),
        monitor=monitor,
    )


def _calibration(endpoints: Endpoints, settings: LabelSettings) -> Calibration | None:
    if settings.calibration is None:
        return None
    from moa.calibration import Calibration

    return Calibration.load(beside(endpoints, settings.calibration))


def beside(endpoints: Endpoints, path: Path) -> Path:
    """Find a file that a configuration names: beside it, unless the path is absolute."""
    file = endpoints.config.file
    return path if file is None else file.parent / path


def _labelling(
    endpoint: Endpoint,
    settings: LabelSettings,
    calibration: Calibration | None,
    *,
    calibrated: bool,
) -> Classifier[str]:
    """Build the agent that decides, by the question and labels of the calibration if there is one.

    Raises:
        ConfigError: there are no labels.
    """
    labels, describe, task, none = settings.labels, None, settings.task, settings.none
    if calibration is not None:
        asked = calibration.question
        if asked.kind != "choice":
            raise ConfigError(
                f"the calibration was made for a {asked.kind}, and here one of several labels is "
                "chosen. In Python, a Decider takes it"
            )
        labels = [option.name for option in asked.options if option.name != NONE_OF_THESE]
        describe = {o.name: o.description for o in asked.options if o.description is not None}
        none = len(labels) < len(asked.options)
        task = asked.text
    if not labels:
        raise ConfigError("there are no labels to decide on: give labels, or a calibration")
    return Classifier(
        endpoint,
        labels,
        task=task,
        describe=describe,
        none=none,
        name="label",
        calibration=calibration if calibrated else None,
    )


READY: dict[str, Ready[Any]] = {
    "support": Ready("a support inbox: drop, route, answer", SupportSettings, _support),
    "sentiment": Ready("what a writer feels", NoSettings, _sentiment),
    "spam": Ready("drops unwanted mass mailings", SpamSettings, _spam),
    "injection": Ready("drops orders to the software", InjectionSettings, _injection),
    "filter": Ready("drops what meets a criterion", FilterSettings, _filter),
    "classifier": Ready("one of your labels", ClassifierSettings, _classifier),
    "cascade": Ready("the small model, and in doubt the large one", CascadeSettings, _cascade),
    "slm": Ready("the small model alone", AloneSettings, _slm),
    "llm": Ready("the large model alone", AloneSettings, _llm),
    "preprocessor": Ready("repairs and unwraps a text", NoSettings, _preprocessor),
    "generator": Ready("writes by instructions", WriterSettings, _generator),
    "reasoner": Ready("thinks step by step", WriterSettings, _reasoner),
}
"""The ready agents and graphs, by name."""


def node_of(
    name: str, endpoints: Endpoints, *, given: Mapping[str, object] | None = None
) -> AnyNode:
    """Build a ready agent or graph, or load one from a file.

    Args:
        name: Of a ready one, or `file.py:object`: a node, or a function that gives one, with
            these endpoints as its only argument or without any.
        endpoints: Who is asked.
        given: Settings that come before those of its table, where it has them.

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
    known = {k: v for k, v in (given or {}).items() if k in ready.settings.model_fields}
    table = {**tables.get(name, {}), **known}
    settings = checked(ready.settings, table, table=f"graphs.{name}")
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
