"""Retrieval: by words, by meaning, and by both."""

from __future__ import annotations

import pytest

from moa.budget import Budget
from moa.context import RunContext
from moa.documents import Passage, Passages
from moa.documents.retrieval import BM25, Dense, Hybrid, fused, words
from moa.errors import BudgetExceeded, CapabilityError, ConfigError, InputError
from moa.testing import ScriptedEndpoint


def passage(text: str, document: str = "") -> Passage:
    return Passage(document=document or text, title="", text=text)


FOXES = [
    passage("The fox jumps over the dog."),
    passage("The cat sleeps on the sofa."),
    passage("The dog and the cat fight; the dog wins."),
]


async def texts(retriever: BM25 | Dense | Hybrid, query: str) -> list[str]:
    return [each.text for each in (await retriever.run(query)).output.passages]


async def test_rare_words_come_before_common_ones() -> None:
    assert (await texts(BM25(FOXES), "the fox"))[0] == FOXES[0].text


async def test_what_shares_no_word_is_not_found() -> None:
    assert await texts(BM25(FOXES), "sofa") == [FOXES[1].text]
    assert await texts(BM25(FOXES), "elephants") == []


async def test_no_more_than_top_k_are_given() -> None:
    assert len(await texts(BM25(FOXES, top_k=2), "the")) == 2
    with pytest.raises(ConfigError, match="top_k=0"):
        BM25(FOXES, top_k=0)


async def test_a_title_is_searched_too() -> None:
    titled = Passage(document="a", title="Elephants", text="They are grey.")
    assert await texts(BM25([*FOXES, titled]), "elephants") == ["They are grey."]


async def test_without_passages_nothing_is_found() -> None:
    assert await texts(BM25([]), "fox") == []
    assert await texts(BM25([passage("!?")]), "fox") == []
    assert await texts(Dense([], [], ScriptedEndpoint()), "fox") == []


async def test_writing_without_spaces_is_found() -> None:
    chinese = [passage("北京是中国的首都。"), passage("东京是日本的首都。")]
    assert (await texts(BM25(chinese), "中国在哪里"))[0] == chinese[0].text


def test_words_are_compared_in_small_letters() -> None:
    assert words("Straße ÉTÉ C3PO") == ["strasse", "été", "c3po"]


async def test_what_is_nearest_in_meaning_comes_first() -> None:
    # The double embeds by the length and the blanks of a text.
    vectors = [(43.0, 5.0, 1.0), (3.0, 0.0, 9.0), (0.0, 1.0, 0.0)]
    dense = Dense(FOXES, vectors, ScriptedEndpoint(), top_k=2)
    assert await texts(dense, "a query of a length that is close to it") == [
        FOXES[0].text,
        FOXES[1].text,
    ]


async def test_dense_retrieval_needs_a_vector_for_each_and_an_endpoint_that_embeds() -> None:
    with pytest.raises(ConfigError, match="3 passages and 0 vectors"):
        Dense(FOXES, [], ScriptedEndpoint())
    with pytest.raises(CapabilityError):
        Dense([], [], ScriptedEndpoint(capabilities=frozenset(("complete",))))


def test_what_two_rankings_agree_on_comes_first() -> None:
    a, b, c = FOXES
    both = fused([Passages(passages=(a, b)), Passages(passages=(c, b))], top_k=2)
    assert both.passages == (b, a)


async def test_a_retriever_that_fails_is_left_out() -> None:
    dense = Dense(FOXES, [(1.0, 0.0, 0.0)] * 3, ScriptedEndpoint())
    hybrid = Hybrid([BM25(FOXES), dense])
    context = RunContext(budget=Budget(calls=0))
    result = await hybrid.run("sofa", context)
    assert [each.text for each in result.output.passages] == [FOXES[1].text]
    assert [note.kind for note in result.trace] == ["failed"]


async def test_all_retrievers_failing_is_an_error() -> None:
    dense = Dense(FOXES, [(1.0, 0.0, 0.0)] * 3, ScriptedEndpoint())
    with pytest.raises(BudgetExceeded):
        await Hybrid([dense]).run("sofa", RunContext(budget=Budget(calls=0)))
    with pytest.raises(ConfigError, match="no retriever"):
        Hybrid([])


async def test_only_texts_are_taken() -> None:
    with pytest.raises(InputError):
        await BM25(FOXES).run(3)  # pyright: ignore[reportArgumentType]
