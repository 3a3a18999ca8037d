"""An endpoint whose answers are changed on the way, as those of a model with a quirk."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from moa import RunContext
from moa.core.questions import Answer, Question
from moa.endpoints import Decision, Example
from moa.testing import SimulatedEndpoint


class Altered(SimulatedEndpoint):
    @abstractmethod
    def altered(self, answer: Answer, text: str, examples: int) -> Answer: ...

    async def decide(
        self,
        state: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example] = (),
    ) -> Decision:
        found = await super().decide(state, questions, context, examples=examples)
        answers = tuple(self.altered(answer, state, len(examples)) for answer in found.answers)
        return replace(found, answers=answers)
