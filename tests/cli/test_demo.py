"""`moa run --demo`: the shipped inbox, from any folder and from a built wheel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from command import told

from moa.cli.run import demo_file
from moa.config.endpoints import Endpoints
from moa.testing import SimulatedEndpoint

ROOT = Path(__file__).parents[2]
CALM = {
    "spam": {"no": 0.95},
    "injection": {"no": 0.95},
    "sentiment": {"neutral": 0.9},
    "intent": {"delivery": 0.9},
    "urgency": {"can wait": 0.9},
}


def test_the_demo_runs_the_shipped_inbox_from_any_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Endpoints, "slm", SimulatedEndpoint(rule=lambda _: CALM))
    monkeypatch.setattr(Endpoints, "llm", SimulatedEndpoint(tier="llm", rule=lambda _: "Sorry."))
    found = told("run", "support", "--demo", "--limit", "2", "--json").lines
    inbox = (ROOT / "examples" / "support" / "inbox.jsonl").read_text(encoding="utf-8")
    found.sort(key=lambda line: line["id"])
    assert [line["input"] for line in found] == [json.loads(r) for r in inbox.splitlines()[:2]]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("support",), id="neither"),
        pytest.param(("sentiment",), id="no input"),
        pytest.param(("support", "in.txt", "--demo"), id="both"),
        pytest.param(("support", "hello", "--text", "--demo"), id="text"),
        pytest.param(("sentiment", "--demo"), id="none"),
    ],
)
def test_an_input_is_given_or_else_the_demo(words: tuple[str, ...]) -> None:
    told("run", *words, leaves=2)


@pytest.mark.skipif(find_spec("hatchling") is None, reason="needs hatchling, of the extra dev")
def test_a_built_wheel_brings_the_demo(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
    code = "from moa.cli.run import demo_file; print(demo_file())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    )
    shipped = Path(done.stdout.strip())
    assert shipped.is_relative_to(tmp_path / "installed")
    assert shipped.read_bytes() == demo_file().read_bytes()


def test_every_demo_is_there() -> None:
    assert demo_file().is_file()
