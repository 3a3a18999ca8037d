"""Heads: linear models on vectors of texts, applied with numpy alone.

Some ship as data, fitted beforehand to labelled texts by `benchmarks/heads.py`; others are made of
the words of a question alone. A text is near a criterion, or not, as an encoder has it; how near is
measured against ordinary texts, and corrected by what is known of a few hundred other criteria with
texts that meet them and texts that nearly do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from moa.context import RunContext
from moa.decisions.arrays import Floats, Ints, log_softmax, np
from moa.endpoints import Endpoint
from moa.endpoints.encoders import E5_PARTS, USE_PARTS, MultilingualEncoder
from moa.errors import CapabilityError
from moa.questions import NONE_OF_THESE, Question
from moa.usage import FREE

FOLDER = Path(__file__).parent / "heads"
"""The heads that ship, and texts to measure models on."""
MOST_SENTENCES = 40
"""Sentences of a text that are encoded one by one; the rest counts in the whole alone."""
SENTENCES_WEIGH = 0.7
"""How much the mean of the sentences counts beside the whole. A short outburst in a long message
shows there, where the whole hides it."""
_TEXTS_KEPT = 16
"""Texts whose likeness to the landmarks of a kernel is kept: several are read at once."""
_PARTS = 2 * (E5_PARTS + USE_PARTS)
"""Numbers of a text that `encode` gives with both encoders."""
PHRASE = "This text is {criterion}."
"""What is encoded of a criterion."""
FITS = 0.8
"""How much better than any criterion an option fits, where it isn't "none of these"."""
USUAL = 0.3
"""How much of a text's mean score for all known criteria is taken from its score for one."""
_END = re.compile(r"(?<=[.!?\u2026\u061f])\s+|\n+|(?<=[\u3002\uff01\uff1f])")
_NOT = re.compile(
    r"^(?:not|no|neither)\s+|^(?:about|on|concerning)\s+(?:something\s+else\s+than"
    r"|anything\s+(?:else\s+than|but)|something\s+other\s+than)\s+",
    re.IGNORECASE,
)
_IS = re.compile(r"^is (?:this|the) (?:text|message|review|e-?mail|post|comment) (.*?)\??$", re.I)


@dataclass(frozen=True, eq=False)
class Kernel:
    """How like vectors are to landmarks: `exp(-gamma |x - landmark|^2)`, x centred and scaled."""

    centre: Floats
    scale: Floats
    """What each part is divided by; infinite for parts that aren't looked at."""
    landmarks: Floats
    """Landmarks, parts that are looked at: centred and scaled."""
    gamma: float
    unit: bool = False
    """Whether x is made one long after that, so that its direction alone counts; then x itself
    follows the likeness."""

    def __call__(self, vectors: Floats) -> Floats:
        """Likeness, and x where it is of unit length: vectors, landmarks and parts.

        That of the last single vectors is kept, since several questions are about one text.
        """
        one = len(vectors) == 1
        return self._kept(vectors.astype(float).tobytes()) if one else self._likeness(vectors)

    @cached_property
    def _kept(self) -> Callable[[bytes], Floats]:
        def likeness(vector: bytes) -> Floats:
            return self._likeness(np.frombuffer(vector)[None])

        return lru_cache(_TEXTS_KEPT)(likeness)

    @cached_property
    def _parts(self) -> Ints:
        return np.flatnonzero(np.isfinite(self.scale))

    @cached_property
    def _lengths(self) -> Floats:
        squared: Floats = (self.landmarks**2).sum(1)
        return squared

    def _likeness(self, vectors: Floats) -> Floats:
        x = (vectors - self.centre) / self.scale
        if self.unit:
            x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
        seen = x[:, self._parts]
        far = (seen**2).sum(1)[:, None] + self._lengths - 2 * seen @ self.landmarks.T
        likeness: Floats = np.exp(-self.gamma * np.maximum(far, 0.0))
        return np.hstack([likeness, x]) if self.unit else likeness


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """`log softmax(vector @ weights + bias)`, or of the vector's likeness to landmarks."""

    weights: Floats
    """Parts of the vector, or landmarks; options."""
    bias: Floats
    kernel: Kernel | None = None

    def __call__(self, vectors: Floats) -> Floats:
        """Log-probabilities of each option: vectors, options."""
        parts = vectors if self.kernel is None else self.kernel(vectors)
        return log_softmax(parts @ self.weights + self.bias)

    def logs_of(self, vector: Sequence[float]) -> tuple[float, ...]:
        """Log-probability of each option, of one vector."""
        return tuple(self(np.asarray(vector)[None])[0].tolist())


