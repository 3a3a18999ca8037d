"""Cascade: asks a small node first, and a larger one if its answer isn't accepted.

After Chen, Zaharia and Zou 2023, "FrugalGPT", arXiv:2305.05176. A policy decides what is accepted
(`moa.decisions.acceptance`). If it has a bound, accepted answers have a guarantee.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Generic, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, Field, ValidationInfo
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from moa.agents.base import In, Out
from moa.agents.deciding import DecidingAgent
from moa.core._async import run_sync
from moa.core.context import RunContext, count_text_deltas, quiet
from moa.core.doors import Door
from moa.core.errors import BudgetExceeded, ConfigError, MoaError, Unanswered
from moa.core.node import Node, Result, finish, unique_names
from moa.core.questions import is_accepted, may_be_accepted, may_have_confidence, questions_in
from moa.core.telemetry import Span, names
from moa.decisions.acceptance import Confident, Judgement, Policy
from moa.endpoints.calls import mark_replaceable
from moa.graphs.engine.types import UNKNOWN, signature_of
from moa.graphs.fields import FromEndpoint, NamedEndpoints, from_file
from moa.graphs.recipe import Recipe, Sketch, show
from moa.graphs.single_model import LARGE, load_calibration, single_model

if TYPE_CHECKING:
    from moa.decisions.file import Calibration
else:
    Calibration = object  # numpy is imported if one is read

In_contra = TypeVar("In_contra", contravariant=True)
_LARGE = FromEndpoint(LARGE, given=("calibration",))
_SAYS_NOTHING = (
    "{} don't say whether they are accepted. Give the cascade accept=…, such as Confident(0.9), "
    "or a calibrated agent"
)


class LearnSettings(Protocol):
    """Settings of learning; see `moa.learning.student.Learn`."""

    @property
    def where(self) -> str | Path:
        """Storage for the answers."""
        ...


class LearnedAnswer(NamedTuple, Generic[Out]):
    """An answer of a cascade that learns, and which node gave it."""

    output: Out
    by_small: bool
    accepted: bool


class CascadeLearner(Protocol[In_contra, Out]):
    """Answers in place of the tiers of a cascade, of which the first learns from the last."""

    @property
    def student(self) -> object:
        """Learns from the answers of the last tier."""
        ...

    async def answer(self, request: In_contra, nested: RunContext, /) -> LearnedAnswer[Out]:
        """Answer an input, and store what can be learned from it."""
        ...


class Learning(Protocol):
    """What a cascade asks of the layer that learns."""

    def learn_fields(self) -> Mapping[str, FieldInfo]:
        """Return the fields of the settings, by key."""
        ...

    def read_learn(self, value: object, info: ValidationInfo, /) -> LearnSettings | None:
        """Read the `learn` setting."""
        ...

    def learner_of(
        self, name: str, small: Node[In, Out], large: Node[In, Out], learn: LearnSettings, /
    ) -> CascadeLearner[In, Out]:
        """Make the learner of a cascade of this name."""
        ...


_LEARNING: Door[Learning] = Door("moa.learning.door")


class _ReadLearn:
    """Marks the `learn` setting, which the layer that learns reads if it is given."""

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> CoreSchema:
        """Validate the field with `read`. Called by pydantic."""
        del source, handler
        return core_schema.with_info_plain_validator_function(self.read)

    @property
    def table_fields(self) -> Mapping[str, FieldInfo]:
        """Fields that its table can set, by key."""
        return _LEARNING.open().learn_fields()

    @staticmethod
    def read(value: object, info: ValidationInfo) -> LearnSettings | None:
        """Read the setting; `None` if nothing is to be learned."""
        return None if value is None else _LEARNING.open().read_learn(value, info)


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeResult(Result[Out]):
    """The result of a cascade, with the tier that answered."""

    accepted: bool
    """True if a policy accepted the answer, or it is the last tier's. Otherwise it is the best
    guess of an earlier tier, since no later one could answer."""
    by: str
    """Name of the tier that answered; with several questions, of the last tier asked."""
    tier: int
    """Index of that tier; 0 is the first and smallest."""


@dataclass(frozen=True, slots=True)
class Accepted(Policy):
    """Accepts an answer whose own `.accepted` is true, as calibrated agents set it."""

    async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
        """Read `.accepted`. With several questions, all must be accepted.

        Raises:
            ConfigError: the answer has none, since no calibrated agent gave it.
        """
        del request, context
        accepted = is_accepted(reply)
        if accepted is None:
            raise ConfigError(_SAYS_NOTHING.format("the small one's answers"))
        reason = "accepted by its calibration" if accepted else "not accepted by its calibration"
        return Judgement(float(accepted), accepted, (reason,))


@dataclass(frozen=True, slots=True)
class _TierAnswer(Generic[Out]):
    """The answer so far."""

    output: Out
    place: int
    accepted: bool = False
    doubtful: tuple[str, ...] = ()
    """Questions that the next tier is asked; empty if the answer is judged as a whole."""
    reason: str = ""


class Cascade(Recipe[In, Out], Generic[In, Out], recipe="cascade"):
    """The small model first, and the large one if the small one is unsure.

    A small node is asked first. If its answer isn't accepted, can't be judged or is missing, the
    next tier is asked. If no further tier can answer, the result is the best answer so far, with
    `accepted=False`. A wrong setup of the last tier, such as a missing key, is an error. If
    `Confident` judges several questions (a `Decider`), only those not accepted go on. The last
    tier's text is streamed. Another tier's text is shown once it is accepted. In a table, the tiers
    choose among labels.

    Raises:
        ConfigError: the number of policies is wrong, or there are none and the first tier's answers
            have no `accepted`. Or two tiers send the same request to the same model.

    Examples:
        >>> small = SimulatedEndpoint(name="small", rule=lambda _: {"classifier": {"card": 0.6}})
        >>> large = SimulatedEndpoint(name="large", rule=lambda _: {"classifier": {"app": 0.9}})
        >>> first, second = (Classifier(one, ["card", "app"]) for one in (small, large))
        >>> cascade = Cascade(small=first, large=second, confidence=0.8)
        >>> cascade.run_sync("It crashes.").output.label
        'app'
    """

    calibration: Annotated[Calibration, from_file(load_calibration)] | None = None
    """File of `moa learn` for the small tier. In a table, the tiers use its question and labels.
    Its guarantee isn't checked in use, unlike that of `learn`."""
    small: Annotated[Node[In, Out], FromEndpoint(single_model, "slm", given=("calibration",))]
    """First tier."""
    between: Sequence[Annotated[Node[In, Out], _LARGE]] = ()
    """Tiers between the first and the last, asked in this order."""
    large: Annotated[Node[In, Out], _LARGE]
    """Last tier. Its answer is always accepted."""
    accept: Policy | Sequence[Policy] | None = None
    """One policy, or one for each tier but the last. `None` uses the answer's own `.accepted`,
    which calibrated agents set."""
    confidence: float | None = Field(default=None, ge=0, le=1)
    """Minimum confidence of an accepted answer, as in `accept=Confident(…)`. It is no guarantee."""
    learn: Annotated[LearnSettings | str | Path | None, _ReadLearn()] = None
    """Storage for the last tier's answers, from which the first one learns: a file,
    `postgresql://USER@HOST/DATABASE#NAME`, or a `Learn` with more settings. At first all inputs go
    to the last tier. Once a test has passed, the first one answers those above a threshold."""

    def prepare(self) -> None:
        """Build the tiers and the policy of each but the last."""
        self.tiers = (self.small, *self.between, self.large)
        self.learner = self._learner()
        self.student = self.learner and self.learner.student
        self.policies = () if self.learner else self._policies()
        self._check_labels()
        self._check_models()
        signatures = [signature_of(tier) for tier in self.tiers]
        outputs = [signature.output for signature in signatures]
        self.input_type = signatures[0].input(0)
        self.output_type = outputs[0] if outputs.count(outputs[0]) == len(outputs) else UNKNOWN
        self._parts: dict[tuple[int, tuple[str, ...]], Node[In, Out]] = {}

    @classmethod
    def complete(
        cls, table: Mapping[str, object], endpoints: NamedEndpoints
    ) -> Mapping[str, object]:
        """Check that a table says what is accepted; if only drawn, use the answer's `.accepted`."""
        says = "calibration" in table or {"labels", "confidence"} <= {*table}
        says = says or {"labels", "learn"} <= {*table}
        if not says and endpoints.can_be_asked:
            raise ConfigError(
                f"[graphs.{cls.name}] needs calibration = the file that moa learn wrote. Or "
                "give labels and learn = a file, which learns from the large model while it is "
                "used; or labels and confidence, with which nothing is guaranteed"
            )
        unsaid = {name: value for name, value in table.items() if name != "confidence"}
        return table if says else {"accept": Accepted(), **unsaid}

    def _learner(self) -> CascadeLearner[In, Out] | None:
        if self.learn is None or isinstance(self.learn, str | Path):  # a path was read
            return None
        run_sync: dict[str, object] = {
            "accept": self.accept,
            "between": self.between or None,
            "calibration": self.calibration,
            "confidence": self.confidence,
        }
        settings = [name for name, value in run_sync.items() if value is not None]
        if settings:
            raise ConfigError(
                f"cascade {self.name!r}: learn finds out by itself what is accepted, between two "
                f"tiers: leave {', '.join(settings)} out"
            )
        return _LEARNING.open().learner_of(self.name, self.small, self.large, self.learn)

    def _policies(self) -> tuple[Policy, ...]:
        if self.confidence is not None and self.accept is not None:
            raise ConfigError(f"cascade {self.name!r}: give accept or confidence, not both")
        accept = self.accept if self.confidence is None else Confident(self.confidence)
        if accept is None and not may_be_accepted(signature_of(self.small).output):
            answers = f"the answers of {self.small.name!r}"
            raise ConfigError(f"cascade {self.name!r}: {_SAYS_NOTHING.format(answers)}")
        single = isinstance(accept, Policy | None)
        policies = (accept or Accepted(),) * (len(self.tiers) - 1) if single else tuple(accept)
        if len(policies) != len(self.tiers) - 1:
            raise ConfigError(
                f"cascade {self.name!r} has {len(self.tiers)} tiers and {len(policies)} policies: "
                "give one policy, or one for each tier but the last"
            )
        for tier, policy in zip(self.tiers, policies, strict=False):
            if isinstance(policy, Confident) and not may_have_confidence(signature_of(tier).output):
                raise ConfigError(
                    f"cascade {self.name!r}: {tier.name!r} writes, so that its answers have no "
                    "confidence, and each would be paid for twice. Judge what it writes by a "
                    "policy from moa.guards.verifiers, as in accept=Length(most=80) & "
                    "Arithmetic()"
                )
        return policies

    def _check_labels(self) -> None:
        """Reject tiers with different labels: they would answer different questions.

        Raises:
            ConfigError: two tiers differ. The message names the labels that only one has.
        """
        (first, mine), *others = [(tier.name, _labels(tier)) for tier in self.tiers]
        for name, labels in others:
            for question in mine.keys() & labels.keys():
                first_extra, other_extra = (
                    mine[question] - labels[question],
                    labels[question] - mine[question],
                )
                sides = ((first, first_extra), (name, other_extra))
                differences = [
                    f"only {tier_name!r} has {', '.join(sorted(extra))}"
                    for tier_name, extra in sides
                    if extra
                ]
                if differences:
                    raise ConfigError(
                        f"cascade {self.name!r}: its tiers choose among different labels: "
                        f"{'; '.join(differences)}. Give all of them the same"
                    )

    def _check_models(self) -> None:
        """Reject tiers that can only repeat each other, and labels that no large model gives.

        Raises:
            ConfigError: two tiers send the same request to the same weights, or the last one, whose
                answers would be learnt from, asks no model.
        """
        deciders = [tier for tier in self.tiers if isinstance(tier, DecidingAgent)]
        for first, second in pairwise(deciders):
            if first.asks_the_same(second):
                raise ConfigError(
                    f"cascade {self.name!r}: {first.name!r} and {second.name!r} send the same "
                    f"request to the same model, {first.endpoint.model}, so that the second can "
                    "only repeat the first. Give the later tier a larger model"
                )
        large = self.large if isinstance(self.large, DecidingAgent) else None
        if self.learn is not None and large is not None and not large.asks_endpoint:
            raise ConfigError(
                f"cascade {self.name!r}: {large.name!r} decides without a model "
                f"({large.decided_by or 'by heads'}), so there are no labels of a large model to "
                "learn from. Give it a larger model"
            )

    async def run(self, request: In, /, context: RunContext | None = None) -> CascadeResult[Out]:
        """Ask one tier after another until an answer is accepted.

        Raises:
            InputError: `request` is not of the tiers' input type.
            MoaError: every tier failed, or the last one failed after some of its text was streamed.
            EndpointUnauthorized, EndpointUnsupported: the last tier is set up wrong.
        """
        start = time.perf_counter()
        inner = (context or RunContext()).nested(
            self.name, budget=self.budget, timeout_s=self.timeout_s
        )
        with inner.span(self.span_kind, self.name) as span:
            answer = await self._find_answer(self._check_input(request), inner)
            if span is not None:
                self._annotate(answer, span)
        result = finish(answer.output, inner, seconds=time.perf_counter() - start)
        return CascadeResult(
            **{field.name: getattr(result, field.name) for field in fields(result)},
            accepted=answer.accepted,
            by=self.tiers[answer.place].name,
            tier=answer.place,
        )

    def run_sync(self, request: In, /, context: RunContext | None = None) -> CascadeResult[Out]:
        """Run from synchronous code; see `run` and `NodeBase.run_sync`."""
        return run_sync(lambda: self.run(request, context))

    async def answer(self, request: In, context: RunContext) -> Out:
        """Ask one tier after another until an answer is accepted."""
        return (await self._find_answer(request, context)).output

    def sketch(self, sketch: Sketch) -> None:
        """Draw the tiers, one after another."""
        names = unique_names([tier.name for tier in self.tiers])
        before = None
        for tier, name in zip(self.tiers, names, strict=True):
            box = sketch.box(tier, name)
            sketch.arrow(sketch.input, box, sketch.output)
            if before is not None:
                sketch.arrow(before, box, label="if doubtful", decides=True)
            before = box

    def _annotate(self, answer: _TierAnswer[Out], span: Span) -> None:
        """Set which tier decided, and what, on the span of the cascade."""
        span.set(names.DECISION_ACCEPTED, answer.accepted)
        span.set(names.DECISION_ESCALATED, answer.place > 0)
        first = self.tiers[0]
        calibrations = first.calibrations.values() if isinstance(first, DecidingAgent) else ()
        for bound in (
            calibration.bound for calibration in calibrations if calibration.bound is not None
        ):
            span.set(names.DECISION_BOUND, bound.guarantee.risk)
        output: object = answer.output
        label, confidence = getattr(output, "said", None), getattr(output, "confidence", None)
        span.set(names.DECISION_LABEL, label if isinstance(label, str) else None)
        span.set(names.DECISION_PROBABILITY, confidence if isinstance(confidence, float) else None)

    async def _find_answer(self, request: In, context: RunContext) -> _TierAnswer[Out]:
        if self.learner is not None:
            count_pieces, inner = count_text_deltas(context)
            answer = await self.learner.answer(request, inner)
            show(answer.output, context, count_pieces())
            return _TierAnswer(answer.output, int(not answer.by_small), accepted=answer.accepted)
        count_pieces, inner = count_text_deltas(context)
        answer = await self._settle(request, inner, count_pieces)
        show(answer.output, context, count_pieces())
        return answer

    async def _settle(
        self, request: In, context: RunContext, count_pieces: Callable[[], int]
    ) -> _TierAnswer[Out]:
        """Ask one tier after another until an answer is accepted. Otherwise return the best one."""
        last = len(self.tiers) - 1
        best: _TierAnswer[Out] | None = None
        failed: MoaError | None = None
        for index in range(last + 1):
            try:
                with mark_replaceable(index < last):
                    best = await self._ask(index, request, best, context)
            except MoaError as error:
                if count_pieces() or not self._can_go_on(index, error):
                    raise
                if index == last or failed is None:
                    failed = error
                self._note_failure(index, error, context)
                continue
            if best.accepted:
                return best
            context.note("escalated", f"from {self.tiers[index].name!r}: {best.reason}")
        assert failed is not None, "the last tier is accepted, or fails"
        if best is None:
            raise failed
        name = self.tiers[best.place].name
        context.note("degraded", f"the answer of {name!r} is not accepted, and no other was had")
        return _TierAnswer(best.output, best.place)

    def _can_go_on(self, index: int, error: MoaError) -> bool:
        """Return True if an earlier answer or another tier can replace a failed tier."""
        return error.recoverable if index == len(self.tiers) - 1 else error.escalates

    async def _ask(
        self,
        index: int,
        request: In,
        before: _TierAnswer[Out] | None,
        context: RunContext,
    ) -> _TierAnswer[Out]:
        """Ask one tier everything, or only the questions still in doubt."""
        names = () if before is None else before.doubtful
        part = self._part(index, names)
        if part is None:
            names, part = (), self.tiers[index]
        last = index == len(self.tiers) - 1
        context = context if last else quiet(context)  # streamed text can't be taken back
        output = (await part.run(request, context)).output
        if names and before is not None and isinstance(before.output, BaseModel):
            answers = {name: getattr(output, name) for name in names}
            output = before.output.model_copy(update=answers)
        if last:
            return _TierAnswer(output, index, accepted=True)
        return await self._judge_output(index, request, output, names, context)

    async def _judge_output(
        self, index: int, request: In, output: Out, names: tuple[str, ...], context: RunContext
    ) -> _TierAnswer[Out]:
        policy = self.policies[index]
        names = names or questions_in(output)
        if len(names) > 1 and all(isinstance(p, Confident | Accepted) for p in policy.parts):
            judgements = {
                n: await _judge(policy, request, getattr(output, n), context) for n in names
            }
            doubtful = tuple(
                name for name, judgement in judgements.items() if not judgement.accepted
            )
            reasons = [f"{name}: {', '.join(judgements[name].reasons)}" for name in doubtful]
            return _TierAnswer(output, index, not doubtful, doubtful, "; ".join(reasons))
        judgement = await _judge(policy, request, output, context)
        return _TierAnswer(output, index, judgement.accepted, (), ", ".join(judgement.reasons))

    def _part(self, index: int, names: tuple[str, ...]) -> Node[In, Out] | None:
        """Return a tier restricted to these questions; `None` if it can't be, or there are none."""
        restrict = getattr(self.tiers[index], "select", None)
        if not names or restrict is None:
            return None
        if (index, names) not in self._parts:
            self._parts[index, names] = restrict(names)
        return self._parts[index, names]

    def _note_failure(self, index: int, error: MoaError, context: RunContext) -> None:
        further = "" if index == len(self.tiers) - 1 else ", so the next one is asked"
        kind = "refused" if isinstance(error, BudgetExceeded | Unanswered) else "failed"
        context.note(kind, f"{self.tiers[index].name!r} gave no answer{further}: {error}")


def _labels(tier: object) -> dict[str, set[str]]:
    """Return the labels of a tier by question. A single question has no name, as names may vary."""
    questions = tier.questions if isinstance(tier, DecidingAgent) else ()
    single = len(questions) == 1
    return {
        "" if single else question.name: {o.name for o in question.options}
        for question in questions
    }


async def _judge(policy: Policy, request: object, output: object, context: RunContext) -> Judgement:
    try:
        return await policy.judge(request, output, context)
    except MoaError as error:
        if not error.escalates:
            raise
        return Judgement(0.0, False, (f"it could not be judged: {error}",))
