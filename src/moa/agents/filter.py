"""Filter: keeps or drops a text by a criterion in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, Unpack, get_args

from pydantic import BaseModel, ConfigDict

from moa.agents.base import Limits, ready
from moa.agents.deciding import DecidingAgent, examples_of
from moa.core.context import RunContext
from moa.core.errors import ConfigError
from moa.core.node import Text
from moa.core.questions import Answer, Option, Predicate, Question
from moa.decisions.encoders import heads_of
from moa.decisions.features import ENCODER
from moa.decisions.file import Calibration
from moa.endpoints import Endpoint

Action = Literal["keep", "drop"]
"""Action for a text that meets the criterion; all others get the opposite."""


class Verdict(BaseModel):
    """A filter's decision on a text, with the reason.

    Examples:
        >>> small = SimulatedEndpoint(rule=lambda _: {"filter": {"yes": 0.9}})
        >>> verdict: Verdict = Filter(small, "spam", action="drop").run_sync("WIN!").output
        >>> verdict.kept, verdict.reason
        (False, 'is spam (probability 0.90)')
    """

    model_config = ConfigDict(frozen=True)

    kept: bool
    reason: str
    """The reason, in words."""
    confidence: float | None
    """Probability that it is right; `None` if the model wrote its answer."""
    met: bool
    """True if the text meets the criterion."""
    doubtful: bool = False
    """True if the answer is unreliable: the model gives it for every text, or the encoder decides
    and its probability is near the threshold. Such a text is kept."""
    accepted: bool | None = None
    """True if a calibration's guarantee covers it; `None` if there is no guarantee."""


UNSURE = 0.85
"""Log-odds from the threshold up to which an encoder's answer is unsure if nothing but the filter's
own examples was fitted: probabilities of .3 to .7 at a threshold of .5. On criteria that nothing
was learnt from these are half of the wrong answers and a quarter of the right ones; less so among
near misses (benchmarks/filters.py)."""


class Filter(DecidingAgent[Verdict]):
    """Keeps or drops the texts that meet a criterion, as `action` says.

    An empty text is dropped without a call.

    Args:
        endpoint: The endpoint that decides, or its name: `"VENDOR:MODEL"`.
        criterion: Completes the question "Is this text …?": "unsolicited advertising", "about
            something else than banking", "an attempt to give orders to an AI".
        action: "keep" keeps matching texts and drops all others; "drop" drops matching texts and
            keeps all others.
        threshold: Minimum probability of a matching text.
        examples: Texts, each with `True` if it meets the criterion; see `DecidingAgent`.
        calibration: A fitted scorer; with a bound it also sets `accepted`.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't decide.
        ConfigError: `action` is another word, the criterion is empty, or the threshold is not
            between 0 and 1.
        CalibrationError: the calibration belongs to another question.

    Examples:
        >>> def rule(text: str) -> dict[str, dict[str, float]]:
        ...     return {"filter": {"yes": 0.9 if "WIN" in text else 0.1}}
        >>> small = SimulatedEndpoint(rule=rule)
        >>> spam = Filter(small, "unsolicited advertising", action="drop")
        >>> [spam.run_sync(text).output.kept for text in ("WIN a cruise!", "See you at nine.")]
        [False, True]
    """

    def __init__(
        self,
        endpoint: Endpoint | str,
        criterion: str,
        *,
        action: Action,
        threshold: float = 0.5,
        examples: Sequence[tuple[str, bool]] = (),
        calibration: Calibration | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        if not criterion.strip() or not 0 < threshold < 1:
            raise ConfigError(
                "a filter needs a criterion in words and a threshold between 0 and 1, got "
                f"criterion={criterion!r}, threshold={threshold}"
            )
        self.criterion = criterion.strip()
        if action not in get_args(Action):
            raise ConfigError(
                f'a filter needs an action: Filter(…, {criterion!r}, action="drop") drops what '
                f'meets the criterion, action="keep" drops all others; got action={action!r}'
            )
        self.action: Action = action
        self.threshold = threshold
        options = (Option("yes", value=True), Option("no", value=False))
        name = limits.get("name") or self._default_name()
        question = Question(name, "predicate", f"Is this text {self.criterion}?", options)
        super().__init__(
            endpoint,
            [question],
            examples=examples_of(question, examples),
            calibration=calibration,
            **limits,
        )

    async def answer(self, request: Text | str, context: RunContext) -> Verdict:
        """Decide; an empty text is dropped without a call.

        The trace notes a drop, and a badly understood criterion whose words alone decide.
        """
        if str(request).strip():
            verdict = await super().answer(request, context)
            if self.decides_by_words:
                await self._check_words(context)
        else:
            reason = "the text is empty"
            verdict = Verdict(kept=False, reason=reason, confidence=1.0, met=False)
        note_drop(verdict, context)
        return verdict

    async def _check_words(self, context: RunContext) -> None:
        (question,) = self.questions
        heads = heads_of(self.sources.get(ENCODER))
        if heads is not None and not await heads.understands(question, context):
            context.note(
                "degraded",
                f"criteria like {self.criterion!r} are badly told by their words alone: give "
                f"{self.name} examples, or an endpoint with a larger model",
            )

    def read(self, answers: Sequence[Answer]) -> Verdict:
        """Compare the probability with the threshold, unless a guarantee covers the answer.

        Raises:
            Unanswered: the model refused, or left it out.
        """
        answer = Predicate.of(answers[0])
        p = answer.probability
        met = answer.value if p is None or answer.accepted else p >= self.threshold
        certainty = "as written by the model" if p is None else f"probability {p:.2f}"
        confidence = None if p is None else p if met else 1 - p
        reason = f"{'is' if met else 'is not'} {self.criterion} ({certainty})"
        unsure = answer.source == "encoder" and not self.calibrations and self._is_near(p)
        doubtful = answer.doubtful or unsure
        # An answer that only lacks probabilities counts: else such a model would drop nothing.
        is_open = doubtful and (p is not None or answer.label_mass is not None)
        if is_open:
            decider = "the encoder" if unsure else "the model"
            reason = f"DOUBTFUL: {decider} can't tell whether it is {self.criterion} ({certainty})"
        return Verdict(
            kept=is_open or met == (self.action == "keep"),
            reason=reason,
            confidence=confidence,
            met=met,
            doubtful=doubtful,
            accepted=answer.accepted,
        )

    def _is_near(self, p: float | None) -> bool:
        """Return True if a probability is near the threshold, in log-odds."""
        if p is None or not 0 < p < 1:  # a certain answer is far from any threshold
            return False
        # In log-odds a threshold of .9 leaves room for answers above it; at a distance of .2 in
        # probability all of them would be unsure, and the filter would never act.
        return abs(_log_odds(p) - _log_odds(self.threshold)) <= UNSURE


def _log_odds(p: float) -> float:
    return math.log(p / (1 - p))


def note_drop(verdict: Verdict, context: RunContext) -> None:
    """Note in the trace that a text is dropped."""
    if not verdict.kept:
        context.note("dropped", verdict.reason)


ready("filter", "Drops what meets a criterion", "slm")(partial(Filter, action="drop"))
