"""Nothing that a command prints steers the terminal, wherever its text comes from."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from command import moa

from moa.core._terminal import STEERING

EVIL = (
    "\x1b]52;c;ZXZpbA==\x07 \x1b]0;title\x1b\\ \x1b[2J \x1b]8;;http://evil\x1b\\ \x9b2J \x90 \x85"
    " \u202e \u2066 \x00 \x7f \r [link=http://evil]:bomb:"
)
NAME = EVIL.replace("\x00", "").replace("/", "")
OF_RICH = re.compile(r"\x1b\[[\d;]*m|\x1b\[1A|\x1b\[2K|\x1b\[\?25[lh]|\r")
"""Colours, and what moves a bar of progress."""


class Evil(BaseHTTPRequestHandler):
    """A server whose models, answers and errors are all evil."""

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": EVIL, "owned_by": EVIL}]})

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["content-length"]))
        if b"refuse" in asked or b"messages" not in asked:
            self._send(400, {"error": {"message": EVIL}})
            return
        choice = {"message": {"role": "assistant", "content": EVIL}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        self._send(200, {"model": "m", "choices": [{"index": 0, **choice}], "usage": usage})

    def _send(self, status: int, answer: object) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # rich takes the streams for one
    server = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/v1"
    (tmp_path / "moa.toml").write_text(
        f'[endpoints.large]\ntier = "llm"\nmodel = "m"\nbase_url = "{address}"\n'
        f'[endpoints.{json.dumps(EVIL)}]\ntier = "slm"\nmodel = {json.dumps(EVIL)}\n'
        f'base_url = "{address}"\n'
        '[graphs.chat]\nslm = "large"\n'
    )
    (tmp_path / "wrong.toml").write_text(f"[endpoints.large]\n{json.dumps(EVIL)} = 1\n")
    (tmp_path / "wrong.py").write_text(f"raise ValueError({EVIL!r})\n")
    rows = [{"id": EVIL, "text": EVIL}, {"id": f"2{EVIL}", "text": f"refuse {EVIL}"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "labelled.jsonl").write_text(
        "".join(json.dumps({"text": EVIL, "label": label}) + "\n" for label in "abab")
    )
    yield
    server.shutdown()
    server.server_close()


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    moa(*words)
    return "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("run", "write", "in.jsonl"), id="tables and failures"),
        pytest.param(("run", "write", "in.jsonl", "--json"), id="lines"),
        pytest.param(("run", "wrong.py:graph", "in.jsonl"), id="code of the user"),
        pytest.param(("run", EVIL, "in.jsonl"), id="a name that is none"),
        pytest.param(("run", "write", f"{EVIL}.jsonl"), id="a file that is not there"),
        pytest.param(("run", "write", "in.jsonl", f"--{EVIL}"), id="an option that is none"),
        pytest.param(("run", "write", "in.jsonl", "--out", f"{NAME}.jsonl"), id="a file"),
        pytest.param(("run", "write", "in.jsonl", "--config", "wrong.toml"), id="a key"),
        pytest.param(("decide", "in.jsonl", "--task", EVIL, "--labels", f"a,{EVIL}"), id="decide"),
        pytest.param(("compare", "labelled.jsonl", "--designs", "llm"), id="bars of progress"),
        pytest.param(("models",), id="models"),
        pytest.param(("models", "--json"), id="models as lines"),
        pytest.param(("models", "fetch", EVIL), id="a model that is none"),
        pytest.param(("doctor",), id="checks"),
        pytest.param(("learn", "labelled.jsonl", "--task", EVIL, "--out", "c.json"), id="rows"),
        pytest.param(("index", "in.jsonl", "--out", f"{NAME}.moa"), id="an index"),
    ],
)
def test_no_command_lets_a_text_steer_the_terminal(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = printed(capsys, *words)
    assert shown.strip()
    assert not STEERING.findall(OF_RICH.sub("", shown))


def test_a_conversation_and_its_commands_do_not_either(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = (EVIL, "refuse", f"/thread {EVIL}", EVIL, "/threads", "/usage", "/export", f"/{EVIL}")
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in said)))
    shown = printed(capsys, "chat")
    assert shown.count("]52;c;") > 4
    assert not STEERING.findall(OF_RICH.sub("", shown))


def test_lines_of_json_go_past_the_bar_and_keep_every_character(
    capsys: pytest.CaptureFixture[str],
) -> None:
    moa("run", "write", "in.jsonl", "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert EVIL in [line["id"] for line in lines if line["id"] == line["input"]["text"]]


def test_line_breaks_of_an_error_stay(capsys: pytest.CaptureFixture[str]) -> None:
    Path("moa.toml").write_text("[endpoints.large]\nmodle = 1\ntire = 2\n")
    shown = printed(capsys, "run", "write", "in.jsonl")
    assert len(shown.splitlines()) > 1
