"""The pages: every block of Python runs and prints what it says, every command parses."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from pytest_examples import CodeExample, EvalExample, find_examples
from typer.core import TyperGroup

import moa
from moa.cli.app import app
from moa.config import load
from moa.config.loading import READY
from moa.config.tables import AdapterConfig, AddressConfig, EngineConfig, ServerConfig, Tiers
from moa.core import errors

ROOT = Path(__file__).parent.parent
SKILL = ROOT / "src" / "moa" / ".agents" / "skills" / "moa" / "SKILL.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXECUTED = [*PAGES, SKILL]
"""Of which every block of Python runs, every command parses, every configuration is valid."""
EMBEDDED = 'test="embedded"'
ELSEWHERE = "job="
"""Of blocks that `test_migrating.py` runs."""

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_ABSOLUTE = re.compile(r"(?<![\w.:/~$}])/(?:home|root|work|tmp|Users|usr|opt|var|mnt)\b|[A-Z]:\\")


def _examples() -> Iterator[object]:
    for example in find_examples(*EXECUTED):
        if ELSEWHERE in example.prefix:
            continue
        marks = [pytest.mark.embedded] if EMBEDDED in example.prefix else []
        yield pytest.param(example, marks=marks, id=f"{example.path.stem}:{example.start_line}")


def _blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [block for kind, block in _FENCE.findall(text) if kind == language]


def _commands() -> Iterator[object]:
    for page in EXECUTED:
        lines = "\n".join(_blocks(page, "bash")).replace("\\\n", " ").splitlines()
        for line in lines:
            for command in re.split(r"&&|\||;", line):
                if command.split()[:1] == ["moa"]:
                    yield pytest.param(command, id=f"{page.stem}: {command.strip()[:60]}")


def _anchors(page: Path) -> set[str]:
    headings = _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {word.strip().replace(" ", "-") for word in words}


def _pages() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


@pytest.mark.parametrize("example", list(_examples()))
def test_a_block_of_python_runs_and_prints_what_it_says(
    example: CodeExample,
    eval_example: EvalExample,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    eval_example.set_config(
        line_length=100,
        target_version="py311",  # pyright: ignore[reportArgumentType] - it says py310 twice
        ruff_select=["E", "F", "I", "B", "UP"],
    )
    if eval_example.update_examples:
        eval_example.format_ruff(example)
        eval_example.run_print_update(example)
    else:
        eval_example.lint_ruff(example)
        eval_example.run_print_check(example)


def test_the_files_and_functions_that_the_page_of_the_architecture_names_are_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for named in re.findall(r"`([\w/]+\.py)`", page):
        assert [*ROOT.glob(named), *(ROOT / "src" / "moa").rglob(named)], named
    for name, file in re.findall(r"`([\w.]+)`\s+\(`([\w/]+\.py)`\)", page):
        source = (ROOT / "src" / "moa" / file).read_text(encoding="utf-8")
        assert re.search(rf"\b(?:def|class) {name.split('.')[-1]}\b", source), (name, file)


def test_the_blocks_hold_under_a_strict_type_checker(tmp_path: Path) -> None:
    for example in find_examples(*EXECUTED):
        if ELSEWHERE in example.prefix:
            continue
        file = tmp_path / f"{example.path.stem}_{example.start_line}.py"
        file.write_text(example.source, encoding="utf-8")
    settings = {
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "reportMissingTypeStubs": False,
        "reportUnknownMemberType": False,  # LangGraph's own methods
        "reportUnknownArgumentType": False,  # what only `build` finds wrong, shown on purpose
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    pyright = [sys.executable, "-m", "pyright", "-p", str(tmp_path), "--pythonpath", sys.executable]
    done = subprocess.run(pyright, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.replace(str(tmp_path), "")


@pytest.mark.parametrize("command", list(_commands()))
def test_a_command_is_one_that_moa_has(command: str) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    name, *words = shlex.split(command, comments=True)[1:]
    if name == "--help":
        return
    assert name in group.commands, f"moa has no command {name!r}"
    found = group.commands[name]
    if isinstance(found, TyperGroup) and words and not words[0].startswith("-"):
        assert words[0] in found.commands, f"moa {name} has no command {words[0]!r}"
        found, words = found.commands[words[0]], words[1:]
    if "--help" not in words:
        found.make_context(name, words)


@pytest.mark.parametrize("block", [block for page in EXECUTED for block in _blocks(page, "toml")])
def test_a_configuration_is_valid(block: str, tmp_path: Path) -> None:
    file = tmp_path / "moa.toml"
    file.write_text(block, encoding="utf-8")
    for name, table in load(file).graphs.items():
        assert {*table} <= {*READY[name].settings, "guards"}


def test_the_readme_opens_with_two_commands_of_one_line() -> None:
    first, second, *_ = _blocks(ROOT / "README.md", "bash")
    assert first.splitlines() == [
        'pip install ".[local]" && moa run support examples/support/inbox.jsonl'
    ]
    assert second.splitlines() == ['pip install -e ".[dev]" && pytest -q -n 2 --dist loadfile']


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        if anchor:
            assert anchor in _anchors(target), f"{page.name}: {link} names no heading"


@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.name)
def test_a_page_names_no_path_of_a_machine(page: Path) -> None:
    found = _ABSOLUTE.search(page.read_text(encoding="utf-8"))
    assert found is None, f"{page.name}: {found}"


@pytest.mark.parametrize("name", dir(moa))
def test_every_public_name_is_explained(name: str) -> None:
    assert re.search(rf"\b{name}\b", _pages())


def test_every_error_is_on_the_page_of_concepts() -> None:
    page = (ROOT / "docs/concepts.md").read_text(encoding="utf-8")
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.MoaError):
            assert name in page, f"concepts.md doesn't name {name}"


def test_every_key_of_the_configuration_is_on_the_page_of_endpoints() -> None:
    page = (ROOT / "docs/endpoints.md").read_text(encoding="utf-8")
    kinds = (AddressConfig, ServerConfig, AdapterConfig, EngineConfig, Tiers)
    for key in {key for kind in kinds for key in kind.model_fields}:
        assert re.search(rf"`{key}`|^{key} = ", page, re.MULTILINE), f"endpoints.md lacks {key!r}"


@pytest.mark.parametrize("name", list(READY))
def test_every_ready_graph_and_agent_is_named(name: str) -> None:
    assert f"`{name}`" in _pages() or f"moa run {name} " in _pages()
