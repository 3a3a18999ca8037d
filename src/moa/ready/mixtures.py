"""The ready graphs that make one answer of several: of several models, or of one asked again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from moa.agents.proposer import ANSWER, Proposer
from moa.errors import ConfigError
from moa.graphs.mixture import mixture
from moa.graphs.self_mixture import self_mixture
from moa.ready.entry import AnyNode, Ready
from moa.tiers import Endpoints
from moa.usage import Budget

V = TypeVar("V")
Temperature = Annotated[float, Field(ge=0, le=2)]


class JointSettings(BaseModel):
    """What the tables of this family share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    aggregator: str | None = None
    """Endpoint that makes one answer of several; `None`: the default large one, or of a
    self-mixture the same model."""
    quorum: int | None = Field(default=None, gt=0)
    """Fewest answers of a layer to go on with; `None`: one, but all are waited for, and the last
    one with no more than the patience."""
    timeout_s: float | None = Field(default=None, gt=0)
    """Seconds that each proposer may take, retries included; `None` is no limit of its own."""
    patience_s: float = Field(default=0.2, ge=0)
    """Seconds that the others get once the quorum is there."""
    agree: int | None = Field(default=None, ge=2)
    """Answers that say the same, from which on nobody else is asked, and one of them is the answer;
    `None` asks all."""
    instructions: str = Field(default=ANSWER, min_length=1)
    """What to do with the request."""
    max_tokens: int = Field(default=1024, gt=0)
    """Most tokens of each answer."""
    calls: int | None = Field(default=None, gt=0)
    """Most calls in a run; with fewer than the whole takes, proposers and layers are left out."""
    seed: int = 0
    """Decides, with the request, the order in which answers are shown."""


class MixtureSettings(JointSettings):
    """`[graphs.mixture]`."""

    proposers: list[str] | list[list[str]] | None = Field(default=None, min_length=1)
    """Endpoints that are asked in every layer, or one list of them for each layer; `None`: the
    default small one and the default large one."""
    layers: int | None = Field(default=None, gt=0)
    """How often one list of proposers is asked; `None`: once, or each of several lists once."""
    temperatures: Temperature | list[Temperature] | list[list[Temperature]] | None = None
    """From 0 to 2: one for all, or one for each proposer, in lists as the proposers; `None`: 0, but
    0.7 for an endpoint that is asked more than once in a layer."""
    roles: list[str] | list[list[str]] | None = None
    """A point of view for each proposer, in lists as the proposers; an empty text is none."""


class SelfMixtureSettings(JointSettings):
    """`[graphs.self_mixture]`."""

    model: str | None = None
    """Endpoint that is sampled; `None`: the default large one."""
    samples: int = Field(default=6, gt=0)
    """How often it is asked."""
    temperature: float = Field(default=0.7, gt=0, le=2)
    """Without one all samples would be the same."""
    window: int | None = Field(default=None, ge=2)
    """Answers that are read at once, further ones then with the answer so far; `None`: all."""


def _mixture(endpoints: Endpoints, settings: MixtureSettings) -> AnyNode:
    lists = _lists(settings.proposers or [endpoints.slm.name, endpoints.llm.name], "proposers")
    layers = [
        _layer(endpoints, names, temperatures, roles, settings)
        for names, temperatures, roles in zip(
            lists,
            _spread(settings.temperatures, None, lists, "temperatures"),
            _spread(settings.roles, "", lists, "roles"),
            strict=True,
        )
    ]
    aggregator = endpoints.named(settings.aggregator) if settings.aggregator else endpoints.llm
    return mixture(
        layers[0] if len(layers) == 1 else layers,
        Proposer(
            aggregator,
            settings.instructions,
            name="aggregator",
            max_tokens=settings.max_tokens,
        ),
        layers=settings.layers or 1,
        quorum=settings.quorum,
        timeout_s=settings.timeout_s,
        patience_s=settings.patience_s,
        agree=settings.agree,
        seed=settings.seed,
        budget=Budget(calls=settings.calls),
    )


def _layer(
    endpoints: Endpoints,
    names: Sequence[str],
    temperatures: Sequence[float | None],
    roles: Sequence[str],
    settings: MixtureSettings,
) -> list[Proposer]:
    return [
        Proposer(
            endpoints.named(name),
            settings.instructions,
            name=name,
            role=role,
            temperature=_usual(names, name) if temperature is None else temperature,
            max_tokens=settings.max_tokens,
        )
        for name, temperature, role in zip(names, temperatures, roles, strict=True)
    ]


def _usual(names: Sequence[str], name: str) -> float:
    return 0.7 if names.count(name) > 1 else 0.0


def _self_mixture(endpoints: Endpoints, settings: SelfMixtureSettings) -> AnyNode:
    aggregator = settings.aggregator and Proposer(
        endpoints.named(settings.aggregator),
        settings.instructions,
        name="aggregator",
        max_tokens=settings.max_tokens,
    )
    return self_mixture(
        endpoints.named(settings.model) if settings.model else endpoints.llm,
        samples=settings.samples,
        temperature=settings.temperature,
        aggregator=aggregator or None,
        window=settings.window,
        instructions=settings.instructions,
        max_tokens=settings.max_tokens,
        quorum=settings.quorum,
        timeout_s=settings.timeout_s,
        patience_s=settings.patience_s,
        agree=settings.agree,
        seed=settings.seed,
        budget=Budget(calls=settings.calls),
    )


def _lists(given: Sequence[V] | Sequence[Sequence[V]], what: str) -> list[list[V]]:
    """Read one list, or one for each layer.

    Raises:
        ConfigError: it is empty.
    """
    nested: Any = given if given and isinstance(given[0], list) else [given]
    if not all(nested):
        raise ConfigError(f"[graphs.mixture] {what}: a layer is empty, and it takes at least one")
    return [list(layer) for layer in nested]


def _spread(
    given: V | Sequence[V] | Sequence[Sequence[V]] | None,
    default: V,
    lists: Sequence[Sequence[str]],
    what: str,
) -> list[list[V]]:
    """Give each proposer its value, in the lists of the proposers.

    Raises:
        ConfigError: there are not as many as there are proposers.
    """
    if given is None or not isinstance(given, list):
        value: Any = default if given is None else given
        return [[value] * len(layer) for layer in lists]
    values: list[list[V]] = _lists(given, what)  # pyright: ignore[reportUnknownArgumentType]
    if [len(layer) for layer in values] != [len(layer) for layer in lists]:
        raise ConfigError(
            f"[graphs.mixture] {what} must stand in lists as the proposers do, one for each: "
            f"{[len(layer) for layer in values]} of them, and {[len(layer) for layer in lists]} "
            "proposers"
        )
    return values


READY: dict[str, Ready[Any]] = {
    "mixture": Ready("several models, merged by a large one", MixtureSettings, _mixture),
    "self_mixture": Ready("one model, sampled and merged", SelfMixtureSettings, _self_mixture),
}
