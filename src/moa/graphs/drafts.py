"""Drafts: what graphs that write have in common: calls at once, and whose texts are drafts."""

from __future__ import annotations

from collections.abc import Sequence

from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.endpoints.known import can_write

MAX_CONCURRENCY = 8
"""Calls of a run that the graphs which write make side by side."""


def note_drafts(context: RunContext, writers: Sequence[Endpoint]) -> None:
    """Note which of those that write are too small to do it well."""
    small = [writer.model for writer in writers if not can_write(writer.model)]
    if small:
        context.note("degraded", f"{', '.join(sorted(small))} writes badly: take it for a draft")
