"""The ready graphs that reason."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from moa.endpoints import Endpoint
from moa.graphs.code import Code
from moa.graphs.solve import solve
from moa.ready.entry import AnyNode, Ready, recipe
from moa.tiers import Endpoints


class SolveSettings(BaseModel):
    """`[graphs.solve]`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slm: str | None = None
    """Endpoint that works easy steps out, and verifies; `None`: the default small model."""
    llm: str | None = None
    """Endpoint that works it out, plans and writes; `None`: the default large one."""
    tries: int = Field(default=2, gt=0)
    """Times it is worked out: once directly, then by a plan."""
    most_steps: int = Field(default=8, gt=0)
    """Most steps of a plan."""
    max_tokens: int = Field(default=1024, gt=0)
    """Most tokens of each text, reasoning included."""


def _solve(endpoints: Endpoints, settings: SolveSettings) -> AnyNode:
    return solve(
        _named(endpoints, settings.slm) or endpoints.slm,
        _named(endpoints, settings.llm) or endpoints.llm,
        tries=settings.tries,
        most_steps=settings.most_steps,
        max_tokens=settings.max_tokens,
    )


def _named(endpoints: Endpoints, name: str | None) -> Endpoint | None:
    return None if name is None else endpoints.named(name)


READY: dict[str, Ready[Any]] = {
    "solve": Ready("a problem, step by step, its sums checked", SolveSettings, _solve),
    "code": recipe(Code),
}
