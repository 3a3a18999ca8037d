"""Labels: a guard by labels, from a calibration or in words: topics, policies, anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Unpack

from moa.agents.base import Limits, TypedNode
from moa.agents.classifier import Classifier
from moa.agents.filter import Verdict
from moa.core.context import RunContext
from moa.core.errors import ConfigError
from moa.core.node import Text
from moa.core.questions import NONE_OF_THESE
from moa.endpoints import Endpoint

if TYPE_CHECKING:
    from moa.decisions.file import Calibration


class LabelGuard(TypedNode[Text | str, Verdict]):
    """Stops texts by their label.

    For a criterion in words use `Filter`: `Filter(slm, "medical advice", action="drop")` stops
    texts that meet it, `Filter(slm, "about banking", action="keep")` all others. This guard
    also takes a calibration that `moa learn` made from your labelled texts, with its guarantee.

    Args:
        endpoint: The endpoint that decides, or its name: `"VENDOR:MODEL"`.
        labels: All labels, or the meaning of each, by label; `None`: those of the calibration.
        stop: Labels whose texts are stopped.
        calibration: Calibration that `moa learn` made for the endpoint's model.
        limits: See `Limits`.

    Raises:
        ConfigError: there are no labels, or `stop` has one that isn't among them.
        CapabilityError: the endpoint can't decide.
        CalibrationError: the calibration belongs to another question.
    """

    def __init__(
        self,
        endpoint: Endpoint | str,
        labels: Sequence[str] | Mapping[str, str] | None = None,
        *,
        stop: Collection[str],
        calibration: Calibration | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(**limits)
        task, none = "What is this text about?", False
        if calibration is not None:
            question = calibration.question
            options = {o.name: o.description for o in question.options if o.name != NONE_OF_THESE}
            none = len(options) < len(question.options)
            task, labels = question.text, list(options)
            descriptions = {name: means for name, means in options.items() if means is not None}
        else:
            descriptions = dict(labels) if isinstance(labels, Mapping) else {}
        if not labels or isinstance(stop, str) or not set(stop) <= set(labels):
            raise ConfigError(
                f"guard {self.name!r} stops {stop!r}, and its labels are {list(labels or ())}: "
                "give a list of some of them"
            )
        self.stop = frozenset(stop)
        self._classifier = Classifier(
            endpoint,
            list(labels),
            task=task,
            describe=descriptions or None,
            none=none,
            name="label",
            calibration=calibration,
        )

    async def answer(self, request: Text | str, context: RunContext) -> Verdict:
        """Ask for the label, and stop the text if it is one of `stop`."""
        if not str(request).strip():
            return Verdict(kept=True, reason="the text is empty", confidence=1.0, met=False)
        choice = (await self._classifier.run(request, context)).output
        met, is_sure = choice.label in self.stop, choice.accepted is not False
        reason = f"its label is {choice.label!r}" + ("" if is_sure else ", which is in doubt")
        if met:
            context.note("dropped", reason)
        return Verdict(
            kept=not met,
            reason=reason,
            confidence=choice.confidence,
            met=met,
            accepted=choice.accepted,
        )
