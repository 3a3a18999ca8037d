"""`moa label`: which texts are picked, by a person, by an LLM; what is labelled is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from calibration.made import QUESTION, endpoint, rows
from command import moa
from starlette.applications import Starlette

from moa.agents.classifier import Classifier
from moa.cli.label import Session
from moa.config.endpoints import Endpoints
from moa.core.context import RunContext
from moa.core.questions import Answer, Option, Question
from moa.core.usage import Price
from moa.decisions.file import Calibration
from moa.decisions.guarantee import Guarantee
from moa.evals.labelling import (
    LABEL,
    Agents,
    LabelFile,
    Pick,
    UnlabelledRow,
    find_helpful,
    pick_texts,
)
from moa.evals.learning import Lesson, Terms, learn_from
from moa.graphs.single_model import single_model
from moa.learning.examples import labelled_examples
from moa.learning.fit import calibrate
from moa.learning.labelled import Labelled, clean_rows
from moa.studio.data import Query, RowLine
from moa.studio.sources import View

pytestmark = pytest.mark.usefixtures("no_encoder")


@pytest.fixture(name="made", scope="module")
def _made(no_encoder: None) -> Calibration:
    return asyncio.run(calibrate(endpoint(), QUESTION, rows(160)))


@pytest.fixture(autouse=True)
def folder(made: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Endpoints, "slm", endpoint())
    made.save("spam.json")
    lines = [json.dumps({"text": row.text, "id": n}) for n, row in enumerate(rows(60, seed=5))]
    Path("in.jsonl").write_text("\n".join(lines))


def label(*words: str) -> int:
    return moa("label", "spam.json", "in.jsonl", "--out", "out.jsonl", *words)


def labelled() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]


def answer(*labels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label the rows of the page in their order; `-` leaves one out, and `<` undoes the last."""

    def show(view: View, app: Starlette, *, port: int, open_page: bool) -> None:
        del app, port, open_page
        left = iter(entry.place for entry in view.book.entries)
        for label in labels:
            if label == "<":
                view.undo()
            elif (place := next(left)) >= 0 and label != "-":
                view.label(place, LABEL, label)
        view.close()

    monkeypatch.setattr("moa.cli.label.show", show)


def checked(sheet: str, *labels: str) -> None:
    """Check the first lines of a sheet, with these labels; `-` leaves one unchecked."""
    lines = [json.loads(line) for line in Path(sheet).read_text().splitlines()]
    for line, label in zip(lines, labels, strict=False):
        line |= {"label": label, "checked": True} if label != "-" else {}
    Path(sheet).write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def ready(made: Calibration) -> Agents:
    return {LABEL: cast("Any", single_model(endpoint(), calibration=made))}


def unlabelled(texts: Iterable[str]) -> list[UnlabelledRow]:
    return [UnlabelledRow(text, {}, {LABEL: text}) for text in texts]


async def test_half_is_drawn_and_half_chosen_in_turn(made: Calibration) -> None:
    texts = unlabelled(row.text for row in rows(80, seed=3))
    picks = await pick_texts(ready(made), texts, most=20)
    assert [pick.chosen for pick in picks] == [True, False] * 10
    assert len({pick.place for pick in picks}) == 20


async def test_doubtful_texts_are_chosen_first(made: Calibration) -> None:
    texts = unlabelled(row.text for row in rows(200, seed=3))
    picks = await pick_texts(ready(made), texts, most=12)
    chosen = [float(texts[p.place].text.split()[-1]) for p in picks if p.chosen]
    assert np.mean([abs(p - 0.5) for p in chosen]) < 0.2


async def test_what_is_drawn_does_not_depend_on_what_was_labelled(made: Calibration) -> None:
    texts = unlabelled(row.text for row in rows(80, seed=3))
    at_once = [p.place for p in await pick_texts(ready(made), texts, most=40) if not p.chosen]
    first = await pick_texts(ready(made), texts, most=20)
    known = [texts[p.place].text for p in first]
    then = await pick_texts(ready(made), texts, most=20, labelled=known)
    drawn = [p.place for p in (*first, *then) if not p.chosen]
    assert drawn == at_once


