"""Summarize: which sentences are kept, what is written of them, and what stands in for it."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import (
    EndpointUnavailable,
    MissingDependency,
    MoaError,
)
from moa.core.trace import Event, TextDelta
from moa.documents.sentences import Length
from moa.documents.summarize import Original, Salience, Sentence, Summarize
from moa.endpoints.tokens import approximate_tokens
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

from .encoder import WordEncoder
from .nodes import large, notes, tiny

WORDS = ("whales", "sing", "ships", "weather")
SENTENCES = (
    "The weather was fine that day.",
    "Whales sing to each other over great distances.",
    "Somebody had lost a hat on the pier.",
    "Ships drown out the whales when they sing.",
    "The hat was found again in the evening.",
    "Lunch was served at noon in the small hall.",
)
TEXT = " ".join(SENTENCES)
LONG = "\n\n".join(f"{TEXT} This is part {n} of it." for n in range(40))


def graph(
    llm: ScriptedEndpoint | SimulatedEndpoint,
    *,
    length: Length | None = None,
    encoder: WordEncoder | None = None,
    **settings: Any,
) -> Summarize:
    length = length or Length(sentences=1)
    return Summarize(
        llm=llm,
        sentences=length.sentences,
        words=length.words,
        encoder=encoder or WordEncoder(name="words", words=WORDS),
        **settings,
    )


async def test_the_large_model_reads_the_sentences_that_say_most_alone() -> None:
    llm = large("Ships keep whales from singing.")
    made = graph(llm, length=Length(words=8), read_tokens=60)
    result = await made.run(Original(text=TEXT))
    (read,) = [prompt.messages[-1].content for prompt in llm.prompts]
    assert SENTENCES[3] in read
    assert SENTENCES[4] not in read
    assert approximate_tokens(read) < 0.6 * approximate_tokens(TEXT)
    assert result.output.text == "Ships keep whales from singing."
    assert result.output.written_by == "llm"
    assert [s.chunks for s in result.output.sentences] == [(1,)]


async def test_a_text_that_is_read_at_once_is_read_as_it_stands() -> None:
    text = f"{TEXT}\n\n- {SENTENCES[0]}\n- {SENTENCES[1]}"
    llm = large("Ships keep whales from singing.")
    await graph(llm, length=Length(words=8)).run(Original(text=text))
    assert text in llm.prompts[0].messages[-1].content


async def test_a_title_says_which_sentences_matter() -> None:
    llm = large("Lunch.")
    words = WordEncoder(name="words", words=(*WORDS, "lunch"))
    await graph(llm, encoder=words, read_tokens=60).run(
        Original(text=TEXT, title="Lunch, and more lunch")
    )
    assert SENTENCES[5] in llm.prompts[0].messages[-1].content


VECTORS = {
    "whales": (1.0, 0.1, 0.0),
    "whales again": (1.0, 0.12, 0.0),
    "whales and ships": (0.8, 0.6, 0.0),
    "a hat": (0.0, 0.1, 1.0),
}
COST = {"whales": 5, "whales and ships": 10}


@pytest.mark.parametrize(
    ("said", "about", "room", "cost", "taken"),
    [
        pytest.param([*VECTORS], [], 1, {}, [1], id="the nearest to all"),
        pytest.param([*VECTORS], [], 99, {}, [1, 2, 3], id="what is repeated gives way"),
        pytest.param([*VECTORS], ["hats"], 1, {}, [3], id="what it is about"),
        pytest.param(["hats"], ["hats"], 99, {}, [0], id="a text that is its title"),
        pytest.param([*VECTORS], [], 10, COST, [1, 3], id="a shorter one fits"),
        pytest.param([], [], 99, {}, [], id="no sentence"),
    ],
)
def test_the_sentences_that_say_most_are_taken_in_their_order(
    said: list[str], about: list[str], room: int, cost: dict[str, int], taken: list[int]
) -> None:
    def full(some: list[Sentence]) -> bool:
        return sum(cost.get(one.text, 1) for one in some) > room

    sentences = [Sentence(text=text, chunks=(1,)) for text in said]
    known = {**VECTORS, "hats": (0.0, 0.0, 1.0)}
    vectors = {text: known[text] for text in (*said, *about)}
    found = Salience(vectors, about).pick(sentences, full=full)
    assert found == [sentences[place] for place in taken]


def test_of_sentences_as_central_as_each_other_those_with_figures_are_taken() -> None:
    said = [Sentence(text=each, chunks=(1,)) for each in ("The roof is next.", "It costs 4,100.")]
    vectors = {each.text: (1.0, 0.2 * place) for place, each in enumerate(said)}
    taken = Salience(vectors).pick(said, full=lambda some: len(some) > 1)
    assert [each.text for each in taken] == ["It costs 4,100."]


async def test_each_sentence_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa.documents.summarize._CHUNK_TOKENS", 8)
    text = "Whales sing far away.\n\nWhales sing far away."
    made = graph(large("Whales sing."), read_tokens=8)
    result = await made.run(Original(text=text, title=" ", focus="Ships"))
    assert len(result.output.spans) == 2
    assert result.usage.by_tier()["slm"].calls == 2  # for what it is about, and for one chunk


async def test_each_sentence_names_the_chunks_that_hold_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moa.documents.summarize._CHUNK_TOKENS", 150)
    chapters = ("Rice grows in water.", "Ships drown out whales.", "The museum opens at nine.")
    text = "\n\n".join(f"{each} {' '.join([SENTENCES[2]] * 20)}" for each in chapters)
    llm = large("The museum opens at nine. Whales are drowned out.")
    result = await graph(llm, length=Length(sentences=2)).run(Original(text=text))
    for sentence, chapter in zip(result.output.sentences, (chapters[2], chapters[1]), strict=True):
        (chunk,) = sentence.chunks
        start, end = result.output.spans[chunk - 1]
        assert chapter in text[start:end]


async def test_kept_sentences_are_not_split_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa.documents.summarize._CHUNK_TOKENS", 60)
    text = "\n\n".join(f'"Whales sing {n}. "\n\nThe whales sing on, {n}.' for n in range(40))
    llm = large("Whales sing.")
    result = await graph(llm, read_tokens=200).run(Original(text=text))
    assert result.output.text == "Whales sing."


async def test_a_long_text_is_read_up_to_the_limit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa.documents.summarize._CHUNK_TOKENS", 200)
    llm = large("Whales sing.")
    await graph(llm, read_tokens=400).run(Original(text=LONG))
    assert approximate_tokens(llm.prompts[0].messages[-1].content) < 600
    assert approximate_tokens(LONG) > 3000


async def test_a_summary_that_is_too_short_is_written_anew() -> None:
    llm = large("One.", "One two three four five six seven.")
    result = await graph(llm, length=Length(words=8)).run(Original(text=TEXT))
    assert result.output.text == "One two three four five six seven."
    assert "it has 1 word" in llm.prompts[1].messages[-1].content


async def test_a_summary_that_is_too_long_is_cut_at_a_sentence_and_that_is_noted() -> None:
    result = await graph(large("One. Two. Three.")).run(Original(text=TEXT))
    assert result.output.text == "One."
    assert len(notes(result, "truncated")) == 1


async def test_an_empty_text_has_an_empty_summary_and_nobody_is_asked() -> None:
    result = await graph(large()).run(Original(text=" \n "))
    assert (result.output.text, result.output.sentences) == ("", ())
    assert result.usage.calls == 0
    assert len(notes(result, "skipped")) == 1


async def test_a_text_as_short_as_its_summary_is_its_own_summary() -> None:
    result = await graph(large()).run(Original(text=SENTENCES[1]))
    assert result.output.text == SENTENCES[1]
    assert result.usage.calls == 0


@pytest.mark.parametrize(("llm_calls", "why"), [(1, "it is down"), (0, "llm_calls")])
async def test_where_nobody_writes_the_sentences_of_the_text_make_the_summary(
    llm_calls: int, why: str
) -> None:
    llm = large(EndpointUnavailable("it is down", endpoint="large"))
    context = RunContext(budget=Budget(llm_calls=llm_calls))
    result = await graph(llm).run(Original(text=TEXT), context)
    assert result.output.text in SENTENCES
    assert result.output.written_by == "extract"
    (note,) = notes(result, "degraded")
    assert "made of the text's own sentences" in note
    assert why in note


async def test_a_model_too_small_to_write_is_not_asked() -> None:
    llm = tiny()
    result = await graph(llm, length=Length(sentences=2)).run(Original(text=TEXT))
    assert [s.text in SENTENCES for s in result.output.sentences] == [True, True]
    assert llm.prompts == []


@pytest.mark.parametrize(
    "failure",
    [
        EndpointUnavailable("down", endpoint="words"),
        MissingDependency("tokenizers", extra="local", purpose="to compare"),
    ],
)
async def test_without_its_encoder_the_first_sentences_are_kept(failure: MoaError) -> None:
    down = WordEncoder(name="words", failure=failure)
    llm = large("Fine.")
    result = await graph(llm, encoder=down, read_tokens=60).run(Original(text=TEXT))
    assert SENTENCES[0] in llm.prompts[0].messages[-1].content
    assert notes(result, "degraded")


async def test_the_summary_streams_when_its_length_is_checked() -> None:
    made = graph(large("One. Two. Three."), length=Length(sentences=2))
    seen = [event async for event in made.stream(Original(text=TEXT))]
    pieces = [event.text for event in cast("list[Event]", seen) if isinstance(event, TextDelta)]
    assert pieces == ["One. Two."]


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet="ab .!?\n", max_size=200), st.integers(1, 4))
async def test_any_text_has_a_summary_of_its_length(text: str, most: int) -> None:
    down = SimulatedEndpoint(
        name="large", tier="llm", rule=lambda _: EndpointUnavailable("down", endpoint="large")
    )
    length = Length(sentences=most)
    output = (await graph(down, length=length).run(Original(text=text))).output
    assert not length.too_long(output.text)
    assert bool(output.text) == bool(text.strip())


async def test_figures_that_the_text_does_not_have_are_told() -> None:
    text = "The ferry costs 62 euros. " * 3 + "It leaves at nine. " * 30
    llm = large("The ferry costs 62 euros. It carries 900 people.")
    result = await Summarize(llm=llm, sentences=2).run(Original(text=text))
    assert "900" in notes(result, "degraded")[0]


async def test_a_longer_text_gets_a_longer_summary_and_is_asked_for_behind_the_text() -> None:
    llm = large("Short.", "Short.")
    graph = Summarize(llm=llm)
    for words in (400, 1600):
        await graph.run(Original(text="The committee met again. " * (words // 4)))
    ends = [prompt.messages[-1].content.splitlines()[-1] for prompt in llm.prompts]
    assert ends == ["Summarize the text in 3 sentences.", "Summarize the text in 7 sentences."]


async def test_a_long_text_is_read_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = dict[str, int]()
    too_long, pick = Length.too_long, Salience.pick

    def seen(length: Length, text: str) -> bool:
        threads["length"] = threading.get_ident()
        return too_long(length, text)

    def picked(self: Salience, *arguments: Any, **keywords: Any) -> list[Sentence]:
        threads["pick"] = threading.get_ident()
        return pick(self, *arguments, **keywords)

    monkeypatch.setattr(Length, "too_long", seen)
    monkeypatch.setattr(Salience, "pick", picked)
    text = "\n\n".join(f"{TEXT} This is part {n} of it." for n in range(300))
    await graph(tiny(), length=Length(sentences=2)).run(Original(text=text))
    assert threads.keys() == {"length", "pick"}
    assert threading.get_ident() not in threads.values()
