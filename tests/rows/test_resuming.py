"""Resuming: a run that was stopped goes on, and nothing that was paid for is paid for again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import moa
from counting import serving
from piped import pipe

ROWS, CONCURRENCY, STALLED = 60, 4, 25
"""From the row `STALLED` on, the server keeps everybody waiting until it is let go."""
LONGEST_S = 30.0
RUN = ("run", "generator", "in.jsonl", "--out", "out.jsonl", "--concurrency", str(CONCURRENCY))


class Server:
    """Counts what it is asked, and answers but for texts that are stalled."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.let_go = threading.Event()
        self.answer = "All is well."

    def say(self, text: str) -> str:
        if "stalled" in text:
            self.let_go.wait(LONGEST_S)
        return self.answer


def told_apart(messages: list[dict[str, str]]) -> str:
    lines = messages[-1]["content"].splitlines()
    return next(line for line in reversed(lines) if not line.startswith("</"))


@pytest.fixture(name="server")
def _server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.chdir(tmp_path)
    texts = [f"row {n}" if n < STALLED else f"row {n}, stalled" for n in range(1, ROWS + 1)]
    Path("in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with serving(told_apart=told_apart, answer=server.say) as (url, server.asked):
        Path("moa.toml").write_text(
            f'[endpoints.large]\ntier = "llm"\nmodel = "m"\nbase_url = "{url}"\n'
        )
        yield server
        server.let_go.set()


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("out.jsonl").read_bytes().splitlines()]


@pytest.fixture(name="begun")
def _begun(server: Server) -> Iterator[subprocess.Popen[str]]:
    """A run that has done all that it gets an answer to, and waits for more."""
    command = [sys.executable, "-m", "moa", *RUN]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as begun:
        until = time.monotonic() + LONGEST_S
        while len(server.asked) < STALLED - 1 + CONCURRENCY and time.monotonic() < until:
            time.sleep(0.01)
        yield begun
        begun.kill()


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_and_asks_again_only_what_was_in_flight(
    by: signal.Signals, server: Server, begun: subprocess.Popen[str]
) -> None:
    begun.send_signal(by)
    out, _ = begun.communicate(timeout=LONGEST_S)
    before = Path("out.jsonl").read_bytes()
    assert len(lines()) == STALLED - 1
    if by == signal.SIGINT:
        assert begun.returncode == 130
        assert "the same command with --resume goes on" in " ".join(out.split())
    server.let_go.set()

    assert moa(*RUN) == 2
    assert Path("out.jsonl").read_bytes() == before

    assert moa(*RUN, "--resume") == 0
    assert sorted(line["id"] for line in lines()) == list(range(1, ROWS + 1))
    assert Path("out.jsonl").read_bytes().startswith(before)
    assert server.asked.total() == ROWS + CONCURRENCY

    assert moa(*RUN, "--resume") == 0
    assert server.asked.total() == ROWS + CONCURRENCY


def test_a_second_run_on_the_same_file_is_refused(
    server: Server, begun: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert moa(*RUN, "--resume") == 2
    assert "out.jsonl is written by another process" in capsys.readouterr().err
    server.let_go.set()
    begun.communicate(timeout=LONGEST_S)
    assert begun.returncode == 0
    assert len(lines()) == ROWS
    assert server.asked.total() == ROWS


def test_rows_that_failed_and_rows_that_have_changed_are_asked_again(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ['{"id": "a", "text": "one"}', '{"id": "b"}', '{"id": "c", "text": "3"}']
    Path("in.jsonl").write_text("\n".join(given))
    assert moa(*RUN) == 1
    given[1:] = ['{"id": "b", "text": "two"}', '{"id": "c", "text": "three"}']
    Path("in.jsonl").write_text("\n".join(given))
    assert moa(*RUN, "--resume") == 0
    assert {line["id"]: line["input"]["text"] for line in lines()} == {
        "a": "one",
        "b": "two",
        "c": "three",
    }
    assert len(lines()) == 3
    assert server.asked["one"] == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "1 of them were there already; 1 that had failed, and 1 whose input has changed" in said


@pytest.mark.parametrize(
    "words", [("--resume", "--overwrite", "--out", "o.jsonl"), ("--resume",), ("--overwrite",)]
)
@pytest.mark.parametrize(
    "command",
    [
        ("run", "generator", "in.jsonl"),
        ("decide", "in.jsonl", "--task", "?", "--labels", "a,b"),
        ("compare", "in.jsonl"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(
    command: tuple[str, ...],
    words: tuple[str, ...],
    server: Server,
) -> None:
    assert moa(*command, *words) == 2
    assert server.asked.total() == 0


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.txt", "-"])
def test_an_empty_input_leaves_with_2_and_replaces_nothing(
    name: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in.csv").write_text("id,text\n")
    Path("in.jsonl").write_text("\n")
    Path("in.txt").touch()
    Path("out.jsonl").write_text('{"id": 1, "input": "x"}\n')
    pipe(monkeypatch, [])
    words = ("--out", "out.jsonl", "--overwrite")
    assert moa("run", "generator", name, *words) == 2
    assert moa("decide", name, "--task", "?", "--labels", "a,b", *words) == 2
    assert lines() == [{"id": 1, "input": "x"}]
    assert server.asked.total() == 0


def test_a_table_from_a_pipe_is_read_by_its_header(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = [b"id,body\n", b"7,hello\n", b"8,good-bye\n"]
    for column, code in (("boddy", 2), ("body", 0)):
        pipe(monkeypatch, table)
        words = ("--format", "csv", "--text-column", column)
        assert moa("run", "generator", "-", *words, "--out", "out.jsonl") == code
    assert "no text in a column 'boddy': it has 'id', 'body'" in capsys.readouterr().err
    assert {line["id"] for line in lines()} == {"7", "8"}
    assert server.asked == {"hello": 1, "good-bye": 1}


@pytest.mark.parametrize(
    "command", [("run", "generator"), ("decide", "--task", "?", "--labels", "a,b")]
)
def test_a_table_without_a_text_column_stops_before_anything_is_asked(
    command: tuple[str, ...], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in.csv").write_text("id,body\n7,hello\n")
    assert moa(*command, "in.csv") == 2
    assert "Name the column that holds the text by --text-column" in capsys.readouterr().err
    assert server.asked.total() == 0


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_half_of_a_surrogate_pair_in_an_answer_ends_no_run(
    words: tuple[str, ...], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.let_go.set()
    server.answer = "well \ud83d"
    assert moa(*RUN, *words) == 0
    capsys.readouterr()
    assert {line["output"]["text"] for line in lines()} == {"well \ufffd"}
