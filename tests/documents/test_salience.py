from __future__ import annotations

from moa.context import RunContext
from moa.documents.salience import Salience, salience_of
from moa.testing import SimulatedEndpoint

VECTORS = {
    "whales": (1.0, 0.1, 0.0),
    "whales again": (1.0, 0.12, 0.0),
    "whales and ships": (0.8, 0.6, 0.0),
    "a hat": (0.0, 0.1, 1.0),
}
TEXTS = list(VECTORS)


def test_what_is_near_to_the_whole_is_taken_first() -> None:
    salience = Salience(VECTORS)
    assert salience.pick(TEXTS, full=lambda places: len(places) > 1) == [1]


def test_what_repeats_a_sentence_that_is_taken_gives_way() -> None:
    assert Salience(VECTORS).pick(TEXTS, full=lambda _: False) == [1, 2, 3]


def test_what_the_text_is_about_draws_sentences_near() -> None:
    salience = Salience({**VECTORS, "hats": (0.0, 0.0, 1.0)}, about=["hats"])
    assert salience.pick(TEXTS, full=lambda places: len(places) > 1) == [3]


def test_a_text_that_is_its_title_again_can_be_ranked() -> None:
    salience = Salience({"whales": (1.0, 0.0)}, about=["whales"])
    assert salience.pick(["whales"], full=lambda _: False) == [0]


def test_a_sentence_that_does_not_fit_leaves_room_for_a_shorter_one() -> None:
    cost = [5, 1, 10, 1]
    salience = Salience(VECTORS)
    taken = salience.pick(TEXTS, full=lambda places: sum(cost[place] for place in places) > 10)
    assert taken == [1, 3]


def test_no_sentences_give_none() -> None:
    assert Salience({}).pick([], full=lambda _: False) == []


async def test_each_sentence_is_encoded_once() -> None:
    encoder = SimulatedEndpoint(name="encoder")
    context = RunContext()
    await salience_of(encoder, [["a", "b"], ["b"], ["a"]], context, about=[" ", "c"])
    assert context.usage.calls == 2
