"""Heads beside a model: by the words of a question, and by labelled texts."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from moa import Classifier, RunContext
from moa.decisions.adaptation import adapt
from moa.endpoints import Embeddings, Example
from moa.endpoints.encoders import MultilingualEncoder
from moa.questions import Option, Question
from moa.testing import SimulatedEndpoint
from moa.usage import Amount

pytestmark = pytest.mark.skipif(
    MultilingualEncoder.missing() is not None, reason="the encoder is not installed"
)
MOOD = Question("mood", "choice", "How?", (Option("bad", "bad"), Option("good", "good")))


class Numbers(SimulatedEndpoint):
    """Encodes a text of a number as vectors that tell its sign, and others as ordinary ones."""

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        vectors = tuple(self._vector(text) for text in texts)
        return Embeddings(
            vectors=vectors, endpoint=self.name, model=MultilingualEncoder.model, amount=Amount()
        )

    def _vector(self, text: str) -> tuple[float, ...]:
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        rng = random.Random(text)
        return (number, *(rng.gauss(0, 0.3) for _ in range(383)))


def encoder() -> Numbers:
    return Numbers(name="numbers", model=MultilingualEncoder.model)


def rows(n: int, seed: int) -> list[Example]:
    rng = random.Random(seed)
    found: list[Example] = []
    for _ in range(n):
        label = rng.choice(["bad", "good"])
        number = rng.gauss(2 if label == "good" else -2, 0.4)
        found.append(Example(f"{number:.3f}", {"mood": label}))
    return found


def blind() -> SimulatedEndpoint:
    return SimulatedEndpoint(rule=lambda _: {"mood": {"good": 0.9}})


async def test_labelled_texts_make_a_head_where_the_model_knows_nothing() -> None:
    made = await adapt(blind(), [MOOD], labelled=rows(40, 1), encoder=encoder())
    assert made.prompt_variants == ()
    assert "mood by labelled texts" in made.origin
    plain = Classifier(
        SimulatedEndpoint(encoder=encoder()), ["bad", "good"], task="How?", none=False, name="mood"
    )
    agent, right = plain.adapted(made), 0
    for row in rows(40, 2):
        right += (await agent.run(row.text)).output.label == row.labels["mood"]
    assert right > 36


async def test_a_model_that_knows_more_is_asked_beside_the_head() -> None:
    def knows(text: str) -> dict[str, dict[str, float]]:
        return {"mood": {"good": 0.95 if float(text if text[-1].isdigit() else 0) > 0 else 0.05}}

    class Nothing(Numbers):
        def _vector(self, text: str) -> tuple[float, ...]:
            rng = random.Random(text)
            return tuple(rng.gauss(0, 0.3) for _ in range(384))

    slm = SimulatedEndpoint(rule=knows)
    made = await adapt(
        slm,
        [MOOD],
        labelled=rows(40, 1),
        encoder=Nothing(name="nothing", model=MultilingualEncoder.model),
    )
    assert len(made.prompt_variants) >= 1
    assert "labelled texts and the model" in made.origin


async def test_another_encoder_than_that_of_the_heads_is_left_alone() -> None:
    other = Numbers(name="other", model="other")
    made = await adapt(blind(), [MOOD], labelled=rows(40, 1), encoder=other)
    assert not made.heads


async def test_without_labels_the_words_decide_and_a_blind_model_is_not_doubtful() -> None:
    made = await adapt(blind(), [MOOD], unlabelled=[e.text for e in rows(40, 1)], encoder=encoder())
    assert set(made.heads) == {"mood"}
    assert not made.doubtful
