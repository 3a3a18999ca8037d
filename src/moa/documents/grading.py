"""Grading: whether a passage helps with a question, or holds what a sentence claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from pydantic import BaseModel, ConfigDict

from moa.agents.boundary import Limits
from moa.agents.deciding import DecidingAgent
from moa.documents import Passage
from moa.documents.retrieval import searched
from moa.endpoints import Endpoint
from moa.errors import CalibrationError, ConfigError
from moa.questions import Answer, Option, Question

if TYPE_CHECKING:
    from moa.calibration.file import Calibration

RELEVANT = "Does the passage help to answer the question?"
SUPPORTED = "Does the passage say what is claimed?"


class Grade(BaseModel):
    """Whether a pair of texts meets a criterion."""

    model_config = ConfigDict(frozen=True)

    met: bool | None
    """`None` where the model didn't say."""
    probability: float | None = None
    """That it is met; `None` where the model wrote its answer, or gave none."""
    accepted: bool | None = None
    """Whether a calibration's promise covers it; `None` without a calibration."""


class Grader(DecidingAgent[Grade]):
    """Asks a yes-or-no question about a passage and what it is held against.

    Args:
        endpoint: Who decides.
        question: A yes-or-no question.
        threshold: Probability from which on the answer is yes, where there is no calibration.
        calibration: Made by `moa calibrate` from pairs as `asked` and `claimed` write them, with
            the labels yes and no; its question comes before the one given.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't decide.
        ConfigError: the threshold is not between 0 and 1.
        CalibrationError: the labels of the calibration are not yes and no.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        question: str,
        *,
        threshold: float = 0.5,
        calibration: Calibration | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        name = limits.get("name") or "grader"
        if not 0 < threshold < 1:
            raise ConfigError(f"{name}: threshold={threshold}, but it is between 0 and 1")
        self.threshold = threshold
        yes_or_no = (Option("yes", value=True), Option("no", value=False))
        wanted = Question(name, "predicate", question, yes_or_no)
        if calibration is not None:
            wanted = calibration.question.question(name)
            if {option.name for option in wanted.options} != {"yes", "no"}:
                labels = ", ".join(option.name for option in wanted.options)
                raise CalibrationError(
                    f"{name}: the calibration has the labels {labels}, and here a question is "
                    "answered by yes or no: label the pairs yes and no"
                )
        super().__init__(endpoint, [wanted], calibration=calibration, **limits)

    def read(self, answers: Sequence[Answer]) -> Grade:
        """Compare the probability with the threshold, or take what the calibration says."""
        answer = answers[0]
        if answer.status != "answered":
            return Grade(met=None, accepted=answer.accepted)
        p = answer.named().get("yes")
        met = answer.question.options[answer.best].name == "yes"
        if p is not None and answer.accepted is None:
            met = p >= self.threshold
        return Grade(met=met, probability=p, accepted=answer.accepted)


def asked(question: str, passage: Passage) -> str:
    """Write a question and a passage as the text that a filter decides on."""
    return f"Question: {question}\n\nPassage: {searched(passage)}"


def claimed(claim: str, passages: Sequence[Passage]) -> str:
    """Write a claim and the passages it cites as the text that a check decides on."""
    given = "\n\n".join(map(searched, passages))
    return f"Passage: {given}\n\nClaim: {claim}"
