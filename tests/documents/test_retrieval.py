"""Retrieval: by words, by meaning, and by both."""

from __future__ import annotations

import pytest

from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import BudgetExceeded, CapabilityError, ConfigError, InputError
from moa.documents import Passage, Passages
from moa.documents.retrieval import BM25, Dense, Hybrid, fuse, words
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


CHINESE = [passage("北京是中国的首都。"), passage("东京是日本的首都。")]
TITLED = Passage(document="a", title="Elephants", text="They are grey.")


@pytest.mark.parametrize(
    ("passages", "query", "first"),
    [
        pytest.param(FOXES, "the fox", FOXES[0].text, id="rare words before common ones"),
        pytest.param(FOXES, "sofa", FOXES[1].text, id="a word of one"),
        pytest.param(FOXES, "elephants", None, id="a word of none"),
        pytest.param([*FOXES, TITLED], "elephants", TITLED.text, id="a title"),
        pytest.param(CHINESE, "中国在哪里", CHINESE[0].text, id="writing without spaces"),
        pytest.param([], "fox", None, id="no passages"),
        pytest.param([passage("!?")], "fox", None, id="no words"),
    ],
)
async def test_passages_are_found_by_their_words(
    passages: list[Passage], query: str, first: str | None
) -> None:
    assert next(iter(await texts(BM25(passages), query)), None) == first


async def test_no_more_than_top_k_are_given() -> None:
    assert len(await texts(BM25(FOXES, top_k=2), "the")) == 2
    with pytest.raises(ConfigError, match="top_k=0"):
        BM25(FOXES, top_k=0)


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
    assert await texts(Dense([], [], ScriptedEndpoint()), "fox") == []
    with pytest.raises(ConfigError):
        Dense(FOXES, [], ScriptedEndpoint())
    with pytest.raises(CapabilityError):
        Dense([], [], ScriptedEndpoint(capabilities=frozenset(("complete",))))


def test_what_two_rankings_agree_on_comes_first() -> None:
    a, b, c = FOXES
    both = fuse([Passages(passages=(a, b)), Passages(passages=(c, b))], top_k=2)
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
    with pytest.raises(ConfigError):
        Hybrid([])


async def test_only_texts_are_taken() -> None:
    with pytest.raises(InputError):
        await BM25(FOXES).run(3)  # pyright: ignore[reportArgumentType]
