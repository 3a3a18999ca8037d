"""Deciding: questions about a text, asked in one request and scored.

`Decider` asks those that a pydantic model is made of; `DecidingAgent` is what all such agents are.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, Unpack

from pydantic import BaseModel, create_model

from moa._async import Lock, gather
from moa.agents.base import Limits, Out, TypedNode, require
from moa.agents.splitting import excerpt
from moa.context import RunContext
from moa.decisions import Adaptation
from moa.endpoints import Endpoint, Example
from moa.endpoints.encoders import encoder_beside, reads_heads
from moa.endpoints.tokens import approximate_tokens, tokens_of, window_of
from moa.errors import (
    CalibrationError,
    ConfigError,
    InputError,
    InvalidResponse,
)
from moa.node import Text
from moa.questions import Answer, Question, fill, questions_of

if TYPE_CHECKING:
    from moa.calibration.calibrated import Calibrated
    from moa.calibration.file import Calibration

    Calibrations = Calibration | Mapping[str, Calibration] | None


class DecidingAgent(TypedNode[Text | str, Out]):
    """Asks an endpoint to decide, and gives the answers as its output type.

    Of a text that doesn't fit the endpoint's `context_window` it reads the opening and the end, as
    the trace says. Where the window isn't known, the whole text is sent.

    Args:
        endpoint: Who decides, or a string that names it: `"VENDOR:MODEL"`.
        questions: What is asked about each text.
        examples: Texts with the names of the right options, by name of the question. Where an
            encoder stands beside the endpoint, and there are eight of a question, a head is fitted
            to them; else they are shown to a model whose label probabilities are read, where one
            is asked.
        adaptation: Prompt variants to read each text with, corrections of the model's bias, and
            heads.
        encoder: Gives the vectors that heads read; `None` is the one that stands beside the
            endpoint, where one is installed (see `moa.endpoints.encoders.encoder_beside`).
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
        endpoint: Endpoint | str,
        questions: Sequence[Question],
        *,
        examples: Sequence[Example] = (),
        adaptation: Adaptation | None = None,
        encoder: Endpoint | None = None,
        calibration: Calibrations = None,
        embedders: Mapping[str, Endpoint] | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(**limits)
        self.endpoint = require(endpoint, "decide", agent=self.name)
        self.questions = tuple(questions)
        self.examples = tuple(examples)
        self.encoder = encoder or encoder_beside(self.endpoint)
        self.adaptation = adaptation
        if adaptation is not None:
            adaptation.check(self.questions)
        self._calibrated = self._with(calibration, embedders)
        self._zero_shot = ZeroShotCache()

    @property
    def decided_by(self) -> str:
        """Who decides, where that is a head on an encoder's vectors; else empty."""
        if self.encoder is None or self.adaptation is None or not self.adaptation.heads:
            return ""
        also = f" and {self.endpoint.name}" if self.adaptation.prompt_variants else ""
        return f"{self.encoder.name} with a head{also}"

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
        from moa.calibration.features import sources_of

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
        """Whether the endpoint itself is asked, and not only what stands beside it."""
        if len(self._calibrated) < len(self.questions):
            return self.adaptation is None or bool(self.adaptation.prompt_variants)
        from moa.calibration.features import DECIDES

        read = (one.calibration.features for one in self._calibrated.values())
        return any(feature.source == DECIDES for features in read for feature in features)

    def adapted(self, adaptation: Adaptation | None) -> Self:
        """Copy the agent with another adaptation; `None` takes it away.

        Raises:
            ConfigError: it belongs to other questions.
        """
        if adaptation is not None:
            adaptation.check(self.questions)
        adapted = copy.copy(self)
        adapted.adaptation = adaptation
        adapted._zero_shot = ZeroShotCache()
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
        """Copy the agent, fitted to its task; see `moa.decisions.adaptation.adapt`.

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
        from moa.decisions.adaptation import adapt

        inside = (context or RunContext()).nested(self.name)
        return self.adapted(
            await adapt(
                self.endpoint,
                self.questions,
                labelled=labelled,
                unlabelled=unlabelled,
                own=self.examples,
                encoder=self.encoder,
                context=inside,
                progress=progress,
            )
        )

    async def answer(self, request: Text | str, context: RunContext) -> Out:
        """Ask all questions, in one request a prompt variant, and correct the answers.

        Those with a calibration are asked as it says.
        """
        text = str(request)
        if not text.strip():
            raise InputError(f"{self.name}: the text is empty, so there is nothing to decide on")
        text = await self._fitting(text, context)
        answers = {
            name: await calibrated.answer(text, context)
            for name, calibrated in self._calibrated.items()
        }
        if len(answers) < len(self.questions):
            for answer in await self._uncalibrated(text, context):
                answers.setdefault(answer.question.name, answer)
        return self.read([answers[question.name] for question in self.questions])

    async def _fitting(self, text: str, context: RunContext) -> str:
        """Cut a text that the endpoint can't read whole to its opening and its end, and say so.

        A quarter of the window is then left for the questions, whatever the tokenizer: it makes no
        more tokens of a text than that has bytes.
        """
        window = window_of(self.endpoint)
        if window is None or not self.asks_endpoint:
            return text
        most, room = window // 4, window * 3 // 4
        tokens = approximate_tokens(text)
        if tokens <= most:
            return text
        if tokens <= 2 * window and await tokens_of(self.endpoint, text, context) <= room:
            return text
        cut = excerpt(text, max_tokens=most)
        context.note(
            "truncated",
            f"decided on {len(cut)} of {len(text)} characters, the opening and the end: more does "
            f"not fit the context window of {self.endpoint.model}, which is {window} tokens",
        )
        return cut

    async def _uncalibrated(self, text: str, context: RunContext) -> tuple[Answer, ...]:
        adaptation = self.adaptation or await self._zero_shot.get(self, context)
        if adaptation is None:
            answers = await self._ask(text, context, self.examples)
            self._note(answers, context)
            return answers
        vector = await self._vector(adaptation, text, context) if adaptation.heads else None
        variants = adaptation.prompt_variants
        asked = await gather(self._ask(text, context, shown) for shown in variants)
        self._note(asked[0] if asked else (), context)
        for name, why in adaptation.doubtful.items():
            context.note("degraded", f"question {name!r} is DOUBTFUL: {why}")
        if adaptation.heads:
            also = f" and {self.endpoint.model}" if asked else ""
            context.note("changed", f"decided by an encoder's heads{also}: {adaptation.origin}")
        elif adaptation.corrections:
            context.note("changed", f"probabilities corrected: {adaptation.origin}")
        return adaptation.apply(self.questions, asked, vector)

    async def _vector(
        self, adaptation: Adaptation, text: str, context: RunContext
    ) -> Sequence[float]:
        """Encode the text for the heads."""
        if self.encoder is None or self.encoder.model != adaptation.encoder:
            raise ConfigError(
                f"{self.name} has heads for vectors of {adaptation.encoder}, and "
                f"{'there is no encoder' if self.encoder is None else self.encoder.model} here"
            )
        from moa.decisions.heads import encode

        (vector,) = await encode(self.encoder, [text], context)
        return vector

    @staticmethod
    def _note(answers: Sequence[Answer], context: RunContext) -> None:
        """Note in the trace what answers can't be trusted with."""
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

    async def _ask(
        self, text: str, context: RunContext, shown: Sequence[Example]
    ) -> tuple[Answer, ...]:
        """Ask all questions in one request; the answers are as the model gives them."""
        decision = await self.endpoint.decide(text, self.questions, context, examples=shown)
        asked, answered = (
            [question.name for question in questions]
            for questions in (self.questions, [answer.question for answer in decision.answers])
        )
        if asked != answered:
            raise InvalidResponse(
                f"asked {asked}, it answered {answered}", endpoint=decision.endpoint
            )
        return decision.answers


