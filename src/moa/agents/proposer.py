"""Proposer: answers a request, alone or after reading what others answered."""

from __future__ import annotations

from typing import Unpack

from pydantic import BaseModel

from moa.agents import Agent, Settings
from moa.agents.prompts import block, escaped, written
from moa.endpoints import Endpoint
from moa.handoffs import Consulted, Reply

ANSWER = "Answer the request, in its language."
_READ = (
    "Others have answered this request. Their answers stand below, in no particular order. Some of "
    "them may be wrong, and one that stands alone may be right. Check them against each other and "
    "against what you know. Then write one answer of your own to the request, with what is right "
    "and useful in them and without what is not. Don't speak of them, nor of these words."
)


class Proposer(Agent[str | BaseModel, Reply]):
    """A proposer of a mixture, and its aggregator too: what others answered is read critically.

    The request stands before the answers of others, so that what a server keeps of the prompt
    serves in every layer.

    Args:
        endpoint: Who writes.
        instructions: What to do with the request.
        role: A point of view of its own, such as "Look for what could go wrong."; empty: none.
        settings: See `Agent`; without a name it has that of its endpoint.

    Raises:
        CapabilityError: the endpoint can't complete.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        instructions: str = ANSWER,
        *,
        role: str = "",
        **settings: Unpack[Settings],
    ) -> None:
        settings["name"] = settings.get("name") or endpoint.name
        super().__init__(endpoint, instructions=f"{instructions}\n{role}".strip(), **settings)

    def prompt(self, request: str | BaseModel) -> str:
        """Write the request, and after it each answer of others, as data."""
        if not isinstance(request, Consulted):
            return written(request)
        listed = (block(text, f"Answer {n}") for n, text in enumerate(request.answers, start=1))
        return "\n\n".join((escaped(request.request), _READ, *listed))
