"""A content store: JSON on disk by what it answers, shared, and honest about damage."""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from disks import room

import moa.adapters.sqlite
from moa.adapters.sqlite import ContentStore
from moa.core.errors import StoreError


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "answers.sqlite"


def test_a_value_is_found_by_its_key_by_all_who_share_the_file(file: Path) -> None:
    with ContentStore(file) as one, ContentStore(file) as other:
        assert one.get("\ud800 what?") is None
        one.put("\ud800 what?", {"text": "that \ud800", "p": [0.5, None]})
        assert other.get("\ud800 what?") == {"text": "that \ud800", "p": [0.5, None]}
        assert other.get("else?") is None
        one.clear()
        assert other.get("\ud800 what?") is None
    assert file.stat().st_mode & 0o077 == 0


def test_a_disk_that_can_t_be_written_is_told_before_there_is_something_to_keep(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ContentStore(file) as store:
        store.put("a", 1)

    def refused(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(moa.adapters.sqlite, "make_private", refused)
    for path in (file, file.with_name("none")):
        with ContentStore(path) as store, pytest.raises(StoreError, match="Read-only"):
            store.get("a")
    with ContentStore(file, optional=True) as store:
        assert store.get("a") == 1


def test_to_look_into_an_optional_store_makes_none(file: Path) -> None:
    with ContentStore(file, optional=True) as store:
        assert store.get("a") is None
    assert not file.parent.exists()


def test_a_damaged_value_counts_as_none_and_is_told_once(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ContentStore(file) as store:
        store.put("a", 1)
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("update answers set answer = '{'")
        assert [store.get("a"), store.get("a")] == [None, None]
        assert len(caplog.records) == 1
        store.put("a", 2)
        assert store.get("a") == 2


@pytest.mark.parametrize("content", [b"Dear all, " * 99, b"x"])
def test_a_file_of_something_else_is_left_as_it_is(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "letter.txt"
    file.write_bytes(content)
    with ContentStore(file) as store:
        with pytest.raises(StoreError, match=r"letter\.txt"):
            store.get("a")
        with pytest.raises(StoreError, match=r"letter\.txt"):
            store.put("a", 1)
    with caplog.at_level(logging.WARNING), ContentStore(file, optional=True) as store:
        store.put("a", 1)
        assert store.get("a") is None
        assert len(caplog.records) == 1
    assert file.read_bytes() == content


def test_a_full_disk_is_told_and_what_is_there_stays(file: Path) -> None:
    with ContentStore(file) as store:
        store.put("a", 1)
    with ContentStore(file) as store:
        with pytest.raises(StoreError), room(100_000):
            store.put("b", "x" * 1_000_000)
        assert store.get("a") == 1


def test_many_threads_share_a_store(file: Path) -> None:
    with ContentStore(file) as store:

        def work(number: int) -> None:
            for place in range(20):
                store.put(f"{number} {place}", place)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(store.get(f"{n} {place}") == place for n in range(8) for place in range(20))