async def test_texts_that_people_have_corrected_may_still_be_drawn(made: Calibration) -> None:
    texts = unlabelled(row.text for row in rows(80, seed=3))
    drawn = await pick_texts(ready(made), texts, most=20, at_random=True)
    corrected = [{"text": texts[pick.place].text.upper(), "label": "b"} for pick in drawn[::2]]
    again = await pick_texts(ready(made), texts, most=20, at_random=True, chosen=corrected)
    assert [pick.place for pick in again] == [pick.place for pick in drawn]
    assert [pick.known for pick in again] == [{"label": "b"}, {}] * 10
    everything = [{"text": text.text} for text in texts]
    mixed = await pick_texts(ready(made), texts, most=20, chosen=everything)
    assert not any(pick.chosen or pick.known for pick in mixed)


async def test_a_copy_of_a_text_is_chosen_once(made: Calibration) -> None:
    texts = unlabelled(["one 0.5", "ONE  0.5", "two 0.5"] * 3)
    assert len(await pick_texts(ready(made), texts, most=20)) == 2


def test_a_text_like_one_that_was_chosen_waits() -> None:
    said = [Answer(question=QUESTION, probabilities=(p, 1 - p)) for p in (0.52, 0.521, 0.45)]
    vectors = np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]])
    assert find_helpful([{LABEL: one} for one in said], vectors, most=3) == [0, 2, 1]


async def test_texts_for_a_promise_are_all_drawn_at_random(made: Calibration) -> None:
    texts = unlabelled(row.text for row in rows(80, seed=3))
    picks = await pick_texts(ready(made), texts, most=20, at_random=True)
    mixed = await pick_texts(ready(made), texts, most=20)
    assert [pick.chosen for pick in picks] == [False] * 20
    drawn = [pick.place for pick in mixed if not pick.chosen]
    assert [pick.place for pick in picks][: len(drawn)] == drawn


@pytest.mark.parametrize("turns", [1, -1])
def test_a_text_that_was_chosen_and_drawn_counts_as_drawn(turns: int) -> None:
    lines = [Labelled(text="a", label="x", chosen=True), Labelled(text="A", label="x")][::turns]
    first, _ = clean_rows([*lines, Labelled(text="b", label="y")]).rows
    assert not first.chosen


async def test_what_a_graph_learns_of_a_text_is_its_last_label_and_whether_it_was_drawn() -> None:
    agent, terms = Classifier(endpoint(), ["a", "b"]), Terms(guarantee=Guarantee())
    some = rows(60)
    other = {"a": "b", "b": "a"}
    corrected = [row.model_copy(update={"label": other[row.label], "chosen": True}) for row in some]
    question = agent.questions[0]
    context = RunContext()
    (twice, once) = [
        await learn_from(agent, question, data, terms, context=context)
        for data in ([*corrected, *some], some)
    ]
    assert isinstance(twice, Lesson)
    assert isinstance(once, Lesson)
    assert (twice.labels, twice.drawn) == (60, 60)
    assert twice.before == once.before


def test_an_agent_takes_the_last_label_of_a_text_for_its_example(tmp_path: Path) -> None:
    lines = ({"text": "one", "label": "a"}, {"text": "ONE", "label": "b"})
    file = tmp_path / "labelled.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (example,) = labelled_examples(file, QUESTION)
    assert example.labels == {"label": "b"}


def test_chosen_rows_are_fitted_to_and_never_held_out() -> None:
    data = [*rows(160), *(Labelled(text=f"c{n} 0.5", label="a", chosen=True) for n in range(40))]
    made = asyncio.run(calibrate(endpoint(), QUESTION, data))
    alone = asyncio.run(calibrate(endpoint(), QUESTION, rows(160)))
    assert made.proof.data.chosen == 40
    assert made.proof.data.held_out <= alone.proof.data.held_out * 1.05
    assert made.proof.bound.labels == made.proof.data.held_out
    assert made.proof.data.rows == alone.proof.data.rows + 40
    assert any("chosen to be labelled" in note for note in made.notes)


