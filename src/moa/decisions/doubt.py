"""Doubt: reasons to distrust an answer that nothing was fitted to.

It asks no model. It considers known facts about the model, whether the question needs a
calculation, the label mass, and the previous answers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from moa.core.questions import Answer, Question
from moa.decisions.words import is_about_whole_text
from moa.endpoints.known import facts_of

CHANCE = 0.01
"""Answers that are all the same become doubtful when the model's own probability that all are right
falls below this. At .9 each that takes 44 texts, at .99 459."""
LEAST_MASS = 0.9
"""Minimum probability of all options together where a model is asked for one of them in a chat."""
LEAD = 0.5
"""Minimum lead of the best bare label if its words alone decide."""
_WORDS = (
    r"than|at (?:least|most)|over|under|above|below|before|after|within|until|exceeds?|up to",
    "als|mindestens|höchstens|über|unter|vor|nach|bis|innerhalb|binnen|spätestens|übersteig\\w+",
    r"(?:plus|moins) (?:de|d\W)|au (?:moins|plus)|avant|après|dans les|d\Wici|dépass\w+",
    r"supérieure?s? à|inférieure?s? à|más de|menos de|al menos|antes de|antes del|después del?",
    r"dentro de|hasta|supera\w*|più di|meno di|almeno|prima del|dopo|entro|fino a",
    r"mais de|pelo menos|depois de|até|exced\w+|ultrapass\w+|dan|minstens|hoogstens|voor|na|tot",
    r"boven|onder|niż|ponad|od ponad|powyżej|poniżej|co najmniej|przed|po|w ciągu",
)
_NUMBERS = (
    "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|fifty|hundred",
    "thousand|half|third|quarter|dozen|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|zwölf",
    "zwanzig|hundert|tausend|halbe?|deux|trois|quatre|cinq|sept|huit|neuf|dix|douze|vingt|cent",
    "mille|moitié|tiers|dos|tres|cuatro|cinco|seis|siete|ocho|nueve|diez|doce|veinte|cien|mitad",
    "due|tre|quattro|cinque|sei|sette|otto|nove|dieci|dodici|venti|cento|metà|dois|duas|três",
    "quatro|sete|oito|dez|doze|vinte|cem|metade|twee|drie|vijf|zes|zeven|acht|negen|tien|twaalf",
    "twintig|honderd|duizend|helft|dwóch|dwa|dwie|trzech|trzy|czterech|cztery|pięciu|pięć|sześciu",
    "sześć|siedmiu|siedem|ośmiu|osiem|dziewięciu|dziewięć|dziesięciu|dziesięć",
)
_FIGURE = rf"(?:\W?\d|(?:{'|'.join(_NUMBERS)})\b)"
_COMPARES = re.compile(
    rf"\b(?:{'|'.join(_WORDS)})\s+(?:\w+\s+){{0,2}}{_FIGURE}"
    r"|\bby\s+(?:the\s+)?\d"
    r"|\d\w{0,3}(?:以上|以下|未満|以内|以降|以前|まで|より|を超|之前|之后)|(?:超过|不到|至少|多于|少于)\D{0,3}\d",
    re.IGNORECASE,
)
"""A comparing word closely followed by a figure, in English, German, French, Spanish, Italian,
Portuguese, Dutch, Polish, Japanese and Chinese. Of the yes-or-no questions in
`benchmarks/data/questions_trade.jsonl` it finds 18 of 24 that depend on a figure, and 4 of 44
others."""


@dataclass(slots=True)
class Doubts:
    """Finds reasons to doubt the answers to a question, one text after another.

    An agent has one for each question that nothing was fitted to. Texts are counted in the order
    they are answered.

    Args:
        question: The question.
        model: The model that answers.
        bare: True if its labels have no descriptions.
        chats: True if the model is shown the options, so that nearly all of its probability is to
            be on them. A prompt that is continued by a label shows none.
        is_large: True for a large model.
    """

    question: Question
    model: str
    bare: bool = False
    chats: bool = False
    is_large: bool = False
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
        if answer.status != "answered":
            return ""
        if answer.source == "text":
            if answer.label_mass is None:
                return "the server sends no probabilities, so nothing tells how sure the model is"
            return (
                f"less than {LEAST_MASS:.0%} of the probability is on the options: the model would "
                "say something else"
            )
        if answer.probabilities is None:
            return ""
        if answer.source == "encoder":
            return self._doubt_words(answer.probabilities)
        if answer.source != "logprob":
            return ""
        if is_about_whole_text(self.question):  # equal answers are normal: few texts meet it
            return self._doubt_figures()
        reason = self._doubt_sameness(answer)
        if self.question.kind != "predicate":
            return reason
        if "predicate" in facts_of(self.model).guesses:
            return f"{self.model} answers such questions no better than one who reads no text"
        return self._doubt_figures() or reason

    def says_else(self, answer: Answer) -> bool:
        """Return True if too little of the probability is on the options that were shown."""
        mass = answer.label_mass if answer.source == "logprob" else None
        return self.chats and mass is not None and mass < LEAST_MASS

    def _doubt_figures(self) -> str:
        """Return a reason if a yes or no depends on figures, and the model can't work it out."""
        if (self.chats and self.is_large) or not compares_figures(self.question.text):
            return ""
        return "it compares figures, and a small model that only answers can't work a sum out"

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


def compares_figures(question: str) -> bool:
    """Return True if a question compares with a figure, such as "more than 10" or "by 3 May".

    Such a question needs a calculation, or the right figure among many. A model that only scores
    labels writes neither down.
    """
    return _COMPARES.search(question) is not None
