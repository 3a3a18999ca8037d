"""Relevance: decides whether a text meets a criterion in words, without labelled texts.

It makes a head from the words alone. The score of a text is linear in its direction by both
encoders. The weights are the sum of those of a few hundred known criteria, each by the similarity
of its words, and of the criterion's own direction: a text near a criterion is likelier to meet it.
Ordinary texts score zero. `benchmarks/relevance.py` fits this to texts that meet the known
criteria, and to texts that nearly do.

The expected accuracy is that of similar known criteria when left out of the fit. If it is low,
probabilities stay near a half.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from moa.core.context import RunContext
from moa.core.errors import CapabilityError
from moa.core.questions import Question
from moa.decisions.arrays import Floats, np, unit
from moa.decisions.heads import Head
from moa.decisions.words import criterion_of
from moa.local.encoders import E5_PARTS, MultilingualEncoder, UniversalEncoder
from moa.local.heads import FOLDER

PHRASE = "This text is {criterion}."
"""The text that is encoded for a criterion."""
WELL_READ = 0.72
"""Minimum balanced accuracy of a criterion that is read well."""
_BEFORE = re.compile(r"^(?:(?:that|which)\s+)?(?:is|are)\s+", re.IGNORECASE)
_THINGS = "anything|something|everything|topics?|things?"
_BUT = r"(other|rather)\s+than|than|but|except(\s+for)?"
_TURNS = (
    (r"neither\s+(.*?)\s+nor\s+", r"\1 or "),
    (r"((that|which)\s+)?(not|no|isn't|aren't)\s+((in\s+any\s+way|at\s+all)\s+)?", ""),
    (r"without(\s+any)?\s+|(free|empty)\s+(of|from)\s+|lacking\s+", "with "),
    (r"((that|which)\s+)?(does|do)(\s+not|n't)\s+", ""),
    (rf"(about|on|concerning)\s+(({_THINGS})\s+)?(else\s+)?({_BUT})\s+", "about "),
    (r"((that\s+)?has\s+|having\s+)?nothing\s+to\s+do\s+with\s+", "about "),
    (r"unrelated\s+to\s+|(other|anything|something)\s+(than|but)\s+", "about "),
    (r"((that\s+)?\w+(s|ing)|with)\s+(no|nothing\s+about)\s+", r"\1 "),
)
"""Patterns of a negation at the start of a criterion, with their replacements."""
BOTH = slice(0, E5_PARTS), slice(E5_PARTS, None)
"""The parts of each encoder."""


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """Maps whole texts to directions by both encoders, without what ordinary texts share."""

    centre: Floats
    """Mean of ordinary texts: parts of e5, then of the other encoder."""
    languages: Floats
    """Directions to ignore: differences between languages, orthonormal for each encoder."""

    def __call__(self, vectors: Floats) -> Floats:
        """Return directions of length 1, half of it from each encoder: vectors, parts."""
        centred = vectors[:, : len(self.centre)] - self.centre
        directions: list[Floats] = []
        for part in BOTH:
            axes = self.languages[:, part]
            directions.append(unit(centred[:, part] - centred[:, part] @ axes.T @ axes))
        return np.hstack(directions) / np.sqrt(2)


class WordsHead(NamedTuple):
    """A head made from a question's words, and its expected accuracy."""

    head: Head
    expected: float
    """Expected balanced accuracy."""


class _KnownCriteria(NamedTuple):
    """Data about known criteria. Parts are those of `Directions`."""

    texts: Directions
    criteria: Directions
    directions: Floats
    """Known criteria, parts."""
    weights: Floats
    """Known criteria, parts: learned from the texts of each."""
    quality: Floats
    """Accuracy of each when it is left out."""
    ordinary: Floats
    """Ordinary texts, parts."""
    near: Floats
    """Weight of nearness, in standard deviations of ordinary texts, for each encoder."""
    like_weights: float
    """Sharpness of the similarity for summing weights; the next field, for averaging quality."""
    like_quality: float
    cut: float
    """Score at which a criterion is met, in standard deviations of ordinary texts."""
    expect: Floats
    """Coefficients of the expected accuracy: constant, quality, spread of ordinary texts."""
    slope: Floats
    """Coefficients of the log-odds per score: constant, expected accuracy above `WELL_READ`."""


