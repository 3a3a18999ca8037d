"""Debater: answers a request, and answers it again having read what others answer."""

from __future__ import annotations

from typing import Unpack

from pydantic import BaseModel, ConfigDict

from moa.agents import Agent, Settings
from moa.agents.prompts import block, escaped
from moa.agents.proposer import ANSWER
from moa.endpoints import Endpoint
from moa.handoffs import Reply

_READ = (
    "Here is your answer to the request below, and what others answered. Compare them: keep what "
    "is right in yours, adopt what is right in theirs, and do not follow a majority for its own "
    "sake. Write a complete answer to the request that does not mention the others."
)


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

    instructions = ANSWER

    def prompt(self, request: Exchange) -> str:
        """Write the answers as data, and then the request."""
        if request.own is None:
            return escaped(request.text)
        others = (block(other, "Another answer") for other in request.others)
        answers = (block(request.own, "Your answer so far"), *others)
        return "\n\n".join((_READ, *answers, f"Request: {escaped(request.text)}"))
