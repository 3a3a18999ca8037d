"""Models: which one an endpoint serves, and what measurements have found about it, as data.

Some come with this package (`known.toml`); others were found by `moa.decisions.probe` and are
kept in the cache, and come first.
"""

from __future__ import annotations

import logging
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moa._sqlite import ContentStore
from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.endpoints.weights import cache_folder
from moa.endpoints.wrappers import innermost
from moa.questions import Kind, Layout, Question

REPLIES_FROM = 7.0
"""Billions of parameters from which on what a model writes may be a reply that nobody reads: of
models with 0.5 and 1.5 billion most replies were not worth sending, and of those between nothing
was measured."""
_SIZE = re.compile(r"(?<![a-z\d.])(?:\d+x)?(\d+(?:\.\d+)?)(b|m)(?![a-z\d])", re.IGNORECASE)
MOST_OPTIONS = 24
"""Options among which a small model is asked to choose where there is an encoder beside it."""


class ModelFacts(BaseModel):
    """What is known of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: str
    """A part of its name, in small letters."""
    writes: bool = True
    """Whether its drafts are worth more than none."""
    replies: bool | None = None
    """Whether what it writes may go out unread; `None`: not measured, its size says it."""
    weight: Mapping[Kind, float] = Field(default_factory=dict[Kind, float])
    """How much its answers count beside the encoder's, by kind; 0 is not at all."""
    yes_bias: float = 0.0
    """Log-odds that are taken out of its yes: where half of the right answers are yes, it says so
    more often, or below 0 less often."""
    guesses: tuple[Kind, ...] = ()
    """Kinds of question about the facts of a text that it answers no better than one who doesn't
    read the text, as measured by `benchmarks/questions.py`."""
    layout: Mapping[Kind, Layout] = Field(default_factory=dict[Kind, Layout])
    """How a prompt is laid out where the log-probabilities of labels are read, by kind."""

    def layout_of(self, kind: Kind) -> Layout:
        """How a prompt is laid out for a kind of question; a completion, unless measured."""
        return self.layout.get(kind, "completion")

    def weight_of(self, question: Question) -> float:
        """How much its answer counts beside the encoder's; not at all, unless it was measured.

        Of very many options a small one loses track.
        """
        if len(question.options) > MOST_OPTIONS:
            return 0.0
        return self.weight.get(question.kind, 0.0)


class Identity(BaseModel):
    """Who answers, as far as that can be known."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    model: str
    """Name of the model, as its server knows it."""
    digest: str | None = None
    """SHA-256 of its weights; `None` where a server keeps them."""
    server: str
    """What serves it, such as `llama.cpp`."""
    version: str | None = None
    """Of the server; `None` where it doesn't say."""


@runtime_checkable
class HasIdentity(Protocol):
    """An endpoint that knows more of its model than the name. Asking is free."""

    async def identity(self, context: RunContext, /) -> Identity: ...  # noqa: D102


async def identity_of(endpoint: Endpoint, context: RunContext) -> Identity:
    """Find out who answers; whatever wraps an endpoint is looked through.

    Raises:
        ModelNotFound: the weights of the embedded model can't be had.
        MissingDependency: the encoder's packages are not installed.
    """
    endpoint = innermost(endpoint)
    if isinstance(endpoint, HasIdentity):
        return await endpoint.identity(context)
    return Identity(model=endpoint.model, server=type(endpoint).__name__)


UNKNOWN = ModelFacts(name="")


def facts_of(model: str) -> ModelFacts:
    """Look a model up by its name, as its server knows it, or that of its file."""
    folder = cache_folder()
    return _found_here.get((model, folder)) or _load_probed(model, folder) or _load_shipped(model)


def can_write(model: str) -> bool:
    """Say whether a model's drafts are worth more than none, as far as is known."""
    return facts_of(model).writes


def can_reply(model: str) -> bool | None:
    """Say whether what a model writes may go out unread; `None`: neither name nor measure says.

    Where it wasn't measured that follows from its size, as its name has it.
    """
    found = facts_of(model)
    if not found.writes or found.replies is not None:
        return found.writes and found.replies
    size = _SIZE.search(model.rpartition("/")[2])
    if size is None:
        return None
    return float(size[1]) / (1 if size[2].lower() == "b" else 1000) >= REPLIES_FROM


def keep(found: ModelFacts) -> Path:
    """Keep what a probe found of the model `found.name`, in this process and in the cache.

    Raises:
        StoreError: the cache can't be written; in this process it counts.
    """
    folder = cache_folder()
    _found_here[found.name, folder] = found
    with ContentStore(folder / _MEASURED) as store:
        store.put(_probe_of(found.name), found.model_dump(mode="json"))
    return store.path


def package_version(package: str) -> str | None:
    """Version of a package, where it is installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


_MEASURED = "measured.sqlite"
_logger = logging.getLogger(__name__)
_found_here: dict[tuple[str, Path], ModelFacts] = {}


def _probe_of(model: str) -> str:
    return f"probe {model.lower()}"


@cache
def _load_probed(model: str, folder: Path) -> ModelFacts | None:
    with ContentStore(folder / _MEASURED, optional=True) as store:
        found = store.get(_probe_of(model))
    try:
        return None if found is None else ModelFacts.model_validate(found)
    except ValidationError:
        _logger.warning("what the cache holds of %s is of another version, and not used", model)
        return None


@cache
def _load_shipped(model: str) -> ModelFacts:
    file = Path(__file__).with_name("known.toml")
    found = tomllib.loads(file.read_text(encoding="utf-8"))
    name = model.lower()
    models = (ModelFacts.model_validate(entry) for entry in found["models"])
    return next((one for one in models if one.name in name), UNKNOWN)
