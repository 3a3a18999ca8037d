"""Decider: answers a pydantic model of questions about a text, in one request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from moa.agents.boundary import Limits, Out
from moa.agents.deciding import DecidingAgent
from moa.decisions import Adaptation
from moa.endpoints import Endpoint
from moa.questions import Answer, fill, questions_of


class Decider(DecidingAgent[Out]):
    """Asks the questions that a pydantic model is made of, and gives the model back.

        class Triage(BaseModel):
            refund: Predicate = predicate("Does the customer ask for money back?")
            urgency: Score = score("How urgent is it?", levels=["can wait", "today", "now"])

        triage = Decider(endpoint, Triage)

    Args:
        endpoint: Who decides.
        questions: Fields of `Predicate`, `Choice` and `Score`.
        adaptation: Examples to show, and corrections of the model's bias.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't decide.
        ConfigError: a field is no question, or the adaptation belongs to other questions.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        questions: type[Out],
        *,
        adaptation: Adaptation | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        self.output_type = questions
        super().__init__(endpoint, questions_of(questions), adaptation=adaptation, **limits)

    def read(self, answers: Sequence[Answer]) -> Out:
        """Fill the model in."""
        return fill(self.output_type, answers)
