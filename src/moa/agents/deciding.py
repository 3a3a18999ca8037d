"""What deciding agents share: questions about a text, asked in one request and scored."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Self, Unpack

from moa.agents.boundary import Limits, Out, TypedNode, require
from moa.context import RunContext
from moa.decisions import Adaptation
from moa.endpoints import Endpoint, Example
from moa.errors import EndpointGarbled, InputError
from moa.handoffs import Text
from moa.questions import Answer, Question


class DecidingAgent(TypedNode[Text | str, Out]):
    """Asks an endpoint to decide, and gives the answers as its output type.

    Args:
        endpoint: Who decides.
        questions: What is asked about each text.
        examples: Shown to a model whose label probabilities are read.
        adaptation: Examples that replace those, and corrections of the model's bias.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't decide.
        ConfigError: the adaptation belongs to other questions.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        questions: Sequence[Question],
        *,
        examples: Sequence[Example] = (),
        adaptation: Adaptation | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(**limits)
        self.endpoint = require(endpoint, "decide", agent=self.name)
        self.questions = tuple(questions)
        self._examples = tuple(examples)
        self.adaptation = adaptation
        if adaptation is not None:
            adaptation.check(self.questions)

    @property
    def examples(self) -> tuple[Example, ...]:
        """Labelled texts that the model is shown: the adaptation's, else the agent's own."""
        if self.adaptation is not None and self.adaptation.examples:
            return self.adaptation.examples
        return self._examples

    def adapted(self, adaptation: Adaptation | None) -> Self:
        """Copy the agent with another adaptation; `None` takes it away.

        Raises:
            ConfigError: it belongs to other questions.
        """
        if adaptation is not None:
            adaptation.check(self.questions)
        adapted = copy.copy(self)
        adapted.adaptation = adaptation
        return adapted

    @abstractmethod
    def read(self, answers: Sequence[Answer]) -> Out:
        """Turn the answers, one for each question and in their order, into the output."""

    async def answer(self, request: Text | str, context: RunContext) -> Out:
        """Ask all questions in one request, and correct the answers."""
        return self.read(self.corrected(await self.ask(request, context), context))

    async def ask(self, request: Text | str, context: RunContext) -> tuple[Answer, ...]:
        """Ask all questions in one request; the answers are as the model gives them.

        Raises:
            InputError: the text is empty, so there is nothing to decide on.
            EndpointGarbled: the answers are not those to the questions.
        """
        text = str(request)
        if not text.strip():
            raise InputError(f"{self.name}: the text is empty, so there is nothing to decide on")
        decision = await self.endpoint.decide(text, self.questions, context, examples=self.examples)
        if [a.question.name for a in decision.answers] != [q.name for q in self.questions]:
            raise EndpointGarbled(
                f"asked {[q.name for q in self.questions]}, it answered "
                f"{[a.question.name for a in decision.answers]}",
                endpoint=decision.endpoint,
            )
        return decision.answers

    def corrected(self, answers: Sequence[Answer], context: RunContext) -> tuple[Answer, ...]:
        """Correct the answers, and note in the trace what they can't be trusted with."""
        for answer in answers:
            name = answer.question.name
            if answer.status != "answered":
                context.note("refused", f"question {name!r} has no answer: {answer.status}")
            elif answer.probabilities is None:
                context.note(
                    "degraded",
                    f"question {name!r}: the label was written, so it has no probabilities and "
                    "no confidence",
                )
        if self.adaptation is None:
            return tuple(answers)
        if self.adaptation.corrections:
            context.note("changed", f"probabilities corrected: {self.adaptation.origin}")
        return self.adaptation.apply(answers)
