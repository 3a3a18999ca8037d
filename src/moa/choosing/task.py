"""Task: what is to be done, how much of it, how fast, and what must not happen."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from moa.jobs import Risk as TaskRisk
from moa.jobs import TaskJob

Job = TaskJob
Risk = TaskRisk

_DAY_S = 86_400


class _Lengths(NamedTuple):
    reads: int
    writes: int


LENGTHS: dict[Job, _Lengths] = {
    "classify": _Lengths(100, 1),
    "recommend": _Lengths(300, 1),
    "extract": _Lengths(300, 80),
    "summarise": _Lengths(1500, 200),
    "converse": _Lengths(300, 150),
    "answer-from-documents": _Lengths(1500, 200),
    "reason": _Lengths(500, 2000),
    "create": _Lengths(200, 1000),
}
"""Usual tokens of an item and of an answer, where the task says none; thoughts are counted."""


def _code(language: str) -> str:
    if not re.fullmatch("[a-z]{2,3}", language):
        raise ValueError(f"{language!r} is no code of a language: write de for German")
    return language


class Task(BaseModel):
    """A task to choose models for: `Task(job="classify", per_day=10_000, latency_s=0.3)`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job: Job
    input_tokens: Annotated[int, Field(gt=0)] | None = None
    """Tokens of one item, without instructions; `None`: as usual for the job."""
    output_tokens: Annotated[int, Field(gt=0)] | None = None
    """Tokens of an answer, thoughts included; `None`: as usual for the job."""
    languages: tuple[Annotated[str, AfterValidator(_code)], ...] = ("en",)
    """ISO 639-1 codes of the items' languages."""
    risk: Risk = "medium"
    labels: int = Field(default=0, ge=0)
    """How many items there are whose right answer is known."""
    latency_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds within which 95 of 100 answers have to be there; `None`: no matter."""
    streamed: bool = False
    """Whether `latency_s` is of an answer's first token, since a person reads along."""
    per_day: Annotated[int, Field(gt=0)] | None = None
    """Items a day; `None`: not known, so one after the other."""
    peak_factor: float = Field(default=3.0, ge=1)
    """How much busier the busiest time is than the mean of the day."""
    concurrency: Annotated[int, Field(gt=0)] | None = None
    """Items in flight at once; `None`: from `per_day`, by Little's law."""
    max_usd_per_thousand: Annotated[Decimal, Field(ge=0)] | None = None
    """Most US dollars for a thousand items; `None`: no matter."""
    private: bool = False
    """Whether the items may not leave the house, so that no vendor is asked."""
    offline: bool = False
    """Whether there is no network while it runs."""
    api: bool = False
    """Whether a vendor's model may be asked, with a key that there is."""
    vendors: tuple[str, ...] = ()
    """Vendors that may be asked, such as `openai`; empty: any, where `api` is set."""

    @property
    def reads(self) -> int:
        """Tokens of one item."""
        return self.input_tokens or LENGTHS[self.job].reads

    @property
    def writes(self) -> int:
        """Tokens of one answer."""
        return self.output_tokens or LENGTHS[self.job].writes

    @property
    def decides(self) -> bool:
        """Whether an answer is a label or a score, and no text."""
        return self.job in ("classify", "recommend")

    @property
    def rate(self) -> float:
        """Items a second at the busiest time; 0 where it isn't known."""
        return (self.per_day or 0) / _DAY_S * self.peak_factor

    @property
    def outside(self) -> bool:
        """Whether vendors may be asked at all."""
        return self.api and not self.private and not self.offline
