"""`moa new`: the small projects that it makes run, pass their own tests, and read well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from runpy import run_path

import pytest
from command import kept, told, written

TEMPLATES = ("inbox", "moderation", "extraction", "cascade", "rag")
each = pytest.mark.parametrize("template", TEMPLATES)


def rows_in(folder: str) -> Path:
    """Give the file of rows that a project has."""
    (found,) = Path(folder).glob("*.jsonl")
    return found


@each
def test_a_project_has_ten_rows_and_a_readme_of_one_screen_that_names_its_files(
    template: str,
) -> None:
    told("new", template, "shop")
    assert len(kept(rows_in("shop"), ordered=True)) == 10
    readme = Path("shop/README.md").read_text("utf-8")
    assert len(readme.splitlines()) <= 40
    for name in ("moa.toml", "graph.py", "test_graph.py", rows_in("shop").name):
        assert f"`{name}`" in readme
        assert Path("shop", name).is_file()


@each
def test_the_tests_of_a_project_pass_and_ask_nobody(
    template: str, monkeypatch: pytest.MonkeyPatch, moa_offline: None
) -> None:
    told("new", template, "shop")
    monkeypatch.setattr(sys, "path", [str(Path("shop").resolve()), *sys.path])
    monkeypatch.delitem(sys.modules, "graph", raising=False)
    found = run_path("shop/test_graph.py")
    monkeypatch.delitem(sys.modules, "graph")
    tests = [value for name, value in found.items() if name.startswith("test_")]
    assert len(tests) >= 2
    for test in tests:
        test()


@pytest.mark.embedded
@pytest.mark.timeout(300)
@each
def test_a_project_runs_on_the_built_in_models_and_passes_pytest(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told("new", template, "shop")
    monkeypatch.chdir("shop")
    told("run", "graph.py:graph", rows_in(".").name, "--out", "done.jsonl")
    assert {line["status"] for line in kept("done.jsonl")} == {"answered"}
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-W", "error")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_nothing_that_is_there_is_replaced_unless_that_is_said() -> None:
    Path("shop").mkdir()
    Path("shop/graph.py").write_text("mine")
    assert "graph.py already" in told("new", "rag", "shop", leaves=2).words
    assert [path.name for path in Path("shop").iterdir()] == ["graph.py"]
    told("new", "rag", "shop", "--overwrite")
    assert Path("shop/graph.py").read_text() != "mine"
    assert Path("shop/handbook/travel.md").is_file()


def test_a_file_in_the_place_of_the_folder_is_an_inbox_to_be_given_by_from() -> None:
    written("in.jsonl", [{"text": "Hello"}])
    said = told("new", "inbox", "in.jsonl", leaves=2).words
    assert "moa new inbox DIR --from in.jsonl" in said
