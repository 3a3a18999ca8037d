"""The index: kept on disk, brought up to date, and shared by processes."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import sqlite3
import threading
from pathlib import Path

import pytest
from graphs.encoder import WordEncoder

from documents.files import closed
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    EndpointUnauthorized,
    EndpointUnavailable,
)
from moa.documents.files import Progress, Sources
from moa.documents.index import Changes, Index, IndexRetriever
from moa.documents.retrieval import BM25
from moa.testing import ScriptedEndpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "docs"
    made.mkdir()
    (made / "a.txt").write_text("Foxes jump over dogs.")
    (made / "b.txt").write_text("Cats sleep on sofas.")
    return made


@pytest.fixture
def index(folder: Path, tmp_path: Path) -> Index:
    """One that is kept, and up to date."""
    made = Index(tmp_path / "kept")
    made.update(folder)
    return made


def texts(index: Index) -> list[str]:
    return [passage.text for passage in index.passages()]


def test_only_what_changed_is_read_again(folder: Path, tmp_path: Path) -> None:
    index = Index(tmp_path / "kept")
    assert index.update(folder).added == ("a.txt", "b.txt")
    (folder / "b.txt").write_text("Cats sleep all day.")
    (folder / "c.txt").write_text("Birds sing.")
    (folder / "a.txt").touch()
    changes = Index(tmp_path / "kept").update(folder)
    assert (changes.added, changes.changed, changes.kept) == (("c.txt",), ("b.txt",), ("a.txt",))
    assert texts(index) == ["Foxes jump over dogs.", "Cats sleep all day.", "Birds sing."]


def test_what_was_removed_is_forgotten(folder: Path, index: Index) -> None:
    (folder / "a.txt").unlink()
    assert index.update(folder).removed == ("a.txt",)
    assert texts(index) == ["Cats sleep on sofas."]


def test_what_a_link_outside_leads_to_is_not_read_and_what_was_is_forgotten(
    folder: Path, tmp_path: Path, index: Index
) -> None:
    (tmp_path / "secret.txt").write_text("The password is swordfish.")
    (tmp_path / "secrets").mkdir()
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "all").symlink_to(tmp_path / "secrets")
    (folder / "own.txt").symlink_to("b.txt")
    changes = index.update(folder)
    assert [unread.file for unread in changes.unread] == ["all", "a.txt"]
    assert "leads out of the folder" in str(changes.unread[1])
    assert (changes.added, changes.removed) == (("own.txt",), ("a.txt",))
    assert texts(index) == ["Cats sleep on sofas.", "Cats sleep on sofas."]


def test_an_index_is_its_owners_alone(index: Index) -> None:
    assert index.path is not None
    assert index.path.stat().st_mode & 0o777 == 0o600


def test_of_a_file_that_broke_what_was_known_stays(folder: Path, index: Index) -> None:
    (folder / "a.txt").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    changes = index.update(folder)
    assert [unread.file for unread in changes.unread] == ["a.txt"]
    assert changes.removed == ()
    assert "Foxes jump over dogs." in texts(index)


@pytest.mark.parametrize("inside", ["", "deep"])
def test_of_a_folder_that_cannot_be_listed_what_was_known_stays(
    inside: str, folder: Path, monkeypatch: pytest.MonkeyPatch, index: Index
) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "c.txt").write_text("Birds sing.")
    index.update(folder)
    (folder / "b.txt").unlink()
    closed(folder / inside, monkeypatch)
    changes = index.update(folder)
    assert len(changes.unread) == 1
    assert changes.removed == (("b.txt",) if inside else ())
    assert "Birds sing." in texts(index)


def test_a_folder_that_is_gone_empties_nothing(folder: Path, tmp_path: Path, index: Index) -> None:
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        index.update(folder)
    assert len(texts(index)) == 2


def test_another_length_of_passages_splits_all_files_again(folder: Path, tmp_path: Path) -> None:
    Index(tmp_path / "kept").update(folder)
    changes = Index(tmp_path / "kept", max_tokens=3).update(folder)
    assert changes.changed == ("a.txt", "b.txt")
    assert len(texts(Index(tmp_path / "kept"))) > 2


def test_an_update_that_breaks_off_spoils_nothing(folder: Path, index: Index) -> None:
    (folder / "a.txt").write_text("Foxes sleep.")

    def stop(step: str) -> None:
        if step.endswith("b.txt"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.update(folder, progress=stop)
    assert texts(index) == ["Foxes jump over dogs.", "Cats sleep on sofas."]
    assert index.update(folder).changed == ("a.txt",)


def test_an_index_in_memory_is_brought_up_to_date_too(folder: Path) -> None:
    index = Index()
    assert index.update(folder).added == ("a.txt", "b.txt")
    assert index.update(folder).kept == ("a.txt", "b.txt")
    assert len(index.passages()) == 2


def test_an_index_in_memory_is_closed_with_its_last_user(folder: Path) -> None:
    index = Index()
    index.update(folder)
    memory = vars(index)["_memory"]
    del index
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        memory.execute("select 1")


@pytest.mark.parametrize(
    "change",
    [
        "files set id = x'ff' where id = 'a.txt'",
        "files set title = x'ff'",
        "passages set text = x'ff'",
        "passages set text = cast(x'ff' as text)",
        "passages set page = 'first'",
        "vectors set vector = x'ff'",
        "vectors set vector = 5",
        "vectors set vector = x'00000000' where start = 0 and document = 'a.txt'",
    ],
)
async def test_an_index_that_holds_other_types_is_told(
    folder: Path, tmp_path: Path, change: str
) -> None:
    index = Index(tmp_path / "kept")
    await asyncio.to_thread(index.update, folder)
    await index.vectors(index.passages(), WordEncoder())
    assert index.path is not None
    with sqlite3.connect(index.path) as connection:
        connection.execute(f"update {change}")
    connection.close()

    async def used() -> None:
        await asyncio.to_thread(index.update, folder)
        await index.vectors(index.passages(), WordEncoder())

    with pytest.raises(ConfigError, match=r"documents\.sqlite"):
        await used()


def test_a_broken_index_is_told(folder: Path, index: Index) -> None:
    assert index.path is not None
    index.path.write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match=r"documents\.sqlite"):
        index.update(folder)


def test_an_index_of_another_version_is_told(index: Index) -> None:
    assert index.path is not None
    connection = sqlite3.connect(index.path)
    connection.execute("pragma user_version = 99")
    connection.close()
    with pytest.raises(ConfigError):
        index.passages()


def test_an_index_where_nothing_can_be_written_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError):
        Index(tmp_path / "file").update(folder)


def _update(kept: Path, folder: Path) -> None:
    for _ in range(3):
        Index(kept).update(folder)


def test_processes_that_write_at_once_spoil_nothing(folder: Path, tmp_path: Path) -> None:
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"Text number {number}.")
    spawn = multiprocessing.get_context("fork")
    started = [spawn.Process(target=_update, args=(tmp_path / "kept", folder)) for _ in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 4
    assert len(texts(Index(tmp_path / "kept"))) == 22


async def test_vectors_are_made_once(folder: Path, tmp_path: Path, index: Index) -> None:
    context = RunContext()
    first = await index.vectors(index.passages(), ScriptedEndpoint(), context)
    again = await Index(tmp_path / "kept").vectors(index.passages(), ScriptedEndpoint(), context)
    assert [list(vector) for vector in first] == [list(vector) for vector in again]
    assert context.usage.total.calls == 1
    (folder / "a.txt").write_text("Foxes sleep.")
    index.update(folder)
    await index.vectors(index.passages(), ScriptedEndpoint(), context)
    assert context.usage.total.calls == 2


async def test_a_vector_of_a_passage_that_changed_meanwhile_is_not_kept(
    folder: Path, index: Index
) -> None:
    before = index.passages()
    (folder / "a.txt").write_text("Foxes sleep.")
    index.update(folder)
    await index.vectors(before, ScriptedEndpoint())
    context = RunContext()
    await index.vectors(index.passages(), ScriptedEndpoint(), context)
    assert context.usage.total.calls == 1


async def test_the_first_search_reads_the_files_and_names_what_it_could_not_read(
    folder: Path,
) -> None:
    (folder / "c.pdf").write_bytes(b"")
    retriever = IndexRetriever(folder)
    for _ in range(2):
        result = await retriever.run("sofas")
        assert [passage.text for passage in result.output.passages] == ["Cats sleep on sofas."]
        assert [note.text for note in result.trace] == ["not read: c.pdf is empty"]


async def test_searches_that_begin_together_read_once(folder: Path) -> None:
    endpoint = ScriptedEndpoint()
    retriever = IndexRetriever(folder, endpoint=endpoint)
    results = await asyncio.gather(*(retriever.run("sofas") for _ in range(3)))
    assert sum(result.usage.total.calls for result in results) == 4  # one for all, one a query


class Gated(Index):
    """An index whose files are read when its gate is opened; it counts the updates."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.updates = 0

    def update(self, sources: Sources, *, progress: Progress | None = None) -> Changes:
        self.updates += 1
        self.gate.wait()
        return super().update(sources, progress=progress)


