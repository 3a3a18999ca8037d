"""What deciding agents share: questions about a text, asked in one request and scored."""

from __future__ import annotations

import asyncio
import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Self, Unpack

from moa.agents.boundary import Limits, Out, TypedNode, require
from moa.context import RunContext
from moa.decisions import Adaptation, View
from moa.endpoints import Endpoint, Example
from moa.errors import CalibrationError, EndpointGarbled, InputError
from moa.handoffs import Text
from moa.questions import Answer, Question

if TYPE_CHECKING:
    from moa.calibration import Calibration
    from moa.calibration.calibrated import Calibrated

    Calibrations = Calibration | Mapping[str, Calibration] | None


class DecidingAgent(TypedNode[Text | str, Out]):
    """Asks an endpoint to decide, and gives the answers as its output type.

    Args:
        endpoint: Who decides.
        questions: What is asked about each text.
        examples: Shown to a model whose label probabilities are read.
        adaptation: Views to read each text in, and corrections of the model's bias.
        calibration: For the one question, or by the name of the question; those without one are
            asked as ever. What it answers says whether it is `accepted`.
        embedders: Endpoints that a calibration takes vectors from, by role, other than the
            embedded model's own.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't decide.
        ConfigError: the adaptation belongs to other questions.
        CalibrationError: a calibration does.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        questions: Sequence[Question],
        *,
        examples: Sequence[Example] = (),
        adaptation: Adaptation | None = None,
        calibration: Calibrations = None,
        embedders: Mapping[str, Endpoint] | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(**limits)
        self.endpoint = require(endpoint, "decide", agent=self.name)
        self.questions = tuple(questions)
        self.examples = tuple(examples)
        self.adaptation = adaptation
        if adaptation is not None:
            adaptation.check(self.questions)
        self._calibrated = self._with(calibration, embedders)

    def calibrated(
        self, calibration: Calibrations, *, embedders: Mapping[str, Endpoint] | None = None
    ) -> Self:
        """Copy the agent with a calibration; `None` takes it away.

        Raises:
            CalibrationError: it belongs to another question.
        """
        copied = copy.copy(self)
        copied._calibrated = self._with(calibration, embedders)
        return copied

    def _with(
        self, calibration: Calibrations, embedders: Mapping[str, Endpoint] | None
    ) -> Mapping[str, Calibrated]:
        if calibration is None:
            return {}
        from moa.calibration.calibrated import Calibrated
        from moa.calibration.sources import sources_of

        by_name = {question.name: question for question in self.questions}
        if not isinstance(calibration, Mapping):
            if len(by_name) > 1:
                raise CalibrationError(
                    f"{self.name} asks {len(by_name)} questions ({', '.join(by_name)}): give each "
                    "its calibration by its name"
                )
            calibration = dict.fromkeys(by_name, calibration)
        for name in calibration:
            if name not in by_name:
                raise CalibrationError(
                    f"{self.name} has no question {name!r} to calibrate, only {', '.join(by_name)}"
                )
        sources = sources_of(self.endpoint, embedders)
        return {
            name: Calibrated(given, by_name[name], sources) for name, given in calibration.items()
        }

    @property
    def asks_endpoint(self) -> bool:
        """Whether the endpoint itself is asked, and not only what calibrations read beside it."""
        if len(self._calibrated) < len(self.questions):
            return True
        from moa.calibration.members import DECIDES

        read = (one.calibration.members for one in self._calibrated.values())
        return any(member.source == DECIDES for members in read for member in members)

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

    async def adapt(
        self,
        *,
        labelled: Sequence[Example] = (),
        unlabelled: Sequence[str] = (),
        context: RunContext | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Copy the agent, fitted to its task; see `moa.decisions.adapting.adapt`.

        Args:
            labelled: Texts with the names of the right options, by name of the question.
            unlabelled: Texts like those to come; from 32 on they are used.
            context: Budget, deadline and ledger of the fitting; `None` starts one.
            progress: Called with the texts read so far, and those to read in all.

        Raises:
            EndpointError: a request failed.
            BudgetExceeded: a limit would be passed.
            DeadlineExceeded: the run's time is up.
            MissingDependency: numpy is not installed.
        """
        from moa.decisions.adapting import adapt

        inside = (context or RunContext()).nested(self.name)
        return self.adapted(
            await adapt(
                self.endpoint,
                self.questions,
                labelled=labelled,
                unlabelled=unlabelled,
                own=self.examples,
                context=inside,
                progress=progress,
            )
        )

    async def answer(self, request: Text | str, context: RunContext) -> Out:
        """Ask all questions, in one request a view, and correct the answers.

        Those with a calibration are asked as it says.
        """
        if not self._calibrated:
            return self.read(await self._plain(request, context))
        text = self._admit(request)
        answers = {
            name: await calibrated.answer(text, context)
            for name, calibrated in self._calibrated.items()
        }
        if len(answers) < len(self.questions):
            for answer in await self._plain(request, context):
                answers.setdefault(answer.question.name, answer)
        return self.read([answers[question.name] for question in self.questions])

    async def _plain(self, request: Text | str, context: RunContext) -> tuple[Answer, ...]:
        if self.adaptation is None or len(self.adaptation.views) == 1:
            views = [await self.ask(request, context, shown=self._shown[0])]
        else:
            try:
                async with asyncio.TaskGroup() as group:
                    asked = [
                        group.create_task(self.ask(request, context, shown=shown))
                        for shown in self._shown
                    ]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from failed
            views = [task.result() for task in asked]
        return self.corrected(views, context)

    def _admit(self, request: Text | str) -> str:
        text = str(request)
        if not text.strip():
            raise InputError(f"{self.name}: the text is empty, so there is nothing to decide on")
        return text

    @property
    def _shown(self) -> tuple[View, ...]:
        views = ((),) if self.adaptation is None else self.adaptation.views
        return tuple(view or self.examples for view in views)

    async def ask(
        self, request: Text | str, context: RunContext, *, shown: Sequence[Example]
    ) -> tuple[Answer, ...]:
        """Ask all questions in one request; the answers are as the model gives them.

        Args:
            request: What they are about.
            context: Of the agent itself.
            shown: Labelled texts for a model whose label probabilities are read.

        Raises:
            InputError: the text is empty, so there is nothing to decide on.
            EndpointGarbled: the answers are not those to the questions.
        """
        text = self._admit(request)
        decision = await self.endpoint.decide(text, self.questions, context, examples=shown)
        if [a.question.name for a in decision.answers] != [q.name for q in self.questions]:
            raise EndpointGarbled(
                f"asked {[q.name for q in self.questions]}, it answered "
                f"{[a.question.name for a in decision.answers]}",
                endpoint=decision.endpoint,
            )
        return decision.answers

    def corrected(
        self, views: Sequence[Sequence[Answer]], context: RunContext
    ) -> tuple[Answer, ...]:
        """Correct the answers, and note in the trace what they can't be trusted with."""
        for answer in views[0]:
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
            return tuple(views[0])
        if self.adaptation.corrections:
            context.note("changed", f"probabilities corrected: {self.adaptation.origin}")
        return self.adaptation.apply(views)
