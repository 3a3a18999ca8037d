"""The ready graphs that choose among answers: samples of one model, several models, drafts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from moa.agents.critic import Critic
from moa.agents.debater import Debater
from moa.agents.generator import Generator
from moa.agents.proposer import ANSWER
from moa.agents.reviser import Reviser
from moa.calibration.verifiers import Arithmetic
from moa.endpoints import Endpoint
from moa.graphs.best_of_n import best_of_n
from moa.graphs.choose_best import choose_best
from moa.graphs.debate import debate
from moa.graphs.refine import refine
from moa.graphs.self_consistency import SelfConsistency
from moa.mixing.answer_extraction import Key, last_number, stated
from moa.mixing.judges import ByPolicy, Candidates, Listwise, Pairwise, Picked
from moa.node import Node
from moa.ready.entry import AnyNode, Ready, recipe
from moa.tiers import Endpoints
from moa.usage import Budget

_LABELLED = "Give the label that fits the text best."
_DEBATERS = 3
"""Debaters where one model debates with itself."""


class RunSettings(BaseModel):
    """What the tables of this family share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    instructions: str | None = Field(default=None, min_length=1)
    """What to do with the request; `None`: to answer it."""
    max_tokens: int = Field(default=512, gt=0)
    """Most tokens of each text that is written."""
    calls: int | None = Field(default=None, gt=0)
    """Most calls in a run; `None` is no limit of its own."""
    timeout_s: float | None = Field(default=None, gt=0)
    """Seconds for a run; `None` is no limit of its own."""

    @property
    def budget(self) -> Budget:
        """The limits of a run."""
        return Budget(calls=self.calls)


class SamplingSettings(RunSettings):
    """What the tables of those share that sample."""

    temperature: float = Field(default=0.7, gt=0, le=2)
    """Without one all samples would be the same."""
    answers: Literal["stated", "number"] = "stated"
    """What is compared: what a text states as its answer, or its last number."""
    labels: dict[str, str] | list[str] | None = Field(default=None, min_length=2)
    """Labels to choose from, or what each means, by label; `None`: the answer is free."""

    @property
    def key(self) -> Key:
        """What is compared."""
        if self.labels is not None:
            return _label
        return last_number if self.answers == "number" else stated


class ChooseBestSettings(SamplingSettings):
    """`[graphs.choose_best]`."""

    models: list[str] = Field(default_factory=list[str])
    """Endpoints; none: every small one that is configured, else the built-in one."""
    samples: int = Field(default=3, gt=0)
    """Samples of each model."""
    accuracy: dict[str, float] = Field(default_factory=dict[str, float])
    """Share of right answers on one's own labelled rows, by endpoint; it decides between equals."""


class BestOfNSettings(SamplingSettings):
    """`[graphs.best_of_n]`."""

    model: str | None = None
    """Endpoint that is sampled; `None`: the default small one."""
    samples: int = Field(default=4, gt=0)
    """Samples to pick from."""
    judge: str | None = None
    """Endpoint that judges; `None`: the default large one."""
    by: Literal["list", "pairs", "arithmetic"] = "list"
    """A judge that reads all samples at once, or two at a time; or the sums in them, re-computed
    without a model."""


class DebateSettings(RunSettings):
    """`[graphs.debate]`."""

    models: list[str] = Field(default_factory=list[str])
    """Endpoints that debate; with none it is the default large one, with one it alone, three of
    it each time."""
    temperature: float | None = Field(default=0.7, ge=0, le=2)
    """`None` leaves it to the server."""
    rounds: int = Field(default=2, ge=0)
    """Most times that answers are read and written anew."""
    judge: str | None = None
    """Endpoint that decides where they don't agree; `None`: the majority does."""
    answers: Literal["stated", "number"] = "stated"
    """What is compared: what a text states as its answer, or its last number."""


class RefineSettings(RunSettings):
    """`[graphs.refine]`."""

    writer: str | None = None
    """Endpoint that writes and revises; `None`: the default large one."""
    critic: str | None = None
    """Endpoint that criticises; `None`: the default large one."""
    rounds: int = Field(default=2, gt=0)
    """Most revisions."""
    enough: int = Field(default=9, ge=0, le=10)
    """Score from which on the critic counts as content."""