async def test_a_deadline_holds_while_files_are_read_which_goes_on_for_the_next(
    folder: Path,
) -> None:
    index = Gated()
    retriever = IndexRetriever(folder, index)
    runs = [retriever.run("sofas", RunContext(timeout_s=0.05)) for _ in range(2)]
    failures = await asyncio.gather(*runs, return_exceptions=True)
    assert [type(failure) for failure in failures] == [DeadlineExceeded] * 2
    with pytest.raises(DeadlineExceeded):
        await retriever.run("sofas", RunContext(timeout_s=0))
    index.gate.set()
    assert (await retriever.run("sofas")).output.passages
    assert index.updates == 1


def test_a_reading_outlives_the_loop_of_the_run_that_began_it(folder: Path) -> None:
    index = Gated()
    retriever = IndexRetriever(folder, index)
    with pytest.raises(DeadlineExceeded):
        asyncio.run(retriever.run("sofas", RunContext(timeout_s=0.05)))
    index.gate.set()
    assert asyncio.run(retriever.run("sofas")).output.passages
    assert index.updates == 1


async def test_while_vectors_cannot_be_had_files_are_read_once(folder: Path) -> None:
    index = Gated()
    index.gate.set()
    down = EndpointUnavailable("down", endpoint="vectors")
    retriever = IndexRetriever(folder, index, endpoint=WordEncoder(name="vectors", failure=down))
    for _ in range(3):
        result = await retriever.run("sofas")
        assert [note.kind for note in result.trace] == ["degraded"]
    assert index.updates == 1


