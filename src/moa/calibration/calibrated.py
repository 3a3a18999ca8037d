"""Calibrated: answers a question about a text as its calibration says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from moa.calibration import Calibration
from moa.calibration.members import Sources
from moa.context import RunContext
from moa.decisions.arrays import Floats
from moa.endpoints.known import Identity, identity_of
from moa.errors import CalibrationError
from moa.questions import Answer, Question


@dataclass(slots=True)
class Calibrated:
    """A calibration with the endpoints that it reads from.

    Args:
        calibration: Made for the question.
        question: What is asked.
        sources: Endpoints by role.

    Raises:
        CalibrationError: it was made for another question, or a role has no endpoint.
    """

    calibration: Calibration
    question: Question
    sources: Sources
    warnings: list[str] | None = field(default=None, init=False)
    """What has changed since it was made; `None` before the first answer."""

    def __post_init__(self) -> None:
        self.calibration.check_question(self.question)
        for member in self.calibration.members:
            if member.source not in self.sources:
                raise CalibrationError(
                    f"the calibration reads {member.source!r}, and there is no such endpoint here, "
                    f"only {', '.join(self.sources)}. Give it by `embedders`, or calibrate again "
                    "without it"
                )

    async def check(self, context: RunContext) -> list[str]:
        """Make sure that the models are the right ones; asked once.

        Raises:
            CalibrationError: a model is another one.
        """
        if self.warnings is None:
            self.warnings = self.calibration.check_models(await self.identities(context))
        return self.warnings

    async def identities(self, context: RunContext) -> dict[str, Identity]:
        """Find out who answers here, by role."""
        roles = sorted({member.source for member in self.calibration.members})
        return {role: await identity_of(self.sources[role], context) for role in roles}

    async def answer(self, text: str, context: RunContext) -> Answer:
        """Read the text with all members at once, and decide.

        Raises:
            CalibrationError: a model is another one than the calibration's.
            EndpointError: a request failed.
            BudgetExceeded: a limit would be passed.
            DeadlineExceeded: the run's time is up.
        """
        for warning in await self.check(context):
            context.note("degraded", warning)
        decided = self.calibration.decide(await self.read(text, context))
        return Answer(
            question=self.question,
            probabilities=decided.probabilities,
            source="logprob",
            accepted=decided.accepted,
            label_mass=decided.label_mass,
        )

    async def read(self, text: str, context: RunContext) -> list[Floats]:
        """Read a text with all members, in their order."""
        try:
            async with asyncio.TaskGroup() as group:
                asked = [
                    group.create_task(member.read(text, self.question, self.sources, context))
                    for member in self.calibration.members
                ]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return [task.result() for task in asked]
