"""The house: how large the core is, what an import loads, and that no layer is among it.

Each number is a ceiling. Whoever raises one says why on its line.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "moa"
CORE = ("core", "endpoints", "decisions", "agents", "graphs")

ENTRIES = 26
"""Files and folders in `src/moa`."""
LINES_OF_THE_CORE = 26_500  # 26,000, and what reads probabilities from the tokens of a chat
LOADS = {  # modules of moa and their lines, after `moa.NAME`
    "Classifier": (65, 17_000),
    "Cascade": (85, 22_000),
    "Mixture": (75, 20_000),
}
LOADS_TO_ANSWER = {  # the same after one answer of a server that writes
    "Classifier": (65, 17_000),
    "Cascade": (85, 22_000),
    "Mixture": (75, 20_000),
}
_TOLD = """
print(json.dumps({n: m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "moa"}))
"""
_LOAD = """
import json, sys
import moa
getattr(moa, sys.argv[1])
"""
_ANSWER = """
import json, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

class Model(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        message = {"content": json.dumps({"classifier": "yes"})}
        usage = {"prompt_tokens": 99, "completion_tokens": 9}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        data = json.dumps({"choices": choices, "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass

server = HTTPServer(("127.0.0.1", 0), Model)
threading.Thread(target=server.serve_forever, daemon=True).start()

import moa
url = f"http://127.0.0.1:{server.server_port}/v1"
model = moa.OpenAIEndpoint("small", model="small", base_url=url, tier="slm")
ask = lambda: moa.Classifier(model, ["yes", "no"], name="classifier")
write = lambda: moa.Agent(model, "Answer.")
if sys.argv[1] == "Classifier":
    node = ask()
elif sys.argv[1] == "Cascade":
    from moa.decisions.acceptance import Confident
    large = moa.OpenAIEndpoint("large", model="large", base_url=url)
    last = moa.Classifier(large, ["yes", "no"], name="classifier")
    node = moa.Cascade(small=ask(), large=last, accept=Confident(0.9))
else:
    node = moa.Mixture(proposers=[write(), write()], aggregator=write())
node.run_sync("Dear all")
"""


def loaded(name: str, script: str = _LOAD) -> dict[str, Path]:
    """Give the modules of moa that an import of a name, or a script, loads in a new process."""
    command = [sys.executable, "-c", script + _TOLD, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, str | None] = json.loads(done.stdout)
    return {module: Path(file) for module, file in found.items() if file}


def lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def test_the_tree_shows_the_border() -> None:
    files = [path.relative_to(SRC) for path in SRC.rglob("*") if path.suffix != ".pyc"]
    entries = {path.parts[0] for path in files if (SRC / path).is_file()} - {".agents"}
    assert len(entries) <= ENTRIES, sorted(entries)


def test_the_core_can_be_read_in_an_afternoon() -> None:
    files = [file for room in CORE for file in (SRC / room).rglob("*.py")]
    assert sum(map(lines, files)) <= LINES_OF_THE_CORE


@pytest.mark.parametrize("name", sorted(LOADS))
def test_an_import_loads_little(name: str) -> None:
    modules = loaded(name)
    most_modules, most_lines = LOADS[name]
    assert len(modules) <= most_modules
    assert sum(map(lines, modules.values())) <= most_lines


@pytest.mark.parametrize("name", sorted(LOADS_TO_ANSWER))
def test_an_answer_loads_little_more_and_no_layer(name: str) -> None:
    modules = loaded(name, _ANSWER)
    most_modules, most_lines = LOADS_TO_ANSWER[name]
    assert len(modules) <= most_modules
    assert sum(map(lines, modules.values())) <= most_lines
    rooms = {module.split(".")[1] for module in modules if "." in module}
    assert rooms <= set(CORE), rooms - set(CORE)


@pytest.mark.parametrize("name", ["Agent", "Graph", *sorted(LOADS)])
def test_what_is_of_the_core_loads_no_layer(name: str) -> None:
    rooms = {module.split(".")[1] for module in loaded(name) if "." in module}
    assert rooms <= set(CORE), rooms - set(CORE)


def test_every_door_of_the_core_is_compared_with_what_stands_behind_it() -> None:
    sources = [file.read_text("utf-8") for room in CORE for file in (SRC / room).rglob("*.py")]
    behind = {name for source in sources for name in re.findall(r'= Door\("(.+)"\)', source)}
    compared = Path(__file__).with_name("typed_doors.py").read_text("utf-8")
    assert behind
    assert behind == set(re.findall(r": .+ = (moa\.\S+)", compared))


def test_the_contracts_between_core_and_layers_hold() -> None:
    config = SRC.parent.parent / "pyproject.toml"
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", str(config)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
