"""Critic: says what is wrong with a draft, and how good it is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from moa.agents import Agent
from moa.agents.prompts import block


class Draft(BaseModel):
    """A draft, and the request that it answers."""

    model_config = ConfigDict(frozen=True)

    request: str
    text: str


class Critique(BaseModel):
    """What is wrong with a draft."""

    model_config = ConfigDict(frozen=True)

    # A model writes its fields in this order, so it looks for faults before it gives a score.
    faults: tuple[str, ...] = Field(max_length=8, description="what to change, one sentence each")
    score: int = Field(ge=0, le=10)


class Critic(Agent[Draft, Critique]):
    """Finds the faults of a draft."""

    instructions = (
        "You are a strict editor. List what is wrong, missing or unclear in the draft of an "
        "answer to "
        "the request, in one sentence each that says what to change. If nothing is worth changing, "
        "give an empty list. Then score the draft from 0 (useless) to 10 (nothing left to improve)."
    )

    def prompt(self, request: Draft) -> str:
        """Write the request and the draft, each as data."""
        return "\n\n".join((block(request.request, "Request"), block(request.text, "Draft")))