class _Scores(NamedTuple):
    weights: Floats
    """Parts, criteria."""
    bias: Floats
    """Makes the mean score of ordinary texts 0."""
    spread: Floats
    """Standard deviation of ordinary texts."""
    expected: Floats
    """Expected balanced accuracy."""


@cache
def _known_criteria() -> _KnownCriteria:
    with np.load(FOLDER / "relevance.npz") as file:
        return _KnownCriteria(
            texts=Directions(file["centre"].astype(float), file["languages"].astype(float)),
            criteria=Directions(file["middle"].astype(float), file["languages"][:0].astype(float)),
            directions=file["directions"] * float(file["directions step"]),
            weights=file["weights"] * file["weights step"].astype(float)[:, None],
            quality=file["quality"].astype(float),
            ordinary=file["ordinary"] * float(file["ordinary step"]),
            near=file["near"].astype(float),
            like_weights=float(file["like weights"]),
            like_quality=float(file["like quality"]),
            cut=float(file["cut"]),
            expect=file["expect"].astype(float),
            slope=file["slope"].astype(float),
        )


def strip_negation(criterion: str) -> tuple[str, bool]:
    """Remove a leading "is" and a negation from a criterion; return whether it was negated."""
    criterion = _BEFORE.sub("", criterion)
    for pattern, replacement in _TURNS:
        if match := re.match(pattern, criterion, re.IGNORECASE):
            return match.expand(replacement) + criterion[match.end() :], True
    return criterion, False


_words_heads: dict[str, WordsHead] = {}


async def words_head(question: Question, context: RunContext) -> WordsHead:
    """Make a head from a question's own words, which are encoded once.

    Raises:
        CapabilityError: the question has no criterion in words.
    """
    criterion = criterion_of(question)
    if criterion is None:
        raise CapabilityError(f"the words of question {question.name!r} are no criterion")
    if criterion not in _words_heads:
        _words_heads[criterion] = await _make_words_head(criterion, context)
    return _words_heads[criterion]


async def _make_words_head(criterion: str, context: RunContext) -> WordsHead:
    """Make the head of a criterion."""
    words, is_turned = strip_negation(criterion)
    scores, criteria = _scores(await _encode([words], context)), _known_criteria()
    expected = float(scores.expected[0])
    slope = (-1.0 if is_turned else 1.0) * _slope(expected)
    weights = slope * scores.weights
    bias = slope * (scores.bias - criteria.cut * scores.spread)
    head = Head(np.hstack([weights, 0 * weights]), np.r_[bias, 0.0], criteria.texts)
    return WordsHead(head, expected)


async def _encode(words: Sequence[str], context: RunContext) -> Floats:
    """Return the directions of criteria."""
    phrases = [PHRASE.format(criterion=word) for word in words]
    encoders = MultilingualEncoder(passage=True), UniversalEncoder()
    vectors = [np.array((await encoder.embed(phrases, context)).vectors) for encoder in encoders]
    return _known_criteria().criteria(np.hstack(vectors))


def _slope(expected: float) -> float:
    """Return the log-odds per score: lower for a criterion that is understood less."""
    constant, by_expected = _known_criteria().slope
    return max(float(constant + by_expected * (expected - WELL_READ)), 0.0)


def _scores(directions: Floats) -> _Scores:
    """Compute the scoring of texts for criteria, given as directions."""
    criteria = _known_criteria()
    alike = directions @ criteria.directions.T - 1
    weights = np.exp(criteria.like_weights * alike) @ criteria.weights
    for part, weight in zip(BOTH, criteria.near, strict=True):
        nearness = criteria.ordinary[:, part] @ directions[:, part].T
        weights[:, part] += weight * directions[:, part] / nearness.std(0)[:, None]
    ordinary_scores = criteria.ordinary @ weights.T
    kin = np.exp(criteria.like_quality * alike)
    quality = kin @ criteria.quality / kin.sum(1)
    spread = ordinary_scores.std(0)
    constant, by_quality, by_spread = criteria.expect
    expected = constant + by_quality * quality + by_spread * spread
    return _Scores(weights.T, -ordinary_scores.mean(0), spread, np.clip(expected, 0.5, 1.0))
