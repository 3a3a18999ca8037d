"""`moa chat` through its own door: lines in, answers out, over kills and Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from command import Told, told, written

CONFIG = """
[endpoints.large]
tier = "llm"
model = "echo"
base_url = "http://127.0.0.1:{port}/v1"
input_price = 1
output_price = 1

[graphs.chat]
slm = "large"
"""


class Echo(BaseHTTPRequestHandler):
    """Repeats the last message; of one that says hang it writes two words, and waits."""

    go_on: ClassVar[threading.Event]
    asked: ClassVar[list[list[dict[str, str]]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = body["messages"]
        self.asked.append(messages)
        said = messages[-1]["content"].replace("(half)", "\ud83d")
        if "refuse" in said:
            self.send_response(400)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        if not body.get("stream"):
            message = {"role": "assistant", "content": f"You said {said}."}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            whole = {"id": "1", "model": "echo", "choices": [choice], "usage": usage}
            self.send_header("Content-Length", str(len(json.dumps(whole))))
            self.end_headers()
            self._write(json.dumps(whole))
            return
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        if "hang" in said:
            self._piece("two words")
            self.go_on.wait(20)
        self._piece(f"You said {said}.", finish_reason="stop")
        self._event({"id": "1", "model": "echo", "choices": [], "usage": usage})
        self._write("data: [DONE]\n\n")

    def _piece(self, text: str, finish_reason: str | None = None) -> None:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
        self._event({"id": "1", "model": "echo", "choices": [choice]})

    def _event(self, event: dict[str, Any]) -> None:
        self._write(f"data: {json.dumps(event)}\n\n")

    def _write(self, text: str) -> None:
        try:
            self.wfile.write(text.encode())
            self.wfile.flush()
        except OSError:
            self.close_connection = True  # whoever asked is gone

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture(autouse=True)
def server(folder: Path) -> Iterator[None]:
    Echo.go_on, Echo.asked = threading.Event(), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    (folder / "moa.toml").write_text(CONFIG.format(port=server.server_port))
    yield
    Echo.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


Talk = Callable[..., Told]


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Talk:
    """Say some lines, and give what was answered."""

    def said(*lines: str, options: Sequence[str] = (), leaves: int = 0) -> Told:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return told("chat", *options, leaves=leaves)

    return said


def test_half_of_a_surrogate_pair_in_an_answer_ends_no_conversation(talk: Talk) -> None:
    answers = talk("a (half)", "and on").out.splitlines()
    assert answers == ["You said a \ufffd.", "You said and on."]


def begun(line: str) -> subprocess.Popen[str]:
    """Start `moa chat` in a process of its own, and wait until it writes an answer."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moa", "chat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    assert process.stdout.read(len("two words")) == "two words", process.poll()
    return process


def ended(process: subprocess.Popen[str], by: signal.Signals) -> int:
    process.send_signal(by)
    code = process.wait(timeout=30)
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()
    return code


def test_lines_of_a_pipe_are_answered_and_the_thread_goes_on_at_the_next_start(talk: Talk) -> None:
    assert talk("one", "", "two").out == "You said one.\nYou said two.\n"
    assert Path("chat.sqlite").stat().st_mode & 0o777 == 0o600
    talk("three")
    assert [m["content"] for m in Echo.asked[-1] if m["role"] == "user"] == ["one", "two", "three"]


def test_an_answer_that_a_kill_cut_off_is_told_and_written_anew(talk: Talk) -> None:
    talk("before")
    assert ended(begun("hang on"), signal.SIGKILL) == -signal.SIGKILL
    Echo.go_on.set()
    out, err = talk("after", "/export")
    assert "is unfinished, and is written anew: hang on" in err
    first, second, export = out.split("\n", 2)
    assert (first, second) == ("two wordsYou said hang on.", "You said after.")
    turns = json.loads(export)["turns"]
    assert [(t["number"], t["text"], t["status"]) for t in turns] == [
        (1, "before", "answered"),
        (2, "hang on", "answered"),
        (3, "after", "answered"),
    ]
    assert json.loads(export)["cut_off"] == 1


