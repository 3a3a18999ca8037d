"""Labels: a guard from a calibration, or from labels in words: topics, policies, anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Unpack

from moa.agents.base import Limits, TypedNode
from moa.agents.classifier import Classifier
from moa.agents.filter import Verdict
from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.errors import ConfigError
from moa.node import Text
from moa.questions import NONE_OF_THESE

if TYPE_CHECKING:
    from moa.calibration.file import Calibration


class LabelGuard(TypedNode[Text | str, Verdict]):
    """Stops the texts that have some of several labels.

    A criterion in words alone is a `Filter`: `Filter(slm, "medical advice", action="drop")` stops
    what meets it, `Filter(slm, "about banking", action="keep")` everything else. This guard
    takes what `moa learn` made from your own labelled texts, and keeps its guarantee.

    Args:
        endpoint: The endpoint that decides, or its name: `"VENDOR:MODEL"`.
        labels: All of them, or what each means, by label; `None`: those of the calibration.
        stop: The labels that are stopped.
        task: The question that the labels answer; that of the calibration comes before it.
        calibration: What `moa learn` made for the endpoint's model.
        doubtful: What becomes of a text whose label the calibration doesn't accept: `judge` goes
            by the label all the same, `stop` and `keep` don't look at it.
        limits: See `Limits`.

    Raises:
        ConfigError: there are no labels, or one of `stop` is none of them.
        CapabilityError: the endpoint can't decide.
        CalibrationError: the calibration belongs to another question.
    """

    def __init__(
        self,
        endpoint: Endpoint | str,
        labels: Sequence[str] | Mapping[str, str] | None = None,
        *,
        stop: Collection[str],
        task: str = "What is this text about?",
        calibration: Calibration | None = None,
        doubtful: Literal["judge", "stop", "keep"] = "judge",
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(**limits)
        none = False
        if calibration is not None:
            asked = calibration.question
            options = {o.name: o.description for o in asked.options if o.name != NONE_OF_THESE}
            none = len(options) < len(asked.options)
            task, labels = asked.text, list(options)
            meant = {name: means for name, means in options.items() if means is not None}
        else:
            meant = dict(labels) if isinstance(labels, Mapping) else {}
        if not labels or isinstance(stop, str) or not set(stop) <= set(labels):
            raise ConfigError(
                f"guard {self.name!r} stops {stop!r}, and its labels are {list(labels or ())}: "
                "give a list of some of them"
            )
        self.stop = frozenset(stop)
        self.doubtful = doubtful
        self._classifier = Classifier(
            endpoint,
            list(labels),
            task=task,
            describe=meant or None,
            none=none,
            name="label",
            calibration=calibration,
        )

    async def answer(self, request: Text | str, context: RunContext) -> Verdict:
        """Ask for the label, and compare it."""
        if not str(request).strip():
            return Verdict(kept=True, reason="the text is empty", confidence=1.0, met=False)
        choice = (await self._classifier.run(request, context)).output
        met, sure = choice.label in self.stop, choice.accepted is not False
        reason = f"its label is {choice.label!r}" + ("" if sure else ", which is in doubt")
        stopped = met if sure or self.doubtful == "judge" else self.doubtful == "stop"
        if stopped:
            context.note("dropped", reason)
        return Verdict(
            kept=not stopped,
            reason=reason,
            confidence=choice.confidence,
            met=met,
            accepted=choice.accepted,
        )
