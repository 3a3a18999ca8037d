"""Vectors on disk: found by the next run, bounded, without the texts, and never in the way."""

from __future__ import annotations

import sqlite3
import stat
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from moa.local.encoding import EncodedText, EncoderText, EncodingQueue
from moa.local.vector_file import VectorFile

VECTOR = tuple(array("f", [0.1, -0.7, 1 / 3]))
SECRET = EncoderText("my card is 4111 1111")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "vectors.sqlite"


@pytest.fixture
def file(path: Path) -> Iterator[VectorFile]:
    found = VectorFile(path, "tiny 1", parts=3)
    yield found
    found.close()


async def test_the_next_run_finds_what_one_has_encoded_and_reads_no_tokens(
    path: Path, file: VectorFile
) -> None:
    given: list[str] = []

    def engine(texts: Sequence[EncoderText]) -> list[EncodedText]:
        given.extend(text.text for text in texts)
        return [EncodedText(VECTOR, 5) for _ in texts]

    first, second = (
        EncodingQueue(engine, threads=1, batch=3),
        EncodingQueue(engine, threads=1, batch=3),
    )
    first.store, second.store = file, VectorFile(path, "tiny 1", parts=3)
    before = await first.read([EncoderText("a"), EncoderText("b")])
    after = await second.read([EncoderText("b"), EncoderText("c"), EncoderText("a")])
    second.store.close()
    assert given == ["a", "b", "c"]
    assert (before.tokens, after.tokens) == (10, 5)
    assert after.vectors == (VECTOR,) * 3


def test_queries_passages_and_models_are_told_apart(path: Path, file: VectorFile) -> None:
    file.put({EncoderText("a"): VECTOR})
    other = VectorFile(path, "tiny 2", parts=3)
    assert file.find([EncoderText("a"), EncoderText("a", is_passage=True)]) == {
        EncoderText("a"): VECTOR
    }
    assert other.find([EncoderText("a")]) == {}
    other.close()


def test_it_holds_no_text_and_its_owner_alone_can_read_it(path: Path, file: VectorFile) -> None:
    file.put({SECRET: VECTOR})
    file.close()
    assert b"4111" not in b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert sys.platform == "win32" or stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_oldest_go_where_there_are_too_many(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.local.vector_file._MOST", 4)
    file = VectorFile(path, "tiny 1", parts=3)
    texts = [EncoderText(str(i)) for i in range(12)]
    for text in texts:
        file.put({text: VECTOR})
    assert list(file.find(texts)) == texts[-4:]
    file.close()


def test_a_vector_of_another_length_counts_as_none(path: Path, file: VectorFile) -> None:
    file.put({EncoderText("a"): VECTOR, EncoderText("b"): VECTOR})
    with sqlite3.connect(path) as damaged:
        damaged.execute("update vectors set v = x'00' where place = 1")
    damaged.close()
    assert file.find([EncoderText("a"), EncoderText("b")]) == {EncoderText("b"): VECTOR}


@pytest.mark.parametrize("there", ["a folder", "no database"])
def test_where_it_cant_be_used_nothing_is_found_and_nothing_fails(path: Path, there: str) -> None:
    path.parent.mkdir()
    path.mkdir() if there == "a folder" else path.write_text("not a database " * 20)
    file = VectorFile(path, "tiny 1", parts=3)
    file.put({EncoderText("a"): VECTOR})
    assert file.find([EncoderText("a")]) == {}
