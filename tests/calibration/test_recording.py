"""Rows that can't be written: they wait, later inputs aren't recorded, and tests stay sound."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from calibration.answering import STORED_QUESTION
from calibration.test_learning import filled, learner
from moa.core.errors import StoreError
from moa.learning import looks as learning
from moa.learning import recording
from moa.learning.answer_rows import LargeAnswer, NewRow
from moa.learning.answers import AnswerStore
from moa.learning.epochs import PlannedLook
from moa.learning.looks import Learning
from moa.learning.recording import Recorder


class Disk(AnswerStore):
    """A store on a disk that has room for short texts alone."""

    room = 10**6

    def add(self, row: NewRow, epoch: int) -> int:
        if row.length > self.room:
            raise StoreError("database or disk is full")
        return super().add(row, epoch)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    monkeypatch.setattr(recording, "RETRY_S", 0.0)
    with Disk(tmp_path / "answers.db") as store:
        store.bind(STORED_QUESTION, "m")
        yield store


def arrive(recorder: Recorder, disk: Disk, text: str) -> int | None:
    """Record a text, unless nothing is recorded when it arrives."""
    if recorder.read_on_arrival(disk.read_state) is None:
        return None
    row = NewRow(disk.coin.toss(text), True, "run", (0.5,), len(text))
    return recorder.add(row, 1)


def lengths(disk: Disk) -> list[int]:
    return [*disk.read_test_rows(disk.read_state(), 10**6).lengths]


def test_no_text_is_left_out_for_its_own_length(disk: Disk) -> None:
    recorder = Recorder(disk)
    texts = ["a" * n for n in (3, 70, 5, 80, 6, 4)]
    arrive(recorder, disk, texts[0])
    disk.room = 50
    found = [arrive(recorder, disk, text) for text in texts[1:5]]
    assert found[0] is not None
    assert found[1:] == [None, None, None]  # short ones, for which there is room, as well
    disk.room = 100
    arrive(recorder, disk, texts[5])
    assert lengths(disk) == [3, 70, 4]


def test_a_locked_file_is_a_write_that_fails_and_is_hardly_waited_for(disk: Disk) -> None:
    recorder, start = Recorder(disk), time.monotonic()
    with closing(sqlite3.connect(disk.location, isolation_level=None)) as other:
        other.execute("begin immediate")
        index = arrive(recorder, disk, "a text")
        assert index is not None
        assert index < 0
        assert "Another program holds it" in recorder.outage.reason
        other.execute("rollback")
    assert time.monotonic() < start + 30  # SQLite's own wait would be a minute
    assert arrive(recorder, disk, "another") == 2
    assert lengths(disk) == [6, 7]


def test_a_row_that_waits_is_not_answered_by_the_small_model(disk: Disk) -> None:
    recorder = Recorder(disk)
    row = NewRow(disk.coin.toss("a text"), False, "run", (0.5,), 6, by_small=True)
    assert recorder.add(row, 1) > 0
    disk.room = 5
    late = recorder.add(row._replace(side=disk.coin.toss("another")), 1)
    assert late < 0
    disk.room = 10
    recorder.settle(late, LargeAnswer("b"))
    with closing(sqlite3.connect(disk.location)) as file:
        assert file.execute("select by_small from moa_learn_rows").fetchall() == [(1,), (0,)]


def test_the_label_of_a_row_that_waits_is_written_after_it(disk: Disk) -> None:
    recorder = Recorder(disk)
    disk.room = 0
    place = arrive(recorder, disk, "long")
    assert place is not None
    assert recorder.settle(place, LargeAnswer("card")) == 0
    disk.room = 100
    assert arrive(recorder, disk, "next") == 2
    assert [row.label for row in disk.read_figure_rows()] == ["card", None]


def test_a_label_is_given_to_no_row_of_another_process(disk: Disk) -> None:
    here, there = Recorder(disk), Recorder(disk)
    disk.room = 0
    first, second = arrive(here, disk, "mine"), arrive(there, disk, "yours")
    assert first is not None
    disk.room = 100
    assert arrive(there, disk, "next") == 2
    assert there.settle(first, LargeAnswer("card")) == 0
    assert first != second
    assert [row.label for row in disk.read_figure_rows()] == [None, None]


def test_what_fails_on_an_arrival_is_not_done_later(disk: Disk) -> None:
    recorder, asked = Recorder(disk), list[bool]()

    def read() -> bool:
        asked.append(True)
        if len(asked) == 1:
            raise StoreError("database or disk is full")
        return True

    assert recorder.read_on_arrival(read) is None
    assert recorder.outage.reason
    assert recorder.read_on_arrival(read)
    assert len(asked) == 2
    assert not recorder.outage.reason


def test_a_failure_is_logged_once_a_minute(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(recording.time, "monotonic", lambda: now[0])
    recorder, disk.room = Recorder(disk), 0
    with caplog.at_level(logging.WARNING):
        arrive(recorder, disk, "text")
        for _ in range(119):
            now[0] += 1.0
            assert arrive(recorder, disk, "text") is None
        assert len(caplog.records) == 2
        now[0], disk.room = now[0] + 1, 100
        assert arrive(recorder, disk, "text") is not None
    assert "again" in caplog.records[-1].getMessage()


def test_a_write_that_can_never_succeed_stops_no_other(disk: Disk) -> None:
    recorder = Recorder(disk)
    with pytest.raises(TypeError):
        recorder.settle(1, LargeAnswer("card", moot=None))  # pyright: ignore[reportArgumentType]
    assert arrive(recorder, disk, "text") == 1


def find_reason(*_: object) -> str:
    return "audit"


def test_a_head_whose_withdrawal_cant_be_written_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_full = True

    def write(*_: object) -> None:
        if is_full:
            raise StoreError("database or disk is full")

    monkeypatch.setattr(recording, "RETRY_S", 0.0)
    monkeypatch.setattr(learning, "LOOKS", (PlannedLook(0.05, held_out=150),))
    with filled(tmp_path / "answers.db") as store:
        one = learner(store)
        one.step()
        arrival = one.on_arrival()
        assert arrival is not None
        assert arrival[1] is not None
        monkeypatch.setattr(Learning, "_withdrawal_reason", find_reason)
        monkeypatch.setattr(AnswerStore, "withdraw", write)
        monkeypatch.setattr(AnswerStore, "touch", write)
        one.wake(10**6)
        one.join()
        assert one.on_arrival() is None
        is_full = False
        assert one.on_arrival() is not None
