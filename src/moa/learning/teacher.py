"""Teacher: tells if a large model's labels seem not to depend on the texts.

The labels are compared with the small model's own answers to the same texts, which were fitted to
no label. Two models that read the texts agree more often than by chance. There are two findings:

- One label: nearly all texts have the same label, and the small model says otherwise.
- Chance: the two agree as if one of them didn't read the text.

Neither says which model is wrong, since a small model that is useless for the question looks the
same. And neither stops anything.

*The tests.* Texts count as independent draws. Three hypotheses say that a share is a certain value
or more. They are that the models agree on 65 % of the texts, that they agree on 90 %, and that 7 %
of the labels are others than the most frequent one. The evidence against one is the likelihood of
what was seen under an alternative, divided by its largest likelihood under the hypothesis
(universal inference; Wasserman, Ramdas and Balakrishnan 2020, PNAS 117). If the hypothesis holds,
the evidence ever reaches `1 / alpha` with a probability of at most `alpha` = 2 % (Ville's
inequality). So it may be looked at after each label, by any process, and needs nothing but the
labels so far.

- One label: at most 7 % of the labels are others. And an agreement of 65 % is refuted; or one of
  90 % is refuted, and that 7 % of the labels are others is refuted, too.
- Chance: an agreement of 65 % is refuted, and the agreement isn't clearly above chance.

*False alarms.* If the models agree on 65 % of the texts or more and 7 % of the labels are others,
at most 4 % of all files ever get a note. Where they agree less, a note may come and go again as the
agreement rises clearly above chance: with two labels and an agreement on 60 %, 18 % of 300
simulated streams had one for a while. Where a rarer label meets a small model that is wrong more
often, there may be a note, and what it says is true.

*Power.* In simulations, a large model that always says the same was found after 55 labels if the
small model says that, too, on half of the texts, and in 95 % of the streams after 140 if it does on
three quarters. Labels by lot were found after 50 labels if there are four, and after 75 (in 95 % of
the streams 270) if there are two. Where the models would agree on 65 % by chance, such labels
aren't found.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from moa.decisions.guarantee import log_choose, tail
from moa.learning.answer_rows import LabelPair

COMPARED = 2000
"""Maximum of labels to compare, the first ones. If the large model fails later, checks and drift
tell."""
_FEWEST = 50
"""Minimum of labels for a finding."""
_ALPHA = 0.02
_AGREE, _AGREE_WELL, _OTHERS = 0.65, 0.9, 0.07
"""Shares of the three hypotheses."""
_STRAY = 0.001
"""Share of other labels from a large model that gives nearly all texts one label."""
_CLEAR = 2.0
"""Standard deviations by which an agreement is clearly above chance."""
_WAVERS = 0.2
"""Share of texts on which a large model that reads them may differ from itself."""
_LOOK = (
    "Look at some labels with their texts: moa studio ANSWERS shows them, with keep_texts = true "
    "in learn"
)


class Comparison:
    """A large model's labels beside a small model's own answers, one text after another.

    Args:
        options: Number of options of the question.
    """

    def __init__(self, options: int) -> None:
        self._options = options
        self._texts = 0
        self._large: Counter[str] = Counter()
        self._small: Counter[str] = Counter()
        self._agreed, self._repeated, self._wavered = 0, 0, 0
        self._products = options / 4
        """Sum over the options of the product of both models' counts, each plus a half."""
        self._by_chance, self._variance, self._log_chance = 0.0, 0.0, 0.0
        """Mean, variance and log-likelihood of the agreement by chance."""

    def add(self, pair: LabelPair) -> None:
        """Add a text.

        The probability to agree on it by chance is that of two independent draws, estimated from
        the texts before it: each label has its count plus a half (Krichevsky and Trofimov 1981,
        "The performance of universal encoding", IEEE Transactions on Information Theory 27).
        """
        chance = self._products / (self._texts + self._options / 2) ** 2
        agrees = pair.large == pair.small
        self._by_chance += chance
        self._variance += chance * (1 - chance)
        self._log_chance += math.log(chance if agrees else 1 - chance)
        self._products += self._small[pair.large] + 0.5
        self._large[pair.large] += 1
        self._products += self._large[pair.small] + 0.5
        self._small[pair.small] += 1
        self._texts += 1
        self._agreed += agrees
        self._repeated += pair.again is not None
        self._wavered += pair.again not in (None, pair.large)

    @property
    def note(self) -> str:
        """What was found, and what to do; empty without a finding."""
        if self._texts < _FEWEST:
            return ""
        agrees_little = _refutes(_AGREE, self._agreed, self._texts, self._log_chance)
        if self._is_one_label(agrees_little=agrees_little):
            ((label, count),) = self._large.most_common(1)
            return (
                f"The large model gave {count} of {self._texts} texts the label {label!r}, and the "
                f"small one {self._small[label]}: nearly all texts are {label!r}, and the small "
                f"model is often wrong, or the large one doesn't read them. {_LOOK}"
            )
        clear = self._by_chance + _CLEAR * math.sqrt(self._variance)
        if agrees_little and self._agreed <= clear:
            return (
                f"The large model and the small one agree on {self._agreed} of {self._texts} "
                f"texts, and by chance on about {self._by_chance:.0f}: one of them doesn't read "
                f"the text, or takes one label for another. {self._wavering}{_LOOK}"
            )
        return ""

    def _is_one_label(self, *, agrees_little: bool) -> bool:
        others = self._texts - max(self._large.values())
        if others > _OTHERS * self._texts:
            return False
        if agrees_little:
            return True
        stray = _log_likelihood(others, self._texts, _STRAY)
        # The alternative is each share of agreement with equal weight.
        mixed = -math.log(self._texts + 1) - log_choose(self._texts, self._agreed)
        return _refutes(_OTHERS, others, self._texts, stray) and _refutes(
            _AGREE_WELL, self._agreed, self._texts, mixed
        )

    @property
    def _wavering(self) -> str:
        """That the large model differs from itself, if that points to it; else empty."""
        firm = self._repeated - self._wavered
        if not self._repeated or tail(firm, self._repeated, 1 - _WAVERS) > _ALPHA:
            return ""
        return (
            f"It may well be the large one: asked twice about {self._repeated} texts, it differed "
            f"from itself on {self._wavered}. "
        )


def describe_teacher(pairs: Iterable[LabelPair], options: int) -> str:
    """Say if a large model's labels seem not to depend on the texts; empty if they may.

    Args:
        pairs: Answers of both models to each text, in order of arrival.
        options: Number of options of the question.
    """
    comparison = Comparison(options)
    for pair in pairs:
        comparison.add(pair)
    return comparison.note


def _refutes(least: float, count: int, n: int, alternative: float) -> bool:
    """Return True if `count` in `n` refutes that the share is at least `least`.

    Args:
        least: Smallest share of the hypothesis.
        count: Number of texts that show it.
        n: Number of texts, at least 1.
        alternative: Logarithm of the likelihood of what was seen under the alternative.
    """
    return alternative - _log_likelihood(count, n, max(least, count / n)) >= -math.log(_ALPHA)


def _log_likelihood(count: int, n: int, share: float) -> float:
    """Return the log-probability of a sequence with `count` in `n`, each of probability `share`."""
    seen = count * math.log(share) if count else 0.0
    return seen + ((n - count) * math.log1p(-share) if count < n else 0.0)