@dataclass(frozen=True, slots=True, eq=False)
class Blend:
    """Several readings of one question: `log softmax(sum of weight * log-probabilities + bias)`."""

    heads: tuple[Head | None, ...]
    """One for each reading; `None` for one that is log-probabilities already."""
    weights: Floats
    """One for each reading."""
    bias: Floats
    """One for each option."""

    @classmethod
    def of(cls, weights: Floats, bias: Floats) -> Blend:
        """Weigh readings that are log-probabilities already."""
        return cls((None,) * len(weights), weights, bias)

    def stacked(self, readings: Sequence[Floats]) -> Floats:
        """Log-probabilities that each reading gives: texts, readings, options."""
        logs = [
            reading if head is None else head(reading)
            for head, reading in zip(self.heads, readings, strict=True)
        ]
        return np.stack(logs, 1)

    def logs(self, stacked: Floats) -> Floats:
        """Log-probabilities of what is stacked: texts, options."""
        return log_softmax(np.einsum("v,tvo->to", self.weights, stacked) + self.bias)


async def encode(
    encoder: Endpoint, texts: Sequence[str], context: RunContext
) -> list[tuple[float, ...]]:
    """Encode texts for heads: twice as many numbers a text as the encoder gives.

    They are the vector of the whole text, and the mean of its sentences' weighed by
    `SENTENCES_WEIGH`. With both encoders that is e5 and USE of the whole, then of the sentences.
    """
    parts = [sentences(text) for text in texts]
    asked = [piece for text, own in zip(texts, parts, strict=True) for piece in (text, *own)]
    vectors = iter((await encoder.embed(asked, context)).vectors if asked else ())
    found: list[tuple[float, ...]] = []
    for own in parts:
        whole = next(vectors)
        pieces = [next(vectors) for _ in own] or [whole]
        mean: Floats = np.array(pieces).mean(0)
        found.append((*whole, *(SENTENCES_WEIGH * mean).tolist()))
    return found


def sentences(text: str) -> list[str]:
    """Split a text where sentences and lines end; a text of one sentence has none beside itself."""
    found = [piece.strip() for piece in _END.split(text) if piece.strip()]
    return found[:MOST_SENTENCES] if len(found) > 1 else []


