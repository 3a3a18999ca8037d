"""Debater: answers a request, and answers it again having read what others answer."""

from __future__ import annotations

from typing import Unpack

from pydantic import BaseModel, ConfigDict

from moa.agents import Agent, Settings
from moa.agents.prompts import block, escaped
from moa.endpoints import Endpoint
from moa.handoffs import Reply


class Exchange(BaseModel):
    """A request, and what was answered to it so far; nobody is told who answered what."""

    model_config = ConfigDict(frozen=True)

    text: str
    """The request."""
    own: str | None = None
    """What the debater itself answered; `None` in the first round."""
    others: tuple[str, ...] = ()
    """What the others answered."""


class Debater(Agent[Exchange, Reply]):
    """Answers a request in view of what others answer.

    Source: Du et al. 2023, "Improving factuality and reasoning in language models through
    multiagent debate", arXiv:2305.14325.

    Args:
        endpoint: Who answers.
        instructions: What to do, in words; `None`: as the class says.
        settings: See `Agent`; the temperature is 0.7, so that two of one model differ.

    Raises:
        CapabilityError: the endpoint can't complete.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        instructions: str | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        settings.setdefault("temperature", 0.7)
        super().__init__(endpoint, instructions=instructions, **settings)

    instructions = (
        "Answer the request. If answers by you and by others are given below it, compare them: "
        "adopt what is right in them, keep what is right in yours, and do not follow a majority "
        "for its own sake. Write a complete answer that does not mention the others. If the answer "
        'is short, end with "The answer is" and the answer.'
    )

    def prompt(self, request: Exchange) -> str:
        """Write the request, and the answers as data."""
        parts = [] if request.own is None else [block(request.own, "Your answer so far")]
        parts += [block(other, "Another answer") for other in request.others]
        return "\n\n".join([escaped(request.text), *parts])
