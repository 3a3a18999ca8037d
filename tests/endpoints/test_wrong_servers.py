"""Faults: whatever a server does, its item fails with a sentence, and the others are done."""

from __future__ import annotations

import json
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from command import moa


class Fault(NamedTuple):
    """What the server says to a prompt that holds the fault's name, and which error that is."""

    status: int
    body: str
    error: str
    kind: str = "application/json"


NO_TEXT = '{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}'
FAULTS = {
    "garbage": Fault(200, "\x00\x01 nonsense", "InvalidResponse"),
    "html": Fault(200, "<html><body>502</body></html>", "InvalidResponse", "text/html"),
    "half": Fault(200, '{"choices": [{"message": {"content": "He', "InvalidResponse"),
    "empty": Fault(200, '{"choices": []}', "InvalidResponse"),
    "null": Fault(200, NO_TEXT, "InvalidResponse"),
    "unauthorised": Fault(401, '{"error": {"message": "Bad key"}}', "EndpointUnauthorized"),
    "missing": Fault(404, '{"error": {"message": "No such model"}}', "EndpointRejected"),
    "busy": Fault(429, '{"error": {"message": "Rate limit reached"}}', "EndpointUnavailable"),
    "broken": Fault(500, '{"error": {"message": "internal error"}}', "EndpointUnavailable"),
}


