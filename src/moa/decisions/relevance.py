"""Relevance: whether a text meets a criterion in words, of which nobody labelled a text.

A head is made of the words alone. The score of a text for a criterion is linear in the direction
of the text, as both encoders have it. Its weights are the sum of those of a few hundred known
criteria, each as far as the words are alike, and of the criterion's own direction: what is near a
criterion is likelier to meet it. What ordinary texts score is the zero. `benchmarks/relevance.py`
fits all that to texts that meet the known criteria, and to texts that nearly do.

How well known criteria of the same kind are read, when they are left out of the fit, says how well
a new one will be. Where that is little, probabilities stay near a half.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from moa.context import RunContext
from moa.decisions.arrays import Floats, np
from moa.decisions.heads import FOLDER, Head
from moa.endpoints.encoders import E5_PARTS, MultilingualEncoder, UniversalEncoder
from moa.errors import CapabilityError
from moa.questions import Question

PHRASE = "This text is {criterion}."
"""What is encoded of a criterion."""
WELL_READ = 0.72
"""Balanced accuracy below which a criterion isn't read well."""
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
"""Beginnings that turn a criterion round, and what stands there without the turn."""
BOTH = slice(0, E5_PARTS), slice(E5_PARTS, None)
"""The parts of each encoder."""
_IS = re.compile(r"^is (?:this|the) (?:text|message|review|e-?mail|post|comment) (.*?)\??$", re.I)


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """The directions of whole texts in both encoders, apart from what ordinary texts share."""

    centre: Floats
    """Mean of ordinary texts: parts of e5, then of the other encoder."""
    languages: Floats
    """Directions in which texts of several languages differ, and which don't count: some, parts;
    of each encoder they are orthonormal."""

    def __call__(self, vectors: Floats) -> Floats:
        """Directions of length 1, half of it from each encoder: vectors, parts."""
        far = vectors[:, : len(self.centre)] - self.centre
        found: list[Floats] = []
        for part in BOTH:
            among = self.languages[:, part]
            found.append(_unit(far[:, part] - far[:, part] @ among.T @ among))
        return np.hstack(found) / np.sqrt(2)


class WordsHead(NamedTuple):
    """A head made of a question's words, and how well they are read."""

    head: Head
    expected: float
    """Balanced accuracy to expect."""


class _KnownCriteria(NamedTuple):
    """What is known of criteria. Parts are those of `Directions`."""

    texts: Directions
    criteria: Directions
    directions: Floats
    """Known criteria, parts."""
    weights: Floats
    """Known criteria, parts: what is learnt of the texts of each."""
    quality: Floats
    """How well each is read when it is left out."""
    ordinary: Floats
    """Ordinary texts, parts."""
    near: Floats
    """How much nearness counts, in standard deviations of ordinary texts, by encoder."""
    like_weights: float
    """Sharpness of the likeness by which weights are added up, and quality is averaged."""
    like_quality: float
    cut: float
    """Where a criterion begins to be met, in standard deviations of ordinary texts."""
    expect: Floats
    """Balanced accuracy to expect: a constant, by quality, and by the spread of ordinary texts."""
    slope: Floats
    """Log-odds for a score: a constant, and by what is expected above `WELL_READ`."""


class _Scores(NamedTuple):
    weights: Floats
    """Parts, criteria."""
    bias: Floats
    """So that ordinary texts score 0 on the mean."""
    spread: Floats
    """Standard deviation of ordinary texts."""
    expected: Floats
    """Balanced accuracy to expect."""


def _unit(vectors: Floats) -> Floats:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


@cache
def _known() -> _KnownCriteria:
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


def criterion_of(question: Question) -> str | None:
    """Say what a yes-or-no question asks of a text; `None` where it is none of that form."""
    if question.kind != "predicate":
        return None
    found = _IS.match(question.text.strip())
    return question.options[0].description or (found[1] if found else None)


def asks_what_it_is(question: Question) -> bool:
    """Whether a yes-or-no question asks what a text is, as a filter does, and for no fact in it."""
    return question.kind == "predicate" and _IS.match(question.text.strip()) is not None


def turned(criterion: str) -> tuple[str, bool]:
    """Take the "not" off a criterion, and "is" before it, and say whether there was a "not"."""
    criterion = _BEFORE.sub("", criterion)
    for pattern, instead in _TURNS:
        if found := re.match(pattern, criterion, re.IGNORECASE):
            return found.expand(instead) + criterion[found.end() :], True
    return criterion, False


def speaks(question: Question) -> bool:
    """Whether a question's words say what is asked; those of levels mean nothing alone."""
    return question.kind == "choice" or criterion_of(question) is not None


_words_heads: dict[str, WordsHead] = {}


async def words_head(question: Question, context: RunContext) -> WordsHead:
    """Make a head of a question's own words, a few of which are encoded, once for a question.

    Raises:
        CapabilityError: it asks for no criterion in words.
    """
    criterion = criterion_of(question)
    if criterion is None:
        raise CapabilityError(f"the words of question {question.name!r} are no criterion")
    if criterion not in _words_heads:
        _words_heads[criterion] = await _of(criterion, context)
    return _words_heads[criterion]


async def _of(criterion: str, context: RunContext) -> WordsHead:
    """Make the head of a yes-or-no question."""
    words, is_turned = turned(criterion)
    scores, known = _scores(await _encode([words], context)), _known()
    expected = float(scores.expected[0])
    slope = (-1.0 if is_turned else 1.0) * _slope(expected)
    weights = slope * scores.weights
    bias = slope * (scores.bias - known.cut * scores.spread)
    head = Head(np.hstack([weights, 0 * weights]), np.r_[bias, 0.0], known.texts)
    return WordsHead(head, expected)


async def _encode(words: Sequence[str], context: RunContext) -> Floats:
    """Encode criteria: their directions."""
    phrases = [PHRASE.format(criterion=word) for word in words]
    encoders = MultilingualEncoder(passage=True), UniversalEncoder()
    found = [np.array((await each.embed(phrases, context)).vectors) for each in encoders]
    return _known().criteria(np.hstack(found))


def _slope(expected: float) -> float:
    """Log-odds for a score of 1: the less a criterion is understood, the fewer."""
    constant, by_expected = _known().slope
    return max(float(constant + by_expected * (expected - WELL_READ)), 0.0)


def _scores(directions: Floats) -> _Scores:
    """Score texts for criteria, given as directions."""
    known = _known()
    alike = directions @ known.directions.T - 1
    weights = np.exp(known.like_weights * alike) @ known.weights
    for part, counts in zip(BOTH, known.near, strict=True):
        near = known.ordinary[:, part] @ directions[:, part].T
        weights[:, part] += counts * directions[:, part] / near.std(0)[:, None]
    plain = known.ordinary @ weights.T
    kin = np.exp(known.like_quality * alike)
    quality = kin @ known.quality / kin.sum(1)
    spread = plain.std(0)
    constant, by_quality, by_spread = known.expect
    expected = constant + by_quality * quality + by_spread * spread
    return _Scores(weights.T, -plain.mean(0), spread, np.clip(expected, 0.5, 1.0))
