"""Decisions: what turns a model's probabilities into decisions that can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from moa.endpoints import Example
from moa.errors import ConfigError
from moa.questions import Answer, Question

View = tuple[Example, ...]
"""Examples that a text is read with; none are the agent's own, or those of the endpoint."""


@dataclass(frozen=True, slots=True)
class Correction:
    """Takes a model's bias out of the probabilities of one question's options.

    The probability of an option is made from those in all views: the logarithm is the sum of
    `weight * log(p)` over the views, plus the option's offset.
    """

    offsets: tuple[float, ...]
    """One for each option, in order; a negative one makes it rarer."""
    weights: tuple[float, ...] = (1.0,)
    """One for each view; below 1 in all they make the answer less sure, above 1 surer."""

    def apply(self, views: Sequence[Sequence[float]]) -> tuple[float, ...]:
        """Make one set of probabilities, which add up to 1, from those of each view.

        Raises:
            ConfigError: there are not as many views, or options, as it was made for.
        """
        if len(views) != len(self.weights) or any(len(v) != len(self.offsets) for v in views):
            raise ConfigError(
                f"a correction of {len(self.offsets)} options in {len(self.weights)} views was "
                f"given {[len(view) for view in views]} probabilities: it belongs to another "
                "question"
            )
        logs = list(self.offsets)
        for weight, view in zip(self.weights, views, strict=True):
            if weight:
                logs = [log + weight * _log(p) for log, p in zip(logs, view, strict=True)]
        top = max(logs)
        shares = [math.exp(log - top) for log in logs]
        total = sum(shares)
        return tuple(share / total for share in shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """What fits a deciding agent to its task: examples to show, and corrections of its bias."""

    views: tuple[View, ...] = ((),)
    """Each text is read once with each; an empty one is the agent's own way."""
    corrections: Mapping[str, Correction] = field(default_factory=dict[str, Correction])
    """By the name of the question."""
    origin: str
    """Where it comes from, as the trace says it: "bias removed on 120 unlabelled texts"."""

    def check(self, questions: Sequence[Question]) -> None:
        """Make sure that it was made for these questions.

        Raises:
            ConfigError: it has no view, corrects a question that is not asked, or one with other
                options, or shows an example of a label that is not there.
        """
        if not self.views:
            raise ConfigError(f"the adaptation ({self.origin}) has no view to read a text with")
        options = {q.name: [option.name for option in q.options] for q in questions}
        for name, correction in self.corrections.items():
            fits = len(options.get(name, ())) == len(correction.offsets)
            if not fits or len(correction.weights) != len(self.views):
                raise ConfigError(
                    f"the adaptation ({self.origin}) corrects {len(correction.offsets)} options "
                    f"of {name!r} in {len(correction.weights)} of {len(self.views)} views, but "
                    f"the questions asked have {_sizes(options)}"
                )
        for example in (example for view in self.views for example in view):
            for name, label in example.labels.items():
                if label not in options.get(name, ()):
                    raise ConfigError(
                        f"an example of the adaptation ({self.origin}) answers {name!r} with "
                        f"{label!r}, but the options are {options.get(name)}"
                    )

    def apply(self, views: Sequence[Sequence[Answer]]) -> tuple[Answer, ...]:
        """Make one answer a question from those in each view.

        Where an answer has no probabilities, the one of the first view stays as it is.
        """
        return tuple(self._corrected(answers) for answers in zip(*views, strict=True))

    def _corrected(self, answers: Sequence[Answer]) -> Answer:
        first = answers[0]
        found = [a.probabilities for a in answers if a.probabilities is not None]
        if len(found) < len(answers):
            return first
        n = len(answers)
        even = Correction((0.0,) * len(found[0]), (1 / n,) * n)
        correction = self.corrections.get(first.question.name, even)
        return replace(first, probabilities=correction.apply(found))


def _log(probability: float) -> float:
    return math.log(max(probability, 1e-45))


def _sizes(options: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{len(names)} of {name!r}" for name, names in options.items())