def test_the_page_labels_texts_as_drawn_or_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    answer("a", "b", "-", "b", monkeypatch=monkeypatch)
    assert label() == 0
    found = labelled()
    assert [row["label"] for row in found] == ["a", "b", "b"]
    assert [row["chosen"] for row in found] == [True, False, False]
    assert {row["labelled_by"] for row in found} == {"person"}
    assert all({"text", "id"} <= set(row) for row in found)


def test_the_page_shows_current_decisions_in_the_order_of_the_draw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[RowLine] = []

    def show(view: View, app: Starlette, *, port: int, open_page: bool) -> None:
        shown.extend(view.book.find(Query()).rows)

    monkeypatch.setattr("moa.cli.label.show", show)
    assert label("--random") == 1
    assert [row.place for row in shown] == [*range(len(shown))]
    for row in shown:
        assert row.said[LABEL].label == ("a" if float(row.text.split()[-1]) > 0.5 else "b")
    assert not Path("out.jsonl").exists()


def test_ctrl_c_ends_the_page_and_keeps_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    def show(view: View, app: Starlette, *, port: int, open_page: bool) -> None:
        view.label(0, LABEL, "a")
        raise KeyboardInterrupt

    monkeypatch.setattr("moa.cli.label.show", show)
    assert label() == 0
    assert len(labelled()) == 1


def test_it_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    answer("a", "a", monkeypatch=monkeypatch)
    assert label() == 0
    answer("b", monkeypatch=monkeypatch)
    assert label() == 2
    assert label("--resume") == 0
    assert len({row["text"] for row in labelled()}) == 3


def test_who_starts_over_drops_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    answer("a", "a", monkeypatch=monkeypatch)
    assert label() == 0
    answer("b", monkeypatch=monkeypatch)
    assert label("--overwrite") == 0
    assert [row["label"] for row in labelled()] == ["b"]


