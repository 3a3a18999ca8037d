"""The scorer of pairs: what may not change an answer, what must, and what it expects of itself."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa import Classifier, RunContext
from moa.core._async import gather
from moa.core.questions import NONE_OF_THESE, Option, Question
from moa.endpoints import Example
from moa.local.encoders import JointEncoder
from moa.local.pairs import Labels, PairScorer, pair_head, shipped_pairs
from moa.testing import SimulatedEndpoint

installed = pytest.mark.skipif(
    JointEncoder.missing() is not None, reason="the encoders are not installed"
)
PARTS = 1792
MEANS = {
    "cancel": "The writer wants to cancel a booking.",
    "bill": "The writer wants an invoice or asks about a sum charged.",
    "lost": "The writer left something behind and wants it found.",
}
EXAMPLES = [
    ("We can't come, please cancel 7781", "cancel"),
    ("Devo annullare la prenotazione", "cancel"),
    ("Please e-mail me the invoice", "bill"),
    ("Wofür sind die 45 Euro auf meiner Karte?", "bill"),
    ("I think I left my charger in room 109", "lost"),
    ("Did anyone hand in a ring?", "lost"),
]


def vectors(count: int, seed: int) -> Any:
    return np.random.RandomState(seed).randn(count, PARTS)


def labels(count: int, each: int, seed: int = 0) -> Labels:
    of = np.repeat(np.arange(count), each)
    return Labels(
        vectors(count, seed), vectors(count * each, seed + 1), of, shipped_pairs().background
    )


def scorer() -> PairScorer:
    return shipped_pairs()


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 6), st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_order_of_labels_and_examples_changes_no_answer(
    count: int, each: int, random: Any
) -> None:
    plain, texts = labels(count, each), vectors(4, 9)
    turned, mixed = list(range(count)), list(range(count * each))
    random.shuffle(turned)
    random.shuffle(mixed)
    place = np.argsort(turned)
    other = Labels(
        plain.meanings[turned],
        plain.examples[mixed],
        place[plain.label_indices[mixed]],
        plain.background,
    )
    found = scorer().logs(texts, other)
    expected = scorer().logs(texts, plain)
    assert np.allclose(found[:, place], expected[:, :-1], atol=1e-8)
    assert np.allclose(found[:, -1], expected[:, -1], atol=1e-8)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 5), st.integers(0, 1000))
def test_no_answer_depends_on_the_texts_beside_it(count: int, seed: int) -> None:
    known, texts = labels(3, 2), vectors(count, seed)
    alone = np.vstack([scorer().logs(one[None], known) for one in texts])
    assert np.allclose(scorer().logs(texts, known), alone, atol=1e-8)


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 40), st.integers(0, 3), st.booleans())
def test_probabilities_add_up_to_one(count: int, each: int, none: bool) -> None:
    found = np.exp(scorer().logs(vectors(3, 5), labels(count, each), none=none))
    assert found.shape == (3, count + none)
    assert np.allclose(found.sum(1), 1)


def test_a_label_without_an_example_stands_for_its_meaning() -> None:
    known = labels(3, 2)
    two = known.label_indices < 2
    bare = Labels(known.meanings, known.examples[two], known.label_indices[two], known.background)
    meant = Labels(
        known.meanings,
        np.vstack([known.examples[two], known.meanings[2:]]),
        np.r_[known.label_indices[two], 2],
        known.background,
    )
    texts = vectors(2, 7)
    assert np.allclose(bare.likenesses(texts), meant.likenesses(texts), atol=1e-9)


def test_five_hundred_labels_are_read_in_a_moment() -> None:
    known = labels(500, 4)
    scorer().logs(vectors(1, 3), known)
    started = time.perf_counter()
    scorer().logs(vectors(1, 4), known)
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize("counts", [[0, 0], [4] * 8, [1] * 77])
def test_more_confidence_is_expected_to_be_right_more_often(counts: list[int]) -> None:
    curve = scorer().curve(np.array(counts))
    assert all(a <= c and b <= d for (a, b), (c, d) in pairwise(curve))
    assert all(0 <= a <= 1 and 0 <= b <= 1 for a, b in curve)


def question(*names: str, none: bool = True) -> Question:
    options = [Option(name, name, MEANS.get(name)) for name in names]
    if none:
        options.append(Option(NONE_OF_THESE, None))
    return Question("intent", "choice", "What is this message about?", tuple(options))


def shown(*pairs: tuple[str, str]) -> tuple[Example, ...]:
    return tuple(Example(text, {"label": label}) for text, label in pairs)


@installed
async def test_examples_and_meanings_decide_without_a_call_of_the_model() -> None:
    slm = SimulatedEndpoint(encoder=JointEncoder(), rule=lambda _: {"intent": {}})
    agent = Classifier(slm, MEANS, none=True, name="intent", examples=EXAMPLES)
    said = [
        (await agent.run(text)).output
        for text in ("Ich muss meine Buchung stornieren", "my umbrella is still in 210, I believe")
    ]
    assert [one.label for one in said] == ["cancel", "lost"]
    assert slm.states == []
    assert all(one.accepted is None and one.expected_precision is not None for one in said)


@installed
async def test_what_is_expected_is_told_and_not_promised() -> None:
    slm = SimulatedEndpoint(encoder=JointEncoder(), rule=lambda _: {"intent": {}})
    agent = Classifier(slm, MEANS, none=True, name="intent", examples=EXAMPLES)
    result = await agent.run("invoice please")
    assert any("expected, not guaranteed" in note.text for note in result.trace)
    assert '"expected_precision"' in result.output.model_dump_json()


@installed
async def test_a_label_that_has_nothing_to_do_with_it_leaves_the_answer() -> None:
    texts = ["Please cancel our stay in May", "where is my bill?", "lost my scarf at yours"]
    encoder, context = JointEncoder(), RunContext()
    found: list[list[int]] = []
    for names in (["cancel", "bill", "lost"], ["cancel", "bill", "lost", "volcanic rock samples"]):
        head = await pair_head(question(*names), shown(*EXAMPLES), encoder, context)
        vectors_ = [await encoded(encoder, text, context) for text in texts]
        found.append([int(np.argmax(head.logs_of(vector))) for vector in vectors_])
    assert found[0] == found[1] == [0, 1, 2]


async def encoded(encoder: JointEncoder, text: str, context: RunContext) -> Any:
    from moa.decisions.heads import encode

    return (await encode(encoder, [text], context))[0]


@installed
async def test_a_text_is_read_as_if_its_own_label_were_not_known_where_labels_are_fitted() -> None:
    odd = "Zzyzx qwop 17!"
    encoder, context = JointEncoder(), RunContext()
    head = await pair_head(question(*MEANS), shown(*EXAMPLES, (odd, "bill")), encoder, context)
    without = await pair_head(question(*MEANS), shown(*EXAMPLES), encoder, context)
    vector = await encoded(encoder, odd, context)
    assert np.exp(head.logs_of(vector)[1]) > np.exp(without.logs_of(vector)[1])
    assert head.logs_of(vector, odd) == pytest.approx(without.logs_of(vector))


@installed
async def test_an_example_that_stands_there_twice_counts_once() -> None:
    slm = SimulatedEndpoint(encoder=JointEncoder(), rule=lambda _: {"intent": {}})
    said = [
        (await Classifier(slm, MEANS, name="intent", examples=given).run("the bill?")).output
        for given in (EXAMPLES, [*EXAMPLES, *EXAMPLES[:3]])
    ]
    assert said[0] == said[1]


@installed
async def test_none_of_these_is_chosen_for_what_is_far_from_all_labels() -> None:
    encoder, context = JointEncoder(), RunContext()
    head = await pair_head(question("cooking", "football", "banking"), (), encoder, context)
    texts = (
        "Dinosaurs died out 66 million years ago.",
        "Die Violinsonate in a-Moll entstand 1923.",
        "The striker scored twice, and the home side won 3-1.",
        "Meine Bank hat das Konto gesperrt und den Kredit gekündigt.",
    )
    found = [int(np.argmax(head.logs_of(await encoded(encoder, t, context)))) for t in texts]
    assert found == [3, 3, 1, 2]


@installed
async def test_labels_are_encoded_once_however_many_texts_come_at_once() -> None:
    encoder, context = JointEncoder(), RunContext()
    asked, examples = question("tea", "coffee", "cocoa"), shown(("a cup of oolong", "tea"))
    heads = await gather([pair_head(asked, examples, encoder, context) for _ in range(4)])
    assert context.usage.calls == 1
    assert len({id(head) for head in heads}) == 1
