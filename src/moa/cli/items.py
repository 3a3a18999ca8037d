"""Items: a row of input, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from moa.agents.filter import Verdict
from moa.handoffs import Dropped
from moa.node import Result
from moa.trace import Note
from moa.usage import CostEstimate, Usage

Status = Literal["answered", "dropped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One item of input."""

    number: int
    """Number of its line, from 1."""
    id: str | int
    """The row's own, else its line number."""
    value: str | dict[str, object]
    """A text, or the row's fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """A line that is no item."""

    number: int
    error: str
    raw: str
    """The line, as far as it can be shown."""

    @property
    def id(self) -> int:
        """Its line number."""
        return self.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What became of a row."""

    row: Row | Malformed
    status: Status
    output: object = None
    error: str | None = None
    seconds: float = 0.0
    """Wall time of its run, start-up excluded."""
    usage: Usage = field(default_factory=Usage)
    trace: tuple[Note, ...] = ()
    llm_alone: CostEstimate | None = None

    @property
    def needed_llm(self) -> bool:
        """Whether a large model was asked, or would have been, had there been one."""
        return "llm" in self.usage.by_tier() or any(n.kind == "escalated" for n in self.trace)


def finished(row: Row, result: Result[object]) -> Item:
    """Make the item of a row that was answered or dropped."""
    return Item(
        row=row,
        status="dropped" if _is_dropped(result.output) else "answered",
        output=result.output,
        seconds=result.seconds,
        usage=result.usage,
        trace=result.trace,
        llm_alone=result.llm_alone,
    )


def _is_dropped(output: object) -> bool:
    return isinstance(output, Dropped) or (isinstance(output, Verdict) and not output.kept)
