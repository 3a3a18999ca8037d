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
        "You are an editor. Rewrite the draft of an answer to the request: fix the faults that are "
        "real, and keep what is right. Give only the whole new answer, without comments."
    )

    def prompt(self, request: Criticised) -> str:
        """Write the request, the draft and its faults, each as data."""
        faults = "\n".join(f"- {fault}" for fault in request.faults)
        parts = (("Request", request.request), ("Draft", request.text), ("Faults", faults))
        return "\n\n".join(block(text, name) for name, text in parts)
