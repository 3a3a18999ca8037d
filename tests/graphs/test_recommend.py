"""Recommend: what is found by words and by meaning, with reasons or without."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import ConfigError, EndpointUnavailable
from moa.core.node import Result
from moa.endpoints import Embeddings
from moa.recipes.recommend import Interests, Item, Recommend, Recommendations, items_of
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

from .encoder import WordEncoder
from .nodes import large, notes, tiny

CATALOGUE = [
    Item(id="1", title="Parka", text="A warm jacket for cold winters."),
    Item(id="2", title="Windbreaker", text="A light jacket for rain and wind."),
    Item(id="3", title="Wool hat", text="A warm hat, knitted."),
    Item(id="4", title="Sandals", text="Open shoes for the beach."),
    Item.model_validate(
        {"id": "5", "title": "Down vest", "text": "Warm, no sleeves.", "price": 90}
    ),
]


def reasons(*numbers: int) -> str:
    return json.dumps({"reasons": [{"item": n, "reason": f"Reason {n}."} for n in numbers]})


def shop(
    llm: ScriptedEndpoint | SimulatedEndpoint,
    *,
    catalogue: Sequence[Item] = CATALOGUE,
    encoder: WordEncoder | None = None,
    shown: int = 2,
) -> Recommend:
    return Recommend(llm=llm, catalogue=catalogue, encoder=encoder, shown=shown)


def ids(result: Result[Recommendations]) -> list[str]:
    return [each.item.id for each in result.output.items]


async def test_what_suits_best_is_shown_with_its_reason() -> None:
    result = await shop(large(reasons(1, 2))).run(Interests(text="a warm jacket"))
    assert ids(result) == ["1", "2"]
    assert [each.reason for each in result.output.items] == ["Reason 1.", "Reason 2."]
    assert result.output.text == "- Parka: Reason 1.\n- Windbreaker: Reason 2."


async def test_a_history_alone_finds_what_is_like_it() -> None:
    result = await shop(large(reasons(1, 2))).run(Interests(history=("1",)))
    assert "2" in ids(result)
    assert "1" not in ids(result)


async def test_items_are_found_by_meaning_where_there_is_an_encoder() -> None:
    words = WordEncoder(name="words", words=("beach", "shoes"))
    graph = shop(large(reasons(1)), encoder=words, shown=1)
    result = await graph.run(Interests(text="Shoes?"))
    assert ids(result) == ["4"]


async def test_without_vectors_items_are_found_by_words_and_the_next_run_tries_again() -> None:
    words = WordEncoder(
        name="words", words=("jacket",), failure=EndpointUnavailable("down", endpoint="words")
    )
    graph = shop(large(reasons(1, 2), reasons(1, 2)), encoder=words)
    first = await graph.run(Interests(text="jacket"))
    assert notes(first, "degraded")
    words.failure = None
    assert notes(await graph.run(Interests(text="jacket")), "degraded") == []


@dataclass
class Counting(WordEncoder):
    """Notes how many texts each call has, and fails at the calls that it is told to."""

    sizes: list[int] = field(default_factory=list[int])
    failing: tuple[int, ...] = ()

    async def embed(self, texts: Sequence[str], context: RunContext, /) -> Embeddings:
        self.sizes.append(len(texts))
        if len(self.sizes) in self.failing:
            raise EndpointUnavailable("down", endpoint=self.name)
        return await super().embed(texts, context)


async def test_a_catalogue_is_embedded_in_batches_of_which_each_is_made_once() -> None:
    catalogue = [Item(id=str(n), text=f"A jacket, number {n}.") for n in range(40)]
    words = Counting(name="words", words=("jacket",), failing=(2,))
    graph = shop(large(*[reasons(1, 2)] * 3), catalogue=catalogue, encoder=words)
    for _ in range(3):
        assert len(ids(await graph.run(Interests(text="jacket")))) == 2
    assert words.sizes == [16, 16, 16, 8, 1, 1]


async def test_reasons_for_what_was_not_given_are_asked_for_again() -> None:
    result = await shop(large(reasons(1, 7), reasons(1, 2))).run(Interests(text="a jacket"))
    assert [each.reason for each in result.output.items] == ["Reason 1.", "Reason 2."]
    assert notes(result, "repaired")


@pytest.mark.parametrize("calls", [0, 9])
async def test_without_the_large_model_items_are_shown_without_reasons(calls: int) -> None:
    llm = large(EndpointUnavailable("down", endpoint="large"))
    context = RunContext(budget=Budget(calls=calls))
    result = await shop(llm).run(Interests(text="a warm jacket"), context)
    assert [each.reason for each in result.output.items] == ["", ""]
    assert result.output.text == "- Parka\n- Windbreaker"


async def test_a_model_too_small_to_write_is_not_asked_for_reasons() -> None:
    llm = tiny()
    result = await shop(llm).run(Interests(text="a warm jacket"))
    assert llm.prompts == []
    assert notes(result, "degraded")


async def test_nothing_known_of_the_person_shows_the_first_items_and_says_so() -> None:
    result = await shop(large(reasons(1, 2))).run(Interests())
    assert ids(result) == ["1", "2"]
    assert notes(result, "degraded")


async def test_nothing_near_to_what_is_wanted_is_no_error() -> None:
    result = await shop(large()).run(Interests(text="zebra"))
    assert result.output.items == ()
    assert notes(result, "skipped")


async def test_an_empty_catalogue_is_an_error_with_a_word_on_what_to_do() -> None:
    with pytest.raises(ConfigError):
        await shop(large(), catalogue=[]).run(Interests(text="x"))


@settings(max_examples=15, deadline=None)
@given(
    st.text(alphabet="warm jacket hat beach", max_size=20),
    st.lists(st.sampled_from([*"12345", "Parka", "sandals", "nothing", ""]), max_size=6),
)
async def test_nothing_is_recommended_that_was_had_or_is_not_there(
    text: str, history: list[str]
) -> None:
    down = SimulatedEndpoint(
        name="large", tier="llm", rule=lambda _: EndpointUnavailable("down", endpoint="large")
    )
    result = await shop(down, shown=5).run(Interests(text=text, history=tuple(history)))
    shown = ids(result)
    assert set(shown) <= {item.id for item in CATALOGUE}
    assert len(set(shown)) == len(shown)
    had = {name.casefold() for name in history}
    assert not any({i.item.id, (i.item.title or "").casefold()} & had for i in result.output.items)


def test_two_items_of_one_id_are_refused() -> None:
    with pytest.raises(ConfigError):
        shop(large(), catalogue=[CATALOGUE[0], CATALOGUE[0]])


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a.jsonl", '{"id": 7, "text": "Shoes.", "price": 3}\n\n'),
        ("a.csv", "id,text,price\n7,Shoes.,3\n"),
    ],
)
def test_a_catalogue_is_read_with_all_its_columns(name: str, written: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(written, encoding="utf-8")
    (item,) = items_of(file)
    assert (item.id, item.text) == ("7", "Shoes.")
    assert "price: 3" in str(item)


@pytest.mark.parametrize(
    ("name", "written"),
    [("a.txt", "x"), ("a.jsonl", '{"id": 1}'), ("a.jsonl", "{"), ("none.jsonl", None)],
)
def test_what_is_no_catalogue_is_named(name: str, written: str | None, tmp_path: Path) -> None:
    file = tmp_path / name
    if written is not None:
        file.write_text(written, encoding="utf-8")
    with pytest.raises(ConfigError, match=name):
        items_of(file)
