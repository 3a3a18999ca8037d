"""moa show: rows of a run, one of them whole, or a table of those that were asked for."""

from __future__ import annotations

from typing import Any

import pytest
from command import told, written
from pydantic import BaseModel

from moa import Result
from moa.cli import row_display
from moa.core._terminal import STEERING
from moa.core.batch import Item

INTENT = {"status": "answered", "label": "refund", "probabilities": {"refund": 0.9, "thanks": 0.1}}
LINES: list[dict[str, Any]] = [
    {
        "id": "m1",
        "input": {"subject": "Money", "text": "I want it back."},
        "output": {"kind": "route", "queue": "quarantine", "decisions": {"intent": INTENT}},
        "status": "answered",
        "usage": {"calls": 2, "cost": None},
        "trace": [{"kind": "dropped", "node": "support/spam", "text": "is spam"}],
    },
    {"id": "3", "input": "hello", "output": {"label": "ham"}, "status": "answered"},
    {"id": "m3", "input": "x", "output": None, "status": "failed", "error": "InputError: no text"},
]


@pytest.fixture
def out(folder: object) -> str:
    return written("out.jsonl", LINES)


def test_a_row_is_shown_whole_with_its_probabilities_and_what_was_noted(out: str) -> None:
    words = told("show", out, "m1").words
    for part in ("I want it back.", "refund 0.900, thanks 0.100", "quarantine", "is spam"):
        assert part in words
    assert "cost unknown" in words


def test_a_row_is_found_by_its_id_and_else_by_its_line(out: str) -> None:
    assert "hello" in told("show", out, "3").words
    assert "I want it back." in told("show", out, "1").words
    assert "'m9'" in told("show", out, "m9", leaves=2).words


def test_the_outcome_of_plain_fields_is_these_and_not_the_text_that_went_in() -> None:
    class Order(BaseModel):
        number: str
        product: str | None = None
        paid: bool = True

    result = Result(output=Order(number="4711"))
    item = Item(number=1, id=1, input={"text": "Order 4711"}, status="answered", result=result)
    assert row_display.cells(item)["outcome"] == "number 4711"
    assert row_display.answer(item) == "number 4711, paid yes"
    out = written("order.jsonl", [{"id": 1, "input": "x", "output": result.output.model_dump()}])
    assert "number 4711, paid yes" in told("show", out).words


@pytest.mark.parametrize(
    ("conditions", "ids"),
    [
        ((), ["m1", "3", "m3"]),
        (("quarantine",), ["m1"]),
        (("label=ham",), ["3"]),
        (("failed",), ["m3"]),
        (("kept", "queue!=quarantine"), ["3"]),
        (("queue=nowhere",), []),
    ],
)
def test_a_table_holds_the_rows_that_were_asked_for(
    out: str, conditions: tuple[str, ...], ids: list[str]
) -> None:
    where = [word for one in conditions for word in ("--where", one)]
    assert [line["id"] for line in told("show", out, *where, "--json").lines] == ids
    rows = told("show", out, *where).out.splitlines()[3:]
    assert [row.split()[0] for row in rows if row.strip()] == ids


def test_of_a_table_the_lines_beside_it_are_shown() -> None:
    written("out.csv", ["text,id,accepted", "x,m1,true"])
    written("out.csv.jsonl", [{"id": "m1", "input": "x", "label": "ham", "accepted": True}])
    assert "m1" in told("show", "out.csv", "--where", "accepted").out


def test_a_column_in_which_nothing_stands_is_left_out() -> None:
    lines = written("labels.jsonl", [{"id": "m1", "input": "x", "label": "ham"}])
    assert "status" not in told("show", lines).out


def test_hostile_lines_steer_no_terminal_and_stop_nothing() -> None:
    evil = "\x1b[2J\u202egood\x07"
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"a": deep}
    lines = [
        {
            "id": evil,
            "input": evil,
            "output": {evil: {"probabilities": {evil: evil}, "label": [1]}},
        },
        {"id": 2, "output": deep, "trace": [None, "x"], "usage": 5, "status": {"a": 1}},
        "{",
        {"id": [1], "trace": 7, "scores": 1, "output": [evil], "error": None},
    ]
    source = written("out.jsonl", lines)
    for words in ([], ["1"], ["2"], ["4"], ["--full"]):
        done = told("show", source, *words)
        assert "good" in done.out or words == ["2"]
        assert not STEERING.search(done.out + done.err)
        assert "line 3 is malformed" in done.err
