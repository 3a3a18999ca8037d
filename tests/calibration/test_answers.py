"""The answers that a cascade learns from: what is kept, by whom, and what a kill leaves."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from calibration.answering import STORED_QUESTION
from moa.core.errors import ConfigError, StoreBusy, StoreError
from moa.core.questions import Option, Question
from moa.decisions.features import LabelFeature, QuestionRecord
from moa.decisions.file import Calibration
from moa.decisions.guarantee import Bound, Guarantee
from moa.learning import answers as module
from moa.learning.answer_rows import LargeAnswer, NewRow, SpentLook
from moa.learning.answers import AnswerStore
from moa.learning.epochs import PlannedLook, start_audit
from moa.learning.figures import figures_at, figures_of

HEAD = Calibration(
    made=datetime(2026, 1, 1, tzinfo=UTC),
    question=QuestionRecord.model_validate(
        Question("q", "choice", "?", (Option("a", "a"), Option("b", "b")))
    ),
    models={},
    features=(LabelFeature(name="small"),),
    bound=Bound(guarantee=Guarantee(0.05, 0.95), threshold=0.9, labels=10, summary="a test"),
    origin="a test",
)
WRITER = Path(__file__).with_name("answering.py")


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "answers.db")
    return f"{request.getfixturevalue('postgres')}#answers"


@pytest.fixture
def store(where: str) -> Iterator[AnswerStore]:
    with AnswerStore(where) as found:
        found.bind(STORED_QUESTION, "m")
        yield found


def add(store: AnswerStore, text: str, label: str | None = "card", *, held: bool = False) -> int:
    row = NewRow(store.coin.toss(text), held, "run", (0.5, 0.25), len(text))
    place = store.add(row, store.read_state().epoch)
    store.settle(place, LargeAnswer(label))
    return place


def spent(store: AnswerStore, cut: int) -> SpentLook:
    state = store.read_state()
    return SpentLook(state.epoch, state.looks, cut, "head", (0.9, 0.8))


def finish(store: AnswerStore, look: SpentLook, *, used: bool = True) -> None:
    keep_outcome(store, look, used=used, exceptions=["k"])


def keep_outcome(
    store: AnswerStore, look: SpentLook, *, used: bool = True, exceptions: Sequence[str] = ()
) -> None:
    head, audit = HEAD.model_dump_json(), start_audit().model_dump_json()
    store.finish(
        look, {"passed": 1}, head=head, used=used, audit=audit, drift=None, exceptions=exceptions
    )


def test_a_row_is_spared_the_large_model_unless_it_is_held_out(store: AnswerStore) -> None:
    places = [
        store.add(NewRow(store.coin.toss(text), held, "run", (0.5, 0.25), 1), 1)
        for text, held in (("a", True), ("b", False), ("c", False))
    ]
    store.settle(places[2], LargeAnswer("card", moot=True))
    for place in places:
        store.settle_by_small(place, moot=False)
    rows = store.read_figure_rows()
    assert [(row.done, row.by_small, row.moot) for row in rows] == [(0, 0, 0), (1, 1, 0), (1, 0, 1)]


def test_the_place_of_a_row_that_was_dropped_is_given_to_no_other(store: AnswerStore) -> None:
    add(store, "a")
    dropped = store.add(NewRow(store.coin.toss("b"), True, "run", (0.5, 0.25), 1), 1)
    _, end = store.read_watched_rows(store.read_state(), 0)
    store.drop(dropped)
    assert store.last_place() == dropped == end
    assert add(store, "c", held=True) == dropped + 1
    state = store.read_state()
    assert store.count_held_out(state) == 1
    assert store.read_test_rows(state, 99).keys == (store.coin.toss("c").key,)
    assert store.indices_of(store.coin.toss("b")) == []
    assert figures_of(store).inputs == 2


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "answers.db") as store:
        store.bind(STORED_QUESTION, "m")
        add(store, "a")
        check_files(tmp_path)


def check_files(tmp_path: Path) -> None:
    files = list(tmp_path.iterdir())
    assert files
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_name_that_looks_like_an_address_is_that_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with AnswerStore("file:answers.db") as store:
        store.bind(STORED_QUESTION, "m")
        check_files(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["file:answers.db"]


def test_no_text_is_in_the_file_unless_it_was_given(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "answers.db") as store:
        store.bind(STORED_QUESTION, "m")
        add(store, "a confidential card")
    assert b"confidential" not in (tmp_path / "answers.db").read_bytes()


def test_a_file_of_another_question_is_refused(store: AnswerStore, where: str) -> None:
    with AnswerStore(where) as other, pytest.raises(ConfigError, match="another"):
        other.bind("another question", "m")


def test_a_file_whose_question_differs_in_a_word_says_in_which(tmp_path: Path) -> None:
    def asked(means: str) -> str:
        options = [{"name": "card", "description": means}, {"name": "app", "description": None}]
        return json.dumps({"name": "q", "text": "Which?", "options": options})

    with AnswerStore(tmp_path / "a.db") as store:
        store.bind(asked("a payment card"), "m")
        with pytest.raises(ConfigError):
            store.bind(asked("a map"), "m")


def test_answers_of_an_older_version_say_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "answers.db"
    with AnswerStore(file) as store:
        store.bind(STORED_QUESTION, "m")
    raw = sqlite3.connect(file)
    raw.execute("alter table moa_learn_rows drop column moot")
    raw.close()
    for begun in (True, False):
        with pytest.raises(ConfigError):
            AnswerStore(file, must_exist=begun).open()


def test_to_look_at_answers_that_are_not_there_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        AnswerStore(tmp_path / "none.db", must_exist=True).open()
    assert not list(tmp_path.iterdir())


def test_figures_say_that_a_look_waits_for_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.learning.figures.LOOKS", (PlannedLook(0.05, held_out=1),))
    with AnswerStore(tmp_path / "answers.db") as store:
        store.bind(STORED_QUESTION, "m")
        add(store, "a", held=True)
        assert "waits for" not in figures_of(store).next
        store.add(NewRow(store.coin.toss("b"), True, "run", (0.5, 0.25), 1), 1)
        assert "waits for 1 held-out calls" in figures_of(store).next


def test_where_there_are_answers_of_keys_alone_these_are_named(tmp_path: Path) -> None:
    (tmp_path / "answers.alice.db").touch()
    with pytest.raises(ConfigError, match=r"answers\.alice\.db"):
        AnswerStore(tmp_path / "answers.db", must_exist=True).open()


def test_two_processes_toss_the_same_coin(store: AnswerStore, where: str) -> None:
    with AnswerStore(where) as other:
        other.bind(STORED_QUESTION, "m")
        assert other.coin.toss("a") == store.coin.toss("a")
        assert add(other, "a") != add(store, "b")


def test_a_look_is_spent_by_one_process_alone(store: AnswerStore, where: str) -> None:
    add(store, "a", held=True)
    with AnswerStore(where) as other:
        look = spent(store, 1)
        assert [store.claim(look), other.claim(look)] == [True, False]
        assert other.read_state().looks == 1


def test_a_look_whose_process_died_is_spent_and_finished_by_another(
    store: AnswerStore, where: str
) -> None:
    add(store, "a", held=True)
    look = spent(store, 1)
    store.claim(look)
    store.close()
    with AnswerStore(where) as other:
        other.bind(STORED_QUESTION, "m")
        state = other.read_state()
        assert (state.looks, state.used) == (1, None)
        found = other.find_unfinished_look(state)
        assert found is not None
        assert found == look
        finish(other, found)
        assert other.read_state().used == 0
        head = other.read_head(other.read_state())
        assert head is not None
        assert (head.calibration, head.exceptions) == (HEAD, frozenset({"k"}))
        finish(other, found, used=False)
        assert other.read_state().used == 0  # what was said stays


def test_held_out_texts_and_all_rows_with_them_are_never_fitted_to(store: AnswerStore) -> None:
    add(store, "fit")
    add(store, "both")
    add(store, "both", held=True)
    state = store.read_state()
    assert len(store.read_fit_rows(state, 99, 10)) == 1
    assert store.read_test_rows(state, 99).keys == (store.coin.toss("both").key,)


async def test_a_cascade_waits_for_locked_answers_a_moment_in_a_thread_of_their_own(
    postgres: str,
) -> None:
    import psycopg

    with AnswerStore(f"{postgres}#answers") as store, psycopg.connect(postgres) as other:
        store.bind("topic", "e5")
        other.execute("lock table moa_learn_rows")
        start = time.monotonic()
        with pytest.raises(StoreBusy):
            await store.run_in_thread(lambda: add(store, "a text"))
        assert time.monotonic() - start < 10  # in place of half a minute
        name = await store.run_in_thread(lambda: threading.current_thread().name)
        assert name.startswith("moa-answers-store")
        other.rollback()
        assert await store.run_in_thread(lambda: add(store, "a text")) == 1


def test_a_new_epoch_counts_texts_alone_that_were_held_out_in_none_before(
    store: AnswerStore,
) -> None:
    add(store, "old", held=True)
    store.withdraw(store.read_state(), "why")
    add(store, "old", held=True)
    add(store, "new", held=True)
    state = store.read_state()
    assert (state.epoch, state.looks, state.used) == (2, 0, None)
    assert store.count_held_out(state) == 1
    assert store.read_test_rows(state, 99).keys == (store.coin.toss("new").key,)
    assert store.find_held_out_place(state, 1) == 3


def test_all_answered_rows_are_read_in_blocks(
    store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 3)
    places = [add(store, f"text {number}") for number in range(8)]
    spared = store.add(NewRow(store.coin.toss("a"), False, "run", (0.5, 0.25), 1), 1)
    store.settle_by_small(spared, moot=False)
    blocks = [sorted(rows.places.tolist()) for rows in store.read_answered_rows(store.read_state())]
    assert blocks == [places[:3], places[3:6], places[6:]]


def test_what_is_withdrawn_twice_at_once_begins_one_epoch(store: AnswerStore) -> None:
    state = store.read_state()
    store.withdraw(state, "why")
    store.withdraw(state, "why")
    assert store.read_state().epoch == 2


def test_a_row_that_is_tried_again_is_the_same_or_is_replaced(store: AnswerStore) -> None:
    side, other = store.coin.toss("text"), store.coin.toss("other")
    place = store.add(NewRow(side, True, "run", (0.5, 0.25), 4), 1)
    assert store.resume(place, side) == (place, True)
    assert store.resume(place, other) is store.resume(place + 1, side) is None
    store.settle(place, LargeAnswer(None))
    assert store.resume(place, side) is None
    assert figures_of(store).inputs == 1  # until the next row is there
    again = store.add(NewRow(side, True, "run", (0.5, 0.25), 4, retries=place), 1)
    store.settle(again, LargeAnswer("card"))
    assert store.resume(again, side) == (again, True)
    now = figures_of(store)
    assert (now.inputs, now.calls, now.missing) == (1, 2, 0)
    state = store.read_state()
    assert store.count_held_out(state) == 1
    assert store.read_test_rows(state, 99).labels == (None, "card")


def test_an_answer_that_never_came_is_missing_after_a_while(
    store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = NewRow(store.coin.toss("a"), True, "run", (0.5, 0.25), 1)
    place = store.add(row, 1)
    add(store, "b")
    assert store.last_answered_place() == place - 1
    monkeypatch.setattr(module, "STALE_S", -1.0)
    assert store.last_answered_place() == place + 1
    store.settle(place, LargeAnswer("card"))  # too late: what counted as missing stays so
    assert store.read_test_rows(store.read_state(), 99).labels == (None,)


def test_an_answer_that_never_came_is_missing_though_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AnswerStore(tmp_path / "answers.db") as store:
        store.bind(STORED_QUESTION, "m")
        place = store.add(NewRow(store.coin.toss("a"), True, "run", (0.5, 0.25), 1), 1)
        monkeypatch.setattr("time.time", lambda: 1.0)
        assert store.last_answered_place() == place


def test_a_forgotten_text_is_no_exception_by_which_to_know_it(store: AnswerStore) -> None:
    places = [add(store, "a"), add(store, "a")]
    look = spent(store, 2)
    assert store.claim(look)
    key = store.coin.toss("a").key
    keep_outcome(store, look, exceptions=[key])
    for place, known in zip(places, ({key}, set[str]()), strict=True):
        store.forget(place)
        head = store.read_head(store.read_state())
        assert head is not None
        assert head.exceptions == known


def test_a_forgotten_row_leaves_nothing_that_was_read_of_it(
    store: AnswerStore, tmp_path: Path
) -> None:
    side = store.coin.toss("a")
    place = add(store, "a", "unique-label", held=True)
    assert store.indices_of(side) == [place]
    assert store.forget(place)
    assert not store.forget(99)
    assert store.indices_of(side) == []
    found = store.read_test_rows(store.read_state(), 99)
    assert found.labels == (None,)
    assert np.isnan(found.vectors).all()
    assert all(b"unique-label" not in file.read_bytes() for file in tmp_path.iterdir())


def test_a_killed_process_loses_nothing_that_it_had_kept(tmp_path: Path) -> None:
    file = tmp_path / "answers.db"
    told = list[str]()
    for first in (0, 1000):
        words = [sys.executable, str(WRITER), str(file), str(first)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while len(told) < 15 + 15 * (first // 1000):
                told.append(process.stdout.readline().strip())
            process.kill()
            told += [line.strip() for line in process.stdout if line.endswith("\n")]
    raw = sqlite3.connect(file)
    rows = raw.execute("select place, label, vector from moa_learn_rows").fetchall()
    raw.close()
    held = {place: (label, float(np.frombuffer(v, "<f2")[1])) for place, label, v in rows}
    for line in told:
        did, place, number = line.split()
        label, vector = held[int(place)]
        assert vector == float(number)
        assert did == "added" or label == "card"


def test_another_database_is_no_answers_and_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    other = sqlite3.connect(file)
    other.execute("create table mine (a)")
    other.commit()
    with pytest.raises(ConfigError):
        AnswerStore(file, must_exist=True).open()
    assert other.execute("select name from sqlite_schema").fetchall() == [("mine",)]
    other.close()


def test_an_epoch_is_about_one_large_node_and_no_other_process_adds_to_it(
    store: AnswerStore, where: str
) -> None:
    store.bind_large("m", {"questions": "1"})
    add(store, "a")
    state = store.read_state()
    with AnswerStore(where) as other:
        other.bind(STORED_QUESTION, "m")
        other.bind_large("m", {"questions": "2"})
        add(other, "b")
        assert other.read_epochs()[1][3] == "another large node: its questions changed"
        row = NewRow(store.coin.toss("c"), held=False, source="run", vector=(0.5, 0.25), length=1)
        with pytest.raises(StoreError, match="another large node"):
            store.add(row, state.epoch)
        with pytest.raises(StoreError, match="its questions changed"):
            store.read_state()
        assert other.last_place() == 2


def test_labels_of_another_large_node_are_neither_fitted_to_nor_tests(store: AnswerStore) -> None:
    store.bind_large("m", {"questions": "1"})
    add(store, "a")
    add(store, "b", held=True)
    store.bind_large("m", {"questions": "2"})
    add(store, "c")
    state = store.read_state()
    assert store.read_fit_rows(state, 99, 99).places.tolist() == [3]
    assert len(store.read_test_rows(state, 99)) == 0


def test_two_processes_with_the_same_new_large_node_begin_one_epoch(
    store: AnswerStore, where: str
) -> None:
    store.bind_large("m", {"questions": "1"})
    store.bind_large("m", {"questions": "2"})
    with AnswerStore(where) as other:
        other.bind(STORED_QUESTION, "m")
        other.bind_large("m", {"questions": "2"})
        assert len(other.read_epochs()) == 2
        assert other.read_state() == store.read_state()


@pytest.mark.parametrize(("model", "epochs"), [("m", 1), ("n", 2)])
def test_a_file_of_an_older_version_stays_with_the_large_node_of_its_model(
    tmp_path: Path, model: str, epochs: int
) -> None:
    with AnswerStore(tmp_path / "a.db") as store:
        store.bind(STORED_QUESTION, "small")
        with sqlite3.connect(tmp_path / "a.db") as file:
            file.execute("update moa_learn set made_of = 'small\nm'")
        store.bind_large(model, {"questions": "1"})
        assert len(store.read_epochs()) == epochs
        store.bind_large(model, {"questions": "2"})
        assert len(store.read_epochs()) == epochs + 1


@pytest.mark.parametrize("left", [False, True])
def test_a_file_that_was_removed_or_replaced_takes_no_row(tmp_path: Path, left: bool) -> None:
    path = tmp_path / "a.db"
    with AnswerStore(path) as store:
        store.bind(STORED_QUESTION, "m")
        add(store, "a")
        path.rename(tmp_path / "away.db")
        if left:
            path.write_bytes((tmp_path / "away.db").read_bytes())
        with pytest.raises(StoreError):
            store.read_state()
        with pytest.raises(StoreError):
            store.add(NewRow(store.coin.toss("b"), True, "run", None, 1), 1)
        (tmp_path / "away.db").rename(path)
        assert add(store, "b") == 2


@pytest.mark.parametrize(
    "damage",
    [
        "update moa_learn_looks set head = substr(head, 1, length(head) - 40)",
        "update moa_learn_looks set audit = '{\"risk\":'",
        "update moa_learn_looks set drift = '{\"x\":'",
        "update moa_learn set secret = 'zz'",
        "delete from moa_learn_epochs",
    ],
)
def test_figures_of_a_damaged_file_say_so_and_guarantee_nothing(
    tmp_path: Path, damage: str
) -> None:
    with AnswerStore(tmp_path / "a.db") as store:
        store.bind(STORED_QUESTION, "m")
        add(store, "a", held=True)
        look = spent(store, 1)
        store.claim(look)
        keep_outcome(store, look)
    with sqlite3.connect(tmp_path / "a.db") as file:
        file.execute(damage)
    with pytest.raises(StoreError):
        figures_at(str(tmp_path / "a.db"))


@pytest.mark.parametrize("table", ["moa_learn", "moa_learn_epochs"])
def test_rows_whose_question_or_epochs_are_lost_are_not_taken_for_a_new_file(
    tmp_path: Path, table: str
) -> None:
    with AnswerStore(tmp_path / "a.db") as store:
        store.bind(STORED_QUESTION, "m")
        add(store, "a")
    with sqlite3.connect(tmp_path / "a.db") as file:
        file.execute(f"delete from {table}")
    for _ in range(2):
        with AnswerStore(tmp_path / "a.db") as store, pytest.raises(ConfigError, match="damaged"):
            store.bind(STORED_QUESTION, "m")