def _among_all(values: Floats, *, fill: float = 0.0) -> Floats:
    """Give what reads e5 alone its places among the numbers of both encoders, the last axis.

    Of the whole text it has as many numbers as e5, with the sentences twice as many.
    """
    if values.shape[-1] == _PARTS:
        return values
    found = np.full((*values.shape[:-1], _PARTS), fill)
    for start, half in ((0, 0), (E5_PARTS, _PARTS // 2)):
        part = values[..., start : start + E5_PARTS]
        found[..., half : half + part.shape[-1]] = part
    return found


@cache
def shipped_heads(name: str) -> dict[str, Head]:
    """Read the heads of a file, such as `support`, by the name of the question."""
    with np.load(FOLDER / f"{name}.npz") as file:
        kernel = Kernel(
            centre=_among_all(file["centre"].astype(float)),
            scale=_among_all(file["scale"].astype(float), fill=np.inf),
            landmarks=file["landmarks"].astype(float) * file["step"],
            gamma=float(file["gamma"]),
        )
        return {
            name: Head(
                file[f"weights {name}"].astype(float), file[f"bias {name}"].astype(float), kernel
            )
            for name in (key.removeprefix("bias ") for key in file.files if key.startswith("bias "))
        }


class _Relevance(NamedTuple):
    """What is known of criteria: texts that meet some, and how ordinary texts score."""

    kernel: Kernel
    of: Ints
    """The criterion of each landmark."""
    duals: Floats
    middle: Floats
    directions: Floats
    """Of the criteria."""
    ordinary: Floats
    sharpness: float
    slope: float
    likeness: Floats
    """Of the ordinary texts to the landmarks, and these themselves."""


@cache
def _relevance() -> _Relevance:
    with np.load(FOLDER / "relevance.npz") as file:
        part = file["centre"].astype(float)
        kernel = Kernel(
            centre=_among_all(part),
            scale=_among_all(np.ones(len(part)), fill=np.inf),  # the whole text alone, by e5
            landmarks=file["landmarks"].astype(float) * file["step"],
            gamma=float(file["like_texts"]) / 2,
            unit=True,
        )
        ordinary = file["ordinary"].astype(float)
        plain = _among_all(ordinary + part)
        return _Relevance(
            kernel=kernel,
            of=file["of"].astype(np.intp),
            duals=file["duals"].astype(float),
            middle=file["middle"].astype(float),
            directions=file["directions"].astype(float),
            ordinary=ordinary,
            sharpness=float(file["like_criteria"]),
            slope=float(file["slope"]),
            likeness=kernel(plain),
        )


def criterion_of(question: Question) -> str | None:
    """Say what a yes-or-no question asks of a text; `None` where it is none of that form."""
    if question.kind != "predicate":
        return None
    yes = question.options[0]
    if yes.description:
        return yes.description
    found = _IS.match(question.text.strip())
    return found[1] if found else None


def option_words(question: Question) -> list[str]:
    """Say what each option of a choice means: its description, else its name in words."""
    about = "about " if "about" in question.text.lower() else ""
    return [o.description or about + o.name.replace("_", " ") for o in question.options]


def speaks(question: Question) -> bool:
    """Whether a question's words say what is asked; those of levels mean nothing alone."""
    return question.kind == "choice" or criterion_of(question) is not None


_words_heads: dict[object, Head] = {}


async def words_head(question: Question, context: RunContext) -> Head:
    """Make a head of a question's own words, a few of which are encoded, once for a question.

    Raises:
        CapabilityError: its words don't say what is asked; see `speaks`.
    """
    if not speaks(question):
        raise CapabilityError(f"the words of question {question.name!r} don't say what is asked")
    options = [(option.name, option.description) for option in question.options]
    key = question.kind, question.text, tuple(options)
    if key not in _words_heads:
        _words_heads[key] = await _relevance_head(question, context)
    return _words_heads[key]


async def _relevance_head(question: Question, context: RunContext) -> Head:
    criterion = criterion_of(question)
    if criterion is not None:
        turned = _NOT.match(criterion)
        weights, bias = await _scores([criterion[turned.end() :] if turned else criterion], context)
        usual, middle = _any_criterion()  # of short texts, all scores are low
        weights = weights - USUAL * usual[:, None]
        bias = bias - USUAL * (middle - FITS)
        sign = -1.0 if turned else 1.0
        weights, bias = np.hstack([sign * weights, 0 * weights]), np.r_[sign * bias, 0 * bias]
    else:
        weights, bias = await _scores(option_words(question), context)
        for place, option in enumerate(question.options):
            if option.name == NONE_OF_THESE:
                weights[:, place], bias[place] = _any_criterion()
    return Head(weights, bias, _relevance().kernel)


async def _scores(words: Sequence[str], context: RunContext) -> tuple[Floats, Floats]:
    """Weights and biases of criteria, so that ordinary texts score 0 on the mean."""
    encoder = MultilingualEncoder(price=FREE, passage=True)
    phrases = [PHRASE.format(criterion=word) for word in words]
    return _weights(np.array((await encoder.embed(phrases, context)).vectors))


def _weights(found: Floats) -> tuple[Floats, Floats]:
    f = _relevance()
    moved = found - f.middle
    directions = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    alike = np.exp(f.sharpness * (directions @ f.directions.T - 1))
    correction = (alike[:, f.of] * f.duals).T
    usual = f.ordinary @ found.T
    near = found.T / usual.std(0)
    weights = f.slope * np.vstack([correction, _among_all(near.T).T])
    return weights, -(f.likeness @ weights).mean(0)


@cache
def _any_criterion() -> tuple[Floats, float]:
    """Score a text for criteria in general: an option that fits has to be well above that."""
    f = _relevance()
    weights, bias = _weights(f.directions + f.middle)
    return weights.mean(1), float(bias.mean()) + FITS
