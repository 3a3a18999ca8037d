"""Doubt: reasons to distrust an answer to which nothing was fitted.

It asks no model. It considers what is known of the model, whether the question takes a calculation,
the label mass, and the previous answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from moa.decisions.figures import compares_figures
from moa.endpoints.known import facts_of
from moa.questions import Answer, Question

CHANCE = 0.01
"""Answers that are all the same become doubtful when the model's own probability that all are right
falls below this. At .9 each that takes 44 texts, at .99 459."""
LEAST_MASS = 0.5
"""Share of the probability on yes and no below which a chat would say something else."""
LEAD = 0.5
"""Minimum lead of the best bare label if its words alone decide."""


@dataclass(slots=True)
class Doubts:
    """Finds reasons to doubt the answers to a question, one text after another.

    An agent has one for each question that nothing was fitted to. Texts are counted in the order in
    which they are answered.

    Args:
        question: The question.
        model: The model that answers.
        bare: True if its labels have no descriptions.
    """

    question: Question
    model: str
    bare: bool = False
    _side: int | None = field(default=None, init=False)
    """Index of the option that all answers so far name."""
    _log_chance: float = field(default=0.0, init=False)
    """Natural logarithm of the probability that all of them are right."""
    _varies: bool = field(default=False, init=False)
    """True once the answers differ."""

    def find(self, answer: Answer) -> str:
        """Return why an answer is doubtful; empty if it isn't.

        The reason has no numbers that change from text to text, so that a report can count it.
        """
        if answer.status != "answered" or answer.probabilities is None:
            return ""
        if answer.source == "encoder":
            return self._doubt_words(answer.probabilities)
        if answer.source != "logprob":
            return ""
        from moa.decisions.relevance import is_about_whole_text

        if is_about_whole_text(self.question):  # most texts don't meet a criterion: that is no sign
            return self._doubt_alone(answer)
        same = self._doubt_sameness(answer)
        if self.question.kind != "predicate":
            return same
        if "predicate" in facts_of(self.model).guesses:
            return f"{self.model} answers such questions no better than one who reads no text"
        return self._doubt_alone(answer) or same

    def _doubt_alone(self, answer: Answer) -> str:
        """Return why a yes or no is doubtful, regardless of previous answers."""
        if compares_figures(self.question.text):
            return "it compares figures, and a model that is scored can't work a sum out"
        # A text to be continued doesn't say that yes and no are all that there is.
        chat = (self.question.layout or facts_of(self.model).layout_of("predicate")) == "chat"
        mass = answer.label_mass
        if chat and mass is not None and mass < LEAST_MASS:
            return "less than half of the probability is on yes and no: it would say something else"
        return ""

    def _doubt_words(self, probabilities: Sequence[float]) -> str:
        """Return a reason if words alone decide among bare labels, and none leads clearly."""
        first, second = sorted(probabilities, reverse=True)[:2]
        if self.question.kind != "choice" or not self.bare or first - second >= LEAD:
            return ""
        return (
            "the encoder compares the text with the bare labels, which say little, and none leads "
            "clearly: describe them or give examples, or ask a larger model"
        )

    def _doubt_sameness(self, answer: Answer) -> str:
        """Count an answer, and return a reason if all have been the same for too long."""
        assert answer.probabilities is not None, "it was read from log-probabilities"
        best = answer.best
        if self._side not in (None, best):
            self._varies = True
        if self._varies:
            return ""
        self._side = best
        self._log_chance += math.log(answer.probabilities[best])
        if self._log_chance >= math.log(CHANCE):
            return ""
        label = self.question.options[best].name
        return (
            f"all answers so far are {label!r}, and by the model's own probabilities the chance "
            f"that all are right is below {CHANCE:.0%}"
        )
