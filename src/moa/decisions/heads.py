"""Heads: linear models on vectors of texts, applied with numpy alone.

Some ship as data, fitted beforehand to labelled texts by `benchmarks/heads.py`; others are made of
the words of a question alone (`moa.decisions.relevance`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

from moa._machine import one_blas_thread
from moa.context import RunContext
from moa.decisions.arrays import Floats, Ints, log_softmax, np
from moa.endpoints import Endpoint
from moa.endpoints.encoders import E5_PARTS, USE_PARTS

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
_END = re.compile(r"(?<=[.!?\u2026\u061f])\s+|\n+|(?<=[\u3002\uff01\uff1f])")


@dataclass(frozen=True, eq=False)
class Kernel:
    """How like vectors are to landmarks: `exp(-gamma |x - landmark|^2)`, x centred and scaled."""

    centre: Floats
    scale: Floats
    """What each part is divided by; infinite for parts that aren't looked at."""
    landmarks: Floats
    """Landmarks, parts that are looked at: centred and scaled."""
    gamma: float

    def __call__(self, vectors: Floats) -> Floats:
        """Likeness: vectors, landmarks.

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
        seen = x[:, self._parts]
        with one_blas_thread():
            far = (seen**2).sum(1)[:, None] + self._lengths - 2 * seen @ self.landmarks.T
        likeness: Floats = np.exp(-self.gamma * np.maximum(far, 0.0))
        return likeness


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """`log softmax(vector @ weights + bias)`, or of what is made of the vector first."""

    weights: Floats
    """Parts of the vector, or of what is made of it; options."""
    bias: Floats
    kernel: Callable[[Floats], Floats] | None = None
    """What is made of vectors, such as their likeness to landmarks."""
    less: float | None = None
    """What a sentence's log-odds of the first option lose beside those of the whole text, where one
    sentence is enough; `None`: sentences aren't read one by one."""

    def __call__(self, vectors: Floats) -> Floats:
        """Log-probabilities of each option: vectors, options."""
        if self.less is None:
            return self._of(vectors)
        return np.array([self._strongest(vector) for vector in vectors])

    def _of(self, vectors: Floats) -> Floats:
        parts = vectors if self.kernel is None else self.kernel(vectors)
        return log_softmax(parts @ self.weights + self.bias)

    def _strongest(self, vector: Floats) -> Floats:
        """Read the whole text and each sentence, and give what speaks most for the first option."""
        each = self._of(vector.reshape(-1, _PARTS))
        odds = each[:, 0] - each[:, 1] - np.r_[0.0, np.full(len(each) - 1, self.less)]
        most = float(odds.max()) / 2
        return log_softmax(np.array([[most, -most]]))[0]

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
    encoder: Endpoint, texts: Sequence[str], context: RunContext, *, each: bool = False
) -> list[tuple[float, ...]]:
    """Encode texts for heads: twice as many numbers a text as the encoder gives.

    They are the vector of the whole text, and the mean of its sentences' weighed by
    `SENTENCES_WEIGH`. With both encoders that is e5 and USE of the whole, then of the sentences.
    With `each` the same follows for each sentence, as a text of its own.
    """
    parts = [sentences(text) for text in texts]
    asked = [piece for text, own in zip(texts, parts, strict=True) for piece in (text, *own)]
    vectors = iter((await encoder.embed(asked, context)).vectors if asked else ())
    found: list[tuple[float, ...]] = []
    for own in parts:
        whole = next(vectors)
        pieces = [next(vectors) for _ in own]
        mean: Floats = np.array(pieces or [whole]).mean(0)
        numbers = [*whole, *(SENTENCES_WEIGH * mean).tolist()]
        for piece in pieces if each else ():
            numbers += piece
            numbers += (SENTENCES_WEIGH * np.array(piece)).tolist()
        found.append(tuple(numbers))
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
                file[f"weights {name}"].astype(float),
                file[f"bias {name}"].astype(float),
                kernel,
                float(file[f"less {name}"]) if f"less {name}" in file.files else None,
            )
            for name in (key.removeprefix("bias ") for key in file.files if key.startswith("bias "))
        }
