"""`moa decide`: a line for every row, with probabilities of exactly the given labels."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from command import kept, moa, told, written
from piped import pipe, type_after_an_answer

from moa.core.questions import NONE_OF_THESE
from moa.learning.variants import stand_in_texts


class Handler(BaseHTTPRequestHandler):
    """A server of decisions: the label that stands in the text has 0.7, the others the rest."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answers = {
            name: self.answer(body["state"], list(question["criteria"]))
            for name, question in body["questions"].items()
        }
        data = json.dumps(
            {"answers": answers, "usage": {"input_tokens": 5, "output_tokens": 0}}
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer(self, state: str, labels: list[str]) -> dict[str, Any]:
        found = next((label for label in labels if label in state), labels[-1])
        rest = 0.3 / (len(labels) - 1)
        probabilities = {label: 0.7 if label == found else rest for label in labels}
        return {"type": "choice", "choice": found, "probabilities": probabilities}

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def server(no_encoders: None) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    Path("moa.toml").write_text(
        '[endpoints.small]\ntier = "slm"\nmodel = "m"\ndecide = "systemone"\n'
        f'base_url = "http://127.0.0.1:{server.server_port}/v1"\n'
    )
    yield
    server.shutdown()
    server.server_close()
    thread.join()


def decide(rows: list[str], *words: str) -> tuple[int, list[dict[str, Any]]]:
    line = [
        "decide",
        written("in.jsonl", rows),
        "--task",
        "Which team?",
        "--labels",
        "red,green, blue",
    ]
    code = moa(*line, "--out", "out.jsonl", *words)
    return code, kept()


def test_each_row_gets_its_label_and_scores_of_exactly_the_labels() -> None:
    code, found = decide(['{"id": "a", "text": "a green one"}', '{"id": "b", "text": "blue"}'])
    assert code == 0
    assert [(line["id"], line["label"]) for line in found] == [("a", "green"), ("b", "blue")]
    for line in found:
        assert set(line["scores"]) == {"red", "green", "blue"}
        assert sum(line["scores"].values()) == pytest.approx(1)
        assert line["confidence"] == line["scores"][line["label"]]
        assert line["trace"]


def test_none_of_these_is_an_answer_where_it_is_asked_for() -> None:
    _, (line,) = decide(['{"text": "a yellow one"}'], "--none")
    assert line["label"] is None
    assert set(line["scores"]) == {"red", "green", "blue", NONE_OF_THESE}


def test_there_are_as_many_lines_as_rows_whatever_is_in_them() -> None:
    code, found = decide(['{"text": "red"}', "{", '{"id": 7}', '{"text": " "}', '{"text": "blue"}'])
    assert code == 1
    found.insert(2, found.pop())
    assert [line["id"] for line in found] == [1, 2, 7, 4, 5]
    assert [line["label"] for line in found] == ["red", None, None, None, "blue"]
    assert [(line["confidence"], line["scores"]) for line in found[1:4]] == [(None, {})] * 3
    assert "malformed" in found[1]["error"]
    assert "needs a 'text'" in found[2]["error"]
    assert "empty" in found[3]["error"]


def test_nothing_is_fitted_to_a_file_of_which_no_row_can_be_read() -> None:
    Path("in.csv").write_bytes("text;stars\nschön;5\nhübsch;4\n".encode("latin-1"))
    said = told("decide", "in.csv", "--task", "Which team?", "--labels", "red,green", leaves=1)
    assert "cp1252" in said.err
    assert "fitted" not in said.err


def test_decisions_that_are_there_are_kept_and_only_the_others_are_made() -> None:
    assert decide(['{"id": "a", "text": "red"}'])[0] == 0
    before = Path("out.jsonl").read_bytes()
    rows = ['{"id": "a", "text": "red"}', '{"id": "b", "text": "blue"}']
    assert decide(rows)[0] == 2
    code, found = decide(rows, "--resume")
    assert code == 0
    assert [(line["id"], line["label"]) for line in found] == [("a", "red"), ("b", "blue")]
    assert Path("out.jsonl").read_bytes().startswith(before)


def test_what_the_fitting_took_is_in_the_closing_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Path("moa.toml").open("a") as file:
        file.write("input_price = 100000\noutput_price = 0\n")  # 0.50 dollars a decision
    _, (line,) = decide(['{"text": "red"}'])
    assert line["usage"]["cost"] == 0.5
    assert f"US$ {(len(stand_in_texts()) + 1) / 2:.2f}" in capsys.readouterr().out


EXAMPLES = [
    json.dumps({"text": f"a {label} one, number {n}", "label": label})
    for n in range(5)
    for label in ("red", "green", "blue")
]


def learned() -> None:
    """Learn from the examples, into `fit.json`."""
    words = ("--task", "Which team?", "--labels", "red,green,blue", "--out", "fit.json")
    assert moa("learn", "examples.jsonl", *words) == 0


def test_what_was_learned_decides_later_without_fitting_anew() -> None:
    more = ("--examples", written("examples.jsonl", EXAMPLES))
    code, (line,) = decide(['{"id": "a", "text": "a green one"}'], *more)
    assert (code, line["label"]) == (0, "green")
    learned()
    said = told("decide", "in.jsonl", "--calibration", "fit.json", "--out", "again.jsonl")
    again = json.loads(Path("again.jsonl").read_text())
    assert "fitted to 15 labelled texts" in " ".join(said.err.split())
    assert again["label"] == line["label"]
    assert again["usage"]["calls"] <= len(json.loads(Path("fit.json").read_text())["features"])
    assert "accepted" not in again


def test_a_fit_promises_nothing_so_there_is_nothing_to_test_again() -> None:
    written("examples.jsonl", EXAMPLES)
    learned()
    rows = written("rows.jsonl", [row.replace("one", "other") for row in EXAMPLES])
    said = told("learn", "--recheck", "fit.json", rows, leaves=2).err
    assert "nothing is guaranteed of these decisions" in " ".join(said.split())


@pytest.mark.parametrize("row", ['{"text": "x", "label": "yellow"}', '{"text": "x"}', "{"])
def test_an_example_that_is_none_is_a_configuration_error(row: str) -> None:
    Path("examples.jsonl").write_text(row)
    words = ("--task", "?", "--labels", "a,b", "--examples", "examples.jsonl")
    assert "examples.jsonl" in told("decide", "i.txt", *words, leaves=2).err


@pytest.mark.parametrize("labels", [("a", "b"), ("a,", "b")])
def test_labels_with_a_blank_between_them_are_told_to_be_separated_by_commas(
    labels: tuple[str, ...],
) -> None:
    told("decide", "in.jsonl", "--task", "?", "--labels", *labels, leaves=2)


def test_texts_of_a_pipe_are_decided_as_they_come_where_there_are_others_to_fit_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("before.txt").write_text("a red one\na green one\n")
    in_time = type_after_an_answer(monkeypatch, "a green one", "a blue one")
    words = ("--task", "Which?", "--labels", "red,green,blue", "--unlabelled", "before.txt")
    assert moa("decide", "-", *words, "--out", "out.jsonl") == 0
    assert in_time == [True]
    assert [line["label"] for line in kept(ordered=True)] == ["green", "blue"]


def test_it_says_that_it_waits_for_the_texts_of_a_pipe_to_fit_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe(monkeypatch, [b"a green one\n"])
    err = " ".join(told("decide", "-", "--task", "Which?", "--labels", "red,green").err.split())
    assert "waiting for 256 texts" in err
    assert "--unlabelled" in err
