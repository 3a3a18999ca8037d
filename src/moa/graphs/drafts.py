"""Drafts: what graphs that write have in common: lengths, and whose texts are drafts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel

from moa.agents.prompts import block
from moa.context import RunContext
from moa.documents.lengths import Length
from moa.endpoints import Endpoint
from moa.endpoints.known import can_write
from moa.graphs.recipe import tried
from moa.handoffs import Reply
from moa.node import Node


def note_drafts(context: RunContext, writers: Sequence[Endpoint]) -> None:
    """Note which of those that write are too small to do it well."""
    small = [writer.model for writer in writers if not can_write(writer.model)]
    if small:
        context.note("degraded", f"{', '.join(sorted(small))} writes badly: take it for a draft")


class Attempt(BaseModel):
    """What is to be written, and at the second attempt the first draft and its fault."""

    draft: str | None = None
    fault: str | None = None

    @property
    def faulty(self) -> list[str]:
        """Both, for a prompt."""
        return [block(self.draft, f"Write this anew, since {self.fault}")] if self.draft else []


A = TypeVar("A", bound=Attempt)


async def to_length(
    writer: Node[A, Reply], request: A, length: Length, context: RunContext, *, what: str
) -> str:
    """Have a text written, and anew once where it is too short; what is too long is cut.

    Where the writer fails at the second attempt, the first draft stands.

    Raises:
        MoaError: it could not be written.
    """
    text = (await writer.run(request, context)).output.text
    fault = length.fault(text)
    if fault is not None and not length.too_long(text):
        context.note("repaired", f"{what} asked again: {fault}")
        again = request.model_copy(update={"draft": text, "fault": fault})
        anew = await tried(writer.run(again, context), context, f"{what} was not written anew")
        text = text if anew is None else anew.output.text
    cut = length.cut(text)
    if len(cut) < len(text):
        context.note("truncated", f"{what}, by its length")
    if (left := length.fault(cut)) is not None:
        context.note("degraded", f"the length of {what}: {left}")
    return cut
