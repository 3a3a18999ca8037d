"""Known models: what measurements have found about a model, as data."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from moa.questions import Kind

UNMEASURED: Mapping[Kind, float] = {"predicate": 0.0, "choice": 1.0, "score": 1.0}
"""How much a model counts beside the encoder where nothing was measured."""


class Known(BaseModel):
    """What is known of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """A part of its name, in small letters."""
    writes: bool = True
    """Whether its drafts are worth more than none."""
    weight: Mapping[Kind, float] = Field(default_factory=dict[Kind, float])
    """How much its answers count beside the encoder's, by kind; 0 is not at all."""

    def weigh(self, kind: Kind) -> float | None:
        """How much its answers to a kind of question count; `None` where that isn't known."""
        return self.weight.get(kind)


UNKNOWN = Known(name="")


def known(model: str) -> Known:
    """Look a model up by its name.

    Args:
        model: Name of the model, as its server knows it, or of its file.
    """
    name = model.lower()
    return next((one for one in _known() if one.name in name), UNKNOWN)


def can_write(model: str) -> bool:
    """Say whether a model's drafts are worth more than none, as far as is known."""
    return known(model).writes


@cache
def _known() -> tuple[Known, ...]:
    file = Path(__file__).with_name("known.toml")
    found = tomllib.loads(file.read_text(encoding="utf-8"))
    return tuple(Known.model_validate(entry) for entry in found["models"])
