"""A server that is killed under load: it is started again, and the run goes on to its end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from moa.config import load
from moa.vllm.state import ServerFolder

from .conftest import CONFIG, server_of
from .messages import messages

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

ALONE = """
from moa import Sentiment


def graph(endpoints):
    return Sentiment(endpoints.slm)
"""


def listener(port: int) -> psutil.Process:
    """Find the process that listens on a port of this machine."""
    for process in psutil.process_iter():
        try:
            if any(
                c.status == psutil.CONN_LISTEN and c.laddr.port == port
                for c in process.net_connections("tcp")
            ):
                return process
        except psutil.Error:
            continue
    raise AssertionError(f"nobody listens on {port}")


def lines(path: Path) -> list[dict[str, object]]:
    """Read the lines that are complete."""
    text = path.read_text("utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def test_a_server_that_is_killed_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    port = load(Path(CONFIG)).served_endpoints["small"].vllm.port
    folder = ServerFolder.of(port)
    before = folder.read()
    assert before is not None
    texts = [message.text for message in messages() if message.text]
    given, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"id": f"item-{n}", "text": text[:300]} for n, text in enumerate(texts)]
    given.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    graph = tmp_path / "alone.py"
    graph.write_text(ALONE, encoding="utf-8")
    words = ["run", f"{graph}:graph", str(given), "--config", CONFIG, "--out", str(out)]
    run = subprocess.Popen(
        [sys.executable, "-m", "moa", *words, "--concurrency", "16"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(lines(out)) < len(rows) // 8:
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    listener(port).kill()
    _, err = run.communicate(timeout=500)
    found = lines(out)
    assert run.returncode == 0, err
    assert len(found) == len(rows)
    assert {line["id"] for line in found} == {row["id"] for row in rows}
    assert {line["status"] for line in found} == {"answered"}
    assert any("retried" in json.dumps(line["trace"]) for line in found)
    after = folder.read()
    assert after is not None
    assert after.restarts == before.restarts + 1
    assert "killed" in (after.cause or "")
    assert asyncio.run(server_of("small").is_ready())
