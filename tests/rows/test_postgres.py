"""A Postgres that is locked, away or silent: who waits for it is told so in time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from moa.core.errors import StoreBusy
from moa.rows import _stores
from moa.rows._stores import Postgres

_TABLES = "create table if not exists notes (job text, key text primary key, note text)"


@pytest.fixture
def store(postgres: str) -> Iterator[Postgres]:
    store = Postgres(postgres, _TABLES, what="test")
    store.open()
    for key in ("alice", "bob"):
        store.run("insert into notes (job, key, note) values (?, ?, '')", store.job, key)
    yield store
    store.close()


def _note(store: Postgres, key: str, wait_s: float) -> None:
    update = "update notes set note = 'seen' where key = ?"
    store.within(wait_s, lambda: store.run(update, key))


@contextmanager
def _locked(postgres: str, key: str) -> Generator[None]:
    import psycopg

    with psycopg.connect(postgres) as other:
        other.execute("select 1 from notes where key = %s for update", (key,))
        yield


def test_a_row_that_another_locks_is_given_up_in_time_and_other_rows_are_written(
    store: Postgres, postgres: str
) -> None:
    with _locked(postgres, "alice"):
        with pytest.raises(StoreBusy):
            _note(store, "alice", 0.5)
        _note(store, "bob", 0.5)
    _note(store, "alice", 0.5)
    notes = store.run("select key, note from notes order by key")
    assert notes == [("alice", "seen"), ("bob", "seen")]


def test_who_has_waited_long_for_others_waits_no_longer_for_a_lock(
    store: Postgres, postgres: str
) -> None:
    with _locked(postgres, "alice"):
        start = time.monotonic()
        for _ in range(10):
            with pytest.raises(StoreBusy):
                _note(store, "alice", 0.0)
        assert time.monotonic() - start < 5.0  # in place of a second for each
    _note(store, "bob", 0.0)


def test_a_transaction_that_met_a_lock_is_done_again_as_a_whole(
    store: Postgres, postgres: str
) -> None:
    update, tries = "update notes set note = note || 'x' where key = ?", 0
    locked = _locked(postgres, "bob")
    locked.__enter__()

    def both() -> None:
        nonlocal tries
        tries += 1
        store.run(update, "alice")
        if tries > 1:
            locked.__exit__(None, None, None)
        store.run(update, "bob")

    store.atomically(both)
    assert tries == 2
    assert store.run("select note from notes") == [("x",), ("x",)]


def test_a_database_that_does_not_answer_is_given_up_and_found_again(
    store: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_stores, "_LATE_S", 0.2)
    ((process,),) = store.run("select pg_backend_pid()")
    os.kill(process, signal.SIGSTOP)
    try:
        with pytest.raises(StoreBusy):
            _note(store, "bob", 0.1)
        assert "doesn't answer" in caplog.text
    finally:
        os.kill(process, signal.SIGCONT)
    monkeypatch.setattr(store, "_away_until", 0.0)
    _note(store, "bob", 5)


def test_a_database_that_was_just_away_is_not_looked_for_by_each_who_waits(
    store: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def away(wait_s: int) -> None:
        nonlocal looks
        looks += 1
        import psycopg

        raise psycopg.OperationalError("connection refused")

    monkeypatch.setattr(store, "_connect", away)
    store._file.close()  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(StoreBusy):
        _note(store, "alice", 0.3)
    first = looks
    for _ in range(20):
        with pytest.raises(StoreBusy):
            _note(store, "bob", 0.3)
    assert looks == first > 0
