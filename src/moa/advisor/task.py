"""Task: a job with its complexity, volume and limits."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from moa.config.faults import nearest
from moa.endpoints.dialects import VENDORS
from moa.local.words import Complexity, Job, Prefer, Skill

_NEEDED: dict[Complexity, float] = {"simple": 2.0, "moderate": 3.0, "complex": 4.0}


class Profile(NamedTuple):
    """What a job needs."""

    skills: tuple[Skill, ...]
    """Skills that a model needs, all of them."""
    reads: int
    """Tokens of an item."""
    writes: int
    """Tokens of an answer, reasoning included."""


_PROFILES: dict[Job, Profile] = {
    "classify": Profile(("classify",), 100, 1),
    "recommend": Profile(("classify",), 300, 1),
    "extract": Profile(("extract",), 300, 80),
    "summarise": Profile(("summarise",), 1500, 200),
    "converse": Profile(("converse",), 300, 150),
    "answer-from-documents": Profile(("extract", "summarise"), 1500, 200),
    "reason": Profile(("reason",), 500, 2000),
    "create": Profile(("create",), 200, 1000),
}
_INSTRUCTIONS = 200
"""Tokens of instructions and examples before an item. One's own server has them cached."""


def vendors_with_keys() -> tuple[str, ...]:
    """List the vendors whose key is in the environment."""
    return tuple(vendor.name.lower() for vendor in VENDORS if os.environ.get(vendor.api_key_env))


def _known(vendor: str) -> str:
    names = [vendor.name.lower() for vendor in VENDORS]
    if vendor not in names:
        raise ValueError(f"there is no vendor {vendor!r}{nearest(vendor, names)}")
    return vendor


class Task(BaseModel):
    """A task to choose models for: `Task(job="classify", per_day=10_000, latency_s=0.3)`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job: Job
    complexity: Complexity = "moderate"
    """Complexity, which determines the needed quality of a model."""
    prefer: Prefer = "balance"
    """The criterion among the models that are good enough."""
    languages: tuple[Annotated[str, Field(pattern="^[a-z]{2,3}$")], ...] = ("en",)
    """ISO 639-1 codes of the items' languages, such as `de` for German."""
    labels: int = Field(default=0, ge=0)
    """Number of labelled items, to which a small model is fitted."""
    per_day: Annotated[int, Field(gt=0)] | None = None
    """Items a day, spread evenly; `None`: not known."""
    latency_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds that an item may take; `None`: no limit."""
    max_usd_per_thousand: Annotated[Decimal, Field(ge=0)] | None = None
    """US dollars that a thousand items may cost; `None`: no limit."""
    vendors: tuple[Annotated[str, AfterValidator(_known)], ...] = ()
    """Allowed vendors, such as `openai`; empty: none, so the items stay here."""

    @property
    def profile(self) -> Profile:
        """What its job needs."""
        return _PROFILES[self.job]

    @property
    def needed_quality(self) -> float:
        """Needed quality of a model, from 1 to 5."""
        return _NEEDED[self.complexity]

    @property
    def items(self) -> int:
        """Number of items that hours are given for: those of a day, or a thousand."""
        return self.per_day or 1000

    @property
    def prompt(self) -> int:
        """Tokens of one prompt, with its instructions."""
        return _INSTRUCTIONS + self.profile.reads

    @property
    def tokens(self) -> int:
        """Tokens of one prompt and its answer."""
        return self.prompt + self.profile.writes

    @property
    def decides(self) -> bool:
        """True if an answer is a label or a score, not a text."""
        return self.job in ("classify", "recommend")
