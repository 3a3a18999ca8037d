"""The notebooks run from top to bottom, and are kept without their outputs."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "examples"
WRITTEN = "written.ipynb"
"""Its outputs are kept: they are those of a real model."""
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the kernel's own libraries
]


def read(path: Path) -> Any:
    return cast("Any", nbformat).read(path, as_version=4)


def text_of(notebook: Any) -> str:
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    parts: list[str] = []
    for output in outputs:
        parts.append(str(output.get("text", "")))
        parts += [f"{kind}: {value}" for kind, value in output.get("data", {}).items()]
    return "\n".join(parts)


def executed(name: str, folder: Path) -> str:
    """Run a notebook in a folder of its own, and give what it shows."""
    notebook = read(FOLDER / name)
    client = NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    client.execute()
    return text_of(notebook)


@pytest.mark.embedded
def test_the_quickstart_runs_and_shows_what_it_promises(tmp_path: Path) -> None:
    shown = executed("quickstart.ipynb", tmp_path)
    assert "negative  The straps broke" in shown
    assert "positive about sport" in shown
    assert shown.count("image/svg+xml: <svg") == 2
    assert "IProgress" not in shown


def test_the_notebook_on_mixtures_runs_and_shows_what_it_promises(tmp_path: Path) -> None:
    shown = executed("mixture.ipynb", tmp_path)
    assert "by aggregator - without third" in shown
    assert "'third' gave no answer: third: connection refused" in shown
    assert "without slow in less than 5 seconds: True" in shown
    assert "one model alone instead of 2 layers of 2 and 2" in shown
    assert "('Canberra.', 'a', 3)" in shown
    assert shown.count("image/svg+xml: <svg") == 2


def test_the_notebook_on_documents_finds_cites_and_checks(tmp_path: Path) -> None:
    shown = executed("rag.ipynb", tmp_path)
    assert "not read: scan.pdf is no PDF, as its name says" in shown
    assert "1 changed, 2 as before, 1 could not be read" in shown
    assert "extract: The filter of the pump is changed every 90 days. [1] ([1] Pump)" in shown
    assert "not in the documents: no sentence is near to the question" in shown
    assert "unsupported  It costs 20 dollars." in shown
    assert shown.count("image/svg+xml: <svg") == 1
    assert "IProgress" not in shown


def test_the_notebook_on_choosing_ranks_and_says_what_would_do(
    tmp_path: Path,
) -> None:
    shown = executed("choosing.ipynb", tmp_path)
    assert "- quality about" in shown
    assert "'no vendor'" in shown
    assert "0 plans" in shown
    assert "- if a vendor may be asked" in shown


@pytest.mark.embedded
def test_the_notebook_on_support_settles_an_inbox(tmp_path: Path) -> None:
    shown = executed("support.ipynb", tmp_path)
    assert "Routed    to quarantine, spam" in shown
    assert "support/spam" in shown
    assert shown.count("image/svg+xml: <svg") == 1
    assert "IProgress" not in shown


@pytest.mark.embedded
@pytest.mark.long
def test_the_notebook_on_learning_shows_a_bill_that_falls(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").symlink_to(FOLDER.parent / "benchmarks")
    folder = tmp_path / "examples"
    folder.mkdir()
    shown = executed("learning.ipynb", folder)
    calls = [int(n) for n in re.findall(r"^ *\d+ to \d+ +#* (\d+)$", shown, re.MULTILINE)]
    assert min(calls[:3]) >= 100
    assert calls[-1] < 50
    assert "at most 5 % of what it accepts" in shown
    assert "image/png" in shown


REPLIES = {
    "Ana Petrova": '{"customer": "Ana", "product": "lamp", "quantity": 40, "delivery": null}',
    "Aldby": "The harbour was built in 1884. It is lived in today.",
    "Passages": "The filter of the pump is changed every 90 days. [1]",
    "loaves": "The answer is 156.",
    "median": "```python\ndef median(numbers):\n    return sorted(numbers)[0]\n```",
}


class Scripted(BaseHTTPRequestHandler):
    """Answers chat completions by a word of the prompt."""

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["content-length"])).decode()
        said = next(reply for word, reply in REPLIES.items() if word in asked)
        message = {"role": "assistant", "content": said}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = json.dumps({"model": "m", "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_the_notebook_on_a_model_that_writes_runs_on_any_server(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    (tmp_path / "moa.toml").write_text(
        '[tiers]\nslm = "qwen"\nllm = "qwen"\n[endpoints.qwen]\ntier = "llm"\nmodel = "m"\n'
        f'base_url = "http://127.0.0.1:{server.server_port}/v1"\n'
    )
    try:
        shown = executed(WRITTEN, tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert "customer='Ana'" in shown
    assert "The harbour was built in 1884." in shown
    assert "156 - votes:" in shown
    assert "- 3 calls" in shown
    assert "def median(numbers):" in shown


def test_the_notebook_on_a_model_that_writes_shows_what_a_real_one_answered() -> None:
    shown = text_of(read(FOLDER / WRITTEN))
    assert "qwen2.5-coder-1.5b" in shown
    assert "Error" not in shown.replace("ValueError", "")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.name == WRITTEN or not text_of(notebook)
