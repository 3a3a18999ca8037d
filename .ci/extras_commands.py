"""Run the main path of every command of `moa`, in the environment of this interpreter.

A command may leave with a code that its help tells of, or say which package it needs, with the line
for pip. A traceback, or a package that is missed in any other words, is a fault. Both models are a
server of this process.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any, cast

import typer

from moa.cli import main
from moa.cli.app import app
from moa.config.loading import READY

MISSING, ADVICE = ("is not installed", "No module named", "ImportError"), "pip install"
LABELS = ("--task", "Which team?", "--labels", "red,green")
CONFIG = """\
[endpoints.small]
tier = "slm"
model = "small"
decide = "systemone"
base_url = "http://127.0.0.1:{port}/v1"

[endpoints.large]
tier = "llm"
model = "large"
base_url = "http://127.0.0.1:{port}/v1"
input_price = 1
output_price = 2
"""


class Handler(BaseHTTPRequestHandler):
    """Decides for the label that stands in the text, and writes one sentence to everything else."""

    def do_POST(self) -> None:
        """Answer questions, or a chat."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "questions" in body:
            text, asked = str(body["state"]), cast("dict[str, Any]", body["questions"])
            answers = {name: self.decided(text, one) for name, one in asked.items()}
            self.send({"answers": answers, "usage": {"input_tokens": 5, "output_tokens": 0}})
            return
        message = {"role": "assistant", "content": "All is well."}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3}
        told = {"model": body["model"], "usage": usage}
        if body.get("stream"):
            self.send({**told, "choices": [{**choice, "delta": message}]}, stream=True)
        else:
            self.send({**told, "choices": [{**choice, "message": message}]})

    def do_GET(self) -> None:
        """List the models."""
        self.send({"data": [{"id": "small"}, {"id": "large"}]})

    def decided(self, text: str, question: dict[str, Any]) -> dict[str, Any]:
        """Answer a question about a text."""
        labels = list(question["criteria"]) if "criteria" in question else ["yes", "no"]
        found = next((label for label in labels if label in text), labels[-1])
        rest = 0.1 / max(1, len(labels) - 1)
        scores = {label: 0.9 if label == found else rest for label in labels}
        return {"type": "choice", "choice": found, "probabilities": scores}

    def send(self, answer: object, *, stream: bool = False) -> None:
        """Send it as JSON, or as the only piece of a stream."""
        text = json.dumps(answer)
        data = (f"data: {text}\n\ndata: [DONE]\n\n" if stream else text).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if stream else "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Says nothing of a client that hung up, as one does whose time was up."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leave it."""


def helps(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Give the path of every command, groups included."""
    yield path
    for name, one in getattr(command, "commands", {}).items():
        yield from helps(one, (*path, name))


