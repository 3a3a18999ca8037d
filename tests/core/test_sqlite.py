"""SQLite's errors say what to do about each."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from disks import room

from moa._sqlite import SQLite
from moa.errors import StoreBusy, StoreError

TABLE = "create table if not exists texts (job text, body text)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "texts.sqlite"


@pytest.fixture
def store(path: Path) -> SQLite:
    store = SQLite(path, TABLE, what="the texts", busy_s=0.05)
    store.open()
    return store


def write(store: SQLite, *, length: int = 9) -> None:
    store.run("insert into texts values (?, ?)", "job", "x" * length)


def test_a_full_disk_is_to_be_freed(store: SQLite) -> None:
    store.run("pragma max_page_count = 3")
    with pytest.raises(StoreError, match=r"is full\. Free the disk"):
        write(store, length=100_000)


def test_a_limit_of_files_is_no_full_disk(store: SQLite) -> None:
    with room(0), pytest.raises(StoreError, match="limits how long a file may be"):
        write(store)


def test_of_a_file_that_is_locked_it_is_said_that_another_program_holds_it(
    store: SQLite, path: Path
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("begin exclusive")
        with pytest.raises(StoreBusy, match="Another program holds it"):
            write(store)


def drop_its_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("drop table texts")


def cut_it_off(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(5000)


@pytest.mark.parametrize("damage", [drop_its_table, cut_it_off])
def test_of_a_damaged_file_it_is_said_that_a_copy_helps_and_nothing_of_the_disk(
    store: SQLite, path: Path, damage: Callable[[Path], None]
) -> None:
    write(store, length=100_000)
    store.run("pragma wal_checkpoint(truncate)")
    damage(path)
    with pytest.raises(StoreError, match="bring it back from a copy") as told:
        store.run("select body from texts")
    assert "disk and" not in str(told.value)