class Handler(BaseHTTPRequestHandler):
    """Answers every prompt, and where it holds the name of a fault, with that."""

    asked: dict[str, int]
    hang_up: threading.Event

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        text = json.loads(body)["messages"][-1]["content"]
        found = next((name for name in FAULTS if f"[{name}]" in text), "")
        self.asked[found] = self.asked.get(found, 0) + 1
        if "[unplug]" in text:
            self.connection.close()
            return
        fault = FAULTS.get(found)
        if fault is None:
            message = {"role": "assistant", "content": "All is well."}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 7, "completion_tokens": 3}
            fault = Fault(200, json.dumps({"model": "m", "choices": [choice], "usage": usage}), "")
        data = fault.body.encode()
        self.send_response(fault.status)
        self.send_header("content-type", fault.kind)
        self.send_header("content-length", str(len(data)))
        if fault.status == 429:
            self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        data = json.dumps({"data": [{"id": "m", "owned_by": "vllm"}]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def asked(folder: None) -> Iterator[dict[str, int]]:
    """Start a server, configure it, and count what it is asked."""
    counts: dict[str, int] = {}
    handler = type("Counting", (Handler,), {"asked": counts})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    Path("moa.toml").write_text(
        '[endpoints.large]\ntier = "llm"\nmodel = "m"\n'
        f'base_url = "http://127.0.0.1:{server.server_port}/v1"\n'
        "input_price = 1\noutput_price = 2\n"
    )
    yield counts
    server.shutdown()
    server.server_close()
    thread.join()


def run(*texts: str) -> tuple[int, list[dict[str, Any]]]:
    Path("in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    code = moa("run", "generator", "in.jsonl", "--out", "out.jsonl")
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    return code, sorted(lines, key=lambda line: line["id"])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_its_item_alone(fault: str, asked: dict[str, int]) -> None:
    code, found = run("hello", f"this is [{fault}]", "good-bye")
    assert code == 1
    assert [line["status"] for line in found] == ["answered", "failed", "answered"]
    assert found[1]["error"].startswith(f"{FAULTS[fault].error}: large: ")
    assert "Traceback" not in found[1]["error"]
    assert found[1]["output"] is None
    assert found[1]["usage"]["calls"] == asked[fault]


def test_what_can_be_mended_by_asking_again_is_asked_again(asked: dict[str, int]) -> None:
    run("[busy]", "[missing]")
    assert asked["busy"] > 1
    assert asked["missing"] == 1


def test_a_lost_connection_fails_its_item_alone(asked: dict[str, int]) -> None:
    code, found = run("hello", "[unplug]", "good-bye")
    assert code == 1
    assert [line["status"] for line in found] == ["answered", "failed", "answered"]
    assert found[1]["error"].startswith("EndpointUnavailable: large: ")


def test_a_server_that_is_not_there_fails_every_item() -> None:
    Path("moa.toml").write_text(
        '[endpoints.large]\ntier = "llm"\nmodel = "m"\nbase_url = "http://127.0.0.1:9/v1"\n'
    )
    code, found = run("one", "two")
    assert code == 1
    assert all("EndpointUnavailable: large: " in line["error"] for line in found)


def test_a_missing_key_is_said_before_anything_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    Path("moa.toml").write_text('[endpoints.large]\ntier = "llm"\nmodel = "gpt-5-mini"\n')
    Path("in.jsonl").write_text('{"text": "one"}\n')
    assert moa("run", "generator", "in.jsonl") == 2
    assert "OPENAI_API_KEY, which is not set" in capsys.readouterr().err


def test_models_and_doctor_say_what_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    Path("moa.toml").write_text(
        '[endpoints.small]\ntier = "slm"\nmodel = "m"\nbase_url = "http://127.0.0.1:9/v1"\n'
        '[endpoints.large]\ntier = "llm"\nmodel = "gpt-5-mini"\n'
    )
    assert moa("models", "--json") == 0
    small, large, embedded = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (small["reachable"], small["default_of"]) == (False, ["slm"])
    assert "OPENAI_API_KEY" in large["state"]
    assert large["output_price"] > 0
    assert "decide" in embedded["can"]
    assert moa("doctor") == 1
    assert "export OPENAI_API_KEY" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("models", "--json"), ("doctor",)])
def test_models_and_doctor_need_no_package_that_no_extra_brings(
    words: tuple[str, ...],
    asked: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del asked
    monkeypatch.setitem(sys.modules, "openai", None)  # whose import fails then
    moa(*words)
    assert "large" in capsys.readouterr().out


def test_models_says_how_a_server_decides_as_far_as_it_tells(
    asked: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    moa("models", "--json")
    large, _ = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert large["decides"] == "natively if it can, else answers as JSON"
    with Path("moa.toml").open("a") as file:
        file.write('decide = "text"\n')
    moa("models", "--json")
    large, _ = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert large["decides"] == "answers as JSON"
    moa("models")
    assert "decide (answers" in capsys.readouterr().out
    assert asked == {}  # no token was spent


def test_of_replicas_it_is_said_how_many_answer(
    asked: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    del asked
    written = tomllib.loads(Path("moa.toml").read_text())["endpoints"]["large"]
    alive, dead = written["base_url"], "http://127.0.0.1:9/v1"
    table = '[endpoints.large]\ntier = "llm"\nmodel = "m"\nbase_url = '
    Path("moa.toml").write_text(f"{table}{json.dumps([dead, alive])}\n")
    moa("models", "--json")
    large, _ = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert large["reachable"]
    assert (large["replicas"], large["replicas_reachable"]) == (2, 1)
    assert large["state"].startswith("1 of 2 replicas reachable; large@127.0.0.1:9")
    assert moa("doctor") == 1
    assert "1 of 2 replicas reachable" in " ".join(capsys.readouterr().out.split())


def test_a_password_in_an_address_is_refused_and_never_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("moa.toml").write_text(
        '[endpoints.small]\ntier = "slm"\nmodel = "m"\nbase_url = "http://me:hush@server/v1"\n'
    )
    for words in (["models"], ["models", "--json"], ["run", "sentiment", "hi", "--text"]):
        moa(*words, "--config", "moa.toml")
        out, err = capsys.readouterr()
        assert "holds a user name, a password or a query" in " ".join((out + err).split())
        assert "hush" not in out + err


@pytest.mark.parametrize("words", [("draw", "support"), ("draw", "support", "--out", "s.svg")])
def test_drawing_needs_no_key_and_no_server(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("moa.toml").write_text('[endpoints.large]\ntier = "llm"\nmodel = "gpt-5-mini"\n')
    assert moa(*words) == 0
    drawn = Path("s.svg").read_text() if "--out" in words else capsys.readouterr().out
    assert "sentiment" in drawn
