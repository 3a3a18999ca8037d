"""The page of migration: each block runs and prints what it says."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from migrating import ANSWERS, given

PAGE = Path(__file__).parent.parent / "docs/migrating.md"
PACKAGES = {"LangChain": "langchain", "LangGraph": "langgraph", "DSPy": "dspy"}
"""What a library's blocks need beside what the tests have."""

_BLOCK = re.compile(r'^```python \{job="(\w+)" in="([^"]+)"\}\n(.*?)^```$', re.M | re.S)
_FORMAT = ("--line-length=100", "--config=format.skip-magic-trailing-comma=true")


class Block(NamedTuple):
    job: str
    library: str
    source: str


def blocks() -> list[Block]:
    return [Block(*found) for found in _BLOCK.findall(PAGE.read_text(encoding="utf-8"))]


def _parameters() -> Iterator[object]:
    for block in blocks():
        package = PACKAGES.get(block.library)
        lacks = package is not None and find_spec(package) is None
        marks = [pytest.mark.skip(f"{package} is not installed")] if lacks else []
        yield pytest.param(block, marks=marks, id=f"{block.job}: {block.library}")


@pytest.mark.parametrize("block", list(_parameters()))
async def test_a_block_runs_and_prints_what_it_says(block: Block) -> None:
    printed: list[str] = []

    def keep(*words: object) -> None:
        printed.append(" ".join(map(str, words)))

    names = {**given(block.library, block.job), "print": keep}
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(block.source, str(PAGE), "exec", flags=flags, dont_inherit=True)
    running = eval(code, names)
    if inspect.iscoroutine(running):
        await running
    assert printed == re.findall(r"^ *#> (.*)$", block.source, re.MULTILINE)


def test_blocks_are_formatted_alike(tmp_path: Path) -> None:
    for number, block in enumerate(blocks()):
        source = block.source.replace("#> ", "# > ")  # as ruff writes comments
        (tmp_path / f"{number}.py").write_text(source, encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--diff", *_FORMAT, str(tmp_path)]
    done = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_each_job_is_shown_in_moa_and_in_another_library() -> None:
    jobs: dict[str, list[str]] = {}
    for block in blocks():
        jobs.setdefault(block.job, []).append(block.library)
    assert {*jobs} == {*ANSWERS}
    assert all(shown[0] == "moa" and len(shown) > 1 for shown in jobs.values())