class Decider(DecidingAgent[Out]):
    """Asks the questions that a pydantic model is made of, and gives the model back.

    Args:
        endpoint: Who decides, or a string that names it: `"VENDOR:MODEL"`.
        questions: Fields of `Predicate`, `Choice` and `Score`.
        examples: Texts with the names of the right options, by name of the question; see
            `DecidingAgent`.
        adaptation: Examples to show, and corrections of the model's bias.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't decide.
        ConfigError: a field is no question, or the adaptation belongs to other questions.

    Examples:
        >>> class Triage(BaseModel):
        ...     refund: Predicate = predicate("Does the customer ask for money back?")
        ...     topic: Choice[str] = choice("What is it about?", labels=["card", "app"])
        >>> small = ScriptedEndpoint([{"refund": {"yes": 0.9}, "topic": {"card": 0.8, "app": 0.2}}])
        >>> triage = Decider(small, Triage).run_sync("I paid twice!").output
        >>> triage.refund.value, triage.topic.label
        (True, 'card')
    """

    def __init__(
        self,
        endpoint: Endpoint | str,
        questions: type[Out],
        *,
        examples: Sequence[Example] = (),
        adaptation: Adaptation | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        self.output_type = questions
        super().__init__(
            endpoint, questions_of(questions), examples=examples, adaptation=adaptation, **limits
        )

    def read(self, answers: Sequence[Answer]) -> Out:
        """Fill the model in."""
        return fill(self.output_type, answers)

    def only(self, names: Sequence[str]) -> Decider[BaseModel]:
        """Copy the agent so that it asks some of its questions; its output has those fields alone.

        Args:
            names: Of the questions, in any order.

        Raises:
            ConfigError: there is none, or it has no question of one of these names.
        """
        model = self.output_type
        unknown = [name for name in names if name not in model.model_fields]
        if unknown or not names:
            raise ConfigError(
                f"agent {self.name!r} asks {list(model.model_fields)}, and can't be asked "
                f"{unknown or 'nothing'}"
            )
        asked = tuple(question for question in self.questions if question.name in names)
        fields: dict[str, Any] = {
            q.name: (model.model_fields[q.name].annotation, model.model_fields[q.name])
            for q in asked
        }
        part: Any = copy.copy(self)
        part.output_type = create_model(model.__name__, **fields)
        part.questions = asked
        part.adaptation = self.adaptation and _only(self.adaptation, names)
        part._zero_shot = ZeroShotCache()
        part._calibrated = {n: c for n, c in self._calibrated.items() if n in names}
        return part


def _only(adaptation: Adaptation, names: Sequence[str]) -> Adaptation:
    variants = tuple(
        tuple(
            replace(example, labels=labels)
            for example in shown
            if (labels := {n: label for n, label in example.labels.items() if n in names})
        )
        for shown in adaptation.prompt_variants
    )
    return replace(
        adaptation,
        prompt_variants=variants,
        corrections={n: c for n, c in adaptation.corrections.items() if n in names},
        heads={n: head for n, head in adaptation.heads.items() if n in names},
        doubtful={n: why for n, why in adaptation.doubtful.items() if n in names},
    )


def examples_of(question: Question, pairs: Sequence[tuple[str, object]]) -> tuple[Example, ...]:
    """Make examples of texts and values of one question's options.

    Raises:
        ConfigError: a value is that of no option.
    """
    found: list[Example] = []
    if isinstance(pairs, Mapping):
        raise ConfigError(
            f"the examples of {question.name!r} are a list of texts and labels: items()"
        )
    for text, value in pairs:
        names = [option.name for option in question.options if option.value == value]
        if not names:
            may = " (none=True lets it be one)" if value is None else ""
            raise ConfigError(
                f"an example of {question.name!r} has the label {value!r}, which is none of "
                f"{[option.value for option in question.options]}{may}"
            )
        found.append(Example(text, {question.name: names[0]}))
    return tuple(found)


def shipped_head(
    endpoint: Endpoint | str, question: str, *, asked_as: str | None = None, file: str = "support"
) -> Adaptation | None:
    """Give the head that ships for a question, where an encoder stands beside the endpoint.

    Raises:
        ConfigError: no head ships for it.
    """
    if not reads_heads(endpoint):
        return None
    return Adaptation.shipped(question, file=file, asked_as=asked_as)


class ZeroShotCache:
    """The heads that an agent without labels makes at its first call, and keeps."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known = False
        self._adaptation: Adaptation | None = None

    async def get(self, agent: DecidingAgent[Any], context: RunContext) -> Adaptation | None:
        """Give them; those who ask while they are being made wait."""
        if agent.encoder is None or self._known:
            return self._adaptation
        from moa.decisions.zero_shot import zero_shot

        async with self._lock.held(context.remaining_s()):
            if not self._known:
                self._adaptation = await zero_shot(
                    agent.endpoint,
                    agent.questions,
                    own=agent.examples,
                    encoder=agent.encoder,
                    context=context,
                )
                self._known = True
        return self._adaptation
