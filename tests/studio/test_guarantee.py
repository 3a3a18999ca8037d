"""What the page says of a tested guarantee stays true whatever people label on it."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from moa.agents.classifier import Classifier
from moa.cli.label import Session
from moa.core.errors import InputError
from moa.core.questions import Option, Question
from moa.decisions.bounds import Bound
from moa.decisions.defaults import make_unfitted
from moa.decisions.file import Calibration
from moa.decisions.guarantee import Guarantee
from moa.evals.labelling import LabelFile, UnlabelledRow, pick_texts
from moa.studio.data import Figure, Query
from moa.studio.labels import Labels
from moa.studio.sources import View, find_source
from moa.testing import SimulatedEndpoint
from studio.lines import row, written

SURE, UNSURE = {"delivery": 0.9, "refund": 0.1}, {"delivery": 0.6, "refund": 0.4}
OTHER = {"delivery": "refund", "refund": "delivery"}


def calibration(*options: str, name: str = "intent", summary: str = "") -> Calibration:
    """Make a calibration whose guarantee was tested."""
    question = Question(name, "choice", "Which?", tuple(Option(one, one) for one in options))
    bound = Bound(guarantee=Guarantee(risk=0.5), threshold=0.8, labels=300, summary=summary)
    return make_unfitted(question, origin="a test").model_copy(update={"bound": bound})


def line(id: str, likely: dict[str, float] = SURE, **more: Any) -> dict[str, Any]:
    return row(id, more.pop("text", f"Text of {id}."), likely, accepted=likely is SURE, **more)


def view_of(folder: Path, lines: Sequence[dict[str, Any]], labels: Sequence[object] = ()) -> View:
    file = folder / "labelled.jsonl"
    if labels:
        file.write_text("".join(f"{one}\n" for one in labels), "utf-8")
    return View(
        find_source(str(written(folder / "run.jsonl", lines))),
        labels=Labels(file),
        calibrations={"intent": calibration("delivery", "refund")},
    )


def guarantee(view: View) -> Figure:
    return view.overview().figures[3]


def checked(view: View) -> tuple[int, int]:
    """Return how many are wrong of those that the tile of the guarantee counts."""
    found = re.search(r"(\d+) of (\d+) checked", guarantee(view).detail)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def place_of(view: View, id: str) -> int:
    return next(entry.place for entry in view.book.entries if entry.id == id)


def drawn(right: int, wrong: int) -> list[dict[str, Any]]:
    """Give accepted rows that were drawn at random, with their labels."""
    return [line(f"r{i}", right="delivery") for i in range(right)] + [
        line(f"w{i}", right="refund") for i in range(wrong)
    ]


@pytest.mark.parametrize("label", ["refund", "delivery"])
def test_who_labels_wrong_rows_of_the_test_makes_its_bound_no_better(
    tmp_path: Path, label: str
) -> None:
    view = view_of(tmp_path, drawn(right=20, wrong=6))
    before, curves = guarantee(view), view.overview().curves[0].points
    assert checked(view) == (6, 26)
    for i in range(6):
        view.label(place_of(view, f"w{i}"), "intent", label)
    assert guarantee(view) == before
    assert view.overview().curves[0].points == curves
    view.reload()
    assert guarantee(view) == before


def test_a_row_of_the_test_that_a_person_finds_wrong_counts_as_wrong(tmp_path: Path) -> None:
    view = view_of(tmp_path, drawn(right=20, wrong=6))
    before = guarantee(view)
    view.label(place_of(view, "r0"), "intent", "refund")
    assert checked(view) == (7, 26)
    view.label(place_of(view, "r0"), "intent", "delivery")
    view.reload()
    assert checked(view) == (7, 26), "a row that was found wrong is right again by undo alone"
    view.undo()
    view.undo()
    assert guarantee(view) == before


def test_a_label_that_was_drawn_at_random_is_tested_with_after_it_is_corrected(
    tmp_path: Path,
) -> None:
    labels = [
        json.dumps({"text": f"Text of {i}.", "intent": "refund", "chosen": False}) for i in "ab"
    ]
    view = view_of(tmp_path, [line("a"), line("b"), line("c")], labels)
    assert checked(view) == (2, 2)
    for i in "abc":
        view.label(place_of(view, i), "intent", "delivery")
    assert checked(view) == (2, 2)
    view.reload()
    assert checked(view) == (2, 2)
    (first, *_) = (tmp_path / "labelled.jsonl").read_text("utf-8").splitlines()
    assert json.loads(first)["earlier_labels"] == {"intent": ["refund"]}


@pytest.mark.parametrize("turns", [1, -1])
def test_a_text_that_was_corrected_and_drawn_tests_the_guarantee(
    tmp_path: Path, turns: int
) -> None:
    labels = [
        json.dumps({"text": "Text of a.", "intent": "refund", "chosen": chosen})
        for chosen in (True, False)
    ]
    view = view_of(tmp_path, [line("a"), line("b")], labels[::turns])
    assert checked(view) == (1, 1)


@pytest.mark.parametrize("corrected", [0, 7, 40])
async def test_what_was_corrected_before_a_draw_is_as_often_wrong_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corrected: int
) -> None:
    view = view_of(tmp_path, [line(str(i)) for i in range(80)])
    for i in range(corrected):
        view.label(i, "intent", "refund")
    small = SimulatedEndpoint(rule=lambda _: {"intent": SURE})
    agent = Classifier(small, ["delivery", "refund"], name="intent")
    texts = [f"Text of {i}." for i in range(80)]
    rows = [UnlabelledRow(text, {"text": text}, {"intent": text}) for text in texts]
    assert view.labels is not None
    with LabelFile(view.labels.path, existing="resume", source=None) as file:
        agents: Any = {"intent": agent}
        picks = await pick_texts(agents, rows, most=30, chosen=file.chosen_lines, at_random=True)
        session = Session(file, rows, picks, agent.questions)
        session.take_over()
    wrong = [pick.place < 40 for pick in picks]

    def show(page: View, app: Starlette, *, port: int, open_page: bool) -> None:
        for entry in page.book.entries:
            label = "refund" if int(entry.text.split()[-1][:-1]) < 40 else "delivery"
            page.label(entry.place, "intent", label)

    monkeypatch.setattr("moa.cli.label.show", show)
    session.show_page(port=0, open_page=False, overwrite=False)
    view.reload()
    assert 5 < sum(wrong) < 25
    assert checked(view) == (sum(wrong), 30)


def test_a_drawn_label_that_no_decision_ever_had_is_one_that_was_missed(tmp_path: Path) -> None:
    labels = [
        json.dumps({"text": f"Text of {id}.", "intent": intent})
        for id, intent in (("a", "delivery"), ("b", "a complaint"), ("c", ""))
    ]
    assert checked(view_of(tmp_path, [line(id) for id in "abc"], labels)) == (1, 2)


def test_an_own_label_that_no_decision_ever_had_is_one_that_was_missed(tmp_path: Path) -> None:
    values: list[object] = ["delivery", "a complaint", 7, True, "", None]
    lines = [line(str(i), right=value) for i, value in enumerate(values)]
    view = view_of(tmp_path, lines)
    assert checked(view) == (3, 4)
    assert view.overview().notes == ()


def test_numbers_and_truths_in_the_file_of_labels_are_labels_too(tmp_path: Path) -> None:
    labels = [
        json.dumps({"text": f"Text of {id}.", "intent": intent})
        for id, intent in (("a", "delivery"), ("b", 7), ("c", True), ("d", None))
    ]
    assert checked(view_of(tmp_path, [line(id) for id in "abcd"], labels)) == (2, 3)


def test_labels_that_are_whole_numbers_are_those_of_options_with_their_digits(
    tmp_path: Path,
) -> None:
    stars = [row(str(i), f"Text {i}.", {"4": 0.9, "5": 0.1}, right=4 + i / 2) for i in range(3)]
    rights = [entry.right for entry in view_of(tmp_path, stars).book.entries]
    assert rights == [{"intent": "4"}, {"intent": "4.5"}, {"intent": "5"}]


def test_a_column_of_something_else_is_not_labels_and_the_page_says_so(tmp_path: Path) -> None:
    labels = [json.dumps({"text": f"Text of {id}.", "intent": f"ticket {id}"}) for id in "ab"]
    view = view_of(tmp_path, [line(id, right=f"page {id}") for id in "abc"], labels)
    assert checked(view) == (0, 0)
    assert view.overview().questions[0].labelled == 0
    assert view.overview().notes == tuple(
        f"The column intent of {place} isn't taken for labels: no value of it is an option of the "
        "question intent."
        for place in ("the rows", "the file of labels")
    )


def test_a_first_label_and_its_undo_count_and_uncount_a_whole_column(tmp_path: Path) -> None:
    labels = [json.dumps({"text": "Text of a.", "intent": "a complaint"})]
    view = view_of(tmp_path, [line("a"), line("b")], labels)
    before = (tmp_path / "labelled.jsonl").read_bytes()
    assert checked(view) == (0, 0)
    for _ in range(2):
        view.label(place_of(view, "b"), "intent", "delivery")
        assert checked(view) == (1, 1)
        assert view.overview().notes == ()
        view.reload()
        assert checked(view) == (1, 1)
        view.undo()
        assert checked(view) == (0, 0)
    assert (tmp_path / "labelled.jsonl").read_bytes() == before


def test_the_last_line_of_a_text_has_its_label_and_the_row_is_tested_with_all(
    tmp_path: Path,
) -> None:
    labels = [
        json.dumps({"text": "Text of a.", "intent": intent, "chosen": chosen})
        for intent, chosen in (("refund", False), ("delivery", True), ("", False), (None, False))
    ]
    view = view_of(tmp_path, [line("a"), line("b")], labels)
    (first, _) = view.book.entries
    assert (first.right, checked(view)) == ({"intent": "delivery"}, (1, 1))
    view.label(first.place, "intent", "refund")
    lines = (tmp_path / "labelled.jsonl").read_text("utf-8").splitlines()
    assert lines[0] == labels[0]
    assert json.loads(lines[1])["intent"] == "refund"
    view.reload()
    assert view.book.entries[0].right == {"intent": "refund"}


def test_an_empty_cell_of_a_drawn_line_does_not_make_a_label_from_the_page_a_drawn_one(
    tmp_path: Path,
) -> None:
    view = view_of(tmp_path, [line("a")], [json.dumps({"text": "Text of a.", "intent": ""})])
    view.label(0, "intent", "delivery")
    assert checked(view) == (0, 0)


@pytest.mark.parametrize("mark", ["true", "True", True])
def test_a_row_of_a_table_that_was_chosen_tests_nothing(tmp_path: Path, mark: object) -> None:
    one = line("a", right="delivery")
    one["input"]["chosen"] = mark
    assert checked(view_of(tmp_path, [one])) == (0, 0)


def test_undo_leaves_the_file_of_labels_as_it_was_byte_for_byte(tmp_path: Path) -> None:
    labels = [
        '{"intent":"refund",  "text": "Text of a.", "note": "\\u00e9"}',
        "",
        '{"text":"Text of other.","intent":"delivery"}',
    ]
    view = view_of(tmp_path, [line("a"), line("b")], labels)
    file = tmp_path / "labelled.jsonl"
    before = file.read_bytes()
    view.label(0, "intent", "delivery")
    view.label(1, "intent", "delivery")
    view.label(0, "intent", "refund")
    assert file.read_bytes().splitlines()[1:3] == before.splitlines()[1:3]
    for _ in range(3):
        view.undo()
    assert file.read_bytes() == before


def test_a_label_that_somebody_else_has_changed_is_not_undone(tmp_path: Path) -> None:
    view = view_of(tmp_path, [line("a")])
    view.label(0, "intent", "refund")
    file = tmp_path / "labelled.jsonl"
    file.write_text(changed := file.read_text("utf-8").replace("refund", "delivery"), "utf-8")
    with pytest.raises(InputError):
        view.undo()
    assert file.read_text("utf-8") == changed


def test_a_label_is_that_of_all_rows_with_the_text(tmp_path: Path) -> None:
    view = view_of(tmp_path, [line("a", text="Same."), line("b", text="same."), line("c")])
    view.label(0, "intent", "refund")
    at_once = [entry.right for entry in view.book.entries]
    assert at_once == [{"intent": "refund"}, {"intent": "refund"}, {}]
    view.reload()
    assert [entry.right for entry in view.book.entries] == at_once
    view.undo()
    assert [entry.right for entry in view.book.entries] == [{}, {}, {}]


def test_each_guarantee_names_its_question_and_counts_its_own_rows_alone(tmp_path: Path) -> None:
    lines = drawn(right=3, wrong=1)
    for i, one in enumerate(lines):
        mood = {"probabilities": {"good": 0.9, "bad": 0.1}, "label": "good", "accepted": True}
        one["output"]["decisions"]["mood"] = mood | {"status": "answered"}
        one["input"]["mood"] = "bad" if i < 3 else "good"
    view = view_of(tmp_path, lines)
    view.calibrations = {**view.calibrations, "mood": calibration("good", "bad", name="mood")}
    told = {one.title: one.detail for one in view.overview().figures[3:]}
    assert [*told] == ["Guarantee of intent", "Guarantee of mood"]
    assert "1 of 4 checked" in told["Guarantee of intent"]
    assert "3 of 4 checked" in told["Guarantee of mood"]


def test_a_guarantee_of_no_known_calibration_names_its_question_too(tmp_path: Path) -> None:
    view = view_of(tmp_path, [line("a"), line("b", UNSURE)])
    view.calibrations = {}
    assert guarantee(view).title == "Guarantee of intent"
    assert guarantee(view).value == "50 % accepted"


class State(NamedTuple):
    """All that the page shows of its rows, and the bytes of the labels."""

    labels: bytes | None
    figures: tuple[Figure, ...]
    bounds: dict[float, tuple[int, float]]
    rows: dict[str, dict[str, Any]]


def state_of(view: View) -> State:
    assert view.labels is not None
    overview, file = view.overview(), view.labels.path
    by_place = {"place": 0, "why": "rest"}  # rows stay where they are until they are read again
    rows = {
        one.id: one.model_copy(update=by_place).model_dump()
        for one in view.book.find(Query(limit=99)).rows
    }
    bounds = {one.threshold: (one.accepted, one.upper) for one in overview.curves[0].points}
    labels = file.read_bytes() if file.exists() else None
    return State(labels, overview.figures, bounds, rows)


RUN = [
    line("right", right="delivery"),
    line("wrong", right="refund"),
    line("wrong too", right="refund", text="Twice."),
    line("twice", text="twice."),
    line("unsure", UNSURE, right="refund"),
    line("drawn later"),
    line("chosen later"),
    line("no label"),
]
LABELLED = [
    '{"text": "Text of drawn later.","intent": "refund"}',
    '{"text":"Text of chosen later.", "intent": "refund", "chosen": true}',
]
ids = st.sampled_from([str(one["id"]) for one in RUN])
actions = st.one_of(
    st.tuples(st.sampled_from(["confirm", "correct", "same"]), ids),
    st.sampled_from([("undo", ""), ("reload", "")]),
)


@contextmanager
def opened() -> Generator[View]:
    with TemporaryDirectory() as folder:
        view = view_of(Path(folder), RUN, LABELLED)
        yield view
        view.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(actions, max_size=12))
def test_no_label_makes_the_bound_of_a_threshold_better_and_undo_is_exact(
    taken: list[tuple[str, str]],
) -> None:
    with opened() as view:
        first = state_of(view)
        before = [first]
        for action, id in taken:
            if action == "undo" and len(before) > 1:
                view.undo()
                before.pop()
            elif action == "reload":
                view.reload()
            elif id:
                entry = view.book.entries[place_of(view, id)]
                said = entry.decisions["intent"].said
                known = entry.right.get("intent", said)
                label = {"confirm": said, "correct": OTHER[said], "same": known}[action]
                view.label(entry.place, "intent", label)
                before.append(found := state_of(view))
                assert found.bounds.keys() == first.bounds.keys()
                for threshold, (accepted, upper) in before[-2].bounds.items():
                    assert found.bounds[threshold][0] == accepted
                    assert found.bounds[threshold][1] >= upper
            assert state_of(view) == before[-1]
        wrong, of = checked(view)
        assert wrong >= 3
        assert of == 4


anything = st.sampled_from(["delivery", "refund", "a complaint", "", None, 7, 0.5, True, "refund "])
marks = st.sampled_from([True, False, "true", None])
own_labels = st.lists(
    st.tuples(st.sampled_from([SURE, UNSURE]), anything, marks), min_size=1, max_size=6
)
given_labels = st.lists(st.tuples(st.integers(0, 5), anything, marks), max_size=6)


def bounds_of(view: View) -> dict[float, float]:
    return {one.threshold: one.upper for one in view.overview().curves[0].points}


@settings(max_examples=100, deadline=None)
@given(own_labels)
def test_every_drawn_row_with_a_label_is_in_the_test(
    own: list[tuple[dict[str, float], object, object]],
) -> None:
    lines = [line(f"{i}", likely, right=value) for i, (likely, value, _) in enumerate(own)]
    for one, (_, _, chosen) in zip(lines, own, strict=True):
        one["input"]["chosen"] = chosen
    has_labels = any(str(value).strip() in OTHER for _, value, _ in own)
    labelled = [chosen in (False, None) and value not in ("", None) for _, value, chosen in own]
    with TemporaryDirectory() as folder:
        view = view_of(Path(folder), lines)
        in_test = ["intent" in entry.drawn for entry in view.book.entries]
        assert in_test == [has_labels and one for one in labelled]
        wrong = ["intent" in entry.disputed for entry in view.book.entries]
        rights = [str(value).strip() == "delivery" for _, value, _ in own]
        assert wrong == [a and not b for a, b in zip(in_test, rights, strict=True)]
        view.close()


@settings(max_examples=150, deadline=None)
@given(own_labels, given_labels, given_labels, st.booleans())
def test_no_label_of_a_drawn_row_that_is_shown_as_wrong_makes_a_bound_better(
    own: list[tuple[dict[str, float], object, object]],
    known: list[tuple[int, object, object]],
    new: list[tuple[int, object, object]],
    on_the_page: bool,
) -> None:
    lines = [line(f"{i}", likely, right=value) for i, (likely, value, _) in enumerate(own)]
    for one, (_, _, chosen) in zip(lines, own, strict=True):
        one["input"]["chosen"] = chosen
    labels = [
        json.dumps({"text": f"Text of {i}.", "intent": value, "chosen": chosen})
        for i, value, chosen in known
    ]
    with TemporaryDirectory() as folder:
        view = view_of(Path(folder), lines, labels)
        for i, value, chosen in new:
            before, (wrong, of) = bounds_of(view), checked(view)
            entry = view.book.entries[i % len(lines)]
            if not {"intent"} & entry.drawn & entry.disputed:
                continue
            if on_the_page:
                view.label(entry.place, "intent", "delivery" if chosen else "refund")
            else:
                told = {"text": f"Text of {entry.id}.", "intent": value, "chosen": chosen}
                with (Path(folder) / "labelled.jsonl").open("a") as file:
                    file.write(f"{json.dumps(told)}\n")
                view.reload()
            assert {"intent"} & view.book.entries[entry.place].disputed
            after = bounds_of(view)
            assert all(after[threshold] >= upper for threshold, upper in before.items())
            assert checked(view)[0] >= wrong
            assert checked(view)[1] >= of
        view.close()
