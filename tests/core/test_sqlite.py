"""SQLite's errors say what to do about each."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from disks import room

from moa.adapters.sqlite import SQLite
from moa.core._files import make_private
from moa.core.errors import ConfigError, StoreBusy, StoreError

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
    with pytest.raises(StoreError):
        write(store, length=100_000)


def test_a_limit_of_files_is_no_full_disk(store: SQLite) -> None:
    with room(0), pytest.raises(StoreError):
        write(store)


def test_of_a_file_that_is_locked_it_is_said_that_another_program_holds_it(
    store: SQLite, path: Path
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("begin exclusive")
        with pytest.raises(StoreBusy):
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
    with pytest.raises(StoreError) as told:
        store.run("select body from texts")
    assert "disk and" not in str(told.value)


_LOOK = """
import sys
from pathlib import Path
from moa.adapters.sqlite import SQLite

file = SQLite(Path(sys.argv[1]), "create table if not exists notes (job text)", what="it")
file.open()
print(len(file.run("select * from notes")))
file.close()
"""


def _rows_seen_elsewhere(path: Path) -> int:
    look = [sys.executable, "-c", _LOOK, str(path)]
    return int(subprocess.run(look, check=True, capture_output=True, text=True).stdout)


def test_a_second_look_in_a_process_leaves_the_first_one_s_locks(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    files = [
        SQLite(path, "create table if not exists notes (job text)", what="it") for _ in range(2)
    ]
    for file in files:
        file.open()
    files[1].close()
    assert _rows_seen_elsewhere(path) == 0
    files[0].run("insert into notes values (?)", "job")
    assert _rows_seen_elsewhere(path) == 1
    files[0].close()


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_a_private_file_that_exists_is_not_opened(tmp_path: Path) -> None:
    import fcntl

    path = tmp_path / "notes"
    make_private(path)
    lock = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        make_private(path)
        other = subprocess.run([sys.executable, "-c", lock, str(path)], capture_output=True)
    assert b"BlockingIOError" in other.stderr


def test_a_text_of_any_length_is_no_database(tmp_path: Path) -> None:
    for text in ("short", "long" * 1000):
        path = tmp_path / text[:5]
        path.write_text(text)
        with pytest.raises(ConfigError):
            SQLite(path, "create table notes (job text)", what="it").open()
        assert path.read_text() == text