async def test_a_wrong_key_of_the_endpoint_that_embeds_is_an_error(folder: Path) -> None:
    no_key = EndpointUnauthorized("HTTP 401", endpoint="vectors", status=401)
    retriever = IndexRetriever(folder, endpoint=WordEncoder(name="vectors", failure=no_key))
    with pytest.raises(EndpointUnauthorized):
        await retriever.run("sofas")


async def test_files_that_cannot_be_read_are_tried_again(folder: Path, tmp_path: Path) -> None:
    retriever = IndexRetriever(tmp_path / "later")
    with pytest.raises(ConfigError):
        await retriever.run("sofas")
    os.rename(folder, tmp_path / "later")
    assert (await retriever.run("sofas")).output.passages


async def test_without_its_vectors_passages_are_found_by_words(folder: Path, index: Index) -> None:
    retriever, broke = IndexRetriever(folder, endpoint=ScriptedEndpoint()), Budget(calls=0)
    result = await retriever.run("sofas", RunContext(budget=broke))
    assert [passage.text for passage in result.output.passages] == ["Cats sleep on sofas."]
    assert [note.kind for note in result.trace] == ["degraded"]
    with pytest.raises(BudgetExceeded):
        await index.vectors(index.passages(), ScriptedEndpoint(), RunContext(budget=broke))
    assert (await retriever.run("sofas")).usage.total.calls == 2


async def test_an_index_that_was_made_elsewhere_is_searched_as_it_is(
    folder: Path, tmp_path: Path
) -> None:
    Index(tmp_path / "kept").update(folder)
    retriever = IndexRetriever(None, Index(tmp_path / "kept"))
    assert len((await retriever.run("sofas")).output.passages) == 1
    with pytest.raises(ConfigError):
        await IndexRetriever(None).run("sofas")


async def test_nothing_to_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"a\.pdf"):
        await IndexRetriever(tmp_path).run("sofas")


def test_by_words_is_what_an_index_without_an_endpoint_is_searched(folder: Path) -> None:
    assert IndexRetriever(folder, by_words=False).by_words
    assert BM25([]).passages == ()
