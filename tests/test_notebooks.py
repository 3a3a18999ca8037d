"""The notebooks run from top to bottom, and show what is kept in them."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import pytest
from notebooks import CODE, WRITTEN, code_of, executed, kept, names, outputs_of, text_of, told

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the kernel's own libraries
]
ABSOLUTE = re.compile(r"(?<![\w.:/~$}])/(?:home|root|work|tmp|Users|usr|opt|var|mnt)\b|[A-Z]:\\")
embedded = pytest.mark.embedded


@pytest.mark.parametrize(
    "name",
    [
        "choosing",
        "mixture",
        "rag",
        pytest.param("quickstart", marks=embedded),
        pytest.param("support", marks=embedded),
    ],
)
def test_a_notebook_shows_what_is_kept_in_it(name: str, tmp_path: Path) -> None:
    assert told(executed(name, tmp_path)) == told(kept(name))


def falls(shown: str) -> bool:
    """Whether a bill falls in what the notebook on learning shows, and why it may."""
    calls = [
        int(n) for n in re.findall(r"^(?:stdout:)? *\d+ to \d+ +#* (\d+)$", shown, re.MULTILINE)
    ]
    guaranteed = "at most 5 % of what it accepts" in shown
    is_falling = len(calls) == 6 and min(calls[:3]) >= 100 and calls[-1] < 50
    return is_falling and guaranteed and "image/png" in shown


def test_the_notebook_on_learning_is_kept_with_a_bill_that_falls() -> None:
    assert falls(text_of(kept("learning")))


@embedded
@pytest.mark.long
def test_the_notebook_on_learning_shows_a_bill_that_falls(tmp_path: Path) -> None:
    assert falls(text_of(executed("learning", tmp_path)))


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
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "moa.toml").write_text(
        '[tiers]\nslm = "qwen"\nllm = "qwen"\n[endpoints.qwen]\ntier = "llm"\nmodel = "m"\n'
        f'base_url = "http://127.0.0.1:{server.server_port}/v1"\n'
    )
    try:
        shown = text_of(executed(WRITTEN, tmp_path))
    finally:
        server.shutdown()
        server.server_close()
    assert "customer='Ana'" in shown
    assert "The harbour was built in 1884." in shown
    assert "156 - votes:" in shown
    assert "- 3 calls" in shown
    assert "def median(numbers):" in shown


def test_the_notebook_on_a_model_that_writes_shows_what_a_real_one_answered() -> None:
    shown = text_of(kept(WRITTEN))
    assert "qwen2.5-coder-1.5b" in shown
    assert "Error" not in shown.replace("ValueError", "")


@pytest.mark.parametrize("name", names())
def test_a_notebook_is_kept_with_the_outputs_of_its_code(name: str) -> None:
    notebook = kept(name)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)]
    if name != WRITTEN:
        assert notebook.metadata[CODE] == code_of(notebook), "run python tests/notebooks.py"


@pytest.mark.parametrize("name", names())
def test_a_notebook_that_is_kept_tells_nothing_of_the_machine(name: str) -> None:
    for kind, shown in outputs_of(kept(name)):
        assert kind != "stderr"
        assert kind.startswith("image/png") or not ABSOLUTE.search(str(shown))


@pytest.mark.parametrize("name", names())
def test_each_graph_in_a_notebook_is_kept_as_a_picture(name: str) -> None:
    notebook = kept(name)
    drawn = sum(".draw()" in cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert [kind for kind, _ in outputs_of(notebook)].count("image/svg+xml") == drawn
