"""The ready graphs that reason."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from moa.endpoints import Endpoint
from moa.graphs.code import code
from moa.graphs.solve import solve
from moa.ready.entry import AnyNode, Ready
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


class CodeSettings(BaseModel):
    """`[graphs.code]`. A sandbox can be given in Python alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    writer: str | None = None
    """Endpoint that writes; `None`: the default large model."""
    reviewer: str | None = None
    """Endpoint that reviews, another model than the writer; `None`: nobody does."""
    tries: int = Field(default=3, gt=0)
    """Most times the program is written."""
    repairs: int = Field(default=2, ge=0)
    """Times a program that can't be parsed goes back to the writer."""
    max_tokens: int = Field(default=4096, gt=0)
    """Most tokens of each text, reasoning included."""


def _solve(endpoints: Endpoints, settings: SolveSettings) -> AnyNode:
    return solve(
        _named(endpoints, settings.slm) or endpoints.slm,
        _named(endpoints, settings.llm) or endpoints.llm,
        tries=settings.tries,
        most_steps=settings.most_steps,
        max_tokens=settings.max_tokens,
    )


def _code(endpoints: Endpoints, settings: CodeSettings) -> AnyNode:
    return code(
        _named(endpoints, settings.writer) or endpoints.llm,
        _named(endpoints, settings.reviewer),
        tries=settings.tries,
        repairs=settings.repairs,
        max_tokens=settings.max_tokens,
    )


def _named(endpoints: Endpoints, name: str | None) -> Endpoint | None:
    return None if name is None else endpoints.named(name)


READY: dict[str, Ready[Any]] = {
    "solve": Ready("a problem, step by step, its sums checked", SolveSettings, _solve),
    "code": Ready("a program, parsed and mended, never run", CodeSettings, _code),
}
