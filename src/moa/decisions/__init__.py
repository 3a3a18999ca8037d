"""Decisions: what turns a model's probabilities into decisions that can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from moa.endpoints import Example
from moa.errors import ConfigError
from moa.questions import Answer, Question


@dataclass(frozen=True, slots=True)
class Correction:
    """Takes a model's bias out of the probabilities of one question's options."""

    offsets: tuple[float, ...]
    """Added to the log-probability of each option, in order; a negative one makes it rarer."""
    temperature: float = 1.0
    """Divides the log-probabilities first; above 1 it makes them less sure."""

    def apply(self, probabilities: Sequence[float]) -> tuple[float, ...]:
        """Correct the probabilities of one answer; they add up to 1 again.

        Raises:
            ConfigError: there are not as many as there are offsets.
        """
        if len(probabilities) != len(self.offsets):
            raise ConfigError(
                f"a correction of {len(self.offsets)} options was given {len(probabilities)} "
                "probabilities: it belongs to another question"
            )
        logs = [
            math.log(p) / self.temperature + offset if p > 0 else -math.inf
            for p, offset in zip(probabilities, self.offsets, strict=True)
        ]
        top = max(logs)
        weights = [math.exp(log - top) for log in logs]
        total = sum(weights)
        return tuple(weight / total for weight in weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """What fits a deciding agent to its task: examples to show, and corrections of its bias."""

    examples: tuple[Example, ...] = ()
    """Shown instead of the agent's own, where there are any."""
    corrections: Mapping[str, Correction] = field(default_factory=dict[str, Correction])
    """By the name of the question."""
    origin: str
    """Where it comes from, as the trace says it: "bias removed on 120 unlabelled texts"."""

    def check(self, questions: Sequence[Question]) -> None:
        """Make sure that it was made for these questions.

        Raises:
            ConfigError: it corrects a question that is not asked, or one with other options, or
                shows an example of a label that is not there.
        """
        options = {q.name: [option.name for option in q.options] for q in questions}
        for name, correction in self.corrections.items():
            if len(options.get(name, ())) != len(correction.offsets):
                raise ConfigError(
                    f"the adaptation ({self.origin}) corrects {len(correction.offsets)} options "
                    f"of {name!r}, but the questions asked have {_sizes(options)}"
                )
        for example in self.examples:
            for name, label in example.labels.items():
                if label not in options.get(name, ()):
                    raise ConfigError(
                        f"an example of the adaptation ({self.origin}) answers {name!r} with "
                        f"{label!r}, but the options are {options.get(name)}"
                    )

    def apply(self, answers: Sequence[Answer]) -> tuple[Answer, ...]:
        """Correct answers; those without probabilities stay as they are."""
        return tuple(self._corrected(answer) for answer in answers)

    def _corrected(self, answer: Answer) -> Answer:
        correction = self.corrections.get(answer.question.name)
        if correction is None or answer.probabilities is None:
            return answer
        return replace(answer, probabilities=correction.apply(answer.probabilities))


def _sizes(options: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{len(names)} of {name!r}" for name, names in options.items())
