"""Known models: the identity of an endpoint's model, and measured facts about models.

Some facts are shipped (`known.toml`). Those measured by `moa.local.probe` are stored in the
cache, and take precedence.
"""

from __future__ import annotations

import logging
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moa.core._files import cache_folder
from moa.core.context import RunContext
from moa.core.questions import Kind, Question
from moa.core.stores import open_store
from moa.endpoints import Endpoint
from moa.endpoints.wrappers import innermost

REPLIES_FROM = 7.0
"""Minimum size, in billions of parameters, of a model whose replies may be sent unread. With 0.5
and 1.5 billion most replies were not worth sending. Sizes between were not measured."""
DECIDES_FROM = 3.0
"""Minimum size, in billions of parameters, of a model that is asked in place of shipped heads. An
assumption: none of 3 billion or more was measured."""
_SIZE = re.compile(r"(?<![a-z\d.])(?:\d+x)?(\d+(?:\.\d+)?)(b|m)(?![a-z\d])", re.IGNORECASE)
MOST_OPTIONS = 24
"""Maximum number of options for which a small model is asked beside an encoder."""


class ModelFacts(BaseModel):
    """Facts about a model."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: str
    """Part of the model's name, in lower case."""
    writes: bool = True
    """True if the model's drafts are better than none."""
    replies: bool | None = None
    """True if the model's replies may be sent unread. `None`: not measured, so its size decides."""
    weight: Mapping[Kind, float] = Field(default_factory=dict[Kind, float])
    """Weight of the model's answers relative to the encoder's, by kind. 0 ignores them."""
    guesses: tuple[Kind, ...] = ()
    """Kinds of question about facts in a text that the model answers no better than without the
    text, as measured by `benchmarks/questions.py`."""
    asked: Literal["chat", "labels"] = "chat"
    """How its decisions are best asked for: in a chat for a JSON object, or, of base models and the
    smallest, by the log-probabilities of labels that continue a prompt."""

    def weight_of(self, question: Question) -> float:
        """Return the weight of the model's answer relative to the encoder's.

        It is 0 if not measured, or with more options than a small model can tell apart.
        """
        if len(question.options) > MOST_OPTIONS:
            return 0.0
        return self.weight.get(question.kind, 0.0)


class Identity(BaseModel):
    """Identity of a model and its server, as far as known."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    model: str
    """Name of the model on its server."""
    digest: str | None = None
    """SHA-256 of the weights; `None` if they are on a server."""
    server: str
    """The serving software, such as `llama.cpp`."""
    version: str | None = None
    """Version of the server; `None` if unknown."""


@runtime_checkable
class HasIdentity(Protocol):
    """An endpoint that can identify its model beyond the name, at no cost."""

    async def identity(self, context: RunContext, /) -> Identity: ...  # noqa: D102


async def identity_of(endpoint: Endpoint, context: RunContext) -> Identity:
    """Return the identity of an endpoint's model, beneath all wrappers.

    Raises:
        ModelNotFound: the weights of the embedded model are not available.
        MissingDependency: the encoder's packages are not installed.
    """
    endpoint = innermost(endpoint)
    if isinstance(endpoint, HasIdentity):
        return await endpoint.identity(context)
    return Identity(model=endpoint.model, server=type(endpoint).__name__)


UNKNOWN = ModelFacts(name="")


def facts_of(model: str) -> ModelFacts:
    """Look up a model by its name on its server or in the file of facts."""
    folder = cache_folder()
    return _probed_here.get((model, folder)) or _load_probed(model, folder) or _load_shipped(model)


def reads_labels(model: str) -> bool:
    """Return True if a model decides better by labels that continue a prompt than in a chat."""
    return facts_of(model).asked == "labels"


def answers_as_json(endpoint: Endpoint) -> bool:
    """Return True if an endpoint is asked for its decisions in a chat, unless it decides natively.

    That is so unless it was told another way, or its model is known to be better at another one. An
    endpoint of another kind is given the questions as they are.
    """
    endpoint = innermost(endpoint)
    decides = getattr(endpoint, "decides", None)
    return decides == "text" or (decides == "auto" and not reads_labels(endpoint.model))


def can_write(model: str) -> bool:
    """Return True if a model's drafts are better than none, as far as known."""
    return facts_of(model).writes


def billions_of(model: str) -> float | None:
    """Return the size in a model's name, in billions of parameters; `None` if it tells none."""
    size = _SIZE.search(model.rpartition("/")[2])
    return None if size is None else float(size[1]) / (1 if size[2].lower() == "b" else 1000)


def can_reply(model: str) -> bool | None:
    """Return True if a model's replies may be sent without human review; `None` if unknown.

    Unless measured, the size in the model's name decides.
    """
    facts = facts_of(model)
    if not facts.writes or facts.replies is not None:
        return facts.writes and facts.replies
    size = billions_of(model)
    return None if size is None else size >= REPLIES_FROM


def save_facts(facts: ModelFacts) -> Path:
    """Store the facts about a model, in this process and in the cache.

    Raises:
        StoreError: the cache can't be written. In this process, the facts apply all the same.
    """
    folder = cache_folder()
    _probed_here[facts.name, folder] = facts
    with open_store(folder / _MEASURED) as store:
        store.put(_probe_key(facts.name), facts.model_dump(mode="json"))
    return store.path


def package_version(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


_MEASURED = "measured.sqlite"
_logger = logging.getLogger(__name__)
_probed_here: dict[tuple[str, Path], ModelFacts] = {}


def _probe_key(model: str) -> str:
    return f"probe {model.lower()}"


@cache
def _load_probed(model: str, folder: Path) -> ModelFacts | None:
    file = folder / _MEASURED
    if not file.exists():
        return None
    with open_store(file, optional=True) as store:
        record = store.get(_probe_key(model))
    try:
        return None if record is None else ModelFacts.model_validate(record)
    except ValidationError:
        _logger.warning("what the cache holds of %s is of another version, and not used", model)
        return None


@cache
def _load_shipped(model: str) -> ModelFacts:
    file = Path(__file__).with_name("known.toml")
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    name = model.lower()
    models = (ModelFacts.model_validate(entry) for entry in table["models"])
    return next((facts for facts in models if facts.name in name), UNKNOWN)
