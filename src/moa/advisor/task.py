"""Task: a job with its complexity, volume and limits."""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from moa.advisor.words import Complexity, Job, Prefer, Skill
from moa.core.faults import nearest
from moa.endpoints.dialects import VENDORS

_NEEDED: dict[Complexity, float] = {"simple": 2.0, "moderate": 3.0, "complex": 4.0}


class Profile(NamedTuple):
    """Defaults of a job, which its task can override."""

    skills: tuple[Skill, ...]
    """Skills that a model needs, all of them."""
    reads: int
    """Tokens of an item."""
    writes: int
    """Tokens of an answer, reasoning included."""
    pair: Literal["cascade", "hybrid"] | None = None
    """Pattern in which a small and a large model share it; `None`: they don't."""


_PROFILES: dict[Job, Profile] = {
    "classify": Profile(("classify",), 100, 1, "cascade"),
    "recommend": Profile(("classify",), 300, 1, "cascade"),
    "extract": Profile(("extract",), 300, 80, "cascade"),
    "summarise": Profile(("summarise",), 1500, 200),
    "converse": Profile(("converse",), 300, 150, "hybrid"),
    "answer-from-documents": Profile(("extract", "summarise"), 1500, 200, "hybrid"),
    "reason": Profile(("reason",), 500, 2000, "cascade"),
    "create": Profile(("create",), 200, 1000),
}
_INSTRUCTIONS = 200
"""Tokens of instructions and examples before an item. One's own server has them cached."""


VENDOR_NAMES = tuple(vendor.name.lower() for vendor in VENDORS)
"""Vendors as `Task.vendors` names them."""


def vendors_with_keys() -> tuple[str, ...]:
    """List the vendors whose key is in the environment."""
    return tuple(vendor.name.lower() for vendor in VENDORS if os.environ.get(vendor.api_key_env))


def _known(vendor: str) -> str:
    if vendor not in VENDOR_NAMES:
        raise ValueError(f"there is no vendor {vendor!r}{nearest(vendor, VENDOR_NAMES)}")
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
    input_tokens: Annotated[int, Field(gt=0)] | None = None
    """Tokens of one item, without instructions; `None`: as usual for the job."""
    output_tokens: Annotated[int, Field(gt=0)] | None = None
    """Tokens of one answer, reasoning included; `None`: as usual for the job."""

    @property
    def profile(self) -> Profile:
        """The defaults of its job."""
        return _PROFILES[self.job]

    @property
    def needed_quality(self) -> float:
        """Needed quality of a model, from 1 to 5."""
        return _NEEDED[self.complexity]

    @property
    def reads(self) -> int:
        """Tokens of one item."""
        return self.input_tokens or self.profile.reads

    @property
    def writes(self) -> int:
        """Tokens of one answer."""
        return self.output_tokens or self.profile.writes

    @property
    def prompt(self) -> int:
        """Tokens of one prompt, with its instructions."""
        return _INSTRUCTIONS + self.reads

    @property
    def decides(self) -> bool:
        """True if an answer is a label or a score, not a text."""
        return self.job in ("classify", "recommend")
