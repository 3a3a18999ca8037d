"""Critic: says what is wrong with a draft, and how good it is."""

from __future__ import annotations

from typing import Unpack

from pydantic import BaseModel, ConfigDict, Field

from moa.agents import Agent, Settings
from moa.agents.prompts import block
from moa.endpoints import Endpoint

INSTRUCTIONS = (
    "A request and a draft of an answer to it stand below. List what is wrong, missing or unclear "
    "in the draft, each fault in one sentence that says what to change; an empty list where "
    "nothing is worth a change. Then score it from 0, useless, to 10, nothing left to mend."
)


class Draft(BaseModel):
    """A draft, and the request that it answers."""

    model_config = ConfigDict(frozen=True)

    request: str
    text: str


class Critique(BaseModel):
    """What is wrong with a draft."""

    model_config = ConfigDict(frozen=True)

    # A model writes its fields in this order, so it looks for faults before it gives a score.
    faults: tuple[str, ...] = Field(description="what to change, one sentence each")
    score: int = Field(ge=0, le=10)


class Critic(Agent[Draft, Critique]):
    """Finds the faults of a draft.

    Args:
        endpoint: Who criticises.
        instructions: What to look at, where the usual words won't do.
        settings: See `Agent`.

    Raises:
        CapabilityError: the endpoint can't complete.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        instructions: str = INSTRUCTIONS,
        **settings: Unpack[Settings],
    ) -> None:
        self.instructions = instructions
        super().__init__(endpoint, **settings)

    def prompt(self, request: Draft) -> str:
        """Write the request and the draft, each as data."""
        return f"Request:\n{block(request.request)}\n\nDraft:\n{block(request.text)}"
