"""What the page shows is made of the lines of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from moa.core.errors import ConfigError, InputError
from moa.decisions.features import WordsFeature
from moa.decisions.guarantee import upper_bound
from moa.learning.labelled import OTHERWISE, Labelled
from moa.rows.jobs import Job
from moa.studio.app import mount, studio_app
from moa.studio.data import Query
from moa.studio.labels import Labels
from moa.studio.sources import Source, View, find_source
from studio.lines import row, shop, spans, written


@pytest.fixture
def view(tmp_path: Path) -> View:
    source = find_source(str(written(tmp_path / "run.jsonl", shop())))
    return View(source, labels=Labels(tmp_path / "labelled.jsonl"))


def ids(view: View, **query: Any) -> list[str]:
    return [one.id for one in view.book.find(Query(**query)).rows]


def test_rows_that_were_sure_and_wrong_come_first_then_doubt_then_quarantine(view: View) -> None:
    assert ids(view)[:5] == ["sure", "unsure", "doubt", "spam", "bad"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"search": "MONEY"}, ["sure"]),
        ({"search": "spam"}, ["spam"]),
        ({"tag": "large"}, ["large"]),
        ({"tag": "failed"}, ["bad"]),
        ({"queue": "quarantine"}, ["spam"]),
        ({"question": "intent", "label": "refund"}, ["large"]),
        ({"offset": 1, "limit": 2}, ["unsure", "doubt"]),
    ],
)
def test_rows_are_found_by(view: View, query: dict[str, Any], found: list[str]) -> None:
    assert ids(view, **query) == found


def test_the_four_numbers_are_of_all_rows(view: View) -> None:
    settled, large, cost, guarantee = view.overview().figures
    assert (settled.title, settled.value) == ("Settled", "43 %")
    assert settled.detail.startswith("3 of 7")
    assert large.detail.startswith("1 rows")
    assert "0.002" in cost.value or cost.value.startswith("≥")
    assert guarantee.value == "none"


def test_each_point_of_the_curve_has_the_exact_bound_of_what_it_accepts(tmp_path: Path) -> None:
    lines = [
        row(str(i), f"text {i}", {"a": 0.5 + i / 100, "b": 0.5 - i / 100}, right="ab"[i % 10 == 3])
        for i in range(40)
    ]
    view = View(find_source(str(written(tmp_path / "run.jsonl", lines))))
    (curve,) = view.overview().curves
    last = curve.points[-1]
    assert (last.accepted, last.errors, last.share) == (40, 4, 1.0)
    assert last.upper == pytest.approx(upper_bound(4, 40, 0.95))
    assert [one.accepted for one in curve.points] == sorted(one.accepted for one in curve.points)


def test_rows_that_were_chosen_to_be_labelled_say_nothing_of_errors(tmp_path: Path) -> None:
    source = find_source(str(written(tmp_path / "run.jsonl", shop())))
    view = View(source, labels=Labels(tmp_path / "labelled.jsonl"))
    before = view.overview().curves[0].labelled
    place = view.book.find(Query(search="Please")).rows[0].place
    view.label(place, "intent", "delivery")
    curve = view.overview().curves[0]
    assert (curve.labelled, curve.chosen) == (before, 1)
    view.reload()
    assert view.overview().curves[0].labelled == before


def test_a_decision_that_stands_twice_in_a_row_counts_once(tmp_path: Path) -> None:
    (line,) = [one for one in shop() if one["id"] == "fine"]
    line["output"]["again"] = line["output"]["decisions"]
    overview = View(find_source(str(written(tmp_path / "run.jsonl", [line])))).overview()
    assert [one.rows for one in overview.questions] == [1]
    assert [one.share for one in overview.curves[0].points] == [1.0]


def test_a_curve_is_made_anew_once_a_label_of_its_question_has_changed(view: View) -> None:
    (first,) = view.overview().curves
    assert view.overview().curves[0] is first
    view.label(2, "intent", "refund")
    (second,) = view.overview().curves
    assert second.chosen == first.chosen + 1
    view.undo()
    assert view.overview().curves[0].chosen == first.chosen


def test_a_label_is_a_line_that_moa_learn_reads_as_chosen(tmp_path: Path, view: View) -> None:
    done = view.label(2, "intent", "refund")
    assert done.said["intent"].right == "refund"
    (line,) = (tmp_path / "labelled.jsonl").read_text("utf-8").splitlines()
    values = json.loads(line)
    made = Labelled.model_validate({**values, "label": values["intent"]})
    assert (made.text, made.chosen, made.labelled_by) == ("It is broken?", True, "person")


def test_undo_brings_back_what_was_there_label_by_label(tmp_path: Path, view: View) -> None:
    file = tmp_path / "labelled.jsonl"
    view.label(2, "intent", "refund")
    first = file.read_text("utf-8")
    view.label(2, "intent", "delivery")
    assert len(file.read_text("utf-8").splitlines()) == 1
    assert view.undo().said["intent"].right == "refund"
    assert file.read_text("utf-8") == first
    assert view.undo().said["intent"].right is None
    assert not file.exists()
    with pytest.raises(InputError):
        view.undo()


def test_labels_of_other_rows_and_other_people_stay(tmp_path: Path, view: View) -> None:
    file = tmp_path / "labelled.jsonl"
    written(file, [{"text": "Other.", "intent": "refund", "labelled_by": "ann", "chosen": False}])
    before = file.read_text("utf-8")
    view.label(2, "intent", "refund")
    view.undo()
    assert file.read_text("utf-8") == before


def test_labels_go_into_a_file_of_lines_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jsonl"):
        Labels(tmp_path / "labelled.csv")


def test_no_label_is_written_that_the_question_does_not_have(view: View) -> None:
    with pytest.raises(InputError, match="never"):
        view.label(2, "intent", "nonsense")
    with pytest.raises(InputError):
        view.label(99, "intent", "refund")


def test_nothing_is_said_with_texts_left_out(tmp_path: Path) -> None:
    secret = "the secret of the row"
    lines = [row("a", secret, {"x": 0.9, "y": 0.1}, error=f"BadThing: {secret}")]
    trace = written(tmp_path / "spans.jsonl", spans("a", prompt=secret))
    view = View(find_source(str(written(tmp_path / "run.jsonl", lines))), trace=trace, texts=False)
    said = f"{view.overview()}{view.book.find(Query(), texts=False)}{view.detail(0)}"
    assert secret not in said


def test_a_row_of_odd_types_is_shown_as_far_as_it_is_one(tmp_path: Path) -> None:
    usage = {"calls": "x", "cost": "y", "by_node": {"n": {"seconds": "s"}, "m": 3}}
    odd = {"id": [1], "input": 5, "output": [1], "seconds": "fast", "usage": usage, "trace": "x"}
    path = written(tmp_path / "run.jsonl", [*shop(), odd, {"output": None, "error": "no SECRET"}])
    view = View(find_source(str(path)), texts=False)
    assert [bar.seconds for bar in view.detail(7).bars] == [0.0, 0.0]
    assert view.book.find(Query(), texts=False).rows[-1].error != "no SECRET"
    assert "SECRET" not in view.detail(8).model_dump_json()


def test_the_waterfall_has_spans_within_each_other_and_what_was_tried_again(tmp_path: Path) -> None:
    trace = written(tmp_path / "spans.jsonl", spans("sure"))
    view = View(find_source(str(written(tmp_path / "run.jsonl", shop()))), trace=trace)
    bars = view.detail(3).bars
    assert [(one.kind, one.depth) for one in bars] == [
        ("run", 0),
        ("workflow", 1),
        ("agent", 2),
        ("call", 3),
    ]
    assert bars[-1].marks == ("retried",)
    assert bars[-1].start == pytest.approx(0.1)
    assert bars[-1].asked == "user: Which is it?"
    assert not view.detail(0).timed


def test_a_trace_that_is_none_is_refused(tmp_path: Path) -> None:
    trace = written(tmp_path / "spans.jsonl", [{"id": 1}])
    source = find_source(str(written(tmp_path / "run.jsonl", shop())))
    with pytest.raises(ConfigError, match="line 1"):
        View(source, trace=trace)


def test_a_job_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    from moa.core.batch import Row

    folder = tmp_path / "nightly"
    with Job(folder, graph="shop") as job:
        job.add(Row(number=i, id=i, value=f"text {i}") for i in range(1, 4))
    overview = View(find_source(str(folder))).overview()
    assert overview.job is not None
    assert (overview.job.total, overview.job.left, overview.total) == (3, 3, 0)


def test_answers_of_a_cascade_that_learns_are_rows_with_its_curve(tmp_path: Path) -> None:
    from moa.learning.answer_rows import LargeAnswer, NewRow
    from moa.learning.answers import AnswerStore

    file = tmp_path / "answers.db"
    with AnswerStore(file) as store:
        store.bind('{"text": "Which?", "options": [{"name": "a"}, {"name": "b"}]}', "model")
        for i in range(6):
            side = store.coin.toss(f"text {i}")
            kept = NewRow(
                side, i % 2 == 0, "run", None, 6, text=f"text {i}", guess="a", sure=0.8, look=0
            )
            store.settle(store.add(kept, 1), LargeAnswer("ab"[i == 2], cost=0.01))
    view = View(find_source(str(file)))
    overview = view.overview()
    assert overview.learning is not None
    assert overview.total == 6
    assert [one.id for one in view.book.find(Query(limit=1)).rows] == ["3"]
    (curve,) = overview.curves
    assert curve.labelled == 3  # what was held out is a sample; the rest was asked for a reason


def test_a_held_out_row_that_the_large_model_failed_on_counts_as_a_difference_on_the_curve(
    tmp_path: Path,
) -> None:
    from moa.learning.answer_rows import LargeAnswer, NewRow
    from moa.learning.answers import AnswerStore

    file = tmp_path / "answers.db"
    with AnswerStore(file) as store:
        store.bind('{"text": "Which?", "options": [{"name": "a"}, {"name": "b"}]}', "model")
        for i, label in enumerate(("a", "b", None, OTHERWISE, "in flight")):
            side = store.coin.toss(f"text {i}")
            kept = NewRow(side, True, "run", None, 6, text=f"text {i}", guess="a", sure=0.8, look=0)
            index = store.add(kept, 1)
            if label != "in flight":
                store.settle(index, LargeAnswer(label, cost=0.01))
    (curve,) = View(find_source(str(file))).overview().curves
    assert (curve.labelled, curve.points[-1].errors) == (4, 3)


def test_rows_that_came_in_between_are_read_again_with_the_labels_given_meanwhile(
    tmp_path: Path, view: View
) -> None:
    view.label(2, "intent", "refund")
    assert not view.state().changed
    written(tmp_path / "run.jsonl", [row("new", "New.", {"delivery": 0.9, "refund": 0.1}), *shop()])
    assert view.state().changed
    view.reload()
    assert not view.state().changed
    assert view.overview().total == 8
    (labelled,) = view.book.find(Query(search="It is broken?")).rows
    assert labelled.said["intent"].right == "refund"
    assert view.undo().id == "doubt"
    done = view.label(0, "intent", "refund", id="fine")
    assert done.id == "fine"
    with pytest.raises(InputError):
        view.label(0, "intent", "refund", id="gone")


def test_a_label_given_while_the_rows_are_read_again_is_in_the_figures(tmp_path: Path) -> None:
    during = list[Callable[[], object]]()

    def lines() -> Iterator[dict[str, Any]]:
        for number, line in enumerate(shop()):
            if number == 3 and during:
                during.pop()()
            yield line

    source = Source(name="run", about="", lines=lines)
    view = View(source, labels=Labels(tmp_path / "labels.jsonl"))
    labelled = [figures.labelled for figures in view.overview().questions]
    during.append(lambda: view.label(2, "intent", "refund"))
    view.reload()
    assert sum(figures.labelled for figures in view.overview().questions) == sum(labelled) + 1
    assert view.book.entries[2].right["intent"] == "refund"
    during.append(view.undo)
    view.reload()
    assert [figures.labelled for figures in view.overview().questions] == labelled


def test_of_two_rows_with_one_id_the_text_that_was_shown_is_labelled(tmp_path: Path) -> None:
    lines = [{**line, "id": "same"} for line in shop()[:4]]
    path = written(tmp_path / "run.jsonl", lines)
    view = View(find_source(str(path)), labels=Labels(tmp_path / "labels.jsonl"))
    shown = view.book.row_line(view.book.entries[2])
    written(path, [lines[3], *lines[:3]])
    view.reload()
    client = TestClient(mount(studio_app(view)), base_url="http://127.0.0.1")
    label = {"place": 2, "id": "same", "digest": shown.digest}
    label |= {"question": "intent", "label": "refund"}
    assert client.post("/studio/api/labels", json=label).json()["text"] == "It is broken?"
    assert view.undo().text == "It is broken?"
    written(path, [*lines[:2], lines[3]])
    view.reload()
    refused = client.post("/studio/api/labels", json=label)
    assert refused.status_code == 400
    assert "another text now: reload the page" in refused.text
    assert not (tmp_path / "labels.jsonl").exists()


def test_a_line_that_is_half_written_is_no_row_yet(tmp_path: Path) -> None:
    path = written(tmp_path / "run.jsonl", shop()[:3])
    whole, half = path.read_text(), f"{json.dumps(shop()[3])}\n"
    path.write_text(whole + half[:80])
    view = View(find_source(str(path)))
    assert [entry.id for entry in view.book.entries] == ["fine", "unsure", "doubt"]
    path.write_text(whole + half)
    assert view.state().changed
    view.reload()
    assert view.book.entries[3].id == "sure"
    path.write_text(f"{whole}{half[:80]}\n")
    view.reload()
    assert view.book.entries[3].status == "failed"


def test_what_is_no_run_is_refused_at_once(tmp_path: Path) -> None:
    view = View(find_source(str(written(tmp_path / "run.jsonl", []))))
    with pytest.raises(ConfigError):
        view.start(within_s=10)


def test_what_ran_is_guessed_by_the_nodes_of_the_first_rows(tmp_path: Path) -> None:
    lines = [{"id": "bad", "input": "?", "status": "failed", "error": "E"}, *shop()]
    assert find_source(str(written(tmp_path / "run.jsonl", lines))).guess() == "shop"


def test_the_large_model_alone_costs_what_it_costs_where_it_is_asked(tmp_path: Path) -> None:
    lines = [row(str(i), f"text {i}", {"a": 0.9, "b": 0.1}) for i in range(3)]
    lines.append(row("large", "text", {"a": 0.9, "b": 0.1}, tier="llm", cost=0.5))
    cost = View(find_source(str(written(tmp_path / "run.jsonl", lines)))).overview().figures[2]
    assert "US$ 2.00" in cost.detail
    assert "4.0 times" in cost.detail


def test_the_large_model_alone_is_one_call_for_each_row_that_was_asked(tmp_path: Path) -> None:
    lines = [row(str(i), f"text {i}", {"a": 0.9, "b": 0.1}) for i in range(3)]
    lines.append(row("large", "text", {"a": 0.9, "b": 0.1}, tier="llm", cost=0.5))
    for line, cost in zip(lines, (9, 9, 9, 0.25), strict=True):  # it was asked twice
        line["usage"]["llm_alone_estimate"] = {"cost": cost, "how": "one call"}
    lines.append({"id": "bad", "input": "?", "output": None, "status": "failed", "error": "E: x"})
    cost = View(find_source(str(written(tmp_path / "run.jsonl", lines)))).overview().figures[2]
    assert "US$ 1.00" in cost.detail


def test_a_large_model_that_costs_nothing_has_a_known_price(tmp_path: Path) -> None:
    rows = [row("a", "Where is it?", {"refund": 0.9, "sales": 0.1}, tier="llm", cost=0.0)]
    view = View(find_source(str(written(tmp_path / "run.jsonl", rows))))
    assert "unknown" not in view.overview().figures[2].detail


@pytest.mark.parametrize(
    ("name", "content"), [("in.txt", "Where is it?\n"), ("in.jsonl", '{"text": "Where is it?"}\n')]
)
def test_rows_that_nothing_ran_on_are_refused(tmp_path: Path, name: str, content: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(ConfigError, match="moa run"):
        View(find_source(str(file))).start(within_s=10)


def test_the_example_that_ships_opens_without_a_file() -> None:
    view = View(find_source(None))
    overview = view.overview()
    assert overview.demo
    assert overview.total > 200
    guarantee = overview.figures[3]
    assert (guarantee.title, guarantee.value) == ("Guarantee of intent", "≤ 10 % wrong")
    assert guarantee.detail.startswith("holds: ")
    assert next(one for one in overview.curves if one.question == "intent").points
    assert view.detail(0).timed
    view.close()


def test_the_example_shows_no_message_that_its_intents_were_learned_from() -> None:
    view = View(find_source(None))
    (words,) = (f for f in view.calibrations["intent"].features if isinstance(f, WordsFeature))
    learned = {example.text for example in words.examples}
    fields = [dict(view.detail(entry.place).fields) for entry in view.book.entries]
    shown = {
        "\n\n".join(one[key] for key in ("input.subject", "input.text") if key in one)
        for one in fields
    }
    assert len(shown) > 200
    assert len(learned) > 200
    assert not shown & learned
    view.close()
