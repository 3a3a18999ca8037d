"""Heads beside a model: by the words of a question, and by labelled texts."""

from __future__ import annotations

import random

import pytest

from decisions.moods import MOOD, Numbers, classifier, numbers
from moa.decisions.adaptation import adapt
from moa.endpoints import Example
from moa.endpoints.encoders import MultilingualEncoder
from moa.testing import SimulatedEndpoint

pytestmark = pytest.mark.skipif(
    MultilingualEncoder.missing() is not None, reason="the encoder is not installed"
)


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
    made = await adapt(blind(), [MOOD], labelled=rows(40, 1), encoder=numbers())
    assert made.prompt_variants == ()
    assert "mood by labelled texts" in made.origin
    agent, right = classifier(SimulatedEndpoint(encoder=numbers())).adapted(made), 0
    for row in rows(40, 2):
        right += (await agent.run(row.text)).output.label == row.labels["mood"]
    assert right > 36


async def test_a_model_that_knows_more_is_asked_beside_the_head() -> None:
    def knows(text: str) -> dict[str, dict[str, float]]:
        return {"mood": {"good": 0.95 if float(text if text[-1].isdigit() else 0) > 0 else 0.05}}

    class Nothing(Numbers):
        def vector(self, text: str) -> tuple[float, ...]:
            rng = random.Random(text)
            return tuple(rng.gauss(0, 0.3) for _ in range(384))

    slm = SimulatedEndpoint(rule=knows)
    made = await adapt(slm, [MOOD], labelled=rows(40, 1), encoder=numbers(Nothing))
    assert len(made.prompt_variants) >= 1
    assert "labelled texts and the model" in made.origin


async def test_another_encoder_than_that_of_the_heads_is_left_alone() -> None:
    other = Numbers(name="other", model="other")
    made = await adapt(blind(), [MOOD], labelled=rows(40, 1), encoder=other)
    assert not made.heads


async def test_without_labels_the_words_decide_and_a_blind_model_is_not_doubtful() -> None:
    made = await adapt(blind(), [MOOD], unlabelled=[e.text for e in rows(40, 1)], encoder=numbers())
    assert set(made.heads) == {"mood"}
    assert not made.doubtful
