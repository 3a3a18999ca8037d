"""Encoding: what heads read of a text, an encoder's vector of it and of its sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence

from moa.context import RunContext
from moa.endpoints import Endpoint

MOST_SENTENCES = 40
"""Sentences of a text that are encoded one by one; the rest counts in the whole alone."""
SENTENCES_WEIGH = 0.7
"""How much the mean of the sentences counts beside the whole. A short outburst in a long message
shows there, where the whole hides it."""
_END = re.compile(r"(?<=[.!?\u2026\u061f])\s+|\n+|(?<=[\u3002\uff01\uff1f])")


async def encode(
    encoder: Endpoint, texts: Sequence[str], context: RunContext
) -> list[tuple[float, ...]]:
    """Encode texts for heads: twice as many numbers a text as the encoder gives.

    Raises:
        EndpointError: the encoder failed.
        BudgetExceeded: a limit would be passed.
        DeadlineExceeded: the run's time is up.
    """
    parts = [sentences(text) for text in texts]
    asked = [piece for text, own in zip(texts, parts, strict=True) for piece in (text, *own)]
    vectors = iter((await encoder.embed(asked, context)).vectors if asked else ())
    found: list[tuple[float, ...]] = []
    for own in parts:
        whole = next(vectors)
        pieces = [next(vectors) for _ in own] or [whole]
        mean = (sum(column) / len(pieces) for column in zip(*pieces, strict=True))
        found.append((*whole, *(SENTENCES_WEIGH * part for part in mean)))
    return found


def sentences(text: str) -> list[str]:
    """Split a text where sentences and lines end; a text of one sentence has none beside itself."""
    found = [piece.strip() for piece in _END.split(text) if piece.strip()]
    return found[:MOST_SENTENCES] if len(found) > 1 else []
