"""Debater: answers a request, and answers it again having read what others answer."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from moa.agents import Agent
from moa.agents.prompts import block, escaped
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
    """

    instructions = (
        "Answer the request. Where an answer of your own and answers of others stand below it, "
        "weigh them: take over what is right in them, keep what is right in yours, and follow no "
        "one merely because there are more of them. Write a whole answer for someone who has not "
        'seen the others, without a word about them. Where the answer is short, end with "The '
        'answer is" and the answer.'
    )

    def prompt(self, request: Exchange) -> str:
        """Write the request, and the answers as data."""
        parts = [] if request.own is None else [block(request.own, "Your answer so far")]
        parts += [block(other, "Another answer") for other in request.others]
        return "\n\n".join([escaped(request.text), *parts])
