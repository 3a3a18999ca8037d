"""The ready graph that lets a candidate answer beside what is in use."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from moa.errors import ConfigError
from moa.graphs.recipe import Mark
from moa.graphs.shadow import Shadow
from moa.ready.entry import AnyNode, Ready
from moa.tiers import Endpoints


class ShadowSettings(BaseModel):
    """`[graphs.shadow]`. Both nodes are set up by tables of their own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    current: Annotated[str, Mark.READY] = "llm"
    """The ready graph or agent in use, or `file.py:object`: its answer is given."""
    candidate: Annotated[str, Mark.READY] = "cascade"
    """The one that answers beside it, and is only compared."""
    wait_s: float = Field(default=5.0, ge=0)
    """Seconds that a run waits for the candidate, once its answer is there; fewer where the run's
    deadline is nearer."""


def _shadow(endpoints: Endpoints, settings: ShadowSettings) -> AnyNode:
    from moa.ready import node_of

    if "shadow" in (settings.current, settings.candidate):
        raise ConfigError("graphs.shadow: a shadow can't stand in its own shadow")
    return Shadow(
        node_of(settings.current, endpoints),
        node_of(settings.candidate, endpoints),
        wait_s=settings.wait_s,
    )


READY: dict[str, Ready[Any]] = {
    "shadow": Ready("a candidate beside what is in use, only compared", ShadowSettings, _shadow),
}
