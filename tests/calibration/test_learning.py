"""Learning: what is fitted to the rows of a stream."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.answering import STORED_QUESTION
from moa.core.questions import Option, Question
from moa.decisions.features import LabelFeature, VectorFeature
from moa.learning import looks as module
from moa.learning.answer_rows import LargeAnswer, NewRow, RowArrays
from moa.learning.answers import AnswerStore
from moa.learning.epochs import PlannedLook
from moa.learning.labelled import OTHERWISE
from moa.learning.looks import Learning, probabilities_of

OWN, ENCODED = LabelFeature(name="small"), VectorFeature(name="encoder", source="encoder")
QUESTION = Question("q", "choice", "?", (Option("a", "a"), Option("b", "b")))
N, PARTS = 60, 8
LOOKING = Path(__file__).with_name("looking.py")


@pytest.mark.parametrize("useful", ["small", "encoder"])
def test_a_head_that_leaves_a_feature_out_judges_rows_that_have_both(
    tmp_path: Path, useful: str
) -> None:
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, N)
    p = np.where(right, 0.1, 0.9) if useful == "small" else np.full(N, 0.5)
    vectors = rng.normal(size=(N, PARTS))
    if useful == "encoder":
        vectors[:, 0] = 6.0 * right
    rows = RowArrays(
        places=np.arange(N),
        keys=tuple(map(str, range(N))),
        vectors=np.column_stack([np.log(p), np.log(1 - p), vectors]),
        labels=tuple("ab"[one] for one in right),
        epochs=np.ones(N, np.intp),
        lengths=(1,) * N,
        languages=(None,) * N,
    )
    learning = Learning(AnswerStore(tmp_path / "answers.db"), QUESTION, (OWN, ENCODED))
    fitted = learning.fit(rows, epoch=1)
    assert fitted is not None
    given = probabilities_of(fitted.calibration, rows.vectors)[0].argmax(1)
    assert (given == right).mean() > 0.95


def test_a_head_learns_where_another_decision_differs_and_accepts_nothing_there(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    right = rng.integers(0, 3, N)
    vectors = rng.normal(size=(N, PARTS)) + 6.0 * np.eye(PARTS)[right]
    rows = RowArrays(
        places=np.arange(N),
        keys=tuple(map(str, range(N))),
        vectors=np.column_stack([np.full((N, 3), np.log(1 / 3)), vectors]),
        labels=tuple(("a", "b", OTHERWISE)[int(one)] for one in right.tolist()),
        epochs=np.ones(N, np.intp),
        lengths=(1,) * N,
        languages=(None,) * N,
    )
    asked = replace(QUESTION, options=(*QUESTION.options, Option(OTHERWISE, None)))
    store = AnswerStore(tmp_path / "answers.db")
    fitted = Learning(store, asked, (OWN, ENCODED)).fit(rows, epoch=1)
    assert fitted is not None
    p, sure = probabilities_of(fitted.calibration, rows.vectors)
    differs = p.argmax(1) == 2
    assert (differs == (right == 2)).mean() > 0.95
    assert np.isneginf(sure[differs]).all()
    assert (sure[~differs] > 0).all()
    assert not fitted.right[fitted.sure == 0].any()
    assert 0 < (fitted.sure == 0).sum() < N


def filled(file: Path) -> AnswerStore:
    """Begin answers to 400 texts, which the small node knows."""
    rng = np.random.default_rng(1)
    store = AnswerStore(file).open()
    store.bind(STORED_QUESTION, "m")
    for number in range(400):
        right = int(rng.integers(0, 2))
        p = 0.05 if right else 0.95
        side = store.coin.toss(f"text {number}")
        row = NewRow(side, side.is_held_out(0), "run", (np.log(p), np.log(1 - p)), 10)
        store.settle(store.add(row, 1), LargeAnswer("ab"[right]))
    return store


def learner(store: AnswerStore) -> Learning:
    return Learning(store, QUESTION, (OWN,))


def looked(store: AnswerStore) -> list[tuple[object, ...]]:
    """What is kept of the looks; heads say when they were made."""
    found = store.read_looks()
    head = store.read_head(store.read_state())
    return [*found, (store.read_state(), head and head.exceptions)]


def finish(one: Learning) -> None:
    """Look, and then check what was answered since."""
    one.step()
    one.step()


class Killed(BaseException):
    """Stands for a kill."""


class Dying(AnswerStore):
    """Is killed after so many statements that change something."""

    left = 10**6

    def _run(self, sql: str, *values: object, job_first: bool = True) -> list[tuple[object, ...]]:
        found = super()._run(sql, *values, job_first=job_first)
        if not sql.startswith("select"):
            self.left -= 1
            if not self.left:
                raise Killed
        return found


def test_a_look_is_spent_once_and_says_the_same_wherever_a_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOKS", (PlannedLook(0.05, held_out=150),))
    file, whole = tmp_path / "answers.db", tmp_path / "whole.db"
    filled(file).close()
    shutil.copy(file, whole)
    with AnswerStore(whole) as store:
        store.bind(STORED_QUESTION, "m")
        finish(learner(store))
        said = looked(store)
        assert store.read_state().used == 0
    kills = 0
    for number in range(1, 50):
        copy = tmp_path / f"{number}.db"
        shutil.copy(file, copy)
        dying = Dying(copy).open()
        dying.bind(STORED_QUESTION, "m")
        dying.left = number
        try:
            learner(dying).step()
        except Killed:
            dying.close()
            kills += 1
        else:
            dying.close()
            break
        with AnswerStore(copy) as other:
            other.bind(STORED_QUESTION, "m")
            finish(learner(other))
            assert looked(other) == said
    assert kills >= 3


def test_a_process_that_is_killed_in_a_look_has_spent_it_and_another_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOKS", (PlannedLook(0.05, held_out=150),))
    file = tmp_path / "answers.db"
    with filled(file) as store:
        words = [sys.executable, str(LOOKING), str(file)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "spent\n"
            process.kill()
        state = store.read_state()
        assert (state.looks, state.used) == (1, None)
        spent = store.find_unfinished_look(state)
        assert spent is not None
        finish(learner(store))
        assert store.find_unfinished_look(state) is None
        assert [look[2] for look in store.read_looks()] == [spent.cut]
        assert store.read_state().used == 0


def test_two_that_look_at_once_spend_one_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOKS", (PlannedLook(0.05, held_out=150),))
    with filled(tmp_path / "answers.db") as store:
        first, second = learner(store), learner(store)
        claim = store.claim

        def both(spent: object) -> bool:
            monkeypatch.setattr(store, "claim", claim)
            second.step()  # as far as it comes, while the first has fitted and not yet claimed
            return claim(spent)  # type: ignore[arg-type]

        monkeypatch.setattr(store, "claim", both)
        first.step()
        assert len(store.read_looks()) == 1
        assert first.current()[0] == second.current()[0] == store.read_state()
        assert store.read_state().used == 0


def test_an_error_of_a_library_stops_the_learning_is_told_once_and_checks_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fit(*_: object) -> None:
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(module, "LOOKS", (PlannedLook(0.05, held_out=150),))
    monkeypatch.setattr(Learning, "fit", fit)
    with filled(tmp_path / "answers.db") as store, caplog.at_level(logging.WARNING):
        one = learner(store)
        for place in (400, 500, 600):
            one.wake(place)
            one.join()
        assert store.read_looks() == []
        assert "start it again" in one.stopped
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "SVD did not converge" in caplog.text


def test_a_head_that_can_no_longer_be_checked_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOKS", (PlannedLook(0.05, held_out=150),))

    def broken(*_: object) -> str:
        raise MemoryError

    with filled(tmp_path / "answers.db") as store:
        one = learner(store)
        one.step()
        assert one.current()[1] is not None
        monkeypatch.setattr(Learning, "_withdrawal_reason", broken)
        one.step()
        assert one.current()[1] is not None
        one.step()
        assert one.current()[1] is None
