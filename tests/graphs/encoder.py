"""An encoder for tests: vectors of how often each of a few words stands in a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from moa.core.context import RunContext
from moa.core.usage import Amount
from moa.endpoints import Embeddings
from moa.testing import SimulatedEndpoint


@dataclass
class WordEncoder(SimulatedEndpoint):
    """Counts words; a text without any of them is near to nothing."""

    words: tuple[str, ...] = ()
    failure: Exception | None = None

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        amount = Amount(calls=1, input_tokens=len(texts))
        with await context.reserve(self.name, self.tier, amount) as call:
            if self.failure is not None:
                raise self.failure
            call.settle(amount)
        counted = [re.findall(r"\w+", text.lower()) for text in texts]
        return Embeddings(
            vectors=tuple(tuple(float(c.count(word)) for word in self.words) for c in counted),
            endpoint=self.name,
            model=self.model,
            amount=amount,
        )