def test_the_same_script_after_a_kill_does_not_say_its_message_twice(talk: Talk) -> None:
    ended(begun("hang on"), signal.SIGKILL)
    Echo.go_on.set()
    out = talk("hang on", "/threads").out
    assert out.startswith("two wordsYou said hang on.\n")
    assert " 1 " in next(line for line in out.splitlines() if "default" in line)


def test_ctrl_c_stops_the_answer_and_keeps_what_was_written(talk: Talk) -> None:
    assert ended(begun("hang on"), signal.SIGINT) == 130
    Echo.go_on.set()
    assert "anew" not in talk("go on").err
    assert [m["content"] for m in Echo.asked[-1][1:]] == ["hang on", "two words […]", "go on"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals")
def test_at_a_terminal_ctrl_c_stops_an_answer_and_the_conversation_goes_on() -> None:
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "moa", "chat"], stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        shown_until(ours, "begins. /help")
        os.write(ours, b"hang on\n")
        shown_until(ours, "two words")
        process.send_signal(signal.SIGINT)
        shown_until(ours, "Stopped; what was written is kept.")
        Echo.go_on.set()
        os.write(ours, b"go on\n")
        assert "large, as " in shown_until(ours, "tokens · US$")
        os.write(ours, b"once more\n")
        assert "large, as " not in shown_until(ours, "tokens · US$")  # which was said
        os.write(ours, b"/quit\n")
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert [m["content"] for m in Echo.asked[-1][1:]] == [
        *("hang on", "two words […]", "go on", "You said go on.", "once more")
    ]


def shown_until(terminal: int, text: str) -> str:
    shown = b""
    while text.encode() not in shown:
        shown += os.read(terminal, 4096)
    return shown.decode(errors="replace")


def test_a_message_that_is_not_answered_is_told_and_the_next_one_is(talk: Talk) -> None:
    out, err = talk("refuse this", "one", leaves=1)
    assert "turns that are not read: 1" in err
    assert out == "You said one.\n"


def test_threads_are_begun_and_listed(talk: Talk) -> None:
    options = ("--thread", "work", "--store", "kept.sqlite")
    out = talk("1", "/thread other", "2", "/thread work", "/threads", options=options).out
    assert "* work" in out
    assert "other" in out
    assert Path("kept.sqlite").exists()


def test_usage_adds_up_over_starts(talk: Talk) -> None:
    talk("one")
    out = talk("two", "/usage").out
    assert "chat/reply" in out
    assert " 20 " in out


def test_a_slash_is_a_command_and_two_are_a_message(talk: Talk) -> None:
    out, err = talk("/help", "//tmp is what?", "/nonsense", "/quit", "never", leaves=1)
    assert "/threads" in err
    assert "You said /tmp is what?." in out
    assert "no command /nonsense" in err
    assert "never" not in out


def test_a_persona_is_told_to_the_model(talk: Talk) -> None:
    talk("one", options=("--persona", "You are a pirate."))
    assert Echo.asked[-1][0]["content"].startswith("You are a pirate.")


@pytest.mark.parametrize(
    "options", [("--thread", ""), ("--store", "mysql://moa:s3cret@db/x")], ids=str
)
def test_a_thread_without_a_name_and_another_database_are_refused(
    options: tuple[str, str], talk: Talk
) -> None:
    before = set(Path().iterdir())
    err = talk("one", options=options, leaves=2).err
    assert err.startswith("moa: ")
    assert "s3cret" not in err
    assert set(Path().iterdir()) == before


def test_a_store_that_cant_be_used_is_told(talk: Talk) -> None:
    assert "moa.toml" in talk("one", options=("--store", "moa.toml"), leaves=2).err


def test_rows_with_threads_are_run_in_their_order() -> None:
    rows = [{"id": i, "text": f"m{i}", "thread": "ab"[i % 2]} for i in range(6)]
    written("turns.jsonl", rows)
    for _ in range(2):
        lines = told("run", "chat", "turns.jsonl", "--json").lines
        found = {line["id"]: (line["output"]["thread"], line["output"]["turn"]) for line in lines}
        assert found == {i: ("ab"[i % 2], 1 + i // 2) for i in range(6)}
    assert len(Echo.asked) == 6  # the second run found its rows answered