def _choose_best(endpoints: Endpoints, settings: ChooseBestSettings) -> AnyNode:
    configured = endpoints.config.endpoints
    small = [name for name, endpoint in configured.items() if endpoint.tier == "slm"]
    names = settings.models or small
    models = [endpoints.named(name) for name in names] or [endpoints.slm]
    return choose_best(
        *(_sampler(model, settings) for model in models),
        samples=settings.samples,
        key=settings.key,
        accuracy=settings.accuracy,
        budget=settings.budget,
        timeout_s=settings.timeout_s,
    )


def _best_of_n(endpoints: Endpoints, settings: BestOfNSettings) -> AnyNode:
    return best_of_n(
        _sampler(_small(endpoints, settings.model), settings),
        _judge(endpoints, settings),
        samples=settings.samples,
        key=settings.key,
        budget=settings.budget,
        timeout_s=settings.timeout_s,
    )


def _judge(endpoints: Endpoints, settings: BestOfNSettings) -> Node[Candidates, Picked]:
    if settings.by == "arithmetic":
        return ByPolicy(Arithmetic())
    judge = _large(endpoints, settings.judge)
    return Pairwise(judge) if settings.by == "pairs" else Listwise(judge)


def _debate(endpoints: Endpoints, settings: DebateSettings) -> AnyNode:
    names: Sequence[str | None] = settings.models or [None]
    models = [_large(endpoints, name) for name in names]
    debaters = models if len(models) > 1 else models * _DEBATERS
    return debate(
        *(
            Debater(
                model,
                instructions=settings.instructions,
                name=model.name,
                max_tokens=settings.max_tokens,
                temperature=settings.temperature,
            )
            for model in debaters
        ),
        rounds=settings.rounds,
        judge=None if settings.judge is None else Listwise(endpoints.named(settings.judge)),
        key=last_number if settings.answers == "number" else stated,
        budget=settings.budget,
        timeout_s=settings.timeout_s,
    )


def _refine(endpoints: Endpoints, settings: RefineSettings) -> AnyNode:
    writer = _large(endpoints, settings.writer)
    most = settings.max_tokens
    return refine(
        Generator(writer, settings.instructions or ANSWER, name="writer", max_tokens=most, tag=""),
        Critic(_large(endpoints, settings.critic), max_tokens=most),
        Reviser(writer, max_tokens=most),
        rounds=settings.rounds,
        enough=settings.enough,
        budget=settings.budget,
        timeout_s=settings.timeout_s,
    )


def _sampler(endpoint: Endpoint, settings: SamplingSettings) -> AnyNode:
    """Build the agent that is sampled: it writes a text, or one of the labels."""
    if settings.labels is None:
        return Generator(
            endpoint,
            settings.instructions or ANSWER,
            name=endpoint.name,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            tag="",
        )
    return Generator(
        endpoint,
        settings.instructions or _LABELLED,
        output=_labelled(settings.labels),
        name=endpoint.name,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
    )


def _labelled(labels: dict[str, str] | list[str]) -> type[BaseModel]:
    """Make the model of an answer that is one of several labels."""
    described = labels if isinstance(labels, dict) else {}
    means = "; ".join(f"{label}: {meaning}" for label, meaning in described.items())
    kind: Any = Literal[tuple(labels)]
    return create_model("Label", label=(kind, Field(description=means or None)))


def _label(reply: Any) -> str:
    return reply.label


def _small(endpoints: Endpoints, name: str | None) -> Endpoint:
    return endpoints.slm if name is None else endpoints.named(name)


def _large(endpoints: Endpoints, name: str | None) -> Endpoint:
    return endpoints.llm if name is None else endpoints.named(name)


READY: dict[str, Ready[Any]] = {
    "self_consistency": recipe(SelfConsistency),
    "choose_best": Ready(
        "small models, and the one that agrees most with itself", ChooseBestSettings, _choose_best
    ),
    "best_of_n": Ready("several samples, and a judge that picks", BestOfNSettings, _best_of_n),
    "debate": Ready("models that read each other's answers", DebateSettings, _debate),
    "refine": Ready("a draft, its critique, and the best revision", RefineSettings, _refine),
}
