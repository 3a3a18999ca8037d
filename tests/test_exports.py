"""The public names: all there, sorted, few, and loaded at first use."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from pytest_examples import find_examples

import moa


def test_every_public_name_can_be_imported() -> None:
    for name in dir(moa):
        assert getattr(moa, name) is not None


def test_public_names_are_few_and_those_of_the_headline_are_there() -> None:
    assert {*moa.__all__} < {*dir(moa)}
    assert len(dir(moa)) <= 45
    assert {"Agent", "Calibration", "Classifier", "Graph", "calibrate"} <= {*dir(moa)}


def test_every_public_name_has_a_docstring() -> None:
    for name in dir(moa):
        assert getattr(moa, name).__doc__, name


TWO = """
[endpoints.small]
tier = "slm"
model = "m"
base_url = "http://127.0.0.1:1/v1"
[endpoints.large]
tier = "llm"
model = "gpt-5-mini"
"""


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import moa", ["langgraph", "torch", "aiohttp", "pydantic"]),
        ("from moa import *", ["langgraph", "torch", "aiohttp", "numpy", "ftfy"]),
        (
            "import moa; e = moa.Endpoints('two.toml'); e.slm, e.llm; moa.endpoint('openai:o1')",
            ["genai_prices", "httpx2", "pydantic_settings", "aiohttp", "moa.agents"],
        ),
        (
            "from moa.config.loading import READY; READY['sentiment']",
            ["moa.recipes.brainstorm", "moa.documents.rag", "moa.guards.spam", "moa.chat.graph"],
        ),
    ],
)
def test_import_and_set_up_pull_in_nothing_heavy(
    statement: str, heavy: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.toml").write_text(TWO)
    code = f"{statement}; import sys; print([m for m in {heavy} if m in sys.modules])"
    keys = {**os.environ, "OPENAI_API_KEY": "k"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=keys
    )
    assert done.stdout.strip() == "[]"


ROOT = Path(__file__).parent.parent
FIRST = [ROOT / "README.md"] + [
    ROOT / "docs" / f"{name}.md"
    for name in ("index", "concepts", "agents", "graphs", "endpoints", "tools")
]
SPECIAL = {
    "moa.testing",
    "moa.advisor.bench",
    "moa.adapters.mcp",
    "moa.agents.prompts",
    "moa.agents.sentiment",
    "moa.endpoints.dialects",
    "moa.endpoints",
    "moa.local.encoders",
    "moa.core.errors",
    "moa.graphs",
    "moa.inbox.support",
    "moa.core.messages",
    "moa.core.node",
    "moa.core.trace",
}
"""Rooms whose names a first page shows, and which few users need: they are imported from there."""


def imports(page: Path) -> Iterator[tuple[str, str]]:
    """Give each name that a page imports of moa, and from where."""
    for example in find_examples(page):
        for node in ast.walk(ast.parse(example.source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "moa":
                yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize("page", FIRST, ids=lambda page: page.name)
def test_what_the_first_pages_use_is_imported_from_moa(page: Path) -> None:
    elsewhere = {(room, name) for room, name in imports(page) if room != "moa"}
    assert {room for room, _ in elsewhere} <= SPECIAL, elsewhere


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_what_moa_exports_is_imported_from_it_on_every_page(page: Path) -> None:
    for room, name in imports(page):
        found = getattr(import_module(room), name)
        assert room == "moa" or getattr(moa, name, None) is not found, f"{name} from {room}"