def corrected(monkeypatch: pytest.MonkeyPatch, *places: int) -> list[dict[str, Any]]:
    """Label ten texts drawn at random; make the file as if some of them were corrected before."""
    answer(*"a" * 10, monkeypatch=monkeypatch)
    assert label("--random", "--limit", "10") == 0
    drawn = labelled()
    lines = [
        {**drawn[n], "label": "b", "labelled_by": "ann", "chosen": True, "id": None} for n in places
    ]
    Path("out.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return drawn


def test_a_text_that_was_corrected_before_keeps_its_label_when_it_is_drawn_and_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = corrected(monkeypatch, 0, 2)
    answer("a", *"------", "a", monkeypatch=monkeypatch)
    assert label("--random", "--limit", "10", "--resume") == 0
    found = labelled()[2:]
    assert [row["text"] for row in found] == [drawn[n]["text"] for n in (0, 1, 2, 9)]
    assert [row["label"] for row in found] == ["b", "a", "b", "a"]
    assert [row["labelled_by"] for row in found] == ["ann", "person", "ann", "person"]
    assert not any(row["chosen"] for row in found)
    said = " ".join(capsys.readouterr().err.split())
    assert "2 labelled before because somebody chose them, and taken over as drawn" in said
    assert "it has 4 labelled messages, 4 of them drawn at random" in said


def test_who_stops_early_takes_over_no_text_of_the_sample_that_comes_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = corrected(monkeypatch, 1, 3)
    answer("a", "-", "<", monkeypatch=monkeypatch)
    assert label("--random", "--limit", "10", "--resume") == 0
    assert len(labelled()) == 2
    answer("-", "a", monkeypatch=monkeypatch)
    assert label("--random", "--limit", "10", "--resume") == 0
    found = labelled()[2:]
    assert [row["text"] for row in found] == [drawn[n]["text"] for n in (1, 2)]


def test_texts_that_have_all_labels_need_no_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corrected(monkeypatch, 0, 1)
    assert label("--random", "--limit", "2", "--resume") == 0
    assert "all texts are labelled already" in capsys.readouterr().err
    assert [row["chosen"] for row in labelled()] == [True, True, False, False]


def test_labels_that_a_drawn_text_has_for_some_questions_are_taken_over_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {
        question.name: Answer(question=question, probabilities=(0.9, 0.1))
        for question in (FELT, JUNK)
    }
    pick = Pick(0, chosen=False, answers=said, known={"felt": "good"}, known_by="ann")
    assert pick.guess == {"felt": "good", "junk": "yes"}

    def show(view: View, app: Starlette, *, port: int, open_page: bool) -> None:
        view.label(0, "junk", "no")

    monkeypatch.setattr("moa.cli.label.show", show)
    file = LabelFile(tmp_path / "two.jsonl", existing="refuse", source=None)
    row = UnlabelledRow("hello", {"text": "hello", "junk": "mail"}, {})
    session = Session(file, [row], [pick], [FELT, JUNK])
    session.show_page(port=0, open_page=False, overwrite=False)
    taken, given = map(json.loads, (tmp_path / "two.jsonl").read_text().splitlines())
    assert taken == {"text": "hello", "felt": "good", "labelled_by": "ann", "chosen": False}
    assert given == {"text": "hello", "junk": False, "labelled_by": "person", "chosen": False}


def test_a_sheet_is_checked_in_an_editor_and_read_by_the_same_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert label("--sheet", "sheet.jsonl", "--limit", "4") == 0
    assert "4 messages in sheet.jsonl" in " ".join(capsys.readouterr().err.split())
    assert not Path("out.jsonl").exists()
    unread = [json.loads(line) for line in Path("sheet.jsonl").read_text().splitlines()]
    assert {row["labelled_by"] for row in unread} == {"slm"}
    assert label("--sheet", "sheet.jsonl") == 1
    checked("sheet.jsonl", "a", "-", "b")
    assert label("--sheet", "sheet.jsonl") == 0
    found = labelled()
    assert [(row["label"], row["chosen"]) for row in found] == [("a", True), ("b", True)]
    assert {row["labelled_by"] for row in found} == {"person"}
    assert all(row.keys() == {"text", "id", "label", "labelled_by", "chosen"} for row in found)
    checked("sheet.jsonl", "a", "b")
    assert label("--sheet", "sheet.jsonl", "--resume") == 0
    assert [row["label"] for row in labelled()] == ["a", "b", "b"]


def test_a_sheet_has_the_current_decisions() -> None:
    assert label("--sheet", "sheet.jsonl", "--limit", "4") == 0
    for line in map(json.loads, Path("sheet.jsonl").read_text().splitlines()):
        assert line["label"] == ("a" if float(line["text"].split()[-1]) > 0.5 else "b")


@pytest.mark.parametrize(
    ("given", "said"), [("baad", "'baad' is none of a, b"), ("", "nothing is decided about label")]
)
def test_a_checked_line_with_no_label_is_refused_and_nothing_is_written(
    given: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert label("--sheet", "sheet.jsonl", "--limit", "4") == 0
    checked("sheet.jsonl", "a", given)
    assert label("--sheet", "sheet.jsonl") == 2
    assert "row 2 of the sheet" in (told := " ".join(capsys.readouterr().err.split()))
    assert said in told
    assert not Path("out.jsonl").exists()


def test_a_sheet_takes_over_labels_up_to_its_last_checked_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = corrected(monkeypatch, 0, 2)
    words = ("--random", "--limit", "10", "--resume", "--sheet", "sheet.jsonl")
    assert label(*words) == 0
    checked("sheet.jsonl", "-", "a")
    assert label(*words) == 0
    found = labelled()[2:]
    assert [row["text"] for row in found] == [drawn[n]["text"] for n in (0, 1)]
    assert [row["labelled_by"] for row in found] == ["ann", "person"]


def test_either_a_person_or_a_model_labels(capsys: pytest.CaptureFixture[str]) -> None:
    assert label("--by-llm", "--sheet", "sheet.jsonl") == 2
    assert "give one of them" in capsys.readouterr().err


def test_the_large_model_is_not_asked_about_a_text_that_was_corrected_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = corrected(monkeypatch, 0, 2)
    large = endpoint(name="large", tier="llm")
    monkeypatch.setattr(Endpoints, "llm", large)
    monkeypatch.setattr(Endpoints, "has_llm", True)
    assert label("--by-llm", "--random", "--limit", "10", "--resume") == 0
    found = {row["text"]: row["labelled_by"] for row in labelled()[2:]}
    by = [found[row["text"]] for row in drawn[:4]]
    assert by == ["ann", "large: scripted-1", "ann", "large: scripted-1"]
    assert len(found) == 10
    assert "2 labelled before" in capsys.readouterr().err


FELT = Question("felt", "choice", "How?", (Option("bad", "bad"), Option("good", "good")))
JUNK = Question(
    "junk", "predicate", "Junk?", (Option("yes", value=True), Option("no", value=False))
)


def test_no_label_at_all_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch=monkeypatch)
    assert label() == 1
    assert not Path("out.jsonl").exists()


def test_another_file_is_not_added_to(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.jsonl").write_text('{"name": "x"}\n')
    assert label("--resume") == 2
    assert "line 1 is none of those that would be written there" in capsys.readouterr().err
    assert Path("out.jsonl").read_text() == '{"name": "x"}\n'


def test_the_large_model_labels_and_the_file_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Endpoints, "llm", endpoint(name="large", tier="llm"))
    monkeypatch.setattr(Endpoints, "has_llm", True)
    assert label("--by-llm", "--limit", "10") == 0
    found = labelled()
    assert len(found) == 10
    assert {row["labelled_by"] for row in found} == {"large: scripted-1"}
    for row in found:
        assert row["label"] == ("a" if float(row["text"].split()[-1]) > 0.5 else "b")


def test_the_large_model_stops_when_the_budget_is_spent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    price = Price(input=Decimal(50_000), output=Decimal(0))
    monkeypatch.setattr(Endpoints, "llm", endpoint(name="large", tier="llm", price=price))
    monkeypatch.setattr(Endpoints, "has_llm", True)
    assert label("--by-llm", "--limit", "30", "--budget-usd", "5") == 0
    assert 0 < len(labelled()) < 30
    assert "budget is spent" in capsys.readouterr().err


def test_a_small_model_does_not_label_for_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert label("--by-llm") == 2
    assert "needs a large model" in capsys.readouterr().err


def test_what_was_labelled_is_calibrated_on(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(*"ab" * 20, monkeypatch=monkeypatch)
    assert label("--limit", "40") == 0
    assert moa("learn", "out.jsonl", "--task", "Spam?", "--out", "new.json") == 0
    data = Calibration.load("new.json").data
    assert data is not None
    assert data.labelled_by == {"person": 40}
    assert data.chosen == 20


def test_rows_without_a_text_are_told_by_their_columns(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.jsonl").write_text('{"mail": "hello 0.9", "date": "today"}\n')
    assert label() == 2
    assert "'mail', 'date'" in capsys.readouterr().err


def test_an_empty_text_is_passed_over_and_other_columns_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = ({"id": "1", "text": None}, {"id": "2", "text": "hello 0.9", "label": "old"})
    Path("in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    answer("a", monkeypatch=monkeypatch)
    assert label() == 0
    (row,) = labelled()
    assert (row["id"], row["text"], row["label"]) == ("2", "hello 0.9", "a")


def test_recorded_answers_that_lack_a_column_name_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("log.jsonl").write_text('{"prompt": "hello", "weak_correct": true}\n')
    assert moa("route", "fit", "log.jsonl", "--out", "r.json") == 2
    assert "takes 'strong_correct'" in capsys.readouterr().err
