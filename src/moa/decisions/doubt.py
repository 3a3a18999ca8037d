"""Doubt: what speaks against an answer that is read from a model's label probabilities.

Nothing here asks a model. Looked at are: what is known of the model, the question itself, which may
need a sum, and what was answered to it so far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from moa.decisions.figures import compares_figures
from moa.endpoints.known import known
from moa.questions import Answer, Question

CHANCE = 0.01
"""Chance, by the model's own probabilities, that all answers of a question are right where they are
all the same: below it they are doubtful. At .9 each that takes 44 texts, at .99 459."""
LEAST_MASS = 0.5
"""Share of the probability on yes and no below which the model would rather say something else."""


@dataclass(slots=True)
class Doubts:
    """What speaks against the answers to a question, one text after another.

    An agent has one for each question that its endpoint answers as it is. Texts are counted in
    the order in which they are answered.

    Args:
        question: What is asked.
        model: Who answers.
    """

    question: Question
    model: str
    _side: int | None = field(default=None, init=False)
    """Index of the option that all answers so far name."""
    _texts: int = field(default=0, init=False)
    _log_chance: float = field(default=0.0, init=False)
    """Natural logarithm of the chance that all of them are right."""
    _varies: bool = field(default=False, init=False)
    """Whether the answers weren't all the same."""

    def of(self, answer: Answer) -> str:
        """Say what speaks against an answer; empty where nothing does."""
        if answer.status != "answered" or answer.source != "logprob":
            return ""
        same = self._one_way(answer)
        if self._guessed:
            return f"{self.model} answers such questions no better than one who reads no text"
        if self.question.kind != "predicate":
            return same
        if compares_figures(self.question.text):
            return "it compares figures, and a model that is scored can't work a sum out"
        if answer.label_mass is not None and answer.label_mass < LEAST_MASS:
            share = f"{answer.label_mass:.0%}"
            return (
                f"only {share} of the probability fell on yes and no: it would say something else"
            )
        return same

    @property
    def _guessed(self) -> bool:
        """Whether the model is known to guess, unless it is asked what the text is."""
        from moa.decisions.relevance import asks_what_it_is

        guesses = self.question.kind in known(self.model).guesses
        return guesses and not asks_what_it_is(self.question)

    def _one_way(self, answer: Answer) -> str:
        """Count an answer, and say if all have been the same for too long."""
        assert answer.probabilities is not None, "it was read from log-probabilities"
        best = answer.best
        if self._side not in (None, best):
            self._varies = True
        if self._varies:
            return ""
        self._side = best
        self._texts += 1
        self._log_chance += math.log(answer.probabilities[best])
        if self._log_chance >= math.log(CHANCE):
            return ""
        label = self.question.options[best].name
        return (
            f"all {self._texts} answers so far are {label!r}, and by the model's own "
            f"probabilities the chance that all are right is below {CHANCE:.0%}"
        )
