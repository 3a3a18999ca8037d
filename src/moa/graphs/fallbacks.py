"""Fallbacks: which failures of a model a simpler way may stand in for, and who writes badly."""

from __future__ import annotations

from collections.abc import Sequence

from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.endpoints.known import can_write
from moa.errors import BudgetExceeded, EndpointError, MoaError, OutputError

MAX_CONCURRENCY = 8
"""Calls of a run that the graphs which write make side by side."""
RECOVERABLE = (EndpointError, OutputError, BudgetExceeded)
"""What a model can fail with, and a simpler way may stand in for."""


def recoverable(error: MoaError) -> None:
    """Raise what no simpler way may hide, such as a wrong key."""
    if not error.recoverable:
        raise error


def note_drafts(context: RunContext, writers: Sequence[Endpoint]) -> None:
    """Note which of those that write are too small to do it well."""
    small = [writer.model for writer in writers if not can_write(writer.model)]
    if small:
        context.note("degraded", f"{', '.join(sorted(small))} writes badly: take it for a draft")