def commands() -> Iterator[tuple[str, ...]]:
    """Give the main path of each command, in an order in which one may need the file of another."""
    for path in helps(typer.main.get_command(app)):
        yield (*path, "--help")
    yield from ((name,) for name in ("doctor", "models", "graphs", "status", "down", "up"))
    yield ("models", "list")
    yield ("models", "probe", "small", "--yes")
    yield (
        "choose",
        "classify",
        "--per-day",
        "10000",
        "--labelled",
        "200",
        "--complexity",
        "simple",
    )
    for name in READY:
        yield ("draw", name)
    for kind in ("svg", "png"):
        yield ("draw", "support", "--out", f"support.{kind}")
    yield ("run", "support", "--demo", "--out", "demo.jsonl")
    for name in READY:
        yield ("run", name, "A letter about the red team.", "--text", "--json")
    for kind in ("csv", "parquet"):
        yield ("run", "generator", "rows.jsonl", "--out", f"out.{kind}")
    yield ("run", "generator", "rows.parquet")
    yield ("run", "generator", "rows.jsonl", "--job", "night")
    yield ("run", "generator", "rows.jsonl", "--job", "postgresql://127.0.0.1:9/no#night")
    yield ("run", "generator", "rows.jsonl", "--ray")
    yield ("run", "generator", "rows.jsonl", "--trace", "spans.jsonl")
    yield ("run", "generator", "rows.jsonl", "--trace", "texts.jsonl", "--trace-texts", "masked")
    yield from (("job", name, "night") for name in ("status", "retry", "failed"))
    yield ("job", "export", "night", "--out", "night.jsonl")
    yield ("decide", "rows.jsonl", *LABELS, "--out", "decided.jsonl")
    yield ("learn", "labelled.jsonl", *LABELS, "--out", "teams.json")
    yield ("decide", "rows.jsonl", "--calibration", "teams.json", "--json")
    yield ("eval", "teams.json", "labelled.jsonl")
    yield ("label", "rows.jsonl", "--calibration", "teams.json", "--by-llm", "--out", "new.jsonl")
    yield ("learn", "from", "labelled.jsonl", *LABELS, "--answers", "answers.db")
    yield ("learn", "status", "answers.db")
    yield ("compare", "labelled.jsonl", *LABELS[:2], "--designs", "slm,llm")
    yield ("route", "fit", "log.jsonl", "--out", "router.json")
    yield ("route", "score", "router.json", "log.jsonl", "--out", "scores.jsonl")
    yield ("route", "eval", "router.json", "log.jsonl")
    yield ("report", "demo.jsonl", "--out", "demo.html")
    yield ("studio", "no such run", "--no-open")
    yield ("index", "papers", "--out", "index")
    yield ("chat",)
    yield ("new", "rag", "project")
    yield ("docs", "--for-agents")
    yield ("mcp", "no such graph")
    yield ("serve", "no such graph")  # another one would be served until it is told to end


def prepare(port: int) -> None:
    """Write the configuration, and rows for all commands."""
    Path("moa.toml").write_text(CONFIG.format(port=port), "utf-8")
    labels = ["red", "green"] * 60
    rows = [{"text": f"mail {n} of the {label} team"} for n, label in enumerate(labels)]
    files: dict[str, list[dict[str, object]]] = {
        "rows.jsonl": [{**row} for row in rows[:4]],
        "labelled.jsonl": [
            {**row, "label": label} for row, label in zip(rows, labels, strict=True)
        ],
        "log.jsonl": [
            {"prompt": row["text"], "weak_correct": n % 3 > 0, "strong_correct": n % 7 > 0}
            for n, row in enumerate(rows)
        ],
    }
    for name, lines in files.items():
        Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    Path("rows.parquet").write_bytes(b"PAR1")
    Path("papers").mkdir()
    Path("papers", "one.md").write_text("# Teams\n\nThe red team answers letters.\n", "utf-8")


def fault(words: tuple[str, ...]) -> str | None:
    """Run a command, and say what is wrong with how it left; `None`: nothing."""
    said = TextIOWrapper(BytesIO(), encoding="utf-8")
    code: object = None
    try:
        with redirect_stdout(said), redirect_stderr(said):
            main(words)
    except SystemExit as left:
        code = left.code
    except Exception:  # noqa: BLE001 - whatever it is, a user would have seen it
        return traceback.format_exc()
    said.seek(0)
    text = said.read()
    advised = ADVICE in text or not any(word in text for word in MISSING)
    if code in (0, 1, 2) and advised and "Traceback" not in text:
        return None
    return f"left with {code}:\n{text}"


def check() -> None:
    """Run them all, and leave with 1 where one is at fault."""
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ.update(MOA_CACHE=str(Path(folder, "cache")), COLUMNS="200")
        prepare(server.server_port)
        for words in commands():
            sys.stdin = StringIO("Hello\n")
            if (wrong := fault(words)) is not None:
                faults += 1
                sys.stdout.write(f"moa {' '.join(words)}: {wrong}\n")
        os.chdir("/")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    check()
