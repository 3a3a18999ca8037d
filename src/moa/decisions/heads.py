"""Heads: linear models on vectors of texts, applied with numpy alone.

Some are fitted to a user's labelled texts (`moa.decisions.regression`); others come with an encoder
(`moa.decisions.encoders.Heads`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from moa.core._blas import one_blas_thread
from moa.core.context import RunContext
from moa.decisions.arrays import Floats, Ints, log_softmax, np
from moa.endpoints import Endpoint

MOST_SENTENCES = 40
"""Maximum of sentences to encode one by one; later ones count only as part of the whole."""
SENTENCES_WEIGH = 0.7
"""Weight of the sentences' mean relative to the whole. It reveals a short outburst that a long
message hides."""
_TEXTS_KEPT = 16
"""Number of texts whose similarity to a kernel's landmarks is cached, since several are read at
once."""
_END = re.compile(r"(?<=[.!?\u2026\u061f])\s+|\n+|(?<=[\u3002\uff01\uff1f])")


@dataclass(frozen=True, eq=False)
class Kernel:
    """Similarity of vectors to landmarks: `exp(-gamma |x - landmark|^2)`, x centred and scaled."""

    centre: Floats
    scale: Floats
    """Divisor of each part; infinite for parts that are ignored."""
    landmarks: Floats
    """Landmarks, used parts: centred and scaled."""
    gamma: float

    def __call__(self, vectors: Floats) -> Floats:
        """Return similarities: vectors, landmarks.

        Those of the latest single vectors are cached, since several questions are about one text.
        """
        is_single = len(vectors) == 1
        return (
            self._cached_likeness(vectors.astype(float).tobytes())
            if is_single
            else self._likeness(vectors)
        )

    @cached_property
    def _cached_likeness(self) -> Callable[[bytes], Floats]:
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
        parts = x[:, self._parts]
        with one_blas_thread():
            distances = (parts**2).sum(1)[:, None] + self._lengths - 2 * parts @ self.landmarks.T
        likeness: Floats = np.exp(-self.gamma * np.maximum(distances, 0.0))
        return likeness


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """`log softmax(vector @ weights + bias)`, optionally after a kernel."""

    weights: Floats
    """Parts of the vector, or of the kernel's output; options."""
    bias: Floats
    kernel: Callable[[Floats], Floats] | None = None
    """Transforms vectors first, such as into similarities to landmarks."""
    less: float | None = None
    """Deduction from a sentence's log-odds of the first option, relative to the whole text, for a
    head that a single sentence decides; `None`: sentences aren't read one by one."""
    parts: int = 0
    """Length of the vector of the whole text, and of each sentence after it, if `less` is given."""

    def __call__(self, vectors: Floats) -> Floats:
        """Return log-probabilities: vectors, options."""
        if self.less is None:
            return self._apply(vectors)
        return np.array([self._apply_to_sentences(vector) for vector in vectors])

    def _apply(self, vectors: Floats) -> Floats:
        parts = vectors if self.kernel is None else self.kernel(vectors)
        return log_softmax(parts @ self.weights + self.bias)

    def _apply_to_sentences(self, vector: Floats) -> Floats:
        """Read the whole text and each sentence; return the strongest case for the first option."""
        logs = self._apply(vector.reshape(-1, self.parts))
        odds = logs[:, 0] - logs[:, 1] - np.r_[0.0, np.full(len(logs) - 1, self.less)]
        half_odds = float(odds.max()) / 2
        return log_softmax(np.array([[half_odds, -half_odds]]))[0]

    def logs_of(self, vector: Sequence[float]) -> tuple[float, ...]:
        """Return the log-probability of each option for one vector."""
        return tuple(self(np.asarray(vector)[None])[0].tolist())


@dataclass(frozen=True, slots=True, eq=False)
class Blend:
    """A weighted sum of readings: `log softmax(sum of weight * log-probabilities + bias)`."""

    heads: tuple[Head | None, ...]
    """One per reading; `None` for a reading that is log-probabilities already."""
    weights: Floats
    """One per reading."""
    bias: Floats
    """One per option."""

    @classmethod
    def of(cls, weights: Floats, bias: Floats) -> Blend:
        """Blend readings that are log-probabilities already."""
        return cls((None,) * len(weights), weights, bias)

    def stack(self, readings: Sequence[Floats]) -> Floats:
        """Return the log-probabilities of each reading: texts, readings, options."""
        logs = [
            reading if head is None else head(reading)
            for head, reading in zip(self.heads, readings, strict=True)
        ]
        return np.stack(logs, 1)

    def logs(self, stacked: Floats) -> Floats:
        """Return the blended log-probabilities: texts, options."""
        return log_softmax(np.einsum("v,tvo->to", self.weights, stacked) + self.bias)


async def encode(
    encoder: Endpoint, texts: Sequence[str], context: RunContext, *, separately: bool = False
) -> list[tuple[float, ...]]:
    """Encode texts for heads, each as twice as many numbers as the encoder gives.

    They are the vector of the whole text, and the mean of its sentences' vectors times
    `SENTENCES_WEIGH`. With `separately` the same follows for each sentence as a text of its own.
    """
    parts = [sentences(text) for text in texts]
    inputs = [piece for text, part in zip(texts, parts, strict=True) for piece in (text, *part)]
    vectors = iter((await encoder.embed(inputs, context)).vectors if inputs else ())
    results: list[tuple[float, ...]] = []
    for part in parts:
        vector = next(vectors)
        pieces = [next(vectors) for _ in part]
        mean: Floats = np.array(pieces or [vector]).mean(0)
        numbers = [*vector, *(SENTENCES_WEIGH * mean).tolist()]
        for piece in pieces if separately else ():
            numbers += piece
            numbers += (SENTENCES_WEIGH * np.array(piece)).tolist()
        results.append(tuple(numbers))
    return results


def sentences(text: str) -> list[str]:
    """Split a text at the ends of sentences and lines; a single sentence gives none."""
    pieces = [piece.strip() for piece in _END.split(text) if piece.strip()]
    return pieces[:MOST_SENTENCES] if len(pieces) > 1 else []
