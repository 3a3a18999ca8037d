"""Whether a text is good or bad, told by the number in it: what the tests of decisions ask."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from moa import Classifier, RunContext
from moa.core.questions import Option, Question
from moa.core.usage import Amount
from moa.decisions.encoders import Heads
from moa.endpoints import Embeddings, Endpoint
from moa.local.encoders import JointEncoder
from moa.local.heads import JointHeads
from moa.testing import SimulatedEndpoint

MOOD = Question("mood", "choice", "How?", (Option("bad", "bad"), Option("good", "good")))


def classifier(endpoint: Endpoint, **settings: Any) -> Classifier[str]:
    return Classifier(endpoint, ["bad", "good"], task="How?", none=False, name="mood", **settings)


class Headed(SimulatedEndpoint):
    """An encoder that the shipped heads come with."""

    heads = JointHeads()


class Numbers(SimulatedEndpoint):
    """Encodes a text that ends in a number as a vector that tells its sign, among noise."""

    size = 4
    heads: Heads | None = None

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        vectors = tuple(self.vector(text) for text in texts)
        return Embeddings(
            vectors=vectors, endpoint=self.name, model=self.model or "", amount=Amount()
        )

    def vector(self, text: str) -> tuple[float, ...]:
        try:
            number = float(text.split()[-1])
        except ValueError:
            number = 0.0
        noise = random.Random(text)
        told = (number + noise.gauss(0, 0.1), *(noise.gauss(0, 0.5) for _ in range(3)))
        return (*told, *(0.0 for _ in range(self.size - 4)))


def numbers(kind: type[Numbers] = Numbers) -> Numbers:
    """Says that it is the encoder whose vectors the heads that ship read."""
    found = kind(name="numbers", model=JointEncoder.model)
    found.size = 896
    found.heads = JointHeads()
    return found
