"""The ready graphs that watch a stream."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from moa.agents.classifier import Classifier
from moa.agents.filter import Filter
from moa.agents.sentiment import Sentiment
from moa.endpoints import Endpoint
from moa.endpoints.known import can_write
from moa.graphs.monitor import monitor
from moa.graphs.recipe import Mark
from moa.node import Node
from moa.ready.entry import AnyNode, Ready, beside
from moa.tiers import Endpoints


class MonitorSettings(BaseModel):
    """`[graphs.monitor]`: what is watched, by labels, by a criterion, or else sentiment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: dict[str, str] | list[str] | None = Field(default=None, min_length=2)
    """The labels, or what each means, by label."""
    task: str = "What is this text about?"
    """The question that the labels answer."""
    criterion: str | None = Field(default=None, min_length=1)
    """Texts that meet it are counted, and no others: "a complaint"."""
    window: int | None = Field(default=None, gt=0)
    """Items of a window; 50 where `seconds` isn't given either."""
    seconds: float | None = Field(default=None, gt=0)
    """How long a window lasts, by the `at` of the items."""
    reference: int = Field(default=4, gt=0)
    """Windows that the next ones are compared with."""
    alpha: float = Field(default=0.001, gt=0, lt=1)
    """Rate of false reports: 0.001 is one in 1,000 windows, at most."""
    state: Annotated[Path | None, Mark.WRITTEN] = None
    """File that keeps the windows from one run to the next, beside `moa.toml`."""
    slm: str | None = None
    """Endpoint that decides; `None`: the default small model."""
    llm: str | None = None
    """Endpoint that writes the reports; `None`: the default large model."""
    max_tokens: int = Field(default=512, gt=0)
    """Most tokens of a report."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if self.labels is not None and self.criterion is not None:
            raise ValueError("give labels or a criterion, not both")
        if self.window is not None and self.seconds is not None:
            raise ValueError("give window or seconds, not both")
        return self


def _monitor(endpoints: Endpoints, settings: MonitorSettings) -> AnyNode:
    slm = endpoints.slm if settings.slm is None else endpoints.named(settings.slm)
    llm = endpoints.llm if settings.llm is None else endpoints.named(settings.llm)
    seconds = None if settings.seconds is None else timedelta(seconds=settings.seconds)
    return monitor(
        _decider(slm, settings),
        llm if can_write(llm.model) else None,
        window=seconds or settings.window or 50,
        reference=settings.reference,
        alpha=settings.alpha,
        file=settings.state and beside(endpoints, settings.state),
        max_tokens=settings.max_tokens,
    )


def _decider(slm: Endpoint, settings: MonitorSettings) -> Node[Any, BaseModel]:
    if settings.labels is not None:
        return Classifier(slm, settings.labels, task=settings.task, name="label")
    if settings.criterion is not None:
        return Filter(slm, settings.criterion)
    return Sentiment(slm)


READY: dict[str, Ready[Any]] = {
    "monitor": Ready("a stream, reported where it changes", MonitorSettings, _monitor),
}
