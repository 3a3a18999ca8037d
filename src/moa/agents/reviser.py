"""Reviser: writes a draft anew, without the faults that were found in it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from moa.agents import Agent
from moa.agents.prompts import block
from moa.handoffs import Reply


class Criticised(BaseModel):
    """A draft, the request that it answers, and its faults."""

    model_config = ConfigDict(frozen=True)

    request: str
    text: str
    faults: tuple[str, ...]


class Reviser(Agent[Criticised, Reply]):
    """Mends a draft."""

    instructions = (
        "A request, a draft of an answer to it and the faults that a critic found in the draft "
        "stand below. Write the answer anew, without the faults that are real ones; keep what is "
        "right. Give the answer alone, whole, and without a word about the draft or the critic."
    )

    def prompt(self, request: Criticised) -> str:
        """Write the request, the draft and its faults, each as data."""
        faults = "\n".join(f"- {fault}" for fault in request.faults)
        parts = (("Request", request.request), ("Draft", request.text), ("Faults", faults))
        return "\n\n".join(block(text, name) for name, text in parts)
