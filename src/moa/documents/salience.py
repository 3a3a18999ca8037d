"""Salience: which sentences say most of a text, so that a long one can be read as a short one.

A sentence counts by how near it is to the centroid of the text, and to what the text is about
(Radev et al. 2004, "Centroid-based summarization of multiple documents"; with vectors of sentences,
Rossiello et al. 2017, "Centroid-based text summarization through compositionality of word
embeddings"). What says the same as a sentence that is taken counts less (maximal marginal
relevance, Carbonell and Goldstein 1998).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moa.agents.boundary import require
from moa.context import RunContext
from moa.documents.dense import normalised
from moa.endpoints import Endpoint

_REDUNDANCY = 0.3
"""How much the likeness to the nearest sentence that is taken counts against one."""


class Salience:
    """Ranks the sentences of one text, and keeps their vectors.

    Args:
        encoder: Turns sentences into vectors.
        about: What the text is about, such as its title, or what a reader looks for in it.

    Raises:
        CapabilityError: the encoder can't embed.
    """

    def __init__(self, encoder: Endpoint, *, about: Sequence[str] = ()) -> None:
        self._encoder = require(encoder, "embed", agent="salience")
        self._about = tuple(text for text in about if text.strip())
        self._known: dict[str, tuple[float, ...]] = {}

    async def pick(
        self,
        sentences: Sequence[str],
        context: RunContext,
        *,
        full: Callable[[Sequence[int]], bool],
    ) -> list[int]:
        """Take the sentences that say most, one after another.

        Args:
            sentences: Of one text, in order.
            context: Budget, deadline and ledger.
            full: Told the places taken, the last of them on trial; `True` leaves that one out, and
                a shorter one may still be taken. The first is always taken.

        Returns:
            Places of the sentences that are taken, in the order of the text.

        Raises:
            EndpointError: the encoder failed.
            MissingDependency: a package for it is not installed.
            BudgetExceeded: a limit would be passed.
            DeadlineExceeded: the time is up.
        """
        if not sentences:
            return []
        await self._learn([*sentences, *self._about], context)
        rows = normalised([self._known[each] for each in sentences])
        (centroid,) = normalised([rows.mean(axis=0).tolist()])
        worth = rows @ centroid
        for text in self._about:
            worth = worth + rows @ normalised([self._known[text]])[0]
        nearest = worth * 0
        taken: list[int] = []
        left = set(range(len(sentences)))
        while left:
            best = max(left, key=lambda place: (float(worth[place]), -place))
            left.remove(best)
            if taken and full([*taken, best]):
                continue
            taken.append(best)
            nearer = (rows @ rows[best]).clip(min=nearest)
            worth, nearest = worth - _REDUNDANCY * (nearer - nearest), nearer
        return sorted(taken)

    async def _learn(self, texts: Sequence[str], context: RunContext) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            found = await self._encoder.embed(new, context)
            self._known |= dict(zip(new, found.vectors, strict=True))
