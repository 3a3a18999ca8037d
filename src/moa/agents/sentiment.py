"""Sentiment: the feeling of a text's writer, and its strength."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack, get_args

from pydantic import computed_field

from moa.agents.base import Limits, ready
from moa.agents.deciding import DecidingAgent, examples_of
from moa.core.questions import Answer, Choice, Option, Question
from moa.decisions.defaults import shipped_calibration
from moa.decisions.encoders import reads_heads
from moa.decisions.file import Calibration
from moa.endpoints import Endpoint
from moa.endpoints.named import as_endpoint

Feeling = Literal["negative", "neutral", "positive"]

_EXAMPLES: tuple[tuple[str, Feeling], ...] = (
    ("It broke on the second day and nobody answers my calls.", "negative"),
    ("The shop opens at nine and closes at six.", "neutral"),
    ("What a lovely evening, thank you all so much!", "positive"),
    ("Slow, boring and far too long. I want those two hours back.", "negative"),
    ("Works perfectly, and it arrived a day early.", "positive"),
    ("Could you tell me which of the two plans I am on?", "neutral"),
    ("So tired of these delays, worst morning ever", "negative"),
    ("Best concert I have been to in years.", "positive"),
)


class Mood(Choice[Feeling]):
    """The writer's feeling.

    Examples:
        >>> small = SimulatedEndpoint(rule=lambda _: {"sentiment": {"positive": 0.9}})
        >>> mood = Sentiment(small).run_sync("Lovely!").output
        >>> mood.label, round(mood.intensity, 2)
        ('positive', 0.85)
    """

    @computed_field
    @property
    def intensity(self) -> float | None:
        """Strength of the feeling, from 0 to 1: the distance between the probabilities of positive
        and negative. `None` if the model wrote its answer.
        """
        if not self.probabilities:
            return None
        return abs(self.probabilities["positive"] - self.probabilities["negative"])


@ready("sentiment", "What a writer feels", "slm")
class Sentiment(DecidingAgent[Mood]):
    """Decides whether the writer of a text feels negative, neutral or positive.

    Args:
        endpoint: The endpoint that decides, or its name: `"VENDOR:MODEL"`.
        neutral: Allow the answer "neutral"; otherwise there are two.
        calibration: A fitted scorer. `None`: the shipped head if the endpoint has an encoder (the
            endpoint isn't asked then), else the endpoint.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't decide.
        CalibrationError: the calibration belongs to another question.

    Examples:
        >>> small = SimulatedEndpoint(rule=lambda _: {"sentiment": {"positive": 0.9}})
        >>> Sentiment(small).run_sync("Lovely!").output.label
        'positive'
    """

    def __init__(
        self,
        endpoint: Endpoint | str,
        *,
        neutral: bool = True,
        calibration: Calibration | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        labels = [label for label in get_args(Feeling) if neutral or label != "neutral"]
        question = Question(
            "sentiment",
            "choice",
            "What does the writer of this text feel?",
            tuple(Option(label, label) for label in labels),
        )
        examples = examples_of(question, [pair for pair in _EXAMPLES if pair[1] in labels])
        endpoint = as_endpoint(endpoint)  # once: an environment variable may name its key
        if calibration is None and reads_heads(endpoint):
            head = "sentiment" if neutral else "negative or positive"
            calibration = shipped_calibration(question, head, file="sentiment")
        super().__init__(endpoint, [question], examples=examples, calibration=calibration, **limits)

    def read(self, answers: Sequence[Answer]) -> Mood:
        """Return the one answer as a mood."""
        return Mood.of(answers[0])
