"""Salience: which sentences say most of a text, so that a long one can be read as a short one.

A sentence counts by how near it is to the centroid of the text, and to what the text is about
(Radev et al. 2004, "Centroid-based summarization of multiple documents"; with vectors of sentences,
Rossiello et al. 2017, "Centroid-based text summarization through compositionality of word
embeddings"). What says the same as a sentence that is taken counts less (maximal marginal
relevance, Carbonell and Goldstein 1998).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from moa.context import RunContext
from moa.documents.retrieval import normalised
from moa.endpoints import Endpoint

_REDUNDANCY = 0.3
"""How much the likeness to the nearest sentence that is taken counts against one."""
_SAME = 0.95
"""Cosine from which on a sentence repeats one that is taken, and is left out."""


class Salience:
    """Ranks sentences of one text by their vectors. `salience_of` makes it."""

    def __init__(
        self, vectors: Mapping[str, Sequence[float]], *, about: Sequence[str] = ()
    ) -> None:
        self._vectors = vectors
        self._about = tuple(about)
        said = [vector for text, vector in vectors.items() if text not in about]
        centroid = normalised(said or [*vectors.values()] or [()]).mean(axis=0)
        self._centroid = normalised([centroid])[0]

    def pick(self, sentences: Sequence[str], *, full: Callable[[Sequence[int]], bool]) -> list[int]:
        """Take the sentences that say most, one after another.

        Args:
            sentences: Those to choose from, in the order of the text; each has a vector.
            full: Told the places taken, the last of them on trial; `True` leaves that one out, and
                a shorter one may still be taken. The first is always taken.

        Returns:
            Places of the sentences that are taken, in the order of the text.
        """
        if not sentences:
            return []
        rows = normalised([self._vectors[each] for each in sentences])
        worth = rows @ self._centroid
        for text in self._about:
            worth = worth + rows @ normalised([self._vectors[text]])[0]
        nearest = worth * 0
        taken: list[int] = []
        while (best := int(worth.argmax())) not in taken and worth[best] > -math.inf:
            if not taken or not full([*taken, best]):
                taken.append(best)
                nearer = (rows @ rows[best]).clip(min=nearest)
                worth, nearest = worth - _REDUNDANCY * (nearer - nearest), nearer
                worth[nearest >= _SAME] = -math.inf
            worth[best] = -math.inf
        return sorted(taken)


async def salience_of(
    encoder: Endpoint,
    sentences: Iterable[Sequence[str]],
    context: RunContext,
    *,
    about: Sequence[str] = (),
) -> Salience:
    """Turn the sentences of a text into vectors, to rank them.

    Args:
        encoder: Turns sentences into vectors; what it fails with is raised.
        sentences: Of the text, in lists that are sent one after another.
        context: Budget, deadline and ledger.
        about: What the text is about, such as its title, or what a reader looks for in it.
    """
    about = [text for text in about if text.strip()]
    known: dict[str, tuple[float, ...]] = {}
    for batch in (about, *sentences):
        new = [text for text in dict.fromkeys(batch) if text not in known]
        if new:
            known |= dict(zip(new, (await encoder.embed(new, context)).vectors, strict=True))
    return Salience(known, about=about)
